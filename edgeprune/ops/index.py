"""Looking entries up: embeddings, index, gather and their like.

The axis that is looked up along keeps all its entries, since their numbers are written in the index;
the others are handed on.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from edgeprune.graph.groups import Axes, Flow, Node, Ref
from edgeprune.ops.operation import Operation, dimension


class Embedding(Operation):
    """Rows of a table (vocabulary, channels): the vocabulary is kept, the channels are made here."""

    name: ClassVar[str] = "embedding"
    handles: ClassVar[tuple[str, ...]] = ("embedding",)
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.Embedding,)

    def label(self, node: Node, flow: Flow) -> Axes:
        table = flow.of(node["weight"])
        flow.pin(table[:1], f"the vocabulary of {node.where}")
        flow.contact("produce", node, "weight", 1)
        return (*flow.of(node["indices"]), table[1])

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, nn.Embedding)
        module.num_embeddings, module.embedding_dim = module.weight.shape


class Index(Operation):
    """x[i, :, j] with tensors as indices: their common shape stands in for the axes they look along."""

    name: ClassVar[str] = "index"
    handles: ClassVar[tuple[str, ...]] = ("index", "_unsafe_index")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        assert node.shape is not None
        given = list(node["indices"]) + [None] * (len(data) - len(node["indices"]))
        looked = [k for k, index in enumerate(given) if index is not None]
        if any(not flow.graph.nodes[given[k].name].shape and len(looked) > 1 for k in looked):
            raise LookupError(f"{node.name} mixes numbers and tensors as indices")
        for k in looked:
            flow.pin((data[k],), f"looked up along by {node.where}")
        kept = [axis for k, axis in enumerate(data) if k not in looked]
        rank = len(node.shape) - len(kept)
        apart = looked != list(range(looked[0], looked[-1] + 1))
        start = 0 if apart else looked[0]
        new = list(flow.fixed(node.shape[start : start + rank]))
        if len(looked) == 1:
            new = list(flow.of(given[looked[0]]))
        for k in looked if len(looked) > 1 else ():
            flow.pin(flow.of(given[k]), f"an index of {node.where}")
        return (*kept[:start], *new, *kept[start:])


class Lookup(Operation):
    """index_select, gather, take_along_dim, scatter: along one axis, which keeps all its entries."""

    name: ClassVar[str] = "lookup"
    handles: ClassVar[tuple[str, ...]] = (
        *("index_select", "gather", "take_along_dim", "scatter", "scatter_add", "index_add", "index_fill"),
        *("index_copy", "select_scatter", "slice_scatter"),
    )

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        assert node.shape is not None
        along = dimension(int(node["dim"]), len(data))
        flow.pin((data[along],), f"looked up along by {node.where}")
        for key in ("index", "src", "source"):
            if isinstance(node.get(key), Ref):
                self._other(node, flow, flow.of(node[key]), data, along)
        return tuple(flow.zeros(node.shape[k]) if k == along else axis for k, axis in enumerate(data))

    @staticmethod
    def _other(node: Node, flow: Flow, other: Axes, data: Axes, along: int) -> None:
        reason = f"looked up along by {node.where}"
        if len(other) != len(data):
            flow.pin((*other, *data) if node.operation != "index_select" else other, reason)
            return
        for k, (axis, met) in enumerate(zip(other, data, strict=True)):
            if k == along:
                flow.labels.pin(axis, reason)
            elif len(axis) == len(met):
                flow.labels.tie(axis, met)
            else:
                flow.pin((axis, met), reason)


class Put(Operation):
    """index_put: entries of the looked-up axes are overwritten; the others meet what is written."""

    name: ClassVar[str] = "put"
    handles: ClassVar[tuple[str, ...]] = ("index_put", "_unsafe_index_put")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        looked = [k for k, index in enumerate(node["indices"]) if index is not None]
        flow.pin((data[k] for k in looked), f"written along by {node.where}")
        kept = [axis for k, axis in enumerate(data) if k not in looked]
        values = flow.of(node["values"])
        if looked != list(range(len(looked))):
            flow.pin((*kept, *values), f"written by {node.where}")
            return data
        for axis, met in zip(reversed(values), reversed(kept), strict=False):
            if len(axis) == len(met):
                flow.labels.tie(axis, met)
            else:
                flow.labels.pin(axis, f"broadcast by {node.where}")
        return data


__all__ = ["Embedding", "Index", "Lookup", "Put"]
