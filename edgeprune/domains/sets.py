"""The sets of inputs that certificates speak about. A model with several inputs has a tuple of them.

Shapes are of one input, without the batch axis; batches come first. Everything is float64, and
what a certificate rests on (`support`, `bounds`, `l2_radius`) is rounded outwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from edgeprune.errors import UsageError
from edgeprune.functions.intervals import UNIT_ROUNDOFF, Interval, dot_error, down, up

Shape = tuple[int, ...]
Place = float | Tensor
"""One number for every coordinate, or a tensor that broadcasts to the input's shape."""


class Domain(Protocol):
    """A bounded, convex set of inputs."""

    def support(self, a: Tensor) -> Tensor:
        """An upper bound on sup aᵀx over the domain, exact but for rounding.

        Args:
            a: (rows, *shape) float64.

        Returns:
            (rows,) float64.
        """

    def bounds(self, shape: Shape) -> Interval:
        """The smallest box that holds the domain, of shape `shape`."""

    def l2_radius(self, shape: Shape) -> float:
        """An upper bound on sup ‖x‖₂ over the domain: the β of the coreset papers."""

    def contains(self, x: Tensor) -> Tensor:
        """Which of a batch of inputs (batch, *shape) lie in the domain: (batch,) bool."""

    def project(self, x: Tensor) -> Tensor:
        """The nearest inputs (ℓ2) that lie in the domain; x: (batch, *shape)."""

    def sample(self, n: int, shape: Shape, generator: torch.Generator) -> Tensor:
        """Inputs drawn uniformly: (n, *shape) float64."""

    def extreme(self, a: Tensor) -> Tensor:
        """For each row of a (rows, *shape) an input where aᵀx is largest."""

    def climb(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """A step of steepest ascent from x: `step` is a share of the domain's width."""

    def describe(self) -> str:
        """The domain in words, for the report."""


def described(domains: Sequence[Domain]) -> str:
    """The domains of all inputs in words; said once where they are alike."""
    words = [domain.describe() for domain in domains]
    return words[0] if len(set(words)) == 1 else "; ".join(f"input {k}: {w}" for k, w in enumerate(words))


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


def _number(value: Place) -> str:
    if isinstance(value, Tensor) and value.numel() > 1:
        least, most = float(value.min()), float(value.max())
        return f"{least:g} … {most:g}" if least != most else f"{least:g}"
    return f"{float(value):g}"


def _finite(name: str, value: Place) -> Place:
    """Tensors as float64, refused where not finite."""
    if isinstance(value, Tensor):
        value = value.detach().to(torch.float64)
        finite = bool(torch.isfinite(value).all())
    else:
        value = float(value)
        finite = math.isfinite(value)
    if not finite:
        raise UsageError(f"domain: {name} is not finite; a certificate needs a bounded domain.")
    return value


def _filled(value: Place, shape: Shape) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64)
    try:
        return tensor.expand(shape)
    except RuntimeError as error:
        raise UsageError(
            f"domain: a value of shape {tuple(tensor.shape)} does not fit an input of shape {shape}; "
            "give one number, or one per channel with trailing axes of 1."
        ) from error


