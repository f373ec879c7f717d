"""Differential interval propagation: how far the pruned net can be from the original, on a whole domain.

Both nets are walked together. Every node carries three intervals: of f, the original's value, on the
full shape; of g, the pruned net's, on the shape that is left; and of Δ = f[kept] − g. The Δ of an
affine node with weights W, b in f and V, c in g, inputs h and kept and removed inputs S and R, is

    Δz = W_SS Δh + W_SR h_f[R] + (W_SS − V) h_g + (b_S − c),

exactly: what was removed enters through h_f[R], compensation through W_SS − V, and both nets may have
any widths. Each Δ is also met with f[kept] − g, so the result is never worse than two separate nets.

Everything is rounded outwards (see `edgeprune.functions.intervals`), so the bound is one on the real-valued
functions that the given weights define, whatever the rounding of this computation.

It costs about five forward passes and grows with depth; it is the cheap tier, and the source of the
intermediate bounds for better ones.

Source:
    Paulsen, Wang & Wang (2020), "ReluDiff: differential verification of deep neural networks", ICSE,
    for two nets of equal widths; widths and compensation are derived above.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.bounds.interval import affine, image, softmax, structural, times, total
from edgeprune.domains.sets import Domain, L2Ball, Shape
from edgeprune.errors import BrokenPromise, UnsupportedOperation, UsageError
from edgeprune.functions.forms import (
    Affine,
    Constant,
    Elementwise,
    Input,
    Kept,
    Maximum,
    Product,
    Softmax,
    Structural,
    Sum,
    Twin,
    restrict,
)
from edgeprune.functions.intervals import UNIT_ROUNDOFF, Interval, up


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """What a node can be in both nets.

    Attributes:
        f: the original's value, full shape, batch of one.
        g: the pruned net's value, the shape that is left.
        delta: f[kept] − g, the shape that is left.
        kept: which indices are left, axis by axis.
    """

    f: Interval
    g: Interval
    delta: Interval
    kept: Kept

    @property
    def f_kept(self) -> Interval:
        """The part of f that g has too."""
        return Interval(restrict(self.f.low, self.kept), restrict(self.f.high, self.kept))


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """A bound on |f(x) − g(x)| for every x of a domain.

    Attributes:
        linf: over all outputs; None where it is not finite.
        outputs: for each output of the model, elementwise bounds (without the batch axis).
    """

    linf: float | None
    outputs: tuple[Tensor, ...]


def enclose(
    domains: Sequence[Domain], shapes: Sequence[Shape], names: Sequence[str], batch: int = 1
) -> dict[str, Interval]:
    """Intervals of the model's inputs, with a batch in front: of one, but where the graph fixes it.

    Raises:
        UsageError: the numbers of domains, shapes and names differ.
    """
    if not len(domains) == len(shapes) == len(names):
        raise UsageError(f"{len(names)} inputs but {len(domains)} domains: give one domain for each input.")
    found = {}
    for domain, shape, name in zip(domains, shapes, names, strict=True):
        box = domain.bounds(shape)
        low, high = (end.expand(batch, *shape) for end in (box.low, box.high))
        l2 = math.inf
        if isinstance(domain, L2Ball) and batch == 1:
            # the box's computed centre is the ball's up to a rounding
            slack = 8 * UNIT_ROUNDOFF * float(torch.linalg.vector_norm(box.magnitude))
            l2 = domain.radius * (1 + 4 * UNIT_ROUNDOFF) + slack
        found[name] = Interval(low, high, l2)
    return found


def difference(twins: Sequence[Twin], inputs: Mapping[str, Interval], outputs: Sequence[str]) -> Difference:
    """Bound the difference of the two nets' outputs.

    Args:
        twins: every node after its sources.
        inputs: from `enclose`.
        outputs: names of the nodes that are the model's outputs.

    Raises:
        UnsupportedOperation: a node has a form without a rule, or was narrowed in a way that its
            form cannot be; an output was narrowed.
    """
    reached = propagate(fold(twins, frozenset(outputs)), inputs, frozenset(outputs))
    bounds = []
    for name in outputs:
        if any(index is not None for index in reached[name].kept):
            raise UnsupportedOperation(f"{name}: an output of the model was narrowed")
        bounds.append(up(reached[name].delta.magnitude).amax(0))
    worst = max((float(b.max()) for b in bounds if b.numel()), default=0.0)
    finite = all(bool(torch.isfinite(b).all()) for b in bounds)
    return Difference(worst if finite else None, tuple(bounds))


def fold(twins: Sequence[Twin], outputs: frozenset[str]) -> tuple[Twin, ...]:
    """Fold scalings (batch norm) into the layer that they alone read.

    What cancels between a layer and its compensated self then still cancels behind the scaling.
    """
    readers = Counter(source for twin in twins for source in twin.sources)
    result: dict[str, Twin] = {}
    for twin in twins:
        before = result.get(twin.sources[0]) if len(twin.sources) == 1 else None
        if before is not None and readers[before.name] == 1 and before.name not in outputs:
            merged = _merged(before, twin)
            if merged is not None:
                del result[before.name]
                twin = merged
        result[twin.name] = twin
    return tuple(result.values())


def _merged(before: Twin, twin: Twin) -> Twin | None:
    match before.f, before.g, twin.f, twin.g:
        case Affine() as f, Affine() as g, Affine() as f_scale, Affine() as g_scale:
            both = f.followed_by(f_scale), g.followed_by(g_scale)
        case _:
            return None
    if both[0] is None or both[1] is None or len(before.kept) != len(twin.kept):
        return None
    return Twin(twin.name, both[0], both[1], before.sources, twin.kept)


def propagate(
    twins: Sequence[Twin], inputs: Mapping[str, Interval], wanted: frozenset[str] | None = None
) -> dict[str, Reach]:
    """Walk both nets together.

    Args:
        twins: every node after its sources.
        inputs: intervals by the names that `Input` forms carry.
        wanted: nodes whose reach is returned; all where None. Others are forgotten once read.

    Raises:
        UnsupportedOperation: see `difference`; the message names the node.
    """
    readers = Counter(source for twin in twins for source in twin.sources)
    reached: dict[str, Reach] = {}
    for twin in twins:
        reached[twin.name] = visit(twin, [reached[name] for name in twin.sources], inputs)
        if wanted is None:
            continue
        for name in twin.sources:
            readers[name] -= 1
            if not readers[name] and name not in wanted:
                reached.pop(name, None)
    return reached


def visit(twin: Twin, sources: Sequence[Reach], inputs: Mapping[str, Interval]) -> Reach:
    """What a node can be, given what its sources can be.

    Raises:
        UnsupportedOperation: see `difference`; the message names the node.
    """
    try:
        return _visit(twin, sources, inputs)
    except UnsupportedOperation as reason:
        raise UnsupportedOperation(
            f"{twin.name}: {reason}; there is no deterministic bound for this model, "
            "the statistical ones still hold."
        ) from reason


def _visit(twin: Twin, sources: Sequence[Reach], inputs: Mapping[str, Interval]) -> Reach:
    f = image(twin.f, [h.f for h in sources], inputs)
    g = image(twin.g, [h.g for h in sources], inputs)
    apart = Reach(f, g, g, twin.kept).f_kept
    if apart.shape != g.shape:
        raise UnsupportedOperation(f"the pruned net's shape {g.shape} is not what is left, {apart.shape}")
    together = _delta(twin, sources, f, g, apart)
    return Reach(f, g, together.meet(apart - g), twin.kept)


def _delta(twin: Twin, sources: Sequence[Reach], f: Interval, g: Interval, kept: Interval) -> Interval:
    """Δ of a node by the rule of its form; `kept` is the part of f that g has too."""
    deltas = [h.delta for h in sources]
    match twin.f, twin.g:
        case Affine() as a, Affine() as b:
            return _affine(a, b, sources[0], twin.kept)
        case Sum(signs), Sum(other) if signs == other:
            return total([times(sign, d) for sign, d in zip(signs, deltas, strict=True)])
        case Structural() as a, Structural() as b:
            _check_commutes(a, b, sources, twin)
            return structural(Structural(b.linear, b.linear, b.terms), deltas)
        case Elementwise() as a, Elementwise() as b:
            return _elementwise(a, b, sources[0], twin.kept, kept - g)
        case Maximum() as a, Maximum() as b if a.least == b.least:
            # max aᵢ − max bᵢ lies between min (aᵢ − bᵢ) and max (aᵢ − bᵢ); the same for minima
            return Interval(-b.apply([-d.low for d in deltas]), b.apply([d.high for d in deltas]))
        case Product(), Product():
            return _product(sources)
        case Softmax() as a, Softmax() as b if a == b:
            return _softmax(a, sources[0])
        case Constant(), Constant():
            return kept - g
        case Input(), Input():
            return Interval.zero(g.shape)
        case _:
            raise UnsupportedOperation(
                f"no rule for the pair of forms {type(twin.f).__name__} and {type(twin.g).__name__}"
            )


def _affine(f: Affine, g: Affine, h: Reach, kept: Kept) -> Interval:
    """The recursion of the module's docstring; W_SR h_f[R] is W_S applied to h_f with h_f[S] at zero."""
    axis = f.kernel.mixed_axis(f.weight)
    survived = f.restricted(kept, h.kept)
    parts = [affine(survived.minus(g), h.g)]
    if not bool((h.delta.magnitude == 0).all()):
        parts.append(affine(survived.linear(), h.delta))
    left = None if axis is None else h.kept[axis]
    if axis is not None and left is not None:
        place = axis % len(h.kept)
        others: Kept = tuple(None if k == place else index for k, index in enumerate(h.kept))
        low, high = (restrict(end, others).index_fill(place, left, 0.0) for end in (h.f.low, h.f.high))
        parts.append(affine(f.restricted(kept, others).linear(), Interval(low, high)))
    return total(parts)


