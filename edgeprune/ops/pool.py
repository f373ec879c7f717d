"""Pooling: the batch and the channels are handed on, positions are fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from edgeprune.errors import UnsupportedOperation
from edgeprune.forms import Application, Maximum, Scene, Structural
from edgeprune.graph import Axes, Flow, Node, Ref
from edgeprune.ops.operation import Operation, replay, source_of


class Pool(Operation):
    """Maximum and average pooling over windows, fixed or adaptive; data (batch, channels, positions…)."""

    name: ClassVar[str] = "pool"
    handles: ClassVar[tuple[str, ...]] = tuple(
        f"{kind}_pool{rank}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for rank in (1, 2, 3)
    )

    def label(self, node: Node, flow: Flow) -> Axes | tuple[Axes | None, ...]:
        source = next(value for value in node.arguments.values() if isinstance(value, Ref))
        data = flow.of(source)
        rank = int(node.operation[-2])
        if len(data) != rank + 2:
            raise LookupError(f"{node.name} has no batch axis")
        for axis in data[2:]:
            flow.labels.pin(axis, f"pooled over by {node.where}")
        if node.shape is None:  # values and the places they came from
            return tuple((*data[:2], *flow.fixed(shape[2:])) for shape in node.shapes)
        return (*data[:2], *flow.fixed(node.shape[2:]))

    def form(self, node: Node, scene: Scene) -> Application | tuple[Application, ...]:
        """A maximum, or an average: a window of n is summed and divided with at most n + 1 roundings."""
        argument, source = source_of(node)

        def pooled(sources: Sequence[Tensor]) -> Tensor:
            result = replay(node, {argument: sources[0]})
            return result if isinstance(result, Tensor) else result[0]

        if "max" in node.operation:
            found = Application(Maximum(pooled), (source,))
            return found if node.shape is not None else (found,)
        if (node.get("divisor_override") or 1) < 0:
            raise UnsupportedOperation(f"{node.where}: an average with a negative divisor")
        rank = int(node.operation[-2])
        if "adaptive" in node.operation:
            before, after = scene.shapes[source][-rank:], scene.shapes[node.name][-rank:]
            window = math.prod(-(-b // a) + 1 for b, a in zip(before, after, strict=True))
        else:
            window = math.prod(node["kernel_size"]) ** (rank if len(node["kernel_size"]) == 1 else 1)
        return Application(Structural(pooled, pooled, window + 2), (source,))
