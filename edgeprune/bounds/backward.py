"""Walking backwards from what is to be bounded to the inputs: linear bounds of two nets and their difference.

A linear function of a node, a_fᵀf + a_gᵀg + a_ΔᵀΔ with Δ = f[kept] − g, is rewritten node by node as one of
the node's sources that is nowhere smaller. At the inputs f = g = x and Δ = 0: what is left is (a_f + a_g)ᵀx
plus a constant, whose supremum over the domain is known.

Affine node, z_f = W h_f + b, z_g = V h_g + c, with S what is kept of h and R what is removed:
    a_f′ = Wᵀa_f ⊕_R (W_S·ᵀ a_Δ)_R,   a_Δ′ = W_SSᵀ a_Δ,   a_g′ = Vᵀ(a_g − a_Δ) + a_Δ′,
because Δz = W_SS Δh + W_SR h_f[R] + (W_SS − V) h_g + (b_S − c).

Gauge. As Δ = f[kept] − g, the coefficients (a_Δ + s, a_f − s, a_g + s) mean the same for any s. Before an
activation, with p = a_f + a_Δ and q = a_g − a_Δ (what f and g are really multiplied by), a_Δ becomes their
common opposite part, sign(p) min(|p|, |q|) where p q < 0; a share of it (θ in [0, 1]) is bounded as a
function of Δ, the rest through f and g. Affine steps commute with the gauge: it can be chosen late.

Rounding. Coefficients are computed in float64. A coefficient that is off by ε changes the function by
ε·|h| at most, and every step computes its coefficients with a relative error of γ (per product |a||W|).
So each step adds γ Σ |a| · (largest size of what it multiplies) to the constant: the errors never compound.

Source:
    Zhang et al. (2018), CROWN, for one net; the three blocks and the gauge are derived above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.bounds.differential import Reach
from edgeprune.bounds.relax import Lines, difference_lines, lines
from edgeprune.domains import Domain
from edgeprune.forms import (
    Affine,
    Constant,
    Elementwise,
    Input,
    Kept,
    Product,
    Structural,
    Sum,
    Twin,
    restrict,
)
from edgeprune.intervals import UNIT_ROUNDOFF, Interval
from edgeprune.kernels import folded, spread

Shape = tuple[int, ...]


Block = Tensor | None
"""Coefficients (rows, *shape) without the node's batch; None where all are zero."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Coefficients of linear functions of one node."""

    f: Block
    g: Block
    delta: Block

    def plus(self, other: Rows) -> Rows:
        """Both added."""
        return Rows(_plus(self.f, other.f), _plus(self.g, other.g), _plus(self.delta, other.delta))


@dataclass(frozen=True, slots=True, eq=False)
class Tuning:
    """Free choices at one activation; any values give a bound.

    Attributes:
        f: slopes of the lower lines of the original's ReLU, (rows or 1, *shape).
        g: the same in the pruned net.
        share: θ, how much of the common part is bounded as a function of Δ.
    """

    f: Tensor
    g: Tensor
    share: Tensor