def _elementwise(f: Elementwise, g: Elementwise, h: Reach, kept: Kept, apart: Interval) -> Interval:
    """Δφ = s · Δh with s a slope of φ between the two values, if φ is the same in both nets."""
    survived = f.curve.restricted(lambda parameter: restrict(parameter, kept))
    if not survived.same_as(g.curve):
        return apart
    both = h.f_kept.hull(h.g)
    slopes = g.curve.slopes(both)
    result = slopes * h.delta
    if g.curve.jumps:
        return result.widen(g.curve.jump(both))
    # where both are on the same linear piece the product by 0 or by 1 is exact
    flat = (slopes.low == 0) & (slopes.high == 0)
    same = (slopes.low == 1) & (slopes.high == 1)
    low = torch.where(flat, 0.0, torch.where(same, h.delta.low, result.low))
    high = torch.where(flat, 0.0, torch.where(same, h.delta.high, result.high))
    return Interval(low, high)


def _product(sources: Sequence[Reach]) -> Interval:
    """Δ(ab) = a_f Δb + b_g Δa = a_g Δb + b_f Δa: the meet of both."""
    a, b = sources
    first = a.f_kept * b.delta + b.g * a.delta
    return first.meet(a.g * b.delta + b.f_kept * a.delta)


def _softmax(form: Softmax, h: Reach) -> Interval:
    """Mean value theorem on the segment between the two: Δpᵢ = pᵢ (Δhᵢ − Σ_j p_j Δh_j) for one p on it.

    The bracket is (1 − pᵢ)(Δhᵢ − an average of the other Δh), so it lies between
    (1 − pᵢ) min_j (Δhᵢ − Δh_j) and the maximum; both ends have the sign that includes zero. For
    the logarithm the factor pᵢ is absent.
    """
    spread = Interval(
        h.delta.low - h.delta.high.amax(form.axis, keepdim=True),
        h.delta.high - h.delta.low.amin(form.axis, keepdim=True),
    ).widen(2 * UNIT_ROUNDOFF * h.delta.magnitude.amax(form.axis, keepdim=True).expand(h.delta.low.shape))
    spread = Interval(spread.low.clamp(max=0), spread.high.clamp(min=0))
    p = softmax(Softmax(form.axis), h.f_kept.hull(h.g))
    weight = 1 - p.low if form.logarithm else _largest_spread(p)
    return spread * Interval(torch.zeros_like(weight), up(up(weight.clamp(0, 1))))