@dataclass(frozen=True, slots=True, eq=False)
class Box:
    """All x with low ≤ x ≤ high, coordinate by coordinate.

    Attributes:
        low: a number, or a float64 tensor that broadcasts to the input's shape.
        high: the same, not below `low`.
        words: what it stands for; made up from the numbers where empty.

    Raises:
        UsageError: an end is not finite, or low > high somewhere.
    """

    low: Place
    high: Place
    words: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", _finite("low", self.low))
        object.__setattr__(self, "high", _finite("high", self.high))
        gap = torch.as_tensor(self.low, dtype=torch.float64) - torch.as_tensor(self.high, dtype=torch.float64)
        if bool((gap > 0).any()):
            raise UsageError(f"domain: low exceeds high by {float(gap.max()):g}; swap them or widen the box.")

    @staticmethod
    def around(center: Tensor, radius: Place, low: Place = -math.inf, high: Place = math.inf) -> Box:
        """The ℓ∞ ball {x: |x − center| ≤ radius}, cut by a box.

        Args:
            center: of the input's shape.
            radius: ≥ 0, in the input's units.
            low: lower ends of the cutting box; none by default.
            high: upper ends of the cutting box; none by default.

        Raises:
            UsageError: the radius is negative, or nothing is left after the cut.
        """
        center = center.detach().to(torch.float64)
        reach = torch.as_tensor(radius, dtype=torch.float64)
        if bool((reach < 0).any()):
            raise UsageError(f"domain: the radius {_number(radius)} is negative.")
        floor, ceiling = (torch.as_tensor(end, dtype=torch.float64) for end in (low, high))
        exact = bool((reach == 0).all())
        least = torch.maximum(center if exact else down(center - reach), floor)
        most = torch.minimum(center if exact else up(center + reach), ceiling)
        uncut = bool((floor == -torch.inf).all()) and bool((ceiling == torch.inf).all())
        cut = "" if uncut else f", within [{_number(low)}, {_number(high)}]"
        return Box(least, most, f"each coordinate within ±{_number(radius)} of a given input{cut}")

    def bounds(self, shape: Shape) -> Interval:
        """The box itself."""
        return Interval(_filled(self.low, shape), _filled(self.high, shape))

    def support(self, a: Tensor) -> Tensor:
        """Σ max(aᵢ lowᵢ, aᵢ highᵢ)."""
        box = self.bounds(tuple(a.shape[1:]))
        terms = _flat(torch.maximum(a * box.low, a * box.high))
        return up(terms.sum(1) + dot_error(terms.shape[1], terms.abs().sum(1)))

    def l2_radius(self, shape: Shape) -> float:
        """‖max(|low|, |high|)‖₂."""
        far = self.bounds(shape).magnitude
        return float(far.norm()) * (1.0 + (far.numel() + 8) * UNIT_ROUNDOFF)

    def contains(self, x: Tensor) -> Tensor:
        """Compared exactly."""
        box = self.bounds(tuple(x.shape[1:]))
        return _flat((x >= box.low) & (x <= box.high)).all(1)

    def project(self, x: Tensor) -> Tensor:
        """Clamped coordinate by coordinate."""
        box = self.bounds(tuple(x.shape[1:]))
        return torch.minimum(torch.maximum(x.to(torch.float64), box.low), box.high)

    def sample(self, n: int, shape: Shape, generator: torch.Generator) -> Tensor:
        """Independent uniform coordinates."""
        box = self.bounds(shape)
        draw = torch.rand((n, *shape), generator=generator, dtype=torch.float64)
        return self.project(box.low + (box.high - box.low) * draw)

    def extreme(self, a: Tensor) -> Tensor:
        """The corner whose signs are those of `a`; the middle where a is zero."""
        box = self.bounds(tuple(a.shape[1:]))
        return torch.where(a > 0, box.high, torch.where(a < 0, box.low, box.center))

    def climb(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Along the signs of the gradient, each coordinate by a share of its own width."""
        box = self.bounds(tuple(x.shape[1:]))
        return self.project(x + step * (box.high - box.low) * gradient.sign())

    def describe(self) -> str:
        """The words given, or the ends."""
        return self.words or f"each coordinate between {_number(self.low)} and {_number(self.high)}"


@dataclass(frozen=True, slots=True, eq=False)
class L2Ball:
    """All x with ‖x − center‖₂ ≤ radius.

    Attributes:
        center: a number, or a float64 tensor that broadcasts to the input's shape.
        radius: ≥ 0, in the input's units.
        words: what it stands for; made up from the numbers where empty.

    Raises:
        UsageError: the centre or the radius is not finite, or the radius is negative.
    """

    center: Place
    radius: float
    words: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", _finite("the centre", self.center))
        object.__setattr__(self, "radius", _finite("the radius", self.radius))
        if self.radius < 0:
            raise UsageError(f"domain: the radius {self.radius:g} is negative.")

    def bounds(self, shape: Shape) -> Interval:
        """Center ± radius."""
        middle = _filled(self.center, shape)
        if self.radius == 0:
            return Interval.point(middle)
        return Interval(down(middle - self.radius), up(middle + self.radius))

    def support(self, a: Tensor) -> Tensor:
        """Aᵀcenter + radius · ‖a‖₂ (Cauchy–Schwarz, attained)."""
        rows, middle = _flat(a), _filled(self.center, tuple(a.shape[1:])).reshape(-1)
        norms = rows.norm(dim=1)
        size = rows.abs() @ middle.abs() + self.radius * norms
        return up(rows @ middle + self.radius * norms + dot_error(rows.shape[1], size))

    def l2_radius(self, shape: Shape) -> float:
        """‖center‖₂ + radius."""
        middle = _filled(self.center, shape)
        return (float(middle.norm()) + self.radius) * (1.0 + (middle.numel() + 8) * UNIT_ROUNDOFF)

    def contains(self, x: Tensor) -> Tensor:
        """By the norm as computed in float64."""
        away = _flat(x - _filled(self.center, tuple(x.shape[1:])))
        norms: Tensor = torch.linalg.vector_norm(away, dim=1)
        return norms <= self.radius

    def project(self, x: Tensor) -> Tensor:
        """Towards the centre, a few roundings further than needed so that the result is inside."""
        x = x.to(torch.float64)
        middle = _filled(self.center, tuple(x.shape[1:]))
        away = _flat(x - middle)
        norms = away.norm(dim=1, keepdim=True)
        # x itself is rounded when the centre is added back: |center| counts in the slack
        slack = (middle.numel() + 16) * UNIT_ROUNDOFF * (self.radius + 2 * float(middle.norm()))
        reach = max(0.0, self.radius - slack)
        moved = middle + (away * (reach / norms.clamp_min(1e-300))).reshape(x.shape)
        return torch.where((norms <= reach).reshape(-1, *[1] * (x.dim() - 1)), x, moved)

    def sample(self, n: int, shape: Shape, generator: torch.Generator) -> Tensor:
        """A uniform direction times radius · U^(1/d)."""
        size = math.prod(shape)
        way = torch.randn((n, size), generator=generator, dtype=torch.float64)
        share = torch.rand((n, 1), generator=generator, dtype=torch.float64) ** (1.0 / max(1, size))
        away = way / way.norm(dim=1, keepdim=True).clamp_min(1e-300) * share * self.radius
        return self.project(_filled(self.center, shape) + away.reshape(n, *shape))

    def extreme(self, a: Tensor) -> Tensor:
        """Center + radius · a/‖a‖."""
        return self.climb(_filled(self.center, tuple(a.shape[1:])).expand(a.shape), a, 0.5)

    def climb(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Along the normalised gradient by a share of the diameter."""
        norms = _flat(gradient).norm(dim=1).clamp_min(1e-300).reshape(-1, *[1] * (x.dim() - 1))
        return self.project(x + step * 2 * self.radius * gradient / norms)

    def describe(self) -> str:
        """The words given, or centre and radius."""
        if self.words:
            return self.words
        zero = bool((torch.as_tensor(self.center) == 0).all())
        if zero:
            return f"every input of ℓ2 norm at most {self.radius:g}"
        return f"every input within ℓ2 distance {self.radius:g} of a given input"
