"""Gathering a group's evidence from the traced graph, its weights and the calibration set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from edgeprune.coresets import Evidence, Hearing
from edgeprune.coresets.coreset import Floats
from edgeprune.graph import Graph, Group, Ints, Node, Reader
from edgeprune.observation.moments import Moments, listen, positions
from edgeprune.observation.patches import shift_site

KEEPS_CHANNELS = ("batch_norm", "dropout", "clone", "contiguous", "alias", "detach")


def gather(
    graph: Graph,
    group: Group,
    weights: Mapping[str, Tensor],
    samples: Sequence[Tensor] | None,
    radii: Mapping[str, float],
    generator: torch.Generator,
) -> Evidence:
    """All that a coreset method may see of a group.

    Args:
        weights: the current weights at original sizes, by qualified name.
        samples: calibration inputs, or None for a data-independent choice.
        radii: by name of a making node, a bound on the l2 norm of what it hears.
        generator: for the part of the positions that is used.
    """
    plain = [reader for reader in group.readers if reader.weight is not None]
    sums = (
        listen(graph, group, plain, weights, samples, generator)
        if samples is not None
        else [None] * len(plain)
    )
    hearings = tuple(_hearing(graph, group, r, weights, m) for r, m in zip(plain, sums, strict=True))
    makers = [graph.nodes[name] for name in group.producers]
    return Evidence(
        group.name,
        tuple(_rows(graph, group, maker, weights) for maker in makers),
        tuple(activation_after(graph, maker) for maker in makers),
        tuple(radii.get(maker.name) for maker in makers),
        hearings,
    )


def _hearing(
    graph: Graph, group: Group, reader: Reader, weights: Mapping[str, Tensor], moments: Moments | None
) -> Hearing:
    assert reader.weight is not None
    units = next(p.units for p in group.places if p.weight == reader.weight and p.axis == reader.axis)
    weight = weights[reader.weight].double()
    flat = weight.movedim(reader.axis, 0).reshape(weight.shape[reader.axis], -1).numpy()
    n = group.size
    gram, peak = np.zeros((n, n)), np.zeros(n)
    for place in positions(units, n):
        there = place >= 0
        queries = flat[place.clip(0)] * there[:, None]
        gram += queries @ queries.T
        peak = np.maximum(peak, np.abs(queries).max(axis=1, initial=0.0))
    return Hearing(
        reader.node,
        gram,
        peak,
        outputs=int(weight.shape[0]),
        moment=None if moments is None else moments.second_moment,
        mean=None if moments is None else moments.mean,
        shiftable=reader.compensable and shift_site(graph, reader) is not None,
    )


def _rows(graph: Graph, group: Group, maker: Node, weights: Mapping[str, Tensor]) -> Floats:
    """Incoming weights of each unit with its bias, (n, fan-in + 1); batch norm folded in.

    A unit that a layer makes in several places (equal shares of a grouped convolution) gets
    the places side by side.
    """
    name = graph.weight_of(maker["weight"])
    if name is None:
        return np.ones((group.size, 1))
    weight = weights[name].double().flatten(1).numpy()
    bias_name = graph.weight_of(maker.get("bias"))
    bias = weights[bias_name].double().numpy() if bias_name else np.zeros(len(weight))
    scale, offset = _folded(graph, maker, weights, len(weight))
    rows = np.concatenate([weight * scale[:, None], (bias * scale + offset)[:, None]], axis=1)
    units = next(p.units for p in group.places if p.weight == name and p.axis == 0)
    parts = [rows[place.clip(0)] * (place >= 0)[:, None] for place in positions(units, group.size)]
    return np.concatenate(parts, axis=1)


def _folded(graph: Graph, maker: Node, weights: Mapping[str, Tensor], size: int) -> tuple[Floats, Floats]:
    """Scale and offset of the batch norm that alone follows, or of the identity."""
    users = graph.users(maker.name)
    if len(users) != 1 or users[0].operation != "batch_norm":
        return np.ones(size), np.zeros(size)
    norm = users[0]

    def value(argument: str, default: float) -> Floats:
        name = graph.weight_of(norm.get(argument))
        return weights[name].double().numpy() if name else np.full(size, default)

    scale = value("weight", 1.0) / np.sqrt(value("running_var", 1.0) + float(norm["eps"]))
    return scale, value("bias", 0.0) - value("running_mean", 0.0) * scale


def activation_after(graph: Graph, maker: Node) -> str:
    """The activation that alone follows a layer (behind batch norm and dropout), '' if there is none."""
    node = maker
    while True:
        users = graph.users(node.name)
        if len(users) != 1:
            return ""
        node = users[0]
        if node.operation in KEEPS_CHANNELS:
            continue
        if node.operation == "hardtanh":
            return "relu6" if (node["min_val"], node["max_val"]) == (0.0, 6.0) else "hardtanh"
        return (
            "" if node.operation in ("add", "cat", "linear", "conv1d", "conv2d", "output") else node.operation
        )


__all__ = ["Ints", "activation_after", "gather"]