def _largest_spread(p: Interval) -> Tensor:
    """The largest p(1 − p), which is reached at the member nearest ½."""
    nearest = torch.minimum(torch.maximum(torch.full_like(p.low, 0.5), p.low), p.high)
    return nearest * (1 - nearest)


def _check_commutes(f: Structural, g: Structural, sources: Sequence[Reach], twin: Twin) -> None:
    """Moving and then keeping must be keeping and then moving; seen on one random tensor.

    Both sides are linear in the tensor, so they agree on a random one only if they are equal.

    Raises:
        BrokenPromise: they differ, so the kept indices of the node or of a source are wrong.
    """
    if all(index is None for h in sources for index in h.kept) and all(k is None for k in twin.kept):
        return
    generator = torch.Generator().manual_seed(0)
    draws = [torch.rand(h.f.shape, generator=generator, dtype=torch.float64) for h in sources]
    moved = restrict(f.linear(draws), twin.kept)
    narrowed = g.linear([restrict(x, h.kept) for x, h in zip(draws, sources, strict=True)])
    if moved.shape != narrowed.shape or not torch.allclose(moved, narrowed, rtol=1e-9, atol=1e-12):
        raise BrokenPromise(
            f"{twin.name}: what is left of the original's value is not what the pruned net computes; "
            "the pruned net is not the plan's."
        )
