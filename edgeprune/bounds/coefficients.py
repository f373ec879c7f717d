"""Coefficients of linear functions of a node of both nets, and how they are moved about.

A linear function of a node is a_fᵀf + a_gᵀg + a_ΔᵀΔ with Δ = f[kept] − g, one function a row.

Gauge. As Δ = f[kept] − g, the coefficients (a_Δ + s, a_f − s, a_g + s) mean the same for any s. Before an
activation, with p = a_f + a_Δ and q = a_g − a_Δ (what f and g are really multiplied by), a_Δ becomes their
common opposite part, sign(p) min(|p|, |q|) where p q < 0; a share of it (θ in [0, 1]) is bounded as a
function of Δ, the rest through f and g. Affine steps commute with the gauge: it can be chosen late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.bounds.differential import Reach
from edgeprune.functions.forms import Kept, restrict
from edgeprune.functions.intervals import UNIT_ROUNDOFF
from edgeprune.functions.kernels import spread

Shape = tuple[int, ...]


Block = Tensor | None
"""Coefficients (rows, *shape) without the node's batch; None where all are zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Coefficients of linear functions of one node."""

    f: Block
    g: Block
    delta: Block

    def plus(self, other: Rows) -> Rows:
        """Both added."""
        return Rows(plus(self.f, other.f), plus(self.g, other.g), plus(self.delta, other.delta))


def rounding_share(terms: int) -> float:
    """Relative error of a dot product, with room for the few operations around it."""
    return (2 * terms + 64) * UNIT_ROUNDOFF


def plus(a: Block, b: Block) -> Block:
    """The sum, with None for zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def gauged(rows: Rows, kept: Kept, share: Tensor | float, shapes: tuple[Shape, Shape]) -> Rows:
    """Move the common opposite part of f and g, times `share`, into Δ; the rest back out of it."""
    n = next(len(a) for a in (rows.f, rows.g, rows.delta) if a is not None)
    f = torch.zeros((n, *shapes[0][1:]), dtype=torch.float64) if rows.f is None else rows.f
    g = torch.zeros((n, *shapes[1][1:]), dtype=torch.float64) if rows.g is None else rows.g
    delta = torch.zeros_like(g) if rows.delta is None else rows.delta
    on_kept = restrict(f, kept)
    p, q = on_kept + delta, g - delta
    common = torch.where(p * q < 0, p.sign() * torch.minimum(p.abs(), q.abs()), torch.zeros_like(p)) * share
    return Rows(f + spread(p - common - on_kept, kept, (1, *f.shape[1:])), q + common, common)


def dot(rows: Tensor, values: Tensor) -> Tensor:
    """Row by row Σ rows · values, where values (a batch of one, or broadcast) fit a row, or all rows."""
    if values.dim() == rows.dim() and len(values) == len(rows) > 1:
        return (rows * values).reshape(len(rows), -1).sum(1)
    return rows.reshape(len(rows), -1) @ values.expand(1, *rows.shape[1:]).reshape(-1)


def pull(
    linear: Callable[[Sequence[Tensor]], Tensor], zeros: Sequence[Tensor], rows: Block
) -> Sequence[Block]:
    """Coefficients of the sources: the transposed of a linear map, row by row."""
    if rows is None:
        return [None] * len(zeros)
    backward: Callable[[Tensor], tuple[Tensor, ...]] = torch.func.vjp(lambda *h: linear(list(h)), *zeros)[1]
    return [a.squeeze(1) for a in torch.func.vmap(backward)(rows.unsqueeze(1))]


def unit_rows(reach: Reach, which: str, index: Tensor, sign: float) -> Rows:
    """The functions `sign` · (an element of f, g or delta), one row for each flat index."""
    n, shape = len(index), (reach.f if which == "f" else reach.g).shape[1:]
    block = torch.zeros((n, math.prod(shape)), dtype=torch.float64)
    block[torch.arange(n), index] = sign
    rows = block.reshape(n, *shape)
    return Rows(
        rows if which == "f" else None, rows if which == "g" else None, rows if which == "delta" else None
    )
