"""How large the weights are that make a group's units, without a copy of them in float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from edgeprune.coresets.coreset import Floats, powers
from edgeprune.graph.groups import Graph, Group, Ints, Node
from edgeprune.graph.silenced import Weights

BYTES = 1 << 19
"""Of rows that are looked at together: what a core keeps near."""


def plain_powers(
    graph: Graph, group: Group, maker: Node, weights: Mapping[str, Tensor], order: int
) -> Floats | None:
    """Σ |p|^order of each unit's incoming weights with its bias, (n,).

    The same numbers in the same order as over the stored rows, some rows at a time. None where units are
    made in several places or by more than rows of one weight.
    """
    name, bias = graph.weight_of(maker.get("weight")), graph.weight_of(maker.get("bias"))
    units = None if name is None else group.units_at(name, 0)
    if name is None or units is None:
        return None
    silent: tuple[tuple[int, Ints], ...] = ()
    if isinstance(weights, Weights):
        value, silent = weights.loud(name), weights.silent(name)
    else:
        value = weights[name]
    if (
        not np.array_equal(units, np.arange(group.size))
        or value.dtype not in (torch.float32, torch.float64)
        or any(axis != 1 for axis, _ in silent)
    ):
        return None
    stored = value.flatten(1).numpy()
    heard = _heard(value, [index for _, index in silent])
    offset = np.zeros(len(value)) if bias is None else weights[bias].double().numpy()
    found, step = np.empty(len(stored)), max(1, BYTES // (8 * (stored.shape[1] + 1)))
    room = np.empty((step, stored.shape[1] + 1))
    for start in range(0, len(stored), step):
        part = stored[start : start + step]
        rows = room[: len(part)]
        if heard is None:
            rows[:, :-1] = part
        else:
            np.multiply(part, heard, out=rows[:, :-1])
        rows[:, -1] = offset[start : start + step]
        found[start : start + step] = powers(rows, order)
    return found


def _heard(weight: Tensor, silent: list[Ints]) -> np.ndarray[tuple[int], np.dtype[np.floating]] | None:
    """One for each column of the flattened weight that is read, zero for the others; None where all are."""
    if not silent:
        return None
    mask = torch.ones(weight.shape[1:], dtype=weight.dtype)
    for index in silent:
        mask[torch.from_numpy(index)] = 0.0
    flat: np.ndarray[tuple[int], np.dtype[np.floating]] = mask.reshape(-1).numpy()
    return flat
