"""Reductions: an axis that is summed, averaged or normalised over keeps all its channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor

from edgeprune import forms
from edgeprune.errors import UnsupportedOperation
from edgeprune.forms import Application, Maximum, Scene, Structural
from edgeprune.graph import Axes, Flow, Node, Ref
from edgeprune.ops.operation import Operation, dimension, replay, source_of


class Reduction(Operation):
    """Mean, sum and extrema over some axes."""

    name: ClassVar[str] = "reduction"
    handles: ClassVar[tuple[str, ...]] = ("mean", "sum", "amax", "amin")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        over = _over(node, len(data))
        for k in over:
            flow.labels.pin(data[k], f"reduced over by {node.where}")
        single = np.zeros(1, dtype=np.int64)
        keepdim = bool(node.get("keepdim", False))
        return tuple(single if k in over else axis for k, axis in enumerate(data) if keepdim or k not in over)

    def form(self, node: Node, scene: Scene) -> Application:
        """Mean and sum have weights ≥ 0; amax and amin are maxima."""
        argument, source = source_of(node)
        shape = scene.shapes[source]
        over = _over(node, len(shape))
        if 0 in over:
            raise UnsupportedOperation(f"{node.where}: reduces over the batch")

        def reduced(sources: Sequence[Tensor]) -> Tensor:
            result: Tensor = replay(node, {argument: sources[0]})
            return result

        if node.operation == "amax":
            return Application(Maximum(reduced), (source,))
        if node.operation == "amin":
            return Application(
                Maximum(lambda sources: -reduced([-h for h in sources]), least=True), (source,)
            )
        return Application(Structural(reduced, reduced, math.prod(shape[k] for k in over) + 2), (source,))


def _over(node: Node, rank: int) -> set[int]:
    """The axes that are reduced."""
    given = node.get("dim")
    if given is None or given == []:
        return set(range(rank))
    return {dimension(d, rank) for d in ([given] if isinstance(given, int) else given)}


class Softmax(Operation):
    """Normalises over one axis, which keeps all its channels."""

    name: ClassVar[str] = "softmax"
    handles: ClassVar[tuple[str, ...]] = ("softmax", "log_softmax", "_softmax", "_log_softmax")

    def label(self, node: Node, flow: Flow) -> Axes:
        source = next(value for value in node.arguments.values() if isinstance(value, Ref))
        data = flow.of(source)
        flow.labels.pin(data[dimension(node["dim"], len(data))], f"normalised over by {node.where}")
        return data

    def form(self, node: Node, scene: Scene) -> Application:
        _, source = source_of(node)
        axis = dimension(node["dim"], len(scene.shapes[source]))
        return Application(forms.Softmax(axis, "log" in node.operation), (source,))