class Backward:
    """Linear bounds of any node of a pair of nets over a domain.

    Args:
        twins: every node after its sources.
        reached: what each node can be; looked up when a bound is asked for, so it may still grow.
        domains: by the names that `Input` forms carry.
    """

    def __init__(
        self, twins: Sequence[Twin], reached: Mapping[str, Reach], domains: Mapping[str, Domain]
    ) -> None:
        self.twins = tuple(twins)
        self.place = {twin.name: k for k, twin in enumerate(self.twins)}
        self.reached = reached
        self.domains = domains
        self._lines: dict[str, tuple[Reach, tuple[Lines, Lines, Lines | None]]] = {}
        self._sizes: dict[str, tuple[Tensor, Tensor]] = {}

    def upper(
        self,
        name: str,
        rows: Rows,
        tuning: Mapping[str, Tuning] | None = None,
        *,
        rounded: bool = True,
    ) -> Tensor:
        """Upper bounds of linear functions of a node, over the whole domain.

        Args:
            tuning: by name of activation; what is not named is chosen here.
            rounded: add what the rounding of this computation can amount to. Only then is it a bound.

        Returns:
            (rows,) float64; inf where nothing is known.
        """
        first = next(a for a in (rows.f, rows.g, rows.delta) if a is not None)
        walk = _Walk(self, tuning or {}, len(first), rounded)
        walk.pending[name] = rows
        for twin in reversed(self.twins[: self.place[name] + 1]):
            found = walk.pending.pop(twin.name, None)
            if found is not None:
                walk.visit(twin, found)
        total = walk.constant + walk.error * (1 + 1e-9)
        return torch.where(total.isnan(), torch.inf, total)

    def lines_of(self, twin: Twin, tuning: Tuning | None) -> tuple[Lines, Lines, Lines | None]:
        """The lines around an activation of f, of g, and of their difference; None if φ differs."""
        assert isinstance(twin.f, Elementwise)
        assert isinstance(twin.g, Elementwise)
        h = self.reached[twin.sources[0]]
        known = self._lines.get(twin.name)
        if known is None or known[0] is not h:
            survived = twin.f.curve.restricted(lambda parameter: restrict(parameter, twin.kept))
            apart = None
            if survived.same_as(twin.g.curve):
                apart = difference_lines(twin.g.curve, h.f_kept, h.g, h.delta)
            known = h, (lines(twin.f.curve, h.f), lines(twin.g.curve, h.g), apart)
            self._lines[twin.name] = known
        if tuning is None:
            return known[1]
        return lines(twin.f.curve, h.f, tuning.f), lines(twin.g.curve, h.g, tuning.g), known[1][2]

    def noise_of(self, twin: Twin) -> tuple[Tensor, Tensor]:
        """What one unit of coefficient on an affine node costs in rounding, in f and in g."""
        known = self._sizes.get(twin.name)
        if known is None:
            assert isinstance(twin.f, Affine)
            assert isinstance(twin.g, Affine)
            h = self.reached[twin.sources[0]]
            known = _noise(twin.f, h.f.magnitude), _noise(twin.g, h.g.magnitude)
            self._sizes[twin.name] = known
        return known


def _noise(form: Affine, size: Tensor) -> Tensor:
    """Of a product Wᵀa, per |a|: γ(terms)(|W||h| + |b|), and what W and b themselves can be off by."""
    kernel, weight = form.kernel, form.weight
    heard = kernel.apply(weight.abs(), size) + form.bias.abs()
    columns = weight.numel() // max(1, weight.shape[1] if weight.dim() > 1 else 1)
    share = (2 * (kernel.terms(weight) + columns + heard.numel()) + 64) * UNIT_ROUNDOFF
    return heard * share + kernel.apply(1.001 * form.weight_error, size) + 1.001 * form.bias_error


