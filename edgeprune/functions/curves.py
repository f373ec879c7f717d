"""Scalar functions as bounds see them: where on an interval they are extreme, and how steep.

A `Curve` declares its corners and the places where it or its slope turns around. Between two such
places the function (or its slope) is monotone, so its extremes over an interval are among the ends
and the declared places inside: that gives `image` and `slopes` for all curves alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.functions.intervals import TINY, UNIT_ROUNDOFF, Interval

Scalar = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A scalar function φ, smooth but for finitely many corners and jumps.

    Attributes:
        name: of the function.
        function: φ, elementwise on float64.
        derivative: φ′ where it exists; at a corner either one-sided slope.
        settings: numbers that φ depends on, to tell whether two curves are the same.
        parameter: a tensor that φ depends on, which broadcasts to the elements; else None.
        turns: every place where φ changes from rising to falling or back, but for corners.
        bends: every place where φ′ does, but for corners.
        corners: every (place, slope before, slope after) where φ′ jumps.
        jumps: every (place, size) where φ itself jumps: it takes both values as far as bounds go.
        ulps: error of the computed φ and φ′ in units of u·(1 + |z| + |φ|); 0 where φ is exact.
        precise: it is no more than in units of u·|φ| and u·|φ′| (but for underflow).
        start: φ is defined for z > start only.
        straight: φ is straight between its corners.
    """

    name: str
    function: Scalar
    derivative: Scalar
    settings: tuple[float, ...] = ()
    parameter: Tensor | None = None
    turns: tuple[float, ...] = ()
    bends: tuple[float, ...] = ()
    corners: tuple[tuple[float, float | Tensor, float | Tensor], ...] = ()
    jumps: tuple[tuple[float, float], ...] = ()
    ulps: float = 64.0
    precise: bool = False
    start: float = -math.inf
    straight: bool = False

    def image(self, z: Interval) -> Interval:
        """An interval that holds φ of every member of z."""
        ends = self.function(z.low), self.function(z.high)
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        for place in (*self.turns, *(corner[0] for corner in self.corners)):
            value = self.function(torch.full_like(low, place))
            inside = (z.low <= place) & (z.high >= place)
            low = torch.where(inside, torch.minimum(low, value), low)
            high = torch.where(inside, torch.maximum(high, value), high)
        low = torch.where(z.low > self.start, low, torch.full_like(low, -torch.inf))
        high = torch.where(z.low > self.start, high, torch.full_like(high, torch.inf))
        if not self.ulps:
            return Interval(low, high)
        if self.precise:
            by = [self.error(end, end) for end in (low, high)]
            return Interval(low - by[0] - self.jump(z), high + by[1] + self.jump(z))
        size = 1.0 + z.magnitude + torch.maximum(low.abs(), high.abs())
        return Interval(low, high).widen(self.ulps * UNIT_ROUNDOFF * size + self.jump(z))

    def slopes(self, z: Interval) -> Interval:
        """An interval that holds (φ(a) − φ(b))/(a − b) for all members a ≠ b of z.

        By the mean value theorem, piece by piece, a difference quotient is an average of slopes.
        What `jump` adds to a difference is not included.
        """
        ends = self.derivative(z.low), self.derivative(z.high)
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        candidates: list[tuple[float, float | Tensor]] = [
            (place, self.derivative(torch.tensor(place, dtype=torch.float64))) for place in self.bends
        ]
        for place, before, after in self.corners:
            candidates += [(place, before), (place, after)]
        for place, slope in candidates:
            inside = (z.low <= place) & (z.high >= place)
            value = torch.as_tensor(slope, dtype=torch.float64)
            low = torch.where(inside, torch.minimum(low, value), low)
            high = torch.where(inside, torch.maximum(high, value), high)
        low = torch.where(z.low > self.start, low, torch.full_like(low, -torch.inf))
        high = torch.where(z.low > self.start, high, torch.full_like(high, torch.inf))
        if not self.ulps:
            return Interval(low, high)
        size = torch.maximum(low.abs(), high.abs()) + (TINY if self.precise else 1.0)
        return Interval(low, high).widen(4 * self.ulps * UNIT_ROUNDOFF * size)

    def error(self, place: Tensor, value: Tensor) -> Tensor:
        """How far the computed φ can be from the exact one, where it is `value`."""
        size = value.abs() if self.precise else 1.0 + place.abs() + value.abs()
        return self.ulps * UNIT_ROUNDOFF * size + (TINY if self.ulps else 0.0)

    def jump(self, z: Interval) -> Tensor:
        """How much the jumps inside z can add to a difference of two values of φ on it."""
        total = torch.zeros_like(z.low)
        for place, size in self.jumps:
            total = torch.where((z.low <= place) & (z.high >= place), total + size, total)
        return total

    def restricted(self, take: Callable[[Tensor], Tensor]) -> Curve:
        """The same function of fewer elements: `take` gives what is left of the parameter."""
        if self.parameter is None:
            return self
        return leaky(take(self.parameter))

    def same_as(self, other: Curve) -> bool:
        """Whether both are the same function; parameters are compared elementwise."""
        if (self.name, self.settings) != (other.name, other.settings):
            return False
        if self.parameter is None or other.parameter is None:
            return self.parameter is other.parameter
        return torch.equal(self.parameter, other.parameter)


