"""Operations that only move elements: labels are cut, joined and rearranged as the elements are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from edgeprune.functions.forms import Application, Scene, Structural
from edgeprune.graph.groups import Alive, Axes, Flow, Node
from edgeprune.ops.operation import Operation, dimension, source_of


class Permute(Operation):
    """permute, transpose and t: axes change places."""

    name: ClassVar[str] = "permute"
    handles: ClassVar[tuple[str, ...]] = (
        *("permute", "transpose", "swapaxes", "t", "numpy_T", "movedim", "moveaxis", "mT", "adjoint"),
    )

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        return tuple(data[k] for k in self._order(node, len(data)))

    @staticmethod
    def _order(node: Node, rank: int) -> list[int]:
        """For each axis of the result, the axis of the data that it is."""
        order = list(range(rank))
        if node.operation in ("t", "numpy_T"):
            return order[::-1]
        if node.operation == "permute":
            return [dimension(d, rank) for d in node["dims"]]
        if node.operation in ("mT", "adjoint"):
            return [*order[:-2], order[-1], order[-2]]
        if node.operation in ("movedim", "moveaxis"):
            return _moved(node["source"], node["destination"], rank)
        first, second = (
            dimension(node.arguments[key], rank)
            for key in (("dim0", "dim1") if "dim0" in node.arguments else ("axis0", "axis1"))
        )
        order[first], order[second] = second, first
        return order

    def form(self, node: Node, scene: Scene) -> Application:
        _, source = source_of(node)
        order = self._order(node, len(scene.shapes[source]))
        return Application(Structural.moving(lambda x: x.permute(order)), (source,))


def _moved(source: Any, destination: Any, rank: int) -> list[int]:
    """The order of axes after some were put at other places."""
    taken, put = (
        [dimension(d, rank) for d in ([given] if isinstance(given, int) else given)]
        for given in (source, destination)
    )
    rest = iter(k for k in range(rank) if k not in taken)
    return [taken[put.index(k)] if k in put else next(rest) for k in range(rank)]


class Expand(Operation):
    """expand: an axis of size one is repeated, and any of its equal copies may go; others are handed on."""

    name: ClassVar[str] = "expand"
    handles: ClassVar[tuple[str, ...]] = ("expand", "expand_as", "broadcast_to")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        assert node.shape is not None
        offset = len(node.shape) - len(data)
        written = node.get("size") or [None] * len(node.shape)
        result = list(flow.uniform(node.shape, written))
        for k, axis in enumerate(data):
            if len(axis) == node.shape[offset + k]:
                result[offset + k] = axis
            else:
                flow.labels.pin(axis, f"repeated by {node.where}")
        return tuple(result)

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        if "size" not in node.arguments or alive.whole(node.name):
            return {}
        sizes = zip(node["size"], alive.shape(node.name), strict=True)
        return {"size": [new if isinstance(old, int) and old != -1 else old for old, new in sizes]}

    def form(self, node: Node, scene: Scene) -> Application:
        _, source = source_of(node)
        shape = scene.shapes[node.name]
        return Application(Structural.moving(lambda x: x.expand(shape)), (source,))


class Pad(Operation):
    """Padding: padded axes get places that are always there; the rest is handed on.

    Padding with anything but a constant copies elements, so such axes are fixed.
    """

    name: ClassVar[str] = "pad"
    handles: ClassVar[tuple[str, ...]] = ("pad", "constant_pad_nd")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = list(flow.of(node["self"]))
        constant = node.get("mode", "constant") == "constant"
        amounts = list(node["pad"])
        for index in range(len(amounts) // 2):
            k = len(data) - 1 - index
            low, high = amounts[2 * index], amounts[2 * index + 1]
            if low == 0 and high == 0:
                continue
            if not constant or low < 0 or high < 0:
                flow.labels.pin(data[k], f"padded by {node.where}")
                assert node.shape is not None
                data[k] = np.zeros(node.shape[k], dtype=np.int64)
            else:
                data[k] = np.concatenate([np.zeros(low, np.int64), data[k], np.zeros(high, np.int64)])
        return tuple(data)

    def form(self, node: Node, scene: Scene) -> Application:
        _, source = source_of(node)
        amounts, mode = list(node["pad"]), str(node.get("mode", "constant"))
        value = float(node.get("value") or 0.0) if mode == "constant" else None

        def padded(sources: Sequence[Tensor]) -> Tensor:
            return F.pad(sources[0], amounts, mode, value)

        def padded_by_zeros(sources: Sequence[Tensor]) -> Tensor:
            return F.pad(sources[0], amounts, mode, None if value is None else 0.0)

        return Application(Structural(padded, padded_by_zeros), (source,))


class Item(Operation):
    """getitem: one of the tensors that an operation returned."""

    name: ClassVar[str] = "getitem"
    handles: ClassVar[tuple[str, ...]] = ("getitem",)

    def label(self, node: Node, flow: Flow) -> Axes | None:
        parts = flow.axes.get(node["input"].name)
        if parts is None:
            raise LookupError(f"{node.name} takes a part of an unlabelled value")
        part = parts[node["index"]]
        assert part is None or isinstance(part, tuple)
        return part
