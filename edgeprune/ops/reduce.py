"""Reductions: an axis that is summed, averaged or normalised over keeps all its channels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeprune.graph import Axes, Flow, Node, Ref
from edgeprune.ops.operation import Operation, dimension


class Reduction(Operation):
    """Mean, sum and extrema over some axes."""

    name: ClassVar[str] = "reduction"
    handles: ClassVar[tuple[str, ...]] = ("mean", "sum", "amax", "amin")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        given = node.get("dim")
        if given is None or given == []:
            over = set(range(len(data)))
        else:
            over = {dimension(d, len(data)) for d in ([given] if isinstance(given, int) else given)}
        for k in over:
            flow.labels.pin(data[k], f"reduced over by {node.where}")
        single = np.zeros(1, dtype=np.int64)
        keepdim = bool(node.get("keepdim", False))
        return tuple(single if k in over else axis for k, axis in enumerate(data) if keepdim or k not in over)


class Softmax(Operation):
    """Normalises over one axis, which keeps all its channels."""

    name: ClassVar[str] = "softmax"
    handles: ClassVar[tuple[str, ...]] = ("softmax", "log_softmax", "_softmax", "_log_softmax")

    def label(self, node: Node, flow: Flow) -> Axes:
        source = next(value for value in node.arguments.values() if isinstance(value, Ref))
        data = flow.of(source)
        flow.labels.pin(data[dimension(node["dim"], len(data))], f"normalised over by {node.where}")
        return data