def _step(z: Tensor, low: float, high: float, slope: float) -> Tensor:
    """`slope` between `low` and `high`, zero elsewhere."""
    return ((z > low) & (z < high)).to(z.dtype) * slope


def clamp(low: float, high: float) -> Curve:
    """min(max(z, low), high): ReLU (0, ∞), ReLU6 (0, 6), hardtanh."""
    corners = [(low, 0.0, 1.0)] if math.isfinite(low) else []
    if math.isfinite(high):
        corners.append((high, 1.0, 0.0))
    return Curve(
        "clamp",
        lambda z: z.clamp(low, high),
        lambda z: _step(z, low, high, 1.0),
        settings=(low, high),
        corners=tuple(corners),
        ulps=0.0,
        straight=True,
    )


def step(at_zero: float) -> Curve:
    """The binary step: 0 below zero, 1 above, `at_zero` between 0 and 1 there."""

    def function(z: Tensor) -> Tensor:
        return torch.heaviside(z, torch.tensor(at_zero, dtype=z.dtype))

    jumps = ((0.0, 1.0),)
    return Curve("step", function, torch.zeros_like, (at_zero,), jumps=jumps, ulps=0.0, straight=True)


def leaky(slope: float | Tensor) -> Curve:
    """Z for z > 0, slope · z below: leaky ReLU, and PReLU with a tensor of slopes."""
    tensor = slope if isinstance(slope, Tensor) else None
    return Curve(
        "leaky",
        lambda z: torch.where(z > 0, z, slope * z),
        lambda z: torch.where(z > 0, 1.0, torch.as_tensor(slope, dtype=z.dtype)),
        settings=() if tensor is not None else (float(slope),),
        parameter=tensor,
        corners=((0.0, slope, 1.0),),
        ulps=4.0,
        straight=True,
    )


def elu(alpha: float, scale: float, input_scale: float) -> Curve:
    """Scale · z above zero, scale · alpha · (e^(input_scale·z) − 1) below: ELU, SELU, CELU."""
    steep = alpha * input_scale
    return Curve(
        "elu",
        lambda z: scale * torch.where(z > 0, z, alpha * torch.expm1(input_scale * z.clamp(max=0))),
        lambda z: scale * torch.where(z > 0, 1.0, steep * torch.exp(input_scale * z.clamp(max=0))),
        settings=(alpha, scale, input_scale),
        corners=((0.0, scale * steep, scale),),
        ulps=64.0 * max(1.0, abs(scale) * max(1.0, abs(alpha) * max(1.0, abs(input_scale)))),
    )


def sigmoid() -> Curve:
    """1/(1 + e^(−z)); steepest at 0."""
    return Curve("sigmoid", torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z), bends=(0.0,))


def tanh() -> Curve:
    """The hyperbolic tangent; steepest at 0."""
    return Curve("tanh", torch.tanh, lambda z: 4 * torch.sigmoid(2 * z) * torch.sigmoid(-2 * z), bends=(0.0,))


def erf() -> Curve:
    """The error function; steepest at 0."""
    return Curve("erf", torch.erf, lambda z: 2 / math.sqrt(math.pi) * torch.exp(-z * z), bends=(0.0,))


def silu() -> Curve:
    """Z · σ(z); least at −1.278…, steepest at ±2.399…."""
    return Curve(
        "silu",
        F.silu,
        lambda z: torch.sigmoid(z) * (1 + z * torch.sigmoid(-z)),
        turns=(-1.2784645427610737951,),
        bends=(-2.3993572805154676678, 2.3993572805154676678),
    )


