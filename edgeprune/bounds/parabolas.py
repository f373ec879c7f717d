"""A layer's residual, the region of its input, and parabolas around its units; see `quadratic`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.errors import UsageError
from edgeprune.functions.intervals import UNIT_ROUNDOFF


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

    @property
    def magnitude(self) -> Tensor:
        """How far each coordinate can be from the centre, (inputs,)."""
        far = torch.full_like(self.center, torch.inf) if self.radius is None else self.radius
        return far if self.ball is None else far.clamp_max(self.ball[1] * (1 + 4 * UNIT_ROUNDOFF))

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


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """Σ aᵢ relu(zᵢ) + v · x + constant, zᵢ = pᵢ · x + bᵢ, x counted from the region's centre; row by row.

    Attributes:
        units: those that can be on both sides of zero.
        a: (rows, units).
        v: (rows, inputs): the linear part, to which all other units belong; None where it is zero.
        constant: (rows,), with all that rounding can have done to v and to itself.
    """

    units: Units
    a: Tensor
    v: Tensor | None
    constant: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Units:
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
    def of(p: Tensor, bias: Tensor, region: Region) -> Units:
        """Units p · x + bias with the region's centre moved to zero."""
        p, bias = p.to(torch.float64), bias.to(torch.float64)
        b = p @ region.center + bias
        share = (2 * p.shape[1] + 16) * UNIT_ROUNDOFF
        error = share * (p.abs() @ region.center.abs() + bias.abs())
        low, high = region.reach(p)
        size = 4 * UNIT_ROUNDOFF * (b.abs() + low.abs() + high.abs()) + error
        return Units(p, b, error, b + low - size, b + high + size)

    @property
    def unstable(self) -> Tensor:
        """Which units can be on both sides of zero."""
        return (self.low < 0) & (self.high > 0)

    def trivial(self, signed: Tensor) -> Tensor:
        """Every unit at its worst end."""
        top, bottom = self.high.clamp_min(0), self.low.clamp_min(0)
        total = signed.clamp_min(0) @ top + signed.clamp_max(0) @ bottom
        return total + (2 * signed.shape[1] + 16) * UNIT_ROUNDOFF * (signed.abs() @ top)

    def within(self, low: Tensor, high: Tensor) -> Units:
        """The same, where more is known of the pre-activations."""
        low, high = torch.maximum(self.low, low), torch.minimum(self.high, high)
        return Units(self.p, self.b, self.b_error, low, high)

    def take(self, index: Tensor) -> Units:
        """Some of them."""
        return Units(self.p[index], self.b[index], self.b_error[index], self.low[index], self.high[index])

    def combined(self, region: Region, signed: Tensor, linear: Tensor | None) -> Combination:
        """Σ signed · relu + linear · x, with the units that are on one side made linear.

        Args:
            signed: (rows, units).
            linear: (rows, inputs) of x itself; None for none.
        """
        alive = self.low >= 0
        straight, fixed = signed[:, alive], self.p[alive]
        v = straight @ fixed
        constant = straight @ self.b[alive]
        reach = region.magnitude
        share = (2 * (fixed.shape[0] + fixed.shape[1]) + 32) * UNIT_ROUNDOFF
        error = straight.abs() @ self.b_error[alive] * (1 + share)
        error = error + share * (straight.abs() @ (fixed.abs() @ reach + self.b[alive].abs()))
        if linear is not None:
            v = v + linear
            constant = constant + linear @ region.center
            error = error + share * (linear.abs() @ (reach + region.center.abs()))
        unstable = self.unstable.nonzero().reshape(-1)
        any_left = bool((v != 0).any())
        return Combination(
            self.take(unstable), signed[:, unstable], v if any_left else None, constant + error
        )


@dataclass(frozen=True, slots=True, eq=False)
class Parabolas:
    """d z² + t z + k ≥ a relu(z) on each unit's range; (rows, units)."""

    d: Tensor
    t: Tensor
    k: Tensor


def parabolas(units: Units, signed: Tensor, c: Tensor, weights: tuple[Tensor, Tensor, Tensor]) -> Parabolas:
    """The parabolas of step 1, each raised by its own rounding.

    Args:
        units: each can be on both sides of zero.
        c: (rows, units) > 0.
        weights: (w, w₁, w₂), each (rows, units): w of the tangent for a > 0, w₁ and w₂ for a < 0.
    """
    low, high = units.low, units.high
    span = high - low
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
    far = torch.maximum(low.abs(), high.abs())
    size = d.abs() * far**2 + t.abs() * far + k.abs() + signed.abs() * far
    return Parabolas(d, t, k + 32 * UNIT_ROUNDOFF * size)
