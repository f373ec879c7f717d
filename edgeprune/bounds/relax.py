"""Straight lines above and below an activation, and above and below its difference between two nets.

A line with slope s lies above φ on [l, u] exactly if its offset is at least sup φ(z) − s z. So any slope
is sound as long as its offset is rounded upwards: slopes can be chosen freely, offsets are computed
here. For φ(z_f) − φ(z_g) there are two ways:

* split: a line for φ(z_f) and one for φ(z_g), opposite sides;
* as a function of Δ = z_f − z_g: the mean value theorem gives φ(z_f) − φ(z_g) = s Δ for some slope s in
  [s₋, s₊], so min(s₋Δ, s₊Δ) ≤ φ(z_f) − φ(z_g) ≤ max(s₋Δ, s₊Δ). The maximum is convex in Δ, so its chord
  over the range of Δ lies above it; the minimum is concave, so its chord lies below.

For ReLU the signs of z_f and z_g say more. With φ(z) = z + φ(−z):
    z_f ≥ 0: Δφ = Δ − φ(−z_g) ≤ Δ;   z_g ≥ 0: Δφ = Δ + φ(−z_f) ≥ Δ;
    z_f ≤ 0: Δφ = −φ(z_g) ≤ 0;       z_g ≤ 0: Δφ = φ(z_f) ≥ 0;
and z_f ≥ 0 ≥ z_g gives Δφ = z_f, which the split says.

Source:
    Zhang et al. (2018), "Efficient neural network robustness certification with general activation
    functions" (lines for one net); Paulsen et al. (2020), "NeuroDiff" (lines for a difference).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from edgeprune.bounds.differential import Reach
from edgeprune.functions.curves import Curve
from edgeprune.functions.forms import restrict
from edgeprune.functions.intervals import TINY, UNIT_ROUNDOFF, Interval

PIECES = 24
"""Pieces that an interval is cut into to find how far a smooth curve is from a line."""


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Lines with low_slope · z + low ≤ value ≤ high_slope · z + high, elementwise."""

    low_slope: Tensor
    low: Tensor
    high_slope: Tensor
    high: Tensor

    def size(self, z: Tensor) -> Tensor:
        """What slope · z + offset can be at most, for |z| up to `z`."""
        slope = torch.maximum(self.low_slope.abs().amax(0, True), self.high_slope.abs().amax(0, True))
        return slope * z + torch.maximum(self.low.abs(), self.high.abs())


def is_relu(curve: Curve) -> bool:
    """Whether φ(z) = max(z, 0)."""
    return curve.name == "clamp" and curve.settings == (0.0, math.inf)


def lines(curve: Curve, z: Interval, low_slope: Tensor | None = None) -> Lines:
    """Lines around φ on an interval.

    Args:
        low_slope: for ReLU, slopes of the lower lines in [0, 1] where z can have both signs; by default
            0 or 1, whichever leaves the smaller triangle.
    """
    if is_relu(curve):
        return _relu(z, low_slope)
    width = z.high - z.low
    ends = curve.function(z.low), curve.function(z.high)
    steepness = curve.slopes(z)
    middle = steepness.center
    chord = torch.where(width > 0, (ends[1] - ends[0]) / width.clamp_min(TINY), middle)
    slope = torch.minimum(torch.maximum(chord, steepness.low), steepness.high)
    slope = torch.where(slope.isfinite(), slope, torch.zeros_like(slope))
    low, high = offsets(curve, z, slope)
    image = curve.image(z)
    flat = ~(low.isfinite() & high.isfinite())
    slope = torch.where(flat, torch.zeros_like(slope), slope)
    return Lines(slope, torch.where(flat, image.low, low), slope, torch.where(flat, image.high, high))


def _relu(z: Interval, low_slope: Tensor | None) -> Lines:
    """Upper line: the chord, through (l, 0) and (u, u). Lower line: any slope in [0, 1] through zero.

    With a slope s in [0, 1] the offset needed above is max(0 − s l, u − s u), both at an end as φ(z) − s z
    is convex; below it is min(0, …) = 0, at z = 0.
    """
    zero, one = torch.zeros_like(z.low), torch.ones_like(z.low)
    positive, negative = z.low >= 0, z.high <= 0
    unstable = ~(positive | negative)
    width = torch.where(unstable, z.high - z.low, one)
    slope = torch.where(positive, one, torch.where(unstable, (z.high / width).clamp(0, 1), zero))
    needed = torch.maximum(-slope * z.low, (1 - slope) * z.high)
    high = torch.where(unstable, needed * (1 + 4 * UNIT_ROUNDOFF) + TINY, zero)
    if low_slope is None:
        low_slope = (z.high > -z.low).to(z.low.dtype)
    below = torch.where(positive, one, torch.where(unstable, low_slope.clamp(0, 1), zero))
    return Lines(below, zero, slope, high)