def gelu() -> Curve:
    """Z · Φ(z); φ″ = φ_N(z)(2 − z²) vanishes at ±√2."""
    return Curve(
        "gelu",
        F.gelu,
        lambda z: 0.5 * torch.erfc(-z / math.sqrt(2)) + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi),
        turns=(-0.75179152469356445746,),
        bends=(-math.sqrt(2), math.sqrt(2)),
    )


def gelu_tanh() -> Curve:
    """½ z (1 + tanh(√(2/π)(z + 0.044715 z³)))."""
    c = math.sqrt(2 / math.pi)

    def derivative(z: Tensor) -> Tensor:
        z = z.clamp(-40.0, 40.0)  # beyond, the slope is 0 or 1 to the last bit
        inner = 2 * c * (z + 0.044715 * z**3)
        s, t = torch.sigmoid(inner), torch.sigmoid(-inner)
        return s + z * 2 * c * (1 + 3 * 0.044715 * z * z) * s * t

    return Curve(
        "gelu_tanh",
        lambda z: F.gelu(z, approximate="tanh"),
        derivative,
        turns=(-0.75246142207101625849,),
        bends=(-1.4185040087908283555, 1.4185040087908283555),
    )


def mish() -> Curve:
    """Z · tanh(ln(1 + e^z))."""

    def derivative(z: Tensor) -> Tensor:
        t = torch.tanh(F.softplus(z))
        return t + z * (1 - t) * (1 + t) * torch.sigmoid(z)

    return Curve(
        "mish",
        F.mish,
        derivative,
        turns=(-1.1924312145154952121,),
        bends=(-2.25637639636079312, 1.4905711794854284593),
    )


def softplus(beta: float, threshold: float) -> Curve:
    """ln(1 + e^(βz))/β; torch gives z itself where βz > threshold, ln(1 + e^(−threshold))/β less."""
    place = threshold / beta
    return Curve(
        "softplus",
        lambda z: F.softplus(z, beta, threshold),
        lambda z: torch.where(z > place, 1.0, torch.sigmoid(beta * z)),
        settings=(beta, threshold),
        corners=((place, 1 / (1 + math.exp(-threshold)), 1.0),),
        jumps=((place, math.log1p(math.exp(-threshold)) / beta * 1.01),),
        ulps=64.0 * max(1.0, beta, 1 / beta),
    )


def hardswish() -> Curve:
    """Z · min(max(z + 3, 0), 6)/6; least at −3/2; slopes −½ … 3/2 inside (−3, 3)."""
    return Curve(
        "hardswish",
        F.hardswish,
        lambda z: torch.where(z <= -3, 0.0, torch.where(z >= 3, 1.0, z / 3 + 0.5)),
        turns=(-1.5,),
        corners=((-3.0, 0.0, -0.5), (3.0, 1.5, 1.0)),
    )


def hardsigmoid() -> Curve:
    """min(max(z + 3, 0), 6)/6."""
    return Curve(
        "hardsigmoid",
        F.hardsigmoid,
        lambda z: _step(z, -3.0, 3.0, 1 / 6),
        corners=((-3.0, 0.0, 1 / 6), (3.0, 1 / 6, 0.0)),
        straight=True,
    )


def absolute() -> Curve:
    """|z|."""
    return Curve("abs", torch.abs, torch.sign, corners=((0.0, -1.0, 1.0),), ulps=0.0, straight=True)


def square() -> Curve:
    """z²."""
    return Curve("square", torch.square, lambda z: 2 * z, turns=(0.0,))


def exp() -> Curve:
    """e^z."""
    return Curve("exp", torch.exp, torch.exp, precise=True)


def log() -> Curve:
    """The natural logarithm, for z > 0."""
    return Curve("log", torch.log, torch.reciprocal, start=0.0)


def sqrt() -> Curve:
    """The square root, for z > 0."""
    return Curve("sqrt", torch.sqrt, lambda z: 0.5 * torch.rsqrt(z), start=0.0)


def rsqrt() -> Curve:
    """1/√z, for z > 0."""
    return Curve("rsqrt", torch.rsqrt, lambda z: -0.5 * torch.rsqrt(z) / z, start=0.0, precise=True)


def reciprocal() -> Curve:
    """1/z, for z > 0."""
    return Curve("reciprocal", torch.reciprocal, lambda z: -1 / (z * z), start=0.0, precise=True)
