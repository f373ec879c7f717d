"""Quadratic certificates of one layer: sup over a region of r(x) = Σ aᵢ relu(pᵢ·x + bᵢ) + o.

1. Every unit is bounded by a parabola on its range [l, u] (l < 0 < u), zᵢ = pᵢ·x + bᵢ:
       aᵢ > 0:  relu(z) ≤ w (z/2 + z²/4c + c/4) + (1 − w) u (z − l)/(u − l)       for c > 0, 0 ≤ w ≤ 1
       aᵢ < 0:  relu(z) ≥ w₂ z (z − l)/(u − l) + w₁ z + w₀ · 0                   for w ≥ 0, Σ w = 1
   (|z| ≤ z²/2c + c/2; a chord; z(z − l)/(u − l) lies below relu on [l, u] as z ≤ u.) So
       r(x) ≤ Σ Dᵢ (pᵢ·x)² + Σ tᵢ pᵢ·x + k,
   where units of either sign cancel inside the form: what linear bounds cannot see.
2. With any θ > 0 and λ ≥ 0, on |xⱼ| ≤ ρⱼ (the region's centre moved to zero):
       Σ Dᵢ (pᵢ·x)² + Σ tᵢ pᵢ·x ≤ λ Σ θⱼ ρⱼ² + sup_x [Σ Dᵢ(pᵢ·x)² + Σ tᵢ pᵢ·x − λ Σ θⱼ xⱼ²].
   On a ball θ is 1 and Σ θⱼρⱼ² is β². In both, θⱼ + μ with Σ θⱼρⱼ² + μβ².
3. With M = P Θ⁻¹ Pᵀ and any L with L Lᵀ ⪰ M: P x = L τ for a τ with ‖τ‖² ≤ Σ θⱼxⱼ², so the supremum is at
   most sup_τ [τᵀ(LᵀDL − λI)τ + (Lᵀt)ᵀτ] ≤ κ exactly if
       ( λI − LᵀDL   −Lᵀt/2 )
       (  −tᵀL/2        κ   )  is positive semidefinite.
   All matrices have the size of the units, whatever the dimension of x. Units that are on one side of
   zero, and any linear function of x, make one row more.

Everything up to here holds for any w, c, θ, λ; they come from the primal: maximise the relaxation over
low-rank second moments (x and a few directions), for all outputs at once, by projected gradient ascent in
float32. The parabolas are the tangents there, θ the multipliers. Then the last matrix is factored in
float64: if the Cholesky factorisation of A − δI runs through with δ above its backward error
γ(n + 2)·trace(A), then A is positive definite (Rump 2006); δ also covers the rounding of A itself.

Source:
    Shor (1987), dual bounds of quadratic forms; Burer & Monteiro (2003) for the low-rank primal; Raghunathan
    et al. (2018), arXiv 1811.01057, for ReLU nets; Rump (2006), "Verification of positive definiteness", BIT.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.bounds.parabolas import Combination, Region, Residual, Units, parabolas
from edgeprune.bounds.primal import Ascent, ascended
from edgeprune.bounds.shor import dual
from edgeprune.bounds.watch import Watch, spread_over
from edgeprune.functions.intervals import UNIT_ROUNDOFF


def layer_bounds(
    layer: Residual, region: Region, ascent: Ascent | None = None, watch: Watch | None = None
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of every output of a residual over a region.

    Args:
        watch: outputs that are not begun at its deadline keep their bound by intervals.

    Returns:
        (outputs,) and (outputs,) float64; never worse than the bound by intervals.
    """
    units = Units.of(layer.incoming, layer.bias, region)
    signed = torch.cat([layer.outgoing, -layer.outgoing]).to(torch.float64)
    best = suprema(units, region, signed, None, ascent, watch)
    offset = torch.cat([layer.offset, -layer.offset]).to(torch.float64)
    upper = best + offset + 4 * UNIT_ROUNDOFF * (best.abs() + offset.abs())
    return -upper[len(layer.offset) :], upper[: len(layer.offset)]


def suprema(
    units: Units,
    region: Region,
    signed: Tensor,
    linear: Tensor | None,
    ascent: Ascent | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Upper bounds of signed · relu(z(x)) + linear · x over a region, row by row.

    Args:
        signed: (rows, units).
        linear: (rows, inputs); None for none.
        watch: rows that are not begun at its deadline keep their bound by intervals.

    Returns:
        (rows,) float64.
    """
    ascent, watch = ascent or Ascent(), watch or Watch()
    best = units.trivial(signed)
    if linear is not None:
        moved = linear @ region.center + region.reach(linear)[1]
        best = best + moved
        share = (4 * linear.shape[1] + 16) * UNIT_ROUNDOFF
        best = best + share * (linear.abs() @ (region.center.abs() + region.magnitude) + best.abs())

    def improve(rows: Tensor) -> None:
        part = units.combined(region, signed[rows], None if linear is None else linear[rows])
        best[rows] = torch.minimum(best[rows], _upper(part, region, ascent))

    spread_over(torch.split(torch.arange(len(signed)), ascent.rows), improve, watch)
    return best


def _upper(task: Combination, region: Region, ascent: Ascent) -> Tensor:
    """Upper bounds of every row, by all three steps."""
    units, v = task.units, task.v
    if not len(units.p):
        top = torch.zeros_like(task.constant) if v is None else region.reach(v)[1]
        return task.constant + top + 4 * UNIT_ROUNDOFF * (task.constant.abs() + top.abs())
    c, weights, theta, mu = ascended(task, region, ascent)
    around = parabolas(units, task.a, c, weights)
    p, b = units.p, units.b
    inside = (around.d * b**2 + around.t * b + around.k).sum(1)
    linear = 2 * around.d * b + around.t
    far = torch.maximum(units.low.abs(), units.high.abs())
    # z = p·x + b with b off by its error: the parabola moves by (2|d||z| + |t|)·error at most
    moved = (2 * around.d.abs() * (far + units.b_error) + around.t.abs()) @ units.b_error
    n = p.shape[0] + 8
    sizes = (around.d.abs() * b**2 + around.t.abs() * b.abs() + around.k.abs()).sum(1)
    constant = inside + moved + (2 * n + 16) * UNIT_ROUNDOFF * (sizes + task.constant.abs())
    # rounding of `linear`, against |p·x| ≤ far + |b|
    reach = far + b.abs()
    constant = constant + 8 * UNIT_ROUNDOFF * ((2 * around.d.abs() * b.abs() + around.t.abs()) @ reach)
    budget = torch.zeros(len(task.a), dtype=torch.float64)
    if region.radius is not None:
        budget = (theta * region.radius**2).sum(1)
    if region.ball is not None:
        budget = budget + mu * region.ball[1] ** 2
        theta = theta + mu[:, None]
    budget = budget * (1 + (4 * p.shape[1] + 32) * UNIT_ROUNDOFF)
    if v is not None and theta.shape[1] == 1:
        theta = theta.expand(-1, p.shape[1])
    return task.constant + constant + dual(p, around.d, linear, theta, budget, v)


__all__ = ["Ascent", "Region", "Residual", "layer_bounds", "suprema"]
