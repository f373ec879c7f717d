"""Affine forms of the input, carried forwards through both nets with the same symbols.

Every node of a net is  h(x) = c + Σᵢ sᵢ Jᵢ + e  with one symbol sᵢ for each input value (|sᵢ| ≤ 1 on a box,
‖s‖₂ ≤ 1 on a ball) and a remainder e with |e| ≤ ρ elementwise and ‖e‖₂ ≤ r. Both nets share the symbols, so
    f[kept] − g = (c_f − c_g) + Σᵢ sᵢ (Jᵢ_f − Jᵢ_g) + e_f − e_g
keeps what cancels between them. An affine map takes J along; its remainder obeys
    ρ′ = min(|W| ρ, ‖rows of W‖₂ · r),   r′ = min(‖W‖₂ r, ‖ρ′‖₂),
because intervals grow by the row sums of |W|, often ten times as fast as ‖·‖₂ does. An activation within
parallel lines λz + [t₋, t₊] takes J to λJ and adds at most (t₊ − t₋)/2 to the remainder. While nothing can
change sides of a corner the forms are exact, so small domains are bounded exactly at any depth for the price
of as many forward passes as there are input values. Where that is too many, the forms have no symbols and
the remainder carries everything.

Source:
    Comba & Stolfi (1993), affine arithmetic; the ℓ2 remainder and the shared symbols are derived above.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgeprune.bounds.differential import Reach
from edgeprune.bounds.peaks import Winners
from edgeprune.bounds.relax import is_relu, lines
from edgeprune.bounds.spectral import operator_norm
from edgeprune.domains.regions import Ellipsoid
from edgeprune.domains.sets import Domain, L2Ball
from edgeprune.functions.forms import (
    Affine,
    Constant,
    Elementwise,
    Form,
    Input,
    Maximum,
    Product,
    Structural,
    Sum,
    Twin,
    restrict,
)
from edgeprune.functions.intervals import TINY, UNIT_ROUNDOFF, Interval

LARGEST = 4e7
"""Numbers that the symbols of one node may hold; beyond, they become remainder."""


@dataclass(frozen=True, slots=True, eq=False)
class Affinity:
    """c + Σ sᵢ Jᵢ + e for one node of one net.

    Attributes:
        center: c, (1, *shape).
        symbols: J, (symbols, *shape); None where there are none.
        slack: ρ, (1, *shape).
        l2: r.
        ball: the symbols have ‖s‖₂ ≤ 1 instead of |sᵢ| ≤ 1.
    """

    center: Tensor
    symbols: Tensor | None
    slack: Tensor
    l2: float
    ball: bool

    def spread(self) -> Tensor:
        """What the symbols can add, elementwise; rounded upwards."""
        return _spread(self.symbols, self.ball, self.slack)

    def reach(self) -> Tensor:
        """How far the node can be from c."""
        return (self.spread() + self.slack) * (1 + 8 * UNIT_ROUNDOFF)

    def interval(self) -> Interval:
        """All values of the node."""
        return Interval(self.center, self.center).widen(self.reach())


def _spread(symbols: Tensor | None, ball: bool, like: Tensor) -> Tensor:
    if symbols is None:
        return torch.zeros_like(like)
    total: Tensor = torch.linalg.vector_norm(symbols, ord=2 if ball else 1, dim=0)[None]
    return total * (1 + (len(symbols) + 16) * UNIT_ROUNDOFF) + TINY


def start(domains: Mapping[str, Domain], inputs: Mapping[str, Interval], limit: int) -> dict[str, Affinity]:
    """The inputs' forms: one symbol for each value that is not fixed, if they are not more than `limit`.

    An ellipsoid needs one for each of its directions only.
    """
    only = next(iter(domains.values())) if len(domains) == 1 else None
    if isinstance(only, Ellipsoid) and len(only.axes) <= limit:
        ((name, box),) = inputs.items()
        if box.low.shape[0] == 1:
            return {name: _of_ellipsoid(only, box)}
    moving = {name: (box.radius > 0).reshape(-1) for name, box in inputs.items()}
    total = sum(int(m.sum()) for m in moving.values())
    ball = len(inputs) == 1 and all(isinstance(domain, L2Ball) for domain in domains.values())
    found, first = {}, 0
    for name, box in inputs.items():
        center, radius = box.center, box.radius
        l2 = min(float(torch.linalg.vector_norm(radius)) * (1 + radius.numel() * 1e-15), box.l2)
        if total > limit or box.low.shape[0] != 1:
            found[name] = Affinity(center, None, radius, l2, ball)
            continue
        places = moving[name].nonzero().reshape(-1)
        symbols = torch.zeros((total, center.numel()), dtype=torch.float64)
        size = torch.full_like(radius, box.l2).reshape(-1) if ball else radius.reshape(-1)
        symbols[torch.arange(first, first + len(places)), places] = size[places]
        first += len(places)
        symbols = symbols.reshape(total, *center.shape[1:])
        found[name] = Affinity(center, symbols, torch.zeros_like(center), 0.0, ball)
    return found


def _of_ellipsoid(domain: Ellipsoid, box: Interval) -> Affinity:
    """Its centre, its half-axes as symbols in a ball, and what its points are rounded by."""
    center = domain.center.to(torch.float64).expand(box.low.shape[1:])[None].clone()
    axes = domain.axes.to(torch.float64) * (1 + 1e-10)
    reach = torch.linalg.vector_norm(axes, dim=0)[None] * (1 + (len(axes) + 16) * UNIT_ROUNDOFF)
    # the box may hold more than the ellipsoid does: its points are only near the span of the axes
    more = torch.maximum(box.high - center, center - box.low) * (1 + 4 * UNIT_ROUNDOFF) - reach
    slack = more.clamp_min(0) + 8 * UNIT_ROUNDOFF * (center.abs() + reach)
    l2 = (domain.off + 16 * UNIT_ROUNDOFF * (_norm(center) + _norm(axes))) * (1 + 1e-10)
    return Affinity(center, axes, slack, min(l2, _norm(slack)), True)


class Forms:
    """The affine forms of both nets, node by node, forgotten once read."""

    def __init__(self, inputs: Mapping[str, Affinity], twins: Sequence[Twin]) -> None:
        self.inputs = inputs
        self.known: dict[str, tuple[Affinity, Affinity]] = {}
        self.readers = Counter(source for twin in twins for source in twin.sources)

    def step(self, twin: Twin, reached: Mapping[str, Reach], reach: Reach) -> Reach:
        """The node's reach, met with what its affine forms say."""
        sources = [self.known[name] for name in twin.sources]
        before = [reached[name] for name in twin.sources]
        f = self._apply(twin.f, [s[0] for s in sources], [h.f for h in before], reach.f)
        g = self._apply(twin.g, [s[1] for s in sources], [h.g for h in before], reach.g)
        for name in twin.sources:
            self.readers[name] -= 1
            if not self.readers[name]:
                self.known.pop(name, None)
        self.known[twin.name] = f, g
        return self._met(twin.name, reach)

    def tighten(self, name: str, reach: Reach) -> None:
        """Use what was found of a node otherwise, where its forms have no symbols."""
        f, g = self.known[name]
        self.known[name] = _cut(f, reach.f), _cut(g, reach.g)

    def _met(self, name: str, reach: Reach) -> Reach:
        f, g = self.known[name]
        of_f, of_g = reach.f.meet(f.interval()), reach.g.meet(g.interval())
        apart = Interval.point(restrict(f.center, reach.kept)) - Interval.point(g.center)
        symbols = _minus(f.symbols, g.symbols, reach)
        by = _spread(symbols, f.ball, g.slack) + restrict(f.slack, reach.kept) + g.slack
        if symbols is not None and f.symbols is not None and g.symbols is not None:
            # the subtraction of the symbols is rounded once each
            by = by + UNIT_ROUNDOFF * _spread(symbols, f.ball, g.slack) * 2
        delta = reach.delta.meet(apart.widen(by * (1 + 16 * UNIT_ROUNDOFF)))
        found = Reach(of_f, of_g, delta, reach.kept)
        return replace(found, delta=delta.meet(found.f_kept - of_g))

    def _apply(
        self, form: Form, sources: Sequence[Affinity], before: Sequence[Interval], after: Interval
    ) -> Affinity:
        result: Affinity | None = None
        match form:
            case Input(name):
                return self.inputs[name]
            case Affine():
                result = _affine(form, sources[0], before[0])
            case Sum(signs):
                result = _sum(signs, sources, after)
            case Structural():
                result = _structural(form, sources)
            case Elementwise():
                result = _elementwise(form, sources[0], before[0], after)
            case Product():
                result = _product(sources, before)
            case Maximum():
                result = _maximum(form, sources[0], before[0])
            case Constant(value):
                return Affinity(value, None, torch.zeros_like(value), 0.0, False)
        if result is None or not bool(result.center.isfinite().all() & result.slack.isfinite().all()):
            result = _reset(after, False)
        if result.symbols is not None and result.symbols.numel() > LARGEST:
            slack = result.reach()
            result = Affinity(result.center, None, slack, _norm(slack), result.ball)
        return result


