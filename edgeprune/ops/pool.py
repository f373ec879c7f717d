"""Pooling: the batch and the channels are handed on, positions are fixed."""

from __future__ import annotations

from typing import ClassVar

from edgeprune.graph import Axes, Flow, Node, Ref
from edgeprune.ops.operation import Operation


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
