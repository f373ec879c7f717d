"""The dual of a quadratic form over a region, verified by a Cholesky factorisation; see `quadratic`."""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.functions.intervals import UNIT_ROUNDOFF


def dual(p: Tensor, d: Tensor, linear: Tensor, theta: Tensor, budget: Tensor, v: Tensor | None) -> Tensor:
    """Min over λ of λ·budget + κ, verified; (rows,), inf where the verification fails.

    Args:
        p: (units, inputs).
        d: (rows, units), of (pᵢ · x)².
        linear: (rows, units), of pᵢ · x.
        theta: (rows, inputs), or (rows, 1) on a ball.
        budget: (rows,), Σ θⱼρⱼ².
        v: (rows, inputs), of x itself: one more unit, without a square; None for none.
    """
    if v is not None:
        d = torch.cat([d, torch.zeros_like(d[:, :1])], 1)
        # a power of two brings v to the size of the other rows, exactly
        size = p.norm(dim=1).mean().clamp_min(1e-30) if len(p) else torch.ones((), dtype=torch.float64)
        scale = torch.exp2(torch.log2((v.norm(dim=1) / size).clamp(1e-100, 1e100)).round())
        linear, v = torch.cat([linear, scale[:, None]], 1), v / scale[:, None]
    n = d.shape[1]
    factor, spoiled = factored(p, theta, v)
    h = (factor.mT * d[:, None, :]) @ factor
    h = (h + h.mT) / 2
    u = (factor.mT @ linear[:, :, None])[..., 0]
    # rounding of h: γ |L|ᵀ|D||L|, in the Frobenius norm; of u: γ |L|ᵀ|t|
    lengths = torch.linalg.vector_norm(factor, dim=2)  # of the rows of L
    h_error = (4 * n + 32) * UNIT_ROUNDOFF * (d.abs() * lengths**2).sum(1)
    u_error = (2 * n + 16) * UNIT_ROUNDOFF * (linear.abs() * lengths).sum(1)
    result = torch.where(spoiled, torch.inf, torch.full_like(budget, torch.nan))
    eye = torch.eye(n, dtype=torch.float64)
    shadow = _shadow(h, u)
    for margin in (2e-3, 2e-2, 0.2, 2.0):
        rows = result.isnan().nonzero().reshape(-1)
        if not len(rows):
            break
        scale, kappa = multiplier(shadow, rows, budget[rows], margin)
        a = scale[:, None, None] * eye - h[rows]
        diagonal = h[rows].diagonal(dim1=1, dim2=2).abs().sum(1)
        delta = h_error[rows] + (4 * n + 64) * UNIT_ROUNDOFF * (n * scale + diagonal)
        good = positive(a, u[rows], kappa, delta, u_error[rows])
        total = (scale * budget[rows] + kappa) * (1 + 8 * UNIT_ROUNDOFF)
        result[rows] = torch.where(good, total, torch.nan)
    return result.nan_to_num(torch.inf, torch.inf)


def _shadow(h: Tensor, u: Tensor, steps: int = 36) -> tuple[Tensor, Tensor]:
    """What H looks like from u: eigenvalues (rows, steps) and the squared parts of u along them (Lanczos).

    Estimates only, in float32: they say where to look for λ and κ.
    """
    h, v = h.to(torch.float32), u.to(torch.float32)
    steps = min(steps, h.shape[1])
    size = v.norm(dim=1).clamp_min(1e-30)
    v = v / size[:, None] + 1e-3 * torch.linspace(-1, 1, v.shape[1], dtype=v.dtype)
    v = v / v.norm(dim=1, keepdim=True)
    basis = [v]
    for _ in range(steps - 1):
        w = (h @ basis[-1][:, :, None])[..., 0]
        stack = torch.stack(basis, 2)
        for _ in range(2):
            w = w - (stack @ (stack.mT @ w[:, :, None]))[..., 0]
        basis.append(w / w.norm(dim=1, keepdim=True).clamp_min(1e-30))
    q = torch.stack(basis, 2)
    values, vectors = torch.linalg.eigh((q.mT @ (h @ q)).double())
    along = (vectors.mT @ (q.mT @ u.to(torch.float32)[:, :, None]).double())[..., 0]
    return values, along**2


