"""Reductions: an axis that is summed, averaged or normalised over keeps all its channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from edgeprune.errors import UnsupportedOperation
from edgeprune.functions import forms
from edgeprune.functions.forms import Application, Maximum, Scene, Structural
from edgeprune.graph.groups import Axes, Flow, Node, Ref
from edgeprune.ops.operation import Operation, dimension, replay, source_of
from edgeprune.ops.pointwise import meet

STATISTICS = (
    *("prod", "std", "var", "var_mean", "std_mean", "logsumexp", "linalg_vector_norm", "norm", "max"),
    *("min", "argmax", "argmin", "any", "all", "median", "nanmedian", "count_nonzero", "aminmax"),
    *("mode", "kthvalue"),
)
"""Reductions that fit no form."""


class Reduction(Operation):
    """Mean, sum, extrema, norms and other statistics over some axes."""

    name: ClassVar[str] = "reduction"
    handles: ClassVar[tuple[str, ...]] = ("mean", "sum", "amax", "amin", *STATISTICS)

    def label(self, node: Node, flow: Flow) -> Axes | tuple[Axes | None, ...]:
        if "other" in node.arguments:  # max and min of two tensors
            return meet(node, flow)
        data = flow.of(node["self"])
        over = _over(node, len(data))
        flow.pin((data[k] for k in over), f"reduced over by {node.where}")
        keepdim = bool(node.get("keepdim", False))
        made = tuple(
            flow.zeros(1) if k in over else axis for k, axis in enumerate(data) if keepdim or k not in over
        )
        return made if node.shape is not None else tuple(made for _ in node.shapes)

    def form(self, node: Node, scene: Scene) -> Application:
        """Mean and sum have weights ≥ 0; amax and amin are maxima."""
        if node.operation in STATISTICS:
            raise UnsupportedOperation(f"{node.where}: {node.target} fits no form")
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


class Scan(Operation):
    """Operations along one axis that keep its size: what lies on it depends on all of it."""

    name: ClassVar[str] = "scan"
    handles: ClassVar[tuple[str, ...]] = (
        *("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "argsort", "flip", "roll", "topk"),
        *("tril", "triu"),
    )

    def label(self, node: Node, flow: Flow) -> Axes | tuple[Axes | None, ...]:
        data = flow.of(node["self"])
        along = self._along(node, len(data))
        if any(flow.free(data[k]) for k in along):
            raise LookupError(f"no rule for {node.target} along an axis that can lose channels")
        shapes = node.shapes if node.shape is None else (node.shape,)
        made = tuple(
            tuple(flow.zeros(shape[k]) if k in along else axis for k, axis in enumerate(data))
            for shape in shapes
        )
        return made[0] if node.shape is not None else made

    @staticmethod
    def _along(node: Node, rank: int) -> set[int]:
        if node.operation in ("tril", "triu"):
            return {rank - 2, rank - 1}
        given = node["dims"] if "dims" in node.arguments else node["dim"]
        if given == []:
            return set(range(rank))
        return {dimension(d, rank) for d in ([given] if isinstance(given, int) else given)}

    def form(self, node: Node, scene: Scene) -> Application:
        argument, source = source_of(node)
        if node.operation not in ("flip", "roll"):
            raise UnsupportedOperation(f"{node.where}: {node.target} fits no form")
        return Application(Structural.moving(lambda x: replay(node, {argument: x})), (source,))


class GatedHalves(Operation):
    """glu: the first half of an axis times the sigmoid of the second, index by index."""

    name: ClassVar[str] = "glu"
    handles: ClassVar[tuple[str, ...]] = ("glu",)

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        along = dimension(int(node["dim"]), len(data))
        half = len(data[along]) // 2
        flow.labels.tie(data[along][:half], data[along][half:])
        return tuple(axis[:half] if k == along else axis for k, axis in enumerate(data))
