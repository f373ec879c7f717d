"""Compensation that minds the worst case: data error + λ · certificate, by convex descent.

A layer's readers hear W h; after removal they hear U h[S] + c. On samples (the rows of H) the error is
‖H Wᵀ − H_S Uᵀ − 1cᵀ‖²/n, a least-squares problem. Over a box around zero-mean inputs, with hᵢ in [lᵢ, uᵢ],
the worst error of output k is at most
    |centre_k| + Σᵢ |W_ki − U_ki| (uᵢ − lᵢ)/2,   centre_k = Σᵢ (W_ki − U_ki)(uᵢ + lᵢ)/2 − c_k,
convex in (U, c), with its minimum in c at the centre. A quadratic certificate of the same layer is convex in
U as well (a supremum of functions linear in it): at the input x* of its worst case the error Σ (W − U) h(x*)
is a subgradient (Danskin). Both are lowered together by descent from the least-squares solution.

Source:
    Danskin (1967) for the subgradient; the objective is derived above.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.errors import UsageError


def compensate(
    samples: Tensor,
    weight: Tensor,
    kept: Tensor,
    start: Tensor,
    offset: Tensor,
    trade: float,
    *,
    worst: Tensor | None = None,
    steps: int = 200,
) -> tuple[Tensor, Tensor]:
    """Weights of the kept units that trade mean error on samples against the worst error.

    Args:
        samples: (n, units) what the units say on samples, float64.
        weight: (outputs, units) W of the readers.
        kept: (left,) int64, ascending.
        start: (outputs, left) U to begin with, e.g. by least squares.
        offset: (outputs,) c to begin with.
        trade: λ ≥ 0; 0 gives `start` back.
        worst: (inputs tried, units) what the units say on the worst inputs of a domain, from an attack
            or from certificates; the samples' own extremes are used where None.
        steps: of descent.

    Returns:
        U and c. The objective is never above that of the start.

    Raises:
        UsageError: λ is negative.
    """
    if trade < 0:
        raise UsageError(f"lambda must be ≥ 0, not {trade:g}.")
    if trade == 0 or not len(samples):
        return start, offset
    extremes = samples if worst is None else worst
    target, hard = samples @ weight.T, extremes @ weight.T
    mine, mine_hard = samples[:, kept], extremes[:, kept]
    scale = target.square().mean().clamp_min(1e-30)

    def objective(u: Tensor, c: Tensor) -> Tensor:
        mean = (target - mine @ u.T - c).square().mean() / scale
        gap = (hard - mine_hard @ u.T - c).abs().amax(0)
        return mean + trade * gap.square().mean() / scale

    u, c = start.detach().clone().requires_grad_(), offset.detach().clone().requires_grad_()
    size = float(start.abs().mean().clamp_min(1e-12))
    descent = torch.optim.Adam([{"params": [u], "lr": 0.05 * size}, {"params": [c], "lr": 0.05 * size}])
    best = (float(objective(start, offset)), start, offset)
    for step in range(steps):
        value = objective(u, c)
        if float(value) < best[0]:
            best = (float(value), u.detach().clone(), c.detach().clone())
        descent.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        for group in descent.param_groups:
            group["lr"] = 0.05 * size * (1 - step / steps)
        descent.step()
    return best[1], best[2]


__all__ = ["compensate"]
