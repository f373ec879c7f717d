"""A net's latency as a sum of pieces: its layers by a table of measured times, the rest by its size.

Convolutions and linear layers are looked up by what they read and make (`stages.latency_table`). What
stands between them (pooling, normalisation, attention, concatenation) is taken to cost one nanosecond an
element that it writes and 1/16 of one a multiply-accumulate; activations, batch norms and sums are fused
into their layers by every runtime and cost nothing here. Everything is then scaled by one factor, so that
the whole net costs what it was measured to. The prediction picks candidates; candidates are measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgeprune.graph.groups import Coupling, Node
from edgeprune.graph.labels import is_single
from edgeprune.ops import operation_for
from edgeprune.stages.latency_table import CostTable, Layer
from edgeprune.widths.costs import Costs, Extents, Sizes, gathered, piece_of

ELEMENT_MS, MAC_MS = 1e-6, 1e-6 / 16
FUSED = frozenset(
    (
        *("weight", "input", "output", "getitem", "batch_norm", "relu", "relu6", "hardtanh", "clamp", "add"),
        *("dropout", "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "alias"),
    )
)
"""Operations that cost nothing of their own."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A layer and the node of the graph that it is."""

    node: Node
    layer: Layer

    def widths(self, sizes: Sizes) -> tuple[int, int]:
        """Channels that it reads and makes, from the sizes of tensors."""
        axis = 1 if self.layer.kind == "conv" else -1
        return sizes(self.node["input"].name)[axis], sizes(self.node.name)[axis]


def placed(coupling: Coupling) -> tuple[Placed, ...]:
    """The layers that a table can measure, in graph order."""
    found = []
    for node in coupling.graph.nodes.values():
        layer = _layer(coupling, node)
        if layer is not None:
            found.append(Placed(node, layer))
    return tuple(found)


def _layer(coupling: Coupling, node: Node) -> Layer | None:
    if node.operation not in ("conv1d", "conv2d", "conv3d", "linear"):
        return None
    data = coupling.graph.nodes[node["input"].name].shape
    if node.shape is None or data is None:
        return None
    if node.operation == "linear":
        return Layer("linear", data[-1], node.shape[-1], tuple(data[1:-1]))
    kernel = coupling.graph.nodes[node["weight"].name].shape
    groups = int(node["groups"])
    if kernel is None or (groups > 1 and groups == data[1] != node.shape[1]):
        return None  # several channels made of each one: the two widths are tied, but not equal
    rank = len(data) - 2
    dilation, stride = _each(node["dilation"], rank), _each(node["stride"], rank)
    padding = node["padding"]
    if isinstance(padding, str):
        reach = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel[2:], strict=True))
        padding = reach if padding == "same" else (0,) * rank
    return Layer(
        "conv", data[1], node.shape[1], tuple(data[2:]), tuple(kernel[2:]), stride, _each(padding, rank),
        dilation, groups,
    )  # fmt: skip


def _each(value: Any, rank: int) -> tuple[int, ...]:
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    return given * rank if len(given) == 1 else given


def latency_costs(coupling: Coupling, table: CostTable, whole_ms: float) -> Costs:
    """The milliseconds of a net by the widths of its groups.

    Args:
        table: made for the layers of `placed`.
        whole_ms: what the whole net was measured to take.
    """
    extents, layers = Extents.of(coupling), placed(coupling)
    values = [partial(_looked_up, one, table) for one in layers]
    between = [
        partial(_passed, node, size) for node, size in _rest(coupling, {one.node.name for one in layers})
    ]
    pieces = [piece_of(extents, value) for value in (*values, *between)]
    whole = {group.name: group.size for group in coupling.groups}
    raw = gathered("latency", "ms", whole, pieces, polynomial=False)
    scale = whole_ms / max(raw.price({}), 1e-9)
    return raw.scaled(scale)


def _looked_up(one: Placed, table: CostTable, sizes: Sizes) -> float:
    return table.cost_ms(one.layer, *one.widths(sizes))


def _rest(coupling: Coupling, known: set[str]) -> Iterator[tuple[Node, Any]]:
    """What is no layer of the table and no part of one."""
    graph = coupling.graph
    for node in graph.nodes.values():
        axes = coupling.axes.get(node.name)
        if node.name in known or node.operation in FUSED or axes is None or not graph.moves(node.name):
            continue
        if is_single(axes):
            yield node, graph.traced_batch


def _passed(node: Node, batch: int, sizes: Sizes) -> float:
    rule = operation_for(node.operation)
    macs = rule.macs(node, sizes) if rule is not None else 0
    return (ELEMENT_MS * math.prod(sizes(node.name)) + MAC_MS * macs) / batch