def _reset(after: Interval, ball: bool) -> Affinity:
    return Affinity(after.center, None, after.radius, _norm(after.radius), ball)


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x)) * (1 + (x.numel() + 8) * UNIT_ROUNDOFF) + TINY


def _cut(form: Affinity, z: Interval) -> Affinity:
    if form.symbols is not None:
        return form
    far = torch.maximum(z.high - form.center, form.center - z.low) * (1 + 4 * UNIT_ROUNDOFF)
    far = far.clamp_min(0) + 4 * UNIT_ROUNDOFF * z.magnitude + TINY
    slack = torch.minimum(form.slack, far)
    return replace(form, slack=slack, l2=min(form.l2, _norm(slack)))


def _minus(f: Tensor | None, g: Tensor | None, reach: Reach) -> Tensor | None:
    kept = None if f is None else restrict(f, reach.kept)
    if kept is None or g is None:
        return g if kept is None else kept
    return kept - g


def _affine(form: Affine, h: Affinity, z: Interval) -> Affinity:
    """See the module's docstring; rounding of all products is bounded by γ|W|(|c| + Σ|J| + ρ)."""
    kernel, weight = form.kernel, form.weight
    terms = kernel.terms(weight)
    share = (2 * terms + 16) * UNIT_ROUNDOFF
    center = kernel.apply(weight, h.center) + form.bias
    symbols = None if h.symbols is None else kernel.apply(weight, h.symbols)
    sizes = h.center.abs() + _spread(h.symbols, False, h.slack) + h.slack
    error = kernel.apply(weight.abs() * share + form.weight_error, sizes) * (1 + share)
    error = error + form.bias_error + share * (form.bias.abs() + center.abs()) + TINY
    slack, l2 = torch.zeros_like(center), 0.0
    if h.l2 > 0 and bool((h.slack > 0).any()):
        slack = kernel.apply(weight.abs(), h.slack) * (1 + share)
        lengths = kernel.apply(weight * weight, (h.slack > 0).to(torch.float64)).clamp_min(0).sqrt()
        slack = torch.minimum(slack, lengths * h.l2 * (1 + share) + 1e-140)
        l2 = operator_norm(form, tuple(h.slack.shape), h.slack > 0) * h.l2 * (1 + 1e-12)
    slack = slack + error
    return Affinity(center, symbols, slack, min(l2 + _norm(error), _norm(slack)), h.ball)