class _Walk:
    """One walk: what is still to be visited, and what has become constant."""

    def __init__(self, home: Backward, tuning: Mapping[str, Tuning], rows: int, rounded: bool) -> None:
        self.home = home
        self.tuning = tuning
        self.rounded = rounded
        self.pending: dict[str, Rows] = {}
        self.constant = torch.zeros(rows, dtype=torch.float64)
        self.error = torch.zeros(rows, dtype=torch.float64)

    def visit(self, twin: Twin, rows: Rows) -> None:
        """Rewrite as functions of the node's sources."""
        reach = self.home.reached[twin.name]
        f_size, g_size = reach.f.magnitude, reach.g.magnitude
        self.charge(rows, f_size, g_size, twin.kept, _share(f_size.numel() + g_size.numel()))
        match twin.f, twin.g:
            case Affine() as f_map, Affine() as g_map:
                self._affine(twin, f_map, g_map, rows)
            case Sum(signs), Sum(others) if signs == others:
                self._sum(twin, signs, rows)
            case Structural() as f_map, Structural() as g_map:
                self._structural(twin, f_map, g_map, rows)
            case Elementwise(), Elementwise():
                self._elementwise(twin, rows)
            case Product(), Product():
                self._product(twin, rows)
            case Input(name), Input():
                total = _plus(rows.f, rows.g)
                if total is not None:
                    self.constant = self.constant + self.home.domains[name].support(total)
            case Constant(value), Constant(other):
                self.add((rows.f, value), (rows.g, other), (rows.delta, restrict(value, twin.kept) - other))
            case _:
                for a, h in ((rows.f, reach.f), (rows.g, reach.g), (rows.delta, reach.delta)):
                    if a is not None:
                        self.add((a.clamp_min(0), h.high), (a.clamp_max(0), h.low))

    def add(self, *products: tuple[Block, Tensor]) -> None:
        """Add Σ coefficients · values to the constant."""
        for a, values in products:
            if a is not None:
                self.constant = self.constant + _dot(a, values)

    def spend(self, a: Block, size: Tensor) -> None:
        """Add Σ |a| · size to the error."""
        if a is not None and self.rounded:
            with torch.no_grad():
                self.error = self.error + _dot(a.abs(), size)

    def charge(self, rows: Rows, f: Tensor, g: Tensor, kept: Kept, share: float = 1.0) -> None:
        """Add (|a_f| f + |a_g| g + |a_Δ| (f[kept] + g)) · share to the error."""
        self.spend(rows.f, f * share)
        self.spend(rows.g, g * share)
        if rows.delta is not None:
            self.spend(rows.delta, (restrict(f, kept) + g) * share)

    def send(self, name: str, rows: Rows) -> None:
        """Coefficients for a source, added to those that it has."""
        known = self.pending.get(name)
        if known is not None:
            h = self.home.reached[name]
            rows = known.plus(rows)
            self.charge(rows, h.f.magnitude, h.g.magnitude, h.kept, UNIT_ROUNDOFF)
        self.pending[name] = rows

    def _affine(self, twin: Twin, f: Affine, g: Affine, rows: Rows) -> None:
        h = self.home.reached[twin.sources[0]]
        if self.rounded:
            self.charge(rows, *self.home.noise_of(twin), twin.kept)
        self.add((rows.f, f.bias), (rows.g, g.bias), (rows.delta, restrict(f.bias, twin.kept) - g.bias))
        shape, left = tuple(h.f.shape), tuple(h.g.shape)
        on_f = None if rows.f is None else f.kernel.adjoint(f.weight, rows.f, shape)
        own = _plus(rows.g, None if rows.delta is None else -rows.delta)
        on_g = None if own is None else g.kernel.adjoint(g.weight, own, left)
        if rows.delta is None:
            self.send(twin.sources[0], Rows(on_f, on_g, None))
            return
        axis = f.kernel.mixed_axis(f.weight)
        index = None if axis is None else h.kept[axis]
        if axis is None or index is None:
            survived = f.restricted(twin.kept, h.kept)
            apart = survived.kernel.adjoint(survived.weight, rows.delta, left)
        else:
            place = axis % len(h.kept)
            others: Kept = tuple(None if k == place else kept for k, kept in enumerate(h.kept))
            survived = f.restricted(twin.kept, others)
            partly = tuple(size if k == place else left[k] for k, size in enumerate(shape))
            heard = survived.kernel.adjoint(survived.weight, rows.delta, partly)
            apart = heard.index_select(place, index)
            on_f = _plus(on_f, spread(heard.index_fill(place, index, 0.0), others, shape))
        self.send(twin.sources[0], Rows(on_f, _plus(on_g, apart), apart))

    def _sum(self, twin: Twin, signs: Sequence[float], rows: Rows) -> None:
        for sign, name in zip(signs, twin.sources, strict=True):
            h = self.home.reached[name]
            source = self.home.twins[self.home.place[name]]
            if isinstance(source.f, Constant) and isinstance(source.g, Constant):
                apart = restrict(source.f.value, source.kept) - source.g.value
                self.add(
                    (rows.f, sign * source.f.value),
                    (rows.g, sign * source.g.value),
                    (rows.delta, sign * apart),
                )
                continue
            f, g, delta = (
                None if a is None else folded(sign * a, x.shape)
                for a, x in ((rows.f, h.f), (rows.g, h.g), (rows.delta, h.g))
            )
            self.send(name, Rows(f, g, delta))

    def _structural(self, twin: Twin, f: Structural, g: Structural, rows: Rows) -> None:
        sources = [self.home.reached[name] for name in twin.sources]
        zeros = [torch.zeros(h.f.shape, dtype=torch.float64) for h in sources]
        small = [torch.zeros(h.g.shape, dtype=torch.float64) for h in sources]
        fixed, other = f.apply(zeros), g.apply(small)
        self.add((rows.f, fixed), (rows.g, other), (rows.delta, restrict(fixed, twin.kept) - other))
        if self.rounded and f.terms:
            sizes = f.linear([h.f.magnitude for h in sources]), g.linear([h.g.magnitude for h in sources])
            self.charge(rows, *sizes, twin.kept, _share(f.terms))
        pulled = zip(
            twin.sources,
            _pull(f.linear, zeros, rows.f),
            _pull(g.linear, small, rows.g),
            _pull(g.linear, small, rows.delta),
            strict=True,
        )
        for name, on_f, on_g, apart in pulled:
            self.send(name, Rows(on_f, on_g, apart))

    def _elementwise(self, twin: Twin, rows: Rows) -> None:
        tuning = self.tuning.get(twin.name)
        h = self.home.reached[twin.sources[0]]
        on_f, on_g, apart = self.home.lines_of(twin, tuning)
        if rows.delta is not None or (rows.f is not None and rows.g is not None):
            share: Tensor | float = 0.0
            if apart is not None:
                share = preferred_share(h, on_f, on_g, apart) if tuning is None else tuning.share
            rows = _gauged(rows, twin.kept, share, (tuple(h.f.shape), tuple(h.g.shape)))
        f, g = self._through(on_f, rows.f, h.f), self._through(on_g, rows.g, h.g)
        self.send(twin.sources[0], Rows(f, g, self._through(apart, rows.delta, h.delta)))

    def _through(self, around: Lines | None, a: Block, z: Interval) -> Block:
        """Positive coefficients go to the upper lines, negative ones to the lower."""
        if a is None or around is None:
            return None
        up, down = a.clamp_min(0), a.clamp_max(0)
        self.add((up, around.high), (down, around.low))
        self.spend(a, around.size(z.magnitude) * _share(z.low.numel()))
        return up * around.high_slope + down * around.low_slope

    def _product(self, twin: Twin, rows: Rows) -> None:
        """(a − m_a)(b − m_b) lies within ± r_a r_b, so ab is within that of m_b a + m_a b − m_a m_b.

        Δ(ab) = a_f Δb + b_g Δa, and each of these two is treated the same way.
        """
        a, b = (self.home.reached[name] for name in twin.sources)
        if rows.delta is not None or (rows.f is not None and rows.g is not None):
            reach = self.home.reached[twin.name]
            rows = _gauged(rows, twin.kept, 1.0, (tuple(reach.f.shape), tuple(reach.g.shape)))
        of_a, of_b = Rows(None, None, None), Rows(None, None, None)
        if rows.f is not None:
            self._bilinear(rows.f, a.f, b.f)
            of_a = of_a.plus(Rows(folded(rows.f * b.f.center, a.f.shape), None, None))
            of_b = of_b.plus(Rows(folded(rows.f * a.f.center, b.f.shape), None, None))
        if rows.g is not None:
            self._bilinear(rows.g, a.g, b.g)
            of_a = of_a.plus(Rows(None, folded(rows.g * b.g.center, a.g.shape), None))
            of_b = of_b.plus(Rows(None, folded(rows.g * a.g.center, b.g.shape), None))
        if rows.delta is not None:
            self._bilinear(rows.delta, a.f_kept, b.delta)
            self._bilinear(rows.delta, b.g, a.delta)
            on_f = spread(folded(rows.delta * b.delta.center, a.g.shape), a.kept, tuple(a.f.shape))
            of_a = of_a.plus(Rows(on_f, None, folded(rows.delta * b.g.center, a.g.shape)))
            on_g = folded(rows.delta * a.delta.center, b.g.shape)
            of_b = of_b.plus(Rows(None, on_g, folded(rows.delta * a.f_kept.center, b.g.shape)))
        self.send(twin.sources[0], of_a)
        self.send(twin.sources[1], of_b)

    def _bilinear(self, a: Tensor, x: Interval, y: Interval) -> None:
        reach, size = x.radius * y.radius, x.magnitude * y.magnitude
        self.add((a.abs(), reach), (a, -(x.center * y.center)))
        self.spend(a, size * (4 * _share(a[0].numel())))


