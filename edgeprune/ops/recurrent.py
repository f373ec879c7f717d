"""Recurrent layers: LSTM, GRU and the plain RNN lose hidden units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from torch import nn

from edgeprune.graph.groups import Axes, Contact, Flow, Ints, Node, Ref
from edgeprune.ops.operation import Operation, Sizes

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


class Recurrent(Operation):
    """W_ih (gates · hidden, in), W_hh (gates · hidden, hidden), biases (gates · hidden,), layer by layer.

    A hidden unit is one row of every gate, one column of W_hh, one channel of the states and of the
    output; it is heard by W_hh, by the next layer and by whatever reads the output. A projection
    (proj_size) makes the states smaller and is read like a layer.
    """

    name: ClassVar[str] = "recurrent"
    handles: ClassVar[tuple[str, ...]] = tuple(GATES)
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.RNNBase,)

    def label(self, node: Node, flow: Flow) -> tuple[Axes | None, ...]:
        if "input" not in node.arguments or not isinstance(node.get("params"), list):
            raise LookupError(f"{node.name} takes packed sequences")
        data, params = flow.of(node["input"]), list(node["params"])
        states = node["hx"] if isinstance(node["hx"], list) else [node["hx"]]
        ways, layers = (2 if node["bidirectional"] else 1), int(node["num_layers"])
        per = len(params) // (ways * layers)
        flow.pin(data[:-1], f"a sequence that {node.where} runs along")
        if len(states[0:]) > 1 and len(flow.of(states[0])[-1]) != len(flow.of(states[1])[-1]):
            raise LookupError(f"{node.name} has projections")
        heard, source = data[-1], node["input"]
        ends = [flow.of(state)[-1] for state in states]
        for layer in range(layers):
            made: list[Ints] = []
            for way in range(ways):
                weights = params[(layer * ways + way) * per : (layer * ways + way + 1) * per]
                made.append(self._cell(node, flow, weights, heard, source if layer == 0 else None))
            heard = made[0] if ways == 1 else np.concatenate(made)
            for way in range(ways):
                for end in ends:  # all states lie in one tensor: the layers hang together
                    flow.labels.tie(end, made[way])
        shapes = node.shapes
        return (
            (*flow.fixed(shapes[0][:-1]), heard),
            *((*flow.fixed(shape[:-1]), end) for shape, end in zip(shapes[1:], ends, strict=True)),
        )

    @staticmethod
    def _cell(node: Node, flow: Flow, weights: Sequence[Ref], heard: Ints, source: Ref | None) -> Ints:
        into, back, *biases = weights
        rows, columns = flow.of(into), flow.of(back)
        flow.labels.tie(rows[1], heard)
        hidden = columns[1]
        for axis in (rows[0], columns[0], *(flow.of(bias)[0] for bias in biases)):
            flow.labels.tie(axis, np.tile(hidden, len(axis) // len(hidden)))
        if source is not None:
            rank = len(flow.of(source))
            flow.contacts.append(Contact("read", node.name, into, 1, source.name, rank - 1))
        else:  # what a lower layer of the same node says is muted in the weight that reads it
            flow.contacts.append(Contact("read", node.name, into, 1, into.name, 1, False))
        flow.contacts.append(Contact("read", node.name, back, 1, back.name, 1, False))
        flow.contacts.append(Contact("produce", node.name, into, 0))
        return hidden

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, nn.RNNBase)
        module.input_size = module.get_parameter("weight_ih_l0").shape[1]
        module.hidden_size = module.get_parameter("weight_hh_l0").shape[1]

    def macs(self, node: Node, sizes: Sizes) -> int:
        steps = math.prod(sizes(node["input"].name)[:-1])
        return steps * sum(math.prod(sizes(ref.name)) for ref in node["params"] if len(sizes(ref.name)) == 2)


__all__ = ["Recurrent"]
