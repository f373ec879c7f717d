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
   All matrices have the size of the units, whatever the dimension of x.

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

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.errors import UsageError
from edgeprune.intervals import UNIT_ROUNDOFF

DIRECTIONS = 3
"""Of the second moment besides the mean: rank of the primal."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Where a layer's input x lies: in a box, in a ball, or in both.

    Attributes:
        center: (inputs,) of the box, or of the ball where there is no box.
        radius: (inputs,) of the box; None for none.
        ball: (centre, radius) of the ball; None for none.
    """

    center: Tensor
    radius: Tensor | None
    ball: tuple[Tensor, float] | None = None

    def __post_init__(self) -> None:
        if self.radius is None and self.ball is None:
            raise UsageError("a quadratic certificate needs a box or a ball.")
        if self.ball is not None and not torch.equal(self.ball[0], self.center):
            raise UsageError("the box and the ball of a quadratic certificate must have one centre.")

    def reach(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest values of rows · (x − center), rounded outwards; rows: (n, inputs)."""
        slack = 1 + (4 * rows.shape[1] + 32) * UNIT_ROUNDOFF
        low, high = torch.full((2, len(rows)), torch.inf, dtype=torch.float64).unbind()
        low = -low
        if self.radius is not None:
            by = rows.abs() @ self.radius * slack
            low, high = torch.maximum(low, -by), torch.minimum(high, by)
        if self.ball is not None:
            shift = self.ball[0] - self.center
            middle = rows @ shift
            by = rows.norm(dim=1) * self.ball[1] * slack + (slack - 1) * (rows.abs() @ shift.abs())
            low, high = torch.maximum(low, middle - by), torch.minimum(high, middle + by)
        return low, high


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """r_k(x) = Σᵢ outgoing_ki relu(incoming_i · x + bias_i) + offset_k.

    Attributes:
        incoming: (units, inputs).
        bias: (units,).
        outgoing: (outputs, units).
        offset: (outputs,).
    """

    incoming: Tensor
    bias: Tensor
    outgoing: Tensor
    offset: Tensor


@dataclass(frozen=True, slots=True)
class Ascent:
    """How hard to look for the parabolas: steps of ascent, rows at once, seed of the start."""

    steps: int = 50
    rows: int = 64
    seed: int = 0


def layer_bounds(layer: Residual, region: Region, ascent: Ascent | None = None) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of every output of a residual over a region.

    Returns:
        (outputs,) and (outputs,) float64; never worse than the bound by intervals.
    """
    ascent = ascent or Ascent()
    units = _Units.of(layer, region)
    signed = torch.cat([layer.outgoing, -layer.outgoing]).to(torch.float64)
    best = units.trivial(signed)
    for rows in torch.split(torch.arange(len(signed)), ascent.rows):
        found = _upper(units, region, signed[rows], ascent)
        best[rows] = torch.minimum(best[rows], found)
    offset = torch.cat([layer.offset, -layer.offset]).to(torch.float64)
    upper = best + offset + 4 * UNIT_ROUNDOFF * (best.abs() + offset.abs())
    return -upper[len(layer.offset) :], upper[: len(layer.offset)]


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """The units with the region's centre at zero.

    Attributes:
        p: (units, inputs).
        b: pre-activations at the centre, off by `b_error` at most.
        low: of the pre-activations.
        high: of the pre-activations.
    """

    p: Tensor
    b: Tensor
    b_error: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(layer: Residual, region: Region) -> _Units:
        p, bias = layer.incoming.to(torch.float64), layer.bias.to(torch.float64)
        b = p @ region.center + bias
        share = (2 * p.shape[1] + 16) * UNIT_ROUNDOFF
        error = share * (p.abs() @ region.center.abs() + bias.abs())
        low, high = region.reach(p)
        size = 4 * UNIT_ROUNDOFF * (b.abs() + low.abs() + high.abs()) + error
        return _Units(p, b, error, b + low - size, b + high + size)

    @property
    def unstable(self) -> Tensor:
        return (self.low < 0) & (self.high > 0)

    def trivial(self, signed: Tensor) -> Tensor:
        """Every unit at its worst end."""
        top, bottom = self.high.clamp_min(0), self.low.clamp_min(0)
        total = signed.clamp_min(0) @ top + signed.clamp_max(0) @ bottom
        return total + (2 * signed.shape[1] + 16) * UNIT_ROUNDOFF * (signed.abs() @ top)


@dataclass(frozen=True, slots=True, eq=False)
class _Parabolas:
    """d z² + t z + k ≥ a relu(z) on each unit's range; (rows, units)."""

    d: Tensor
    t: Tensor
    k: Tensor


def _parabolas(
    units: _Units, signed: Tensor, c: Tensor, weights: tuple[Tensor, Tensor, Tensor]
) -> _Parabolas:
    """The parabolas of step 1, each raised by its own rounding.

    Args:
        c: (rows, units) > 0.
        weights: (w, w₁, w₂), each (rows, units): w of the tangent for a > 0, w₁ and w₂ for a < 0.
    """
    low, high = units.low, units.high
    span = torch.where(units.unstable, high - low, torch.ones_like(low))
    w, w1, w2 = weights
    up_d, up_t = w / (4 * c), w / 2 + (1 - w) * high / span
    # the offset is what these need: tangents of |z| from c, the chord at both ends and at zero
    up_k = w * c / 4 - (1 - w) * high * low / span
    # w₂ z(z − l)/(u − l) ≤ w₂ relu(z) and w₁ z ≤ w₁ relu(z), for w₁ + w₂ ≤ 1
    down_d, down_t = w2 / span, w1 - w2 * low / span
    positive = signed > 0
    d = torch.where(positive, up_d, down_d) * signed
    t = torch.where(positive, up_t, down_t) * signed
    k = torch.where(positive, up_k, torch.zeros_like(up_k)) * signed
    alive = (low >= 0).to(torch.float64) * signed
    d, t = torch.where(units.unstable, d, torch.zeros_like(d)), torch.where(units.unstable, t, alive)
    k = torch.where(units.unstable, k, torch.zeros_like(k))
    far = torch.maximum(low.abs(), high.abs())
    size = d.abs() * far**2 + t.abs() * far + k.abs() + signed.abs() * far
    return _Parabolas(d, t, k + 32 * UNIT_ROUNDOFF * size)


def _upper(units: _Units, region: Region, signed: Tensor, ascent: Ascent) -> Tensor:
    """Upper bounds of Σ signed · relu, by all three steps."""
    c, weights, theta, mu = _primal(units, region, signed, ascent)
    parabolas = _parabolas(units, signed, c, weights)
    p, b = units.p, units.b
    inside = (parabolas.d * b**2 + parabolas.t * b + parabolas.k).sum(1)
    linear = 2 * parabolas.d * b + parabolas.t
    far = torch.maximum(units.low.abs(), units.high.abs())
    # z = p·x + b with b off by its error: the parabola moves by (2|d||z| + |t|)·error at most
    moved = (2 * parabolas.d.abs() * (far + units.b_error) + parabolas.t.abs()) @ units.b_error
    n = p.shape[0] + 8
    sizes = (parabolas.d.abs() * b**2 + parabolas.t.abs() * b.abs() + parabolas.k.abs()).sum(1)
    constant = inside + moved + (2 * n + 16) * UNIT_ROUNDOFF * sizes
    # rounding of `linear`, against |p·x| ≤ far + |b|
    reach = far + b.abs()
    constant = constant + 8 * UNIT_ROUNDOFF * ((2 * parabolas.d.abs() * b.abs() + parabolas.t.abs()) @ reach)
    budget = torch.zeros(len(signed), dtype=torch.float64)
    if region.radius is not None:
        budget = (theta * region.radius**2).sum(1)
    if region.ball is not None:
        budget = budget + mu * region.ball[1] ** 2
        theta = theta + mu[:, None]
    budget = budget * (1 + (4 * p.shape[1] + 32) * UNIT_ROUNDOFF)
    return constant + _dual(p, parabolas.d, linear, theta, budget)


def _primal(
    units: _Units, region: Region, signed: Tensor, ascent: Ascent
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Tangent points, weights and multipliers where the relaxation is largest; any result is sound.

    With mean m = E z and second moment s = E z² of each unit, E relu(z) is at most
    min((m + √s)/2, chord(m)) and at least max(0, m, (s − l m)/(u − l)); both are smoothed by a temperature
    so that the weights between the branches come out of the same search.
    """
    dtype = torch.float32
    p, b = units.p.to(dtype), units.b.to(dtype)
    if region.radius is None and p.shape[1] > len(p):
        p = torch.linalg.qr(p.T).R.T.contiguous()  # a ball looks the same from every side
    low, high = units.low.to(dtype), units.high.to(dtype)
    unstable = units.unstable
    span = torch.where(unstable, high - low, torch.ones_like(low))
    gap = torch.where(unstable, -low * high / span, torch.ones_like(low)).clamp_min(1e-6)
    a = signed.to(dtype)
    scale = torch.ones(p.shape[1], dtype=dtype) if region.radius is None else region.radius.to(dtype)
    beta = math.inf if region.ball is None else float(region.ball[1])
    scaled = p * scale
    generator = torch.Generator().manual_seed(ascent.seed)
    y = torch.randn((p.shape[1], len(a), 1 + DIRECTIONS), generator=generator, dtype=dtype)
    y = _inside(y * (0.5 / math.sqrt(1 + DIRECTIONS)), scale, region, beta)
    descent_m, descent_v = torch.zeros_like(y), torch.zeros_like(y)

    def moments(y: Tensor) -> tuple[Tensor, Tensor]:
        z = (scaled @ y.reshape(len(y), -1)).reshape(len(p), len(a), -1)
        m = z[..., 0].T + b
        return m, m * m + (z[..., 1:] ** 2).sum(-1).T

    def value(m: Tensor, s: Tensor, heat: float) -> Tensor:
        tangent, chord = (m + (s + 1e-12).sqrt()) / 2, high * (m - low) / span
        t = heat * gap
        top = -t * torch.logsumexp(torch.stack([-tangent / t, -chord / t]), 0)
        bottom = t * torch.logsumexp(torch.stack([torch.zeros_like(m), m / t, (s - low * m) / span / t]), 0)
        unit = torch.where(a > 0, a * top, a * bottom)
        return torch.where(unstable, unit, a * m * (low >= 0)).sum()

    for step in range(ascent.steps):
        part = step / ascent.steps
        y.requires_grad_()
        m, s = moments(y)
        gradient = torch.autograd.grad(value(m, s, 0.1 * 0.03**part), y)[0]
        y = y.detach()
        # Adam with one scale a row, so that directions are kept
        descent_m = 0.8 * descent_m + 0.2 * gradient
        descent_v = 0.9 * descent_v + 0.1 * (gradient**2).sum(2, keepdim=True)
        rate = 0.3 * (1 - part) ** 1.5 + 0.003
        y = _inside(y + rate * descent_m / (descent_v.sqrt() + 1e-12), scale, region, beta)
    y.requires_grad_()
    m, s = moments(y)
    gradient = torch.autograd.grad(value(m, s, 0.003), y)[0].detach()
    y, m, s = y.detach().double(), m.detach().double(), s.detach().double()
    heat = 0.003 * gap.double()
    lows, highs, spans = units.low, units.high, span.double()
    tangent, chord = (m + (s + 1e-12).sqrt()) / 2, highs * (m - lows) / spans
    w = torch.sigmoid((chord - tangent) / heat)
    below = torch.softmax(torch.stack([torch.zeros_like(m), m / heat, (s - lows * m) / spans / heat]), 0)
    # 2θ = the gradient along the row, per length of the row; in units of `scale`
    along = ((gradient.double() * y).sum(2) / (2 * (y**2).sum(2)).clamp_min(1e-12)).T
    theta, mu = _multipliers(along, y, gradient.double(), scale.double(), region)
    return (s.sqrt().clamp_min(1e-9), (w, below[1], below[2]), theta, mu)


def _inside(y: Tensor, scale: Tensor, region: Region, beta: float) -> Tensor:
    """Second moments of the box are at most ρ², of the ball at most β² in total."""
    if region.radius is not None:
        y = y / y.norm(dim=2, keepdim=True).clamp_min(1.0)
    if region.ball is not None:
        total = ((y * scale[:, None, None]) ** 2).sum((0, 2)).sqrt()
        y = y * (beta / total.clamp_min(beta))[:, None]
    return y


def _multipliers(
    along: Tensor, y: Tensor, gradient: Tensor, scale: Tensor, region: Region
) -> tuple[Tensor, Tensor]:
    """θ of the box (rows, inputs) and μ of the ball (rows,), both ≥ 0 and not all zero."""
    inverse = 1 / scale.clamp_min(1e-12) ** 2
    mu = torch.zeros(len(along), dtype=torch.float64)
    if region.radius is None:
        total = (gradient * y).sum((0, 2)) / (2 * (y**2).sum((0, 2))).clamp_min(1e-12)
        return torch.zeros((len(along), 1), dtype=torch.float64), total.clamp_min(1e-12)
    theta = along.clamp_min(0) * inverse
    # coordinates within the box have none at the optimum; there the search is not, and a zero is dear
    floor = ((theta * scale**2).mean(1, keepdim=True) + 1e-12) * inverse
    if region.ball is not None:
        free = (y.norm(dim=2).T < 0.98) & (scale > 0)
        ratio = torch.where(free, along * inverse, torch.nan)
        mu = ratio.nanmedian(1).values.nan_to_num(0.0).clamp_min(0)
        theta = (theta - mu[:, None]).clamp_min(0)
    return torch.maximum(theta, floor), mu


def _dual(p: Tensor, d: Tensor, linear: Tensor, theta: Tensor, budget: Tensor) -> Tensor:
    """Min over λ of λ·budget + κ, verified; (rows,), inf where the verification fails."""
    n = len(p)
    factor, spoiled = _factor(p, theta)
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
        scale, kappa = _multiplier(shadow, rows, budget[rows], margin)
        a = scale[:, None, None] * eye - h[rows]
        diagonal = h[rows].diagonal(dim1=1, dim2=2).abs().sum(1)
        delta = h_error[rows] + (4 * n + 64) * UNIT_ROUNDOFF * (n * scale + diagonal)
        good = _positive(a, u[rows], kappa, delta, u_error[rows])
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


def _multiplier(
    shadow: tuple[Tensor, Tensor], rows: Tensor, budget: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """The λ where λ·budget + uᵀ(λ − H)⁻¹u/4 seems least, and a κ a little above its second part."""
    values, parts = shadow[0][rows], shadow[1][rows]
    top = values[:, -1].clamp_min(0)
    spread = (values[:, -1] - values[:, 0]).clamp_min(1e-12)
    base = top + margin * (0.5 * top + 1e-3 * spread) + 1e-9 * spread
    scale = base[:, None] + spread[:, None] * torch.logspace(-6, 2, 160, dtype=torch.float64)
    kappas = (parts[:, None, :] / (scale[:, :, None] - values[:, None, :])).sum(2) / 4
    best = (scale * budget[:, None] + kappas).argmin(1, keepdim=True)
    kappa = kappas.gather(1, best)[:, 0] * (1 + margin) + 1e-12 * (1 + budget)
    return scale.gather(1, best)[:, 0], kappa


def _factor(p: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """L with L Lᵀ ⪰ P Θ⁻¹ Pᵀ, whatever the rounding: the diagonal is raised by what it can amount to."""
    n, inputs = p.shape
    if theta.shape[1] == 1:  # a ball: one matrix for all rows
        one, spoiled = _factor(p, torch.ones((1, inputs), dtype=torch.float64))
        slack = 1 + 8 * UNIT_ROUNDOFF
        return one * (slack / theta.sqrt())[:, :, None], spoiled.expand(len(theta))
    scaled = p[None] / theta.sqrt()[:, None, :]
    m = scaled @ scaled.mT
    sizes = (scaled**2).sum((1, 2))  # trace
    raise_by = (4 * inputs + 8 * n + 128) * UNIT_ROUNDOFF * sizes * 4
    m = m + raise_by[:, None, None] * torch.eye(n, dtype=torch.float64)
    factor, info = torch.linalg.cholesky_ex(m)
    return torch.where((info == 0)[:, None, None], factor, torch.zeros_like(factor)), info != 0


def _positive(a: Tensor, u: Tensor, kappa: Tensor, delta: Tensor, u_error: Tensor) -> Tensor:
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