def _share(terms: int) -> float:
    """Relative error of a dot product, with room for the few operations around it."""
    return (2 * terms + 64) * UNIT_ROUNDOFF


def _plus(a: Block, b: Block) -> Block:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _gauged(rows: Rows, kept: Kept, share: Tensor | float, shapes: tuple[Shape, Shape]) -> Rows:
    """Move the common opposite part of f and g, times `share`, into Δ; the rest back out of it."""
    n = next(len(a) for a in (rows.f, rows.g, rows.delta) if a is not None)
    f = torch.zeros((n, *shapes[0][1:]), dtype=torch.float64) if rows.f is None else rows.f
    g = torch.zeros((n, *shapes[1][1:]), dtype=torch.float64) if rows.g is None else rows.g
    delta = torch.zeros_like(g) if rows.delta is None else rows.delta
    on_kept = restrict(f, kept)
    p, q = on_kept + delta, g - delta
    common = torch.where(p * q < 0, p.sign() * torch.minimum(p.abs(), q.abs()), torch.zeros_like(p)) * share
    return Rows(f + spread(p - common - on_kept, kept, (1, *f.shape[1:])), q + common, common)


def preferred_share(h: Reach, f: Lines, g: Lines, apart: Lines) -> Tensor:
    """1 where the lines of the difference lie closer together in the middle than those of f and g."""

    def gap(around: Lines, middle: Tensor) -> Tensor:
        return (around.high_slope - around.low_slope) * middle + around.high - around.low

    of_f = restrict(gap(f, h.f.center), h.kept)
    return (gap(apart, h.delta.center) <= of_f + gap(g, h.g.center)).to(torch.float64)