def _sum(signs: Sequence[float], sources: Sequence[Affinity], after: Interval) -> Affinity | None:
    """Centres, symbols and remainders add up; each addition is rounded once."""
    ball = any(h.ball for h in sources)
    center, slack = torch.zeros_like(after.low), torch.zeros_like(after.low)
    symbols: Tensor | None = None
    l2, size = 0.0, torch.zeros_like(after.low)
    for sign, h in zip(signs, sources, strict=True):
        center, slack = center + sign * h.center, slack + abs(sign) * h.slack
        size = size + abs(sign) * (h.center.abs() + _spread(h.symbols, False, h.slack))
        repeats = math.sqrt(after.low.numel() / max(1, h.center.numel()))
        l2 += abs(sign) * h.l2 * max(1.0, repeats) * (1 + 1e-12)
        if h.symbols is not None:
            more = (sign * h.symbols).expand(-1, *after.low.shape[1:])
            symbols = more if symbols is None else symbols + more
    error = size * (4 * len(signs) * UNIT_ROUNDOFF) + TINY
    slack = slack * (1 + 1e-12) + error
    return Affinity(center, symbols, slack, min(l2 + _norm(error), _norm(slack)), ball)


def _structural(form: Structural, sources: Sequence[Affinity]) -> Affinity:
    """Linear with weights ≥ 0; its norm is at most √(largest row sum · largest column sum)."""
    center = form.apply([h.center for h in sources])
    slack = form.linear([h.slack for h in sources])
    symbols: Tensor | None = None
    count = next((len(h.symbols) for h in sources if h.symbols is not None), 0)
    if count:
        filled = [
            torch.zeros((count, *h.center.shape[1:]), dtype=torch.float64) if h.symbols is None else h.symbols
            for h in sources
        ]
        symbols = torch.func.vmap(lambda *h: form.linear(list(h)))(*(s.unsqueeze(1) for s in filled)).squeeze(
            1
        )
    l2 = _structural_norm(form, sources) * math.sqrt(sum(h.l2**2 for h in sources)) * (1 + 1e-12)
    error = torch.zeros_like(slack)
    if form.terms:
        sizes = [h.center.abs() + _spread(h.symbols, False, h.slack) + h.slack for h in sources]
        error = form.linear(sizes) * ((2 * form.terms + 16) * UNIT_ROUNDOFF) + TINY
        slack = slack + error
    return Affinity(
        center, symbols, slack, min(l2 + _norm(error), _norm(slack)), any(h.ball for h in sources)
    )


