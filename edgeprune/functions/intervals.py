"""Intervals in float64 whose ends are rounded outwards, so that what was computed is what holds.

A bound that is computed in float64 is itself subject to rounding. Two devices keep it sound:

* one addition, subtraction or multiplication is correctly rounded, so the neighbouring float
  in the outward direction (`torch.nextafter`) is on the safe side;
* a dot product of n terms, in whatever order it is summed, fused or not, obeys
      |fl(Σ aᵢxᵢ + b) − (Σ aᵢxᵢ + b)| ≤ γ(n + 1)·(Σ |aᵢ||xᵢ| + |b|),   γ(k) = k·u / (1 − k·u),  u = 2⁻⁵³
  (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). The sum on
  the right is itself computed with a relative error of γ(n + 1), so `dot_error` asks for
  γ(2n + 8), which covers both and the few operations around them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.errors import BrokenPromise

UNIT_ROUNDOFF = 2.0**-53
"""Relative error of one float64 operation, rounded to nearest."""

TINY = 2.0**-900
"""Added to every error term: covers underflow, where relative error bounds fail. Far above the
subnormal numbers, on which processors are slow."""


def down(value: Tensor) -> Tensor:
    """A float below what `value` is the rounding of, elementwise."""
    below = torch.nextafter(value, torch.full_like(value, -torch.inf))
    return torch.where(value.abs() < TINY, torch.full_like(value, -TINY), below)


def up(value: Tensor) -> Tensor:
    """A float above what `value` is the rounding of, elementwise."""
    above = torch.nextafter(value, torch.full_like(value, torch.inf))
    return torch.where(value.abs() < TINY, torch.full_like(value, TINY), above)


def dot_error(terms: int, magnitude: Tensor) -> Tensor:
    """How far a computed sum of `terms` products can be from the exact one.

    Args:
        terms: number of products in the sum.
        magnitude: Σ|aᵢ||xᵢ| + |b| as computed in float64.

    Source:
        Higham (2002), section 3.1; see the module's docstring for the constant.
    """
    share = (2 * terms + 8) * UNIT_ROUNDOFF
    return magnitude * (share / (1.0 - share)) + TINY


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """All tensors between two, elementwise.

    Attributes:
        low: float64, any shape.
        high: float64, the same shape, not below `low`.
        l2: how far in ℓ2 any member can be from `center`, where that is known to be less than
            ‖radius‖₂: an ℓ2 ball has a box around it that is √d too wide.
    """

    low: Tensor
    high: Tensor
    l2: float = math.inf

    @staticmethod
    def point(value: Tensor) -> Interval:
        """The interval that holds one tensor only."""
        return Interval(value, value)

    @staticmethod
    def zero(shape: tuple[int, ...]) -> Interval:
        """The interval that holds nothing but zeros."""
        return Interval.point(torch.zeros(shape, dtype=torch.float64))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensors within."""
        return tuple(self.low.shape)

    @property
    def is_point(self) -> bool:
        """Whether it holds a single tensor."""
        return torch.equal(self.low, self.high)

    @property
    def center(self) -> Tensor:
        """A tensor within, near the middle."""
        middle = self.low / 2 + self.high / 2
        within = torch.minimum(torch.maximum(torch.zeros_like(middle), self.low), self.high)
        return torch.where(middle.isfinite(), middle, within)

    @property
    def radius(self) -> Tensor:
        """How far any member can be from `center`; rounded upwards."""
        middle = self.center
        return up(torch.maximum(self.high - middle, middle - self.low))

    @property
    def l2_norm(self) -> float:
        """An upper bound on the ℓ2 norm of any member."""
        slack = 1.0 + (self.low.numel() + 8) * UNIT_ROUNDOFF
        box = float(torch.linalg.vector_norm(self.magnitude)) * slack
        return min(box, (float(torch.linalg.vector_norm(self.center)) + self.l2) * slack)

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value of any member."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __add__(self, other: Interval) -> Interval:
        return Interval(down(self.low + other.low), up(self.high + other.high))

    def __sub__(self, other: Interval) -> Interval:
        return Interval(down(self.low - other.high), up(self.high - other.low))

    def __mul__(self, other: Interval) -> Interval:
        """The hull of all products: one of the four products of ends is least, one is largest."""
        ends = [x * y for x in (self.low, self.high) for y in (other.low, other.high)]
        return Interval(
            down(torch.minimum(torch.minimum(ends[0], ends[1]), torch.minimum(ends[2], ends[3]))),
            up(torch.maximum(torch.maximum(ends[0], ends[1]), torch.maximum(ends[2], ends[3]))),
        )

    def meet(self, other: Interval) -> Interval:
        """What both hold, where both hold the same unknown tensor.

        Raises:
            BrokenPromise: nothing is in both, so one of them was wrong.
        """
        low, high = torch.maximum(self.low, other.low), torch.minimum(self.high, other.high)
        if bool((low > high).any()):
            gap = float((low - high).max())
            raise BrokenPromise(
                f"two enclosures of one value lie {gap:g} apart: a rule of the bounds is unsound; "
                "please report this model."
            )
        return Interval(low, high)

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        return Interval(torch.minimum(self.low, other.low), torch.maximum(self.high, other.high))

    def widen(self, by: Tensor) -> Interval:
        """Both ends moved outwards by `by` ≥ 0."""
        return Interval(down(self.low - by), up(self.high + by))

    def take(self, axis: int, index: Tensor) -> Interval:
        """The members' slices at `index` (int64) along `axis`."""
        return Interval(self.low.index_select(axis, index), self.high.index_select(axis, index))

    def holds(self, value: Tensor) -> bool:
        """Whether every element of `value` (batched in front or not) lies between the ends."""
        return bool(((value >= self.low) & (value <= self.high)).all())
