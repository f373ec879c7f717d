"""Compensation that minds the worst case: data error + λ · certificate, by convex descent.

A layer's readers hear W h; after removal they hear U h[S] + c. On samples (the rows of H) the error is
‖H Wᵀ − H_S Uᵀ − 1cᵀ‖²/n, a least-squares problem. The worst error over a set of hard inputs x_t,
max_t |(W h(x_t) − U h(x_t)[S] − c)_k|, is convex in (U, c) too: a maximum of absolute values of affine
functions. At the inputs where a certificate or an attack finds the worst error these are its subgradients,
so lowering the maximum over them lowers the certificate. Their sum is lowered from the least-squares
solution on.

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
        if float(value.detach()) < best[0]:
            best = (float(value.detach()), u.detach().clone(), c.detach().clone())
        descent.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        for group in descent.param_groups:
            group["lr"] = 0.05 * size * (1 - step / steps)
        descent.step()
    return best[1], best[2]


__all__ = ["compensate"]