def multiplier(
    shadow: tuple[Tensor, Tensor], rows: Tensor, budget: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """The λ where λ·budget + uᵀ(λ − H)⁻¹u/4 seems least, and a κ a little above its second part."""
    values, parts = shadow[0][rows], shadow[1][rows]
    top = values[:, -1].clamp_min(0)
    spread = (values[:, -1] - values[:, 0]).clamp_min(1e-12)
    base = top + margin * (0.5 * top + 1e-3 * spread) + 1e-9 * spread
    scale = base[:, None] + spread[:, None] * torch.logspace(-6, 2, 160, dtype=torch.float64)
    # where the search converged λ is near 1, however small H is
    scale = torch.cat(
        [scale, torch.maximum(base[:, None], torch.logspace(-1, 1, 80, dtype=torch.float64))], 1
    )
    kappas = (parts[:, None, :] / (scale[:, :, None] - values[:, None, :])).sum(2) / 4
    best = (scale * budget[:, None] + kappas).argmin(1, keepdim=True)
    kappa = kappas.gather(1, best)[:, 0] * (1 + margin) + 1e-12 * (1 + budget)
    return scale.gather(1, best)[:, 0], kappa


def factored(p: Tensor, theta: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """L with L Lᵀ ⪰ P Θ⁻¹ Pᵀ, whatever the rounding: the diagonal is raised by what it can amount to.

    Returns:
        L (rows, n, n), and for which rows there is none; `v` is each row's own last row of P.
    """
    if theta.shape[1] == 1 and v is None:  # a ball: one matrix for all rows
        one, spoiled = factored(p, torch.ones((1, p.shape[1]), dtype=torch.float64))
        slack = 1 + 8 * UNIT_ROUNDOFF
        return one * (slack / theta.sqrt())[:, :, None], spoiled.expand(len(theta))
    rows = p.expand(len(theta), *p.shape)
    if v is not None:
        rows = torch.cat([rows, v[:, None]], 1)
    n, inputs = rows.shape[1:]
    scaled = rows / theta.sqrt()[:, None, :]
    m = scaled @ scaled.mT
    sizes = (scaled**2).sum((1, 2))  # trace
    raise_by = (4 * inputs + 8 * n + 128) * UNIT_ROUNDOFF * sizes * 4
    m = m + raise_by[:, None, None] * torch.eye(n, dtype=torch.float64)
    factor, info = torch.linalg.cholesky_ex(m)
    return torch.where((info == 0)[:, None, None], factor, torch.zeros_like(factor)), info != 0


def positive(a: Tensor, u: Tensor, kappa: Tensor, delta: Tensor, u_error: Tensor) -> Tensor:
    """Whether [[A, −u/2], [−uᵀ/2, κ]] is positive definite, by a Cholesky factorisation with a margin.

    The last row and column are scaled by σ = √(trace A/n ÷ κ), which changes no sign; the margin of an
    off-diagonal entry with error e is e on both diagonals.
    """
    n = a.shape[1]
    sigma = (a.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-300) / kappa.clamp_min(1e-300)).sqrt()
    whole = torch.zeros((len(a), n + 1, n + 1), dtype=torch.float64)
    whole[:, :n, :n] = a
    whole[:, n, :n] = whole[:, :n, n] = -u / 2 * sigma[:, None]
    whole[:, n, n] = kappa * sigma**2
    trace = whole.diagonal(dim1=1, dim2=2).abs().sum(1)
    margin = delta + u_error * sigma + (8 * n + 64) * UNIT_ROUNDOFF * trace
    margin = margin + 8 * UNIT_ROUNDOFF * (u.norm(dim=1) * sigma)
    whole = whole - margin[:, None, None] * torch.eye(n + 1, dtype=torch.float64)
    _, info = torch.linalg.cholesky_ex(whole)
    good: Tensor = (info == 0) & margin.isfinite()
    return good