def _structural_norm(form: Structural, sources: Sequence[Affinity]) -> float:
    with torch.enable_grad():
        ones = [torch.ones_like(h.center).requires_grad_() for h in sources]
        rows = form.linear(ones)
        columns = torch.autograd.grad(rows.sum(), ones, allow_unused=True)
    most = max((float(c.max()) for c in columns if c is not None), default=0.0)
    return math.sqrt(max(0.0, float(rows.detach().max()) * most)) * (1 + 1e-9)


def _elementwise(form: Elementwise, h: Affinity, z: Interval, after: Interval) -> Affinity | None:
    """Within parallel lines λz + [low, high]; without symbols also by how steep φ can be."""
    around = lines(form.curve, z)
    slope = around.high_slope
    low = torch.zeros_like(around.low) if is_relu(form.curve) else around.low
    middle, gap = (low + around.high) / 2, (around.high - low) / 2
    center = slope * h.center + middle
    symbols = None if h.symbols is None else slope * h.symbols
    size = slope.abs() * (h.center.abs() + _spread(h.symbols, False, h.slack)) + middle.abs() + gap
    error = gap + 8 * UNIT_ROUNDOFF * size + TINY
    error = torch.where((slope == 0) & (gap == 0), middle.abs() * 4 * UNIT_ROUNDOFF, error)
    slack = slope.abs() * h.slack * (1 + 4 * UNIT_ROUNDOFF) + error
    steep = float(slope.abs().max()) if slope.numel() else 0.0
    result = Affinity(center, symbols, slack, min(steep * h.l2 + _norm(error), _norm(slack)), h.ball)
    if h.symbols is None and not form.curve.jumps:
        steepest = float(form.curve.slopes(z).magnitude.max()) if slope.numel() else 0.0
        place = form.curve.function(h.center)
        reach = torch.maximum(after.high - place, place - after.low).clamp_min(0) * (1 + 1e-12)
        error = 4 * form.curve.error(h.center, place)
        reach, rounded = reach + error + TINY, _norm(error)
        l2 = min(steepest * h.l2 * (1 + 1e-12) + rounded, _norm(reach))
        inside = bool(((h.center >= z.low) & (h.center <= z.high)).all())
        if inside and l2 < result.l2:
            return Affinity(place, None, reach, l2, h.ball)
    return result


def _maximum(form: Maximum, h: Affinity, z: Interval) -> Affinity | None:
    """The winners' forms, moved up by half of what can be above them."""
    winners = Winners.of(form, z)
    if winners is None:
        return None
    center, half = winners.take(h.center), winners.slack / 2
    symbols = None if h.symbols is None else winners.take(h.symbols)
    error = half + 4 * UNIT_ROUNDOFF * (center.abs() + half)
    error = torch.where(half == 0, torch.zeros_like(error), error)
    slack = winners.take(h.slack) + error
    l2 = math.sqrt(winners.repeats(tuple(h.center.shape))) * h.l2 * (1 + 1e-12) + _norm(error)
    return Affinity(center + half, symbols, slack * (1 + 1e-15) + TINY, min(l2, _norm(slack)), h.ball)


def _product(sources: Sequence[Affinity], before: Sequence[Interval]) -> Affinity:
    """Ab = c_b a + c_a b − c_a c_b + (a − c_a)(b − c_b)."""
    a, b = sources
    center = a.center * b.center
    far_a, far_b = a.reach(), b.reach()
    symbols: Tensor | None = None
    for one, other in ((a, b), (b, a)):
        if one.symbols is not None:
            more = (other.center * one.symbols).expand(-1, *center.shape[1:])
            symbols = more if symbols is None else symbols + more
    size = (a.center.abs() + far_a) * (b.center.abs() + far_b)
    slack = far_a * far_b + b.center.abs() * a.slack + a.center.abs() * b.slack
    slack = slack * (1 + 1e-12) + size * 32 * UNIT_ROUNDOFF + TINY
    return Affinity(center, symbols, slack, _norm(slack), a.ball or b.ball)


__all__ = ["Affinity", "Forms", "start"]
