"""Compensation that minds the worst case: data error + λ · certificate, by convex descent.

A reader hears W h in the original and V h′ + c in the pruned net, where h = (h_K, h_R) are kept and removed
units. Its output's error is (W_K − V) h′ + W_R h_R + W_K (h_K − h′) + b − c, so if h′ lies within ρ of μ,
h_R within ρ_R of μ_R, and |h_K − h′| ≤ δ, for every input of the domain,
    |error_k| ≤ |((W_K − V) μ + W_R μ_R + b − c)_k| + (|W_K − V| ρ)_k + (|W_R| ρ_R + |W_K| δ)_k.
This interval certificate is convex in (V, c), and so is the mean squared error on samples. Their sum, each as
a share of what it is at the start, is lowered by descent from the least-squares solution on.

Source:
    derived above; trading data error for a certificate is the minimax compensation of the project's methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.errors import UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """The mean squared error on samples, as a quadratic form; U = (h′, 1), T what the original says.

    Attributes:
        gram: (left + 1, left + 1) mean of UᵀU, float64.
        cross: (left + 1, outputs) mean of UᵀT.
        energy: mean of ‖T‖² over samples, summed over outputs.
    """

    gram: Tensor
    cross: Tensor
    energy: float

    def error(self, solution: Tensor) -> Tensor:
        """Mean squared error of (outputs, left + 1) weights, summed over outputs."""
        return ((solution @ self.gram) * solution).sum() - 2 * (solution * self.cross.T).sum() + self.energy


@dataclass(frozen=True, slots=True, eq=False)
class Worst:
    """What every input of the domain can make of the reader's inputs.

    Attributes:
        weight: (outputs, left) W_K.
        center: (left,) μ.
        radius: (left,) ρ ≥ 0.
        rest_center: (outputs,) W_R μ_R + b.
        rest_radius: (outputs,) |W_R| ρ_R + |W_K| δ.
    """

    weight: Tensor
    center: Tensor
    radius: Tensor
    rest_center: Tensor
    rest_radius: Tensor

    def bound(self, solution: Tensor) -> Tensor:
        """The interval certificate of every output: (outputs,)."""
        gap = self.weight - solution[:, :-1]
        middle = gap @ self.center + self.rest_center - solution[:, -1]
        return middle.abs() + gap.abs() @ self.radius + self.rest_radius


def compensate(evidence: Evidence, worst: Worst, start: Tensor, trade: float, steps: int = 300) -> Tensor:
    """Weights of the kept units that trade mean error on samples against the certified worst error.

    Args:
        start: (outputs, left + 1) V and c to begin with, e.g. by least squares.
        trade: λ ≥ 0; 0 gives `start` back. At 1 halving the certificate is worth 75 % more data error.
        steps: of descent.

    Returns:
        (outputs, left + 1). The objective is never above that of the start.

    Raises:
        UsageError: λ is negative.
    """
    if trade < 0:
        raise UsageError(f"lambda must be ≥ 0, not {trade:g}.")
    if trade == 0 or not start.numel():
        return start
    floor = 1e-6 * max(evidence.energy, 1e-30)
    mean = float(evidence.error(start)) + floor
    certified = float(worst.bound(start).square().mean().clamp_min(1e-30))

    def objective(v: Tensor) -> Tensor:
        return (evidence.error(v) + floor) / mean + trade * worst.bound(v).square().mean() / certified

    v = start.detach().clone().requires_grad_()
    rate = 0.02 * float(start.abs().mean().clamp_min(1e-12))
    descent = torch.optim.Adam([v], lr=rate)
    best, kept = float(objective(start)), start
    for step in range(steps):
        value = objective(v)
        if float(value.detach()) < best:
            best, kept = float(value.detach()), v.detach().clone()
        descent.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        descent.param_groups[0]["lr"] = rate * (1 - step / steps)
        descent.step()
    return kept


__all__ = ["Evidence", "Worst", "compensate"]