def offsets(curve: Curve, z: Interval, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of φ(z) − slope · z over an interval.

    The interval is cut into pieces [a, b]. Where the slope of φ on a piece lies on one side of `slope`,
    φ(z) − slope · z is monotone there and extreme at an end. Elsewhere its value at the middle m bounds it:
    |φ(z) − φ(m) − slope (z − m)| ≤ max|φ′ − slope| · (b − a)/2.
    A curve of straight pieces is extreme at an end or a corner.
    """

    def value(place: Tensor) -> tuple[Tensor, Tensor]:
        result = curve.function(place)
        rounded = 8 * UNIT_ROUNDOFF * (result.abs() + (slope * place).abs())
        error = curve.error(place, result) + rounded + TINY
        return result - slope * place, error

    low, high = torch.full_like(z.low, torch.inf), torch.full_like(z.low, -torch.inf)
    places = [z.low, z.high]
    corners = [
        torch.minimum(torch.maximum(torch.full_like(z.low, c[0]), z.low), z.high) for c in curve.corners
    ]
    if curve.straight:
        for place in [*places, *corners]:
            at, error = value(place)
            low, high = torch.minimum(low, at - error), torch.maximum(high, at + error)
        return low - curve.jump(z), high + curve.jump(z)
    cuts = [z.low + (z.high - z.low) * (k / PIECES) for k in range(1, PIECES)]
    edges = torch.stack([z.low, *cuts, *corners, z.high]).sort(0).values
    edges = torch.minimum(torch.maximum(edges, z.low), z.high)
    for a, b in pairwise(edges):
        steep = curve.slopes(Interval(a, b))
        (at_a, error_a), (at_b, error_b) = value(a), value(b)
        middle, error = value((a + b) / 2)
        apart = (b - a) * 0.5000001 + 4 * UNIT_ROUNDOFF * (a.abs() + b.abs())
        reach = torch.maximum(steep.high - slope, slope - steep.low) * apart + error
        monotone = (steep.low >= slope) | (steep.high <= slope)
        least = torch.minimum(at_a - error_a, at_b - error_b)
        most = torch.maximum(at_a + error_a, at_b + error_b)
        low = torch.minimum(low, torch.where(monotone, least, torch.minimum(least, middle - reach)))
        high = torch.maximum(high, torch.where(monotone, most, torch.maximum(most, middle + reach)))
    jump = curve.jump(z)
    return low - jump, high + jump


def difference_lines(curve: Curve, f: Interval, g: Interval, delta: Interval) -> Lines:
    """Lines in Δ = z_f − z_g around φ(z_f) − φ(z_g).

    Args:
        f: values of z_f.
        g: values of z_g.
        delta: values of Δ.
    """
    both = f.hull(g)
    steep = curve.slopes(both)
    steep = Interval(steep.low.nan_to_num(-torch.inf), steep.high.nan_to_num(torch.inf))
    dl, du = delta.low, delta.high
    upper = torch.maximum(steep.low * dl, steep.high * dl), torch.maximum(steep.low * du, steep.high * du)
    lower = torch.minimum(steep.low * dl, steep.high * dl), torch.minimum(steep.low * du, steep.high * du)
    width = (du - dl).clamp_min(TINY)
    high_slope, low_slope = (upper[1] - upper[0]) / width, (lower[1] - lower[0]) / width
    high_slope = torch.minimum(torch.maximum(high_slope, steep.low), steep.high)
    low_slope = torch.minimum(torch.maximum(low_slope, steep.low), steep.high)
    point = ~(du > dl)
    high_slope = torch.where(point, steep.center, high_slope)
    low_slope = torch.where(point, steep.center, low_slope)
    if is_relu(curve):
        one, zero = torch.ones_like(dl), torch.zeros_like(dl)
        high_slope = torch.where(f.low >= 0, one, torch.where(f.high <= 0, zero, high_slope))
        low_slope = torch.where(g.low >= 0, one, torch.where(g.high <= 0, zero, low_slope))
    size = (dl.abs() + du.abs()) * torch.maximum(steep.low.abs(), steep.high.abs())
    error = 16 * UNIT_ROUNDOFF * size + TINY + curve.jump(both)
    high = torch.maximum(upper[0] - high_slope * dl, upper[1] - high_slope * du) + error
    low = torch.minimum(lower[0] - low_slope * dl, lower[1] - low_slope * du) - error
    if is_relu(curve):
        high = torch.where((f.low >= 0) | (f.high <= 0), torch.zeros_like(high), high)
        low = torch.where((g.low >= 0) | (g.high <= 0), torch.zeros_like(low), low)
    return Lines(low_slope, low, high_slope, high)


def preferred_share(h: Reach, f: Lines, g: Lines, apart: Lines) -> Tensor:
    """1 where the lines of the difference lie closer together in the middle than those of f and g."""

    def gap(around: Lines, middle: Tensor) -> Tensor:
        return (around.high_slope - around.low_slope) * middle + around.high - around.low

    of_f = restrict(gap(f, h.f.center), h.kept)
    return (gap(apart, h.delta.center) <= of_f + gap(g, h.g.center)).to(torch.float64)
