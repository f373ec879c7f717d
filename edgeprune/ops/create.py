"""Tensors made from nothing but their size: any index may go where all entries are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from edgeprune.graph.groups import Alive, Axes, Flow, Node
from edgeprune.ops.operation import Operation


class Uniform(Operation):
    """zeros, ones, full, empty: every entry is the same."""

    name: ClassVar[str] = "uniform tensor"
    handles: ClassVar[tuple[str, ...]] = (
        *("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"),
        "scalar_tensor",
    )

    def label(self, node: Node, flow: Flow) -> Axes:
        assert node.shape is not None
        return flow.uniform(node.shape, node.get("size") or ())

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        if "size" not in node.arguments or alive.whole(node.name):
            return {}
        sizes = alive.shape(node.name)
        return {
            "size": [n if isinstance(old, int) else old for old, n in zip(node["size"], sizes, strict=True)]
        }


class Alike(Operation):
    """zeros_like and its kind: the size, not the values, of another tensor."""

    name: ClassVar[str] = "tensor like another"
    handles: ClassVar[tuple[str, ...]] = ("zeros_like", "ones_like", "full_like", "empty_like")

    def label(self, node: Node, flow: Flow) -> Axes:
        return flow.of(node["self"])


class Sequence(Operation):
    """arange and its kind: every entry has its own value, and none may go."""

    name: ClassVar[str] = "sequence"
    handles: ClassVar[tuple[str, ...]] = (
        *("arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "hann_window", "randperm"),
        *("rand", "randn", "randint", "rand_like", "randn_like"),
    )

    def label(self, node: Node, flow: Flow) -> Axes:
        assert node.shape is not None
        return flow.fixed(node.shape)


__all__ = ["Alike", "Sequence", "Uniform"]
