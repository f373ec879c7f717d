"""The refit of a reader with more unknowns than rows: ridge regression in the space of the rows.

Let U (r, p) be what the reader hears and R (r, k) what its weights leave unexplained. The ridge solution
D = (UᵀU + λI)⁻¹UᵀR equals Uᵀ(UUᵀ + λI)⁻¹R (Woodbury), which needs r × r numbers, not p × p. Where p is so
large that the normal equations cannot be formed, some rows are kept and that is solved instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

NUMBERS = 2**27
"""Most numbers that are kept of U, over both halves: half a gigabyte in float32."""

ROWS = 2048
"""Most rows of U, over both halves."""

STRIPE = 4096
"""Columns of U that are multiplied at a time, in float64."""

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths of the ridge, relative to the mean of ‖u‖² over the rows."""


def rows_for(unknowns: int) -> int:
    """Rows that may be kept for that many unknowns."""
    return max(2, min(ROWS, NUMBERS // unknowns))


@dataclass(slots=True)
class RowEquations:
    """Rows of U (float32) and R (float64) as they come."""

    heard: list[Tensor] = field(default_factory=list)
    rest: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor, rest: Tensor) -> None:
        """Keep rows (r, unknowns) and what they should explain (r, outputs)."""
        self.heard.append(rows.float())
        self.rest.append(rest)


def best(halves: list[RowEquations]) -> Tensor | None:
    """The change (unknowns, outputs) float64 fitted on all rows, None where it does not help.

    The strength of the ridge is the one that does best across the halves.
    """
    if not all(half.heard for half in halves):
        return None
    heard = torch.cat([row for half in halves for row in half.heard])
    rest = torch.cat([row for half in halves for row in half.rest])
    middle = sum(map(len, halves[0].heard))
    inner = gram(heard)
    scale = float(inner.diagonal().mean().clamp_min(1e-30))
    chosen, least = None, float((rest**2).sum())
    for ridge in RIDGES:
        loss = _across(inner, rest, middle, ridge * scale)
        if loss < least:
            chosen, least = ridge, loss
    if chosen is None:
        return None
    return _back(heard, _solved(inner, rest, chosen * scale))


def gram(heard: Tensor) -> Tensor:
    """U Uᵀ in float64, (r, r)."""
    inner = torch.zeros(len(heard), len(heard), dtype=torch.float64)
    for part in torch.split(heard, STRIPE, dim=1):
        wide = part.double()
        inner += wide @ wide.T
    return inner


def _across(inner: Tensor, rest: Tensor, middle: int, strength: float) -> float:
    """Σ‖R − U D‖² of each half under the D of the other."""
    first, second = slice(None, middle), slice(middle, None)
    loss = 0.0
    for mine, other in ((first, second), (second, first)):
        weights = _solved(inner[other, other], rest[other], strength)
        loss += float(((rest[mine] - inner[mine, other] @ weights) ** 2).sum())
    return loss


def _solved(inner: Tensor, rest: Tensor, strength: float) -> Tensor:
    solved: Tensor = torch.linalg.solve(inner + strength * torch.eye(len(inner), dtype=torch.float64), rest)
    return solved


def _back(heard: Tensor, weights: Tensor) -> Tensor:
    """Uᵀ α, (unknowns, outputs) float64."""
    return torch.cat([part.double().T @ weights for part in torch.split(heard, STRIPE, dim=1)])
