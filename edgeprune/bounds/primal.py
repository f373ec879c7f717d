"""Where a relaxed layer is largest: the search that chooses parabolas and multipliers; see `quadratic`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.bounds.parabolas import Combination, Region

DIRECTIONS = 8
"""Of the second moment besides the mean: rank of the primal. With fewer the ascent stops short of the top."""


@dataclass(frozen=True, slots=True)
class Ascent:
    """How hard to look for the parabolas: steps of ascent, rows at once, seed of the start."""

    steps: int = 60
    rows: int = 32
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Lifted:
    """The relaxed layer as a function of second moments of low rank; float32, in units of the region.

    Attributes:
        rows: of the inputs, (units, inputs), scaled by the box's radius.
        b: pre-activations at the centre.
        low: of the pre-activations.
        high: of the pre-activations.
        a: (rows, units), what each unit counts for.
        v: (rows, inputs), the linear part, scaled likewise; None for none.
        gap: height of each unit's triangle: the unit of the temperature.
        scale: (inputs,) the box's radius, or one.
        beta: the ball's radius; inf for none.
    """

    rows: Tensor
    b: Tensor
    low: Tensor
    high: Tensor
    a: Tensor
    v: Tensor | None
    gap: Tensor
    scale: Tensor
    beta: float

    @staticmethod
    def of(one: Combination, region: Region) -> _Lifted:
        """Of all its rows at once."""
        dtype = torch.float32
        p, v = one.units.p.to(dtype), None if one.v is None else one.v.to(dtype)
        if region.radius is None and p.shape[1] > len(p) + 1 and v is None:
            p = torch.linalg.qr(p.T).R.T.contiguous()  # a ball looks the same from every side
        low, high = one.units.low.to(dtype), one.units.high.to(dtype)
        gap = (-low * high / (high - low)).clamp_min(1e-6)
        scale = torch.ones(p.shape[1], dtype=dtype) if region.radius is None else region.radius.to(dtype)
        beta = math.inf if region.ball is None else float(region.ball[1])
        along = None if v is None else v * scale
        return _Lifted(p * scale, one.units.b.to(dtype), low, high, one.a.to(dtype), along, gap, scale, beta)

    def moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and second moment of every unit, (rows, units) each."""
        z = (self.rows @ y.reshape(len(y), -1)).reshape(len(self.rows), len(self.a), -1)
        m = z[..., 0].T + self.b
        return m, m * m + (z[..., 1:] ** 2).sum(-1).T

    def value(self, y: Tensor, heat: float) -> Tensor:
        """The relaxation at one temperature, summed over rows."""
        m, s = self.moments(y)
        tangent, chord, flat = self.branches(m, s)
        t = heat * self.gap
        top = -t * torch.logsumexp(torch.stack([-tangent / t, -chord / t]), 0)
        bottom = t * torch.logsumexp(torch.stack([torch.zeros_like(m), m / t, flat / t]), 0)
        total: Tensor = torch.where(self.a > 0, self.a * top, self.a * bottom).sum()
        return total if self.v is None else total + (self.v.T * y[..., 0]).sum()

    def branches(self, m: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(m + √s)/2 and the chord, both above E relu; the parabola (s − l m)/(u − l) below it."""
        span = self.high - self.low
        return (
            (m + (s + 1e-12).sqrt()) / 2,
            self.high * (m - self.low) / span,
            (s - self.low * m) / span,
        )

    def gradient(self, y: Tensor, heat: float) -> Tensor:
        """Of `value`."""
        with torch.enable_grad():
            free = y.detach().requires_grad_()
            return torch.autograd.grad(self.value(free, heat), free)[0]

    def double(self) -> _Lifted:
        """The same in float64."""
        tensors = (self.rows, self.b, self.low, self.high, self.a, self.gap, self.scale)
        rows, b, low, high, a, gap, scale = (t.double() for t in tensors)
        return _Lifted(
            rows, b, low, high, a, None if self.v is None else self.v.double(), gap, scale, self.beta
        )


def ascended(
    task: Combination, region: Region, ascent: Ascent
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Tangent points, weights and multipliers where the relaxation is largest; any result is sound.

    With mean m = E z and second moment s = E z² of each unit, E relu(z) is at most
    min((m + √s)/2, chord(m)) and at least max(0, m, (s − l m)/(u − l)); both are smoothed by a temperature
    so that the weights between the branches come out of the same search.
    """
    one = _Lifted.of(task, region)
    y = _climbed(one, region, ascent)
    gradient = one.gradient(y, 0.003).double()
    y, one = y.double(), one.double()
    m, s = one.moments(y)
    heat = 0.003 * one.gap
    tangent, chord, flat = one.branches(m, s)
    w = torch.sigmoid((chord - tangent) / heat)
    below = torch.softmax(torch.stack([torch.zeros_like(m), m / heat, flat / heat]), 0)
    # 2θ = the gradient along the row, per length of the row; in units of `scale`
    along = ((gradient * y).sum(2) / (2 * (y**2).sum(2)).clamp_min(1e-12)).T
    theta, mu = _multipliers(along, y, gradient, one.scale, region)
    return s.sqrt().clamp_min(1e-9), (w, below[1], below[2]), theta, mu


def _climbed(one: _Lifted, region: Region, ascent: Ascent) -> Tensor:
    """Moments (inputs, rows, 1 + directions) where the relaxation is near its maximum."""
    generator = torch.Generator().manual_seed(ascent.seed)
    # one start for all rows: what is found for a row does not depend on the rows beside it
    shape = (one.rows.shape[1], 1, 1 + DIRECTIONS)
    y = torch.randn(shape, generator=generator, dtype=torch.float32).expand(-1, len(one.a), -1)
    y = _inside(y * (0.5 / math.sqrt(1 + DIRECTIONS)), one.scale, region, one.beta)
    descent_m, descent_v = torch.zeros_like(y), torch.zeros_like(y)
    for step in range(ascent.steps):
        part = step / ascent.steps
        gradient = one.gradient(y, 0.03 * 0.1**part)
        # Adam with one scale a row, so that directions are kept
        descent_m = 0.8 * descent_m + 0.2 * gradient
        descent_v = 0.9 * descent_v + 0.1 * (gradient**2).sum(2, keepdim=True)
        rate = 1.003 - part
        y = _inside(y + rate * descent_m / (descent_v.sqrt() + 1e-12), one.scale, region, one.beta)
    return y


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
    floor = (0.1 * (theta * scale**2).mean(1, keepdim=True) + 1e-12) * inverse
    if region.ball is not None:
        free = (y.norm(dim=2).T < 0.98) & (scale > 0)
        ratio = torch.where(free, along * inverse, torch.nan)
        mu = ratio.nanmedian(1).values.nan_to_num(0.0).clamp_min(0)
        theta = (theta - mu[:, None]).clamp_min(0)
    return torch.maximum(theta, floor), mu
