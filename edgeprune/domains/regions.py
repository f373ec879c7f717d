"""Domains that are not a box or a ball alone: their meet, ellipsoids, mean-free frames, finite sets.

They keep the promises of `edgeprune.domains.sets.Domain`: `support`, `bounds` and `l2_radius` are rounded
outwards, `project` and `sample` end inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.domains.sets import Box, L2Ball, Shape
from edgeprune.errors import UsageError
from edgeprune.functions.intervals import UNIT_ROUNDOFF, Interval, dot_error, down, up


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


@dataclass(frozen=True, slots=True, eq=False)
class Meet:
    """What lies in a box and in an ℓ2 ball: images of limited energy.

    For any t ≥ 0 and y = a − w with any w:  sup aᵀx ≤ sup_box yᵀx + sup_ball wᵀx, and the best split has
    w = t (x* − centre) for the maximiser x*. The splits w tried here are those along the ball's normal at the
    box's point for a grid of t; each is a bound, so the least is one.

    Raises:
        UsageError: box and ball do not touch (found when the domain is first used).
    """

    box: Box
    ball: L2Ball

    def bounds(self, shape: Shape) -> Interval:
        """Both boxes met."""
        a, b = self.box.bounds(shape), self.ball.bounds(shape)
        low, high = torch.maximum(a.low, b.low), torch.minimum(a.high, b.high)
        if bool((low > high).any()):
            raise UsageError("domain: the box and the ball have no point in common.")
        return Interval(low, high)

    def support(self, a: Tensor) -> Tensor:
        """The least over a grid of splits, found by bisection on the ball's multiplier."""
        best = torch.minimum(self.box.support(a), self.ball.support(a))
        shape = tuple(a.shape[1:])
        box, middle = self.box.bounds(shape), torch.as_tensor(self.ball.center, dtype=torch.float64)
        size = _flat(a).norm(dim=1).clamp_min(1e-300)
        low, high = torch.full_like(size, -40.0), torch.full_like(size, 40.0)
        ones = [1] * (a.dim() - 1)
        for _ in range(48):
            t = torch.exp2((low + high) / 2) * size / max(self.ball.radius, 1e-300)
            # the maximiser of aᵀx − t/2 ‖x − centre‖² over the box
            x = torch.minimum(torch.maximum(middle + a / t.reshape(-1, *ones), box.low), box.high)
            w = t.reshape(-1, *ones) * (x - middle)
            value = self.box.support(a - w) + self.ball.support(w)
            # a − w is rounded: off by u(|a| + |w|) against |x|
            slack = 4 * UNIT_ROUNDOFF * (_flat(a.abs() + w.abs()) @ box.magnitude.reshape(-1))
            best = torch.minimum(best, up(value + slack))
            outside = _flat(x - middle).norm(dim=1) > self.ball.radius
            low, high = (
                torch.where(outside, (low + high) / 2, low),
                torch.where(outside, high, (low + high) / 2),
            )
        return best

    def l2_radius(self, shape: Shape) -> float:
        """The smaller one."""
        return min(self.box.l2_radius(shape), self.ball.l2_radius(shape))

    def contains(self, x: Tensor) -> Tensor:
        """In both."""
        return self.box.contains(x) & self.ball.contains(x)

    def project(self, x: Tensor) -> Tensor:
        """Alternating projections (Dykstra), ended by a pull towards a point of both."""
        x = x.to(torch.float64)
        p, q = torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(20):
            y = self.box.project(x + p)
            p, x = x + p - y, y
            y = self.ball.project(x + q)
            q, x = x + q - y, y
        inner = self.box.project(torch.as_tensor(self.ball.center, dtype=torch.float64).expand(x.shape))
        x = self.box.project(x)
        share = torch.ones((len(x), *[1] * (x.dim() - 1)), dtype=torch.float64)
        for _ in range(60):
            inside = self.contains(inner + share * (x - inner)).reshape(share.shape)
            share = torch.where(inside, share, share * 0.98 - 1e-9)
        share = share.clamp_min(0)
        return self.box.project(inner + share * (x - inner))

    def sample(self, n: int, shape: Shape, generator: torch.Generator) -> Tensor:
        """Half of them drawn in the box, half in the ball, projected."""
        half = n // 2
        first = self.box.sample(half, shape, generator)
        return self.project(torch.cat([first, self.ball.sample(n - half, shape, generator)]))

    def extreme(self, a: Tensor) -> Tensor:
        """The maximiser for the multiplier at which it lies on the ball."""
        return self.climb(self.project(self.box.extreme(a)), a, 1.0)

    def climb(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """A step of the ball, projected."""
        return self.project(self.ball.climb(x, gradient, step))

    def describe(self) -> str:
        """Both."""
        return f"{self.box.describe()}, and {self.ball.describe()}"


@dataclass(frozen=True, slots=True, eq=False)
class Ellipsoid:
    """x = center + axes · s with ‖s‖₂ ≤ 1: the principal directions of data, at a chosen reach.

    Inputs off these by 1e-9 (1 + ‖axes‖) in the l2 norm count as inside; all enclosures hold them.

    Attributes:
        center: of the input's shape.
        axes: (directions, *shape); each is a half-axis.
    """

    center: Tensor
    axes: Tensor

    @staticmethod
    def of_data(samples: Tensor, reach: float, directions: int) -> Ellipsoid:
        """Mean and principal axes of samples (n, *shape), each `reach` standard deviations long."""
        flat = _flat(samples.to(torch.float64))
        mean = flat.mean(0)
        _, values, ways = torch.linalg.svd(flat - mean, full_matrices=False)
        sizes = reach * values[:directions] / math.sqrt(max(1, len(flat) - 1))
        axes = (ways[:directions] * sizes[:, None]).reshape(-1, *samples.shape[1:])
        return Ellipsoid(mean.reshape(samples.shape[1:]), axes)

    @property
    def off(self) -> float:
        """How far from the axes' span an input may be."""
        return 1e-9 * (1 + float(self.axes.norm()))

    def bounds(self, shape: Shape) -> Interval:
        """Center ± the ℓ2 norm of the axes, coordinate by coordinate."""
        slack = 1 + 1e-11 + (len(self.axes) + 8) * UNIT_ROUNDOFF
        reach = torch.linalg.vector_norm(self.axes, dim=0) * slack + self.off
        middle = self.center.expand(shape)
        return Interval(down(middle - reach), up(middle + reach))

    def support(self, a: Tensor) -> Tensor:
        """Aᵀcenter + ‖axes · a‖₂."""
        rows, axes = _flat(a), _flat(self.axes)
        middle = self.center.expand(a.shape[1:]).reshape(-1)
        along = (rows @ axes.T).norm(dim=1) * (1 + 1e-11) + self.off * rows.norm(dim=1) * (1 + 1e-11)
        size = rows.abs() @ middle.abs() + (rows.abs() @ axes.abs().T).norm(dim=1)
        return up(rows @ middle + along + dot_error(rows.shape[1] + len(axes), size))

    def l2_radius(self, shape: Shape) -> float:
        """‖center‖₂ plus the Frobenius norm of the axes."""
        slack = 1 + (self.axes.numel() + 8) * UNIT_ROUNDOFF
        return (float(self.center.norm()) + float(self.axes.norm()) + self.off) * (slack + 1e-11)

    def contains(self, x: Tensor) -> Tensor:
        """Whether the least s that gives x has norm ≤ 1, to 1e-9 of the axes."""
        away = _flat(x - self.center)
        axes = _flat(self.axes).T
        s = torch.linalg.lstsq(axes, away.T).solution
        near = (axes @ s - away.T).norm(dim=0) <= 0.99 * self.off
        result: Tensor = near & (s.norm(dim=0) <= 1 + 1e-12)
        return result

    def project(self, x: Tensor) -> Tensor:
        """The nearest combination of the axes, shortened to the ellipsoid (not the nearest point)."""
        axes = _flat(self.axes).T
        s = torch.linalg.lstsq(axes, _flat(x.to(torch.float64) - self.center).T).solution
        s = s / s.norm(dim=0).clamp_min(1.0) * (1 - 1e-12)
        result: Tensor = (axes @ s).T.reshape(x.shape) + self.center
        return result

    def sample(self, n: int, shape: Shape, generator: torch.Generator) -> Tensor:
        """A uniform point of the unit ball through the axes."""
        s = L2Ball(0.0, 1.0 - 1e-12).sample(n, (len(self.axes),), generator)
        return (s @ _flat(self.axes)).reshape(n, *shape) + self.center

    def extreme(self, a: Tensor) -> Tensor:
        """The point of the surface whose normal is a."""
        axes = _flat(self.axes)
        s = _flat(a) @ axes.T
        s = s / s.norm(dim=1, keepdim=True).clamp_min(1e-300) * (1 - 1e-12)
        result: Tensor = (s @ axes).reshape(a.shape) + self.center
        return result

    def climb(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Towards the extreme point, by a share of the way."""
        return self.project(x + 2 * step * (self.extreme(gradient) - self.center))

    def describe(self) -> str:
        """How many directions, and the longest."""
        longest = float(_flat(self.axes).norm(dim=1).max())
        return f"an ellipsoid of {len(self.axes)} principal directions, the longest half-axis {longest:g}"


LEVEL = 1e-6
"""What a frame's mean and norm may be off by, as a share of the radius: frames are normalised in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Audio frames with mean 0 and ‖x‖₂ ≤ radius along the last axis: √n for a variance of 1.

    With m(·) the mean over n values, aᵀx = (a − m(a))ᵀx + n m(a) m(x). Frames are in the domain if
    √n |m(x)| ≤ LEVEL · radius and ‖x‖₂ ≤ (1 + LEVEL) · radius, so the support function is at most
    radius · ((1 + LEVEL) ‖a − m(a)‖₂ + LEVEL √n |m(a)|). The sphere's hull is this ball; a frame
    may be quieter.
    """

    radius: float
    words: str = ""

    def bounds(self, shape: Shape) -> Interval:
        """± radius · √(1 − 1/n), and the tolerance."""
        n = shape[-1]
        reach = self.radius * ((1 + LEVEL) * math.sqrt(1 - 1 / n) + LEVEL) * (1 + 8 * UNIT_ROUNDOFF)
        far = torch.full(shape, reach, dtype=torch.float64)
        return Interval(-far, far)

    def support(self, a: Tensor) -> Tensor:
        """Radius · ‖a − mean a‖₂ for each frame, added up."""
        n = a.shape[-1]
        mean = a.mean(-1, keepdim=True)
        norms = (1 + LEVEL) * (a - mean).norm(dim=-1) + LEVEL * math.sqrt(n) * mean[..., 0].abs()
        # the mean and the difference are rounded: off by γ(n)·mean|a| in each of n elements
        slack = (4 * n + 32) * UNIT_ROUNDOFF * a.abs().amax(-1) * math.sqrt(n)
        total = _flat((norms + slack)[..., None]).sum(1) * self.radius
        return up(total * (1 + (4 * n + a[0].numel() + 16) * UNIT_ROUNDOFF))

    def l2_radius(self, shape: Shape) -> float:
        """Radius · √frames."""
        return self.radius * (1 + LEVEL) * math.sqrt(math.prod(shape[:-1])) * (1 + 8 * UNIT_ROUNDOFF)

    def contains(self, x: Tensor) -> Tensor:
        """Mean zero and norm within the radius, to LEVEL of the radius."""
        n = x.shape[-1]
        level = (x.mean(-1).abs() * math.sqrt(n) <= LEVEL * self.radius).reshape(len(x), -1).all(1)
        quiet = (x.norm(dim=-1) <= self.radius * (1 + LEVEL)).reshape(len(x), -1).all(1)
        result: Tensor = level & quiet
        return result

    def project(self, x: Tensor) -> Tensor:
        """Mean removed, then shortened."""
        x = x.to(torch.float64)
        x = x - x.mean(-1, keepdim=True)
        result: Tensor = x * (self.radius * (1 - 1e-12) / x.norm(dim=-1, keepdim=True).clamp_min(self.radius))
        return result

    def sample(self, n: int, shape: Shape, generator: torch.Generator) -> Tensor:
        """Directions drawn uniformly on the sphere: real frames have the full norm."""
        return self.extreme(torch.randn((n, *shape), generator=generator, dtype=torch.float64))

    def extreme(self, a: Tensor) -> Tensor:
        """Radius · (a − mean a)/‖a − mean a‖."""
        level = a - a.mean(-1, keepdim=True)
        return self.project(level * (self.radius / level.norm(dim=-1, keepdim=True).clamp_min(1e-300)))

    def climb(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """Along the gradient by a share of the diameter."""
        way = gradient - gradient.mean(-1, keepdim=True)
        way = way / way.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        return self.project(x + step * 2 * self.radius * way)

    def describe(self) -> str:
        """The radius."""
        return self.words or f"every frame of mean 0 and ℓ2 norm at most {self.radius:g}"


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Finitely many inputs (n, *shape). `support` and `bounds` are those of their convex hull."""

    points: Tensor
    words: str = ""

    def __post_init__(self) -> None:
        if not len(self.points) or not bool(self.points.isfinite().all()):
            raise UsageError("domain: a finite set needs at least one input, all of them finite.")
        object.__setattr__(self, "points", self.points.detach().to(torch.float64))

    def bounds(self, shape: Shape) -> Interval:
        """Least and greatest of each coordinate."""
        return Interval(self.points.amin(0).expand(shape), self.points.amax(0).expand(shape))

    def support(self, a: Tensor) -> Tensor:
        """The largest over the points."""
        rows, points = _flat(a), _flat(self.points)
        size = (rows.abs() @ points.abs().T).amax(1)
        return up((rows @ points.T).amax(1) + dot_error(rows.shape[1], size))

    def l2_radius(self, shape: Shape) -> float:
        """The longest point."""
        return float(_flat(self.points).norm(dim=1).max()) * (
            1 + (self.points[0].numel() + 8) * UNIT_ROUNDOFF
        )

    def contains(self, x: Tensor) -> Tensor:
        """Whether it is one of the points."""
        return (_flat(x)[:, None] == _flat(self.points)[None]).all(2).any(1)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point."""
        nearest = torch.cdist(_flat(x.to(torch.float64)), _flat(self.points)).argmin(1)
        return self.points[nearest]

    def sample(self, n: int, shape: Shape, generator: torch.Generator) -> Tensor:
        """Points drawn with replacement."""
        return self.points[torch.randint(len(self.points), (n,), generator=generator)]

    def extreme(self, a: Tensor) -> Tensor:
        """The best point."""
        return self.points[(_flat(a) @ _flat(self.points).T).argmax(1)]

    def climb(self, x: Tensor, gradient: Tensor, step: float) -> Tensor:
        """The best point."""
        return self.extreme(gradient)

    def describe(self) -> str:
        """How many."""
        return self.words or f"each of {len(self.points)} given inputs"


__all__ = ["Ellipsoid", "Frames", "Meet", "Points"]