def _dot(rows: Tensor, values: Tensor) -> Tensor:
    """Row by row Σ rows · values, where values (a batch of one in front, or broadcast) fit a row."""
    return rows.reshape(len(rows), -1) @ values.expand(1, *rows.shape[1:]).reshape(-1)


def _pull(
    linear: Callable[[Sequence[Tensor]], Tensor], zeros: Sequence[Tensor], rows: Block
) -> Sequence[Block]:
    """Coefficients of the sources: the transposed of a linear map, row by row."""
    if rows is None:
        return [None] * len(zeros)
    backward: Callable[[Tensor], tuple[Tensor, ...]] = torch.func.vjp(lambda *h: linear(list(h)), *zeros)[1]
    return [a.squeeze(1) for a in torch.func.vmap(backward)(rows.unsqueeze(1))]


def unit_rows(reach: Reach, which: str, index: Tensor, sign: float) -> Rows:
    """The functions `sign` · (an element of f, g or delta), one row for each flat index."""
    n, shape = len(index), (reach.f if which == "f" else reach.g).shape[1:]
    block = torch.zeros((n, math.prod(shape)), dtype=torch.float64)
    block[torch.arange(n), index] = sign
    rows = block.reshape(n, *shape)
    return Rows(
        rows if which == "f" else None, rows if which == "g" else None, rows if which == "delta" else None
    )
