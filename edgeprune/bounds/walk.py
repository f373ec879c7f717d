"""One walk back from what is bounded to the inputs; the mathematics is in `edgeprune.bounds.backward`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgeprune.bounds.coefficients import Block, Rows, dot, gauged, plus, pull, rounding_share
from edgeprune.bounds.peaks import Winners
from edgeprune.bounds.relax import Lines, preferred_share
from edgeprune.functions.forms import (
    Affine,
    Constant,
    Elementwise,
    Input,
    Kept,
    Maximum,
    Product,
    Structural,
    Sum,
    Twin,
    restrict,
)
from edgeprune.functions.intervals import UNIT_ROUNDOFF, Interval
from edgeprune.functions.kernels import folded, spread

if TYPE_CHECKING:
    from edgeprune.bounds.backward import Backward, Tuning


class Walk:
    """One walk: what is still to be visited, and what has become constant."""

    def __init__(
        self,
        home: Backward,
        tuning: Mapping[str, Tuning],
        rows: int,
        rounded: bool,
        seen: dict[str, Rows] | None = None,
    ) -> None:
        self.home = home
        self.tuning = tuning
        self.rounded = rounded
        self.seen = seen
        self.pending: dict[str, Rows] = {}
        self.constant = torch.zeros(rows, dtype=torch.float64)
        self.error = torch.zeros(rows, dtype=torch.float64)

    def visit(self, twin: Twin, rows: Rows) -> None:
        """Rewrite as functions of the node's sources."""
        reach = self.home.reached[twin.name]
        f_size, g_size = reach.f.magnitude, reach.g.magnitude
        self.charge(rows, f_size, g_size, twin.kept, rounding_share(f_size.numel() + g_size.numel()))
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
            case Maximum() as f_max, Maximum() as g_max if f_max.windows is not None and not f_max.least:
                self._maximum(twin, f_max, g_max, rows)
            case Input(name), Input():
                total = plus(rows.f, rows.g)
                if total is not None:
                    self.constant = self.constant + self.home.domains[name].support(total)
            case Constant(value), Constant(other):
                self.add((rows.f, value), (rows.g, other), (rows.delta, restrict(value, twin.kept) - other))
            case _:
                for a, z in ((rows.f, reach.f), (rows.g, reach.g), (rows.delta, reach.delta)):
                    if a is not None:
                        self._end(a, z)

    def _end(self, a: Tensor, value: Interval) -> None:
        """Coefficients meet the node's interval."""
        self.add((a.clamp_min(0), value.high), (a.clamp_max(0), value.low))

    def _maximum(self, twin: Twin, f: Maximum, g: Maximum, rows: Rows) -> None:
        """Winners are moved, and what can be above them is added; intervals where they are narrower."""
        h, z = self.home.reached[twin.sources[0]], self.home.reached[twin.name]
        if rows.delta is not None or (rows.f is not None and rows.g is not None):
            rows = gauged(rows, twin.kept, 1.0, (tuple(z.f.shape), tuple(z.g.shape)))
        of_f, of_g = Winners.of(f, h.f), Winners.of(g, h.g)
        common = Winners.of(g, h.g, None if of_f is None else _restricted(of_f, twin.kept))
        assert of_f is not None
        assert of_g is not None
        assert common is not None
        zero = torch.zeros_like(z.g.low)
        apart = common, -common.slack, restrict(of_f.slack, twin.kept)
        on_f = self._won(rows.f, (of_f, torch.zeros_like(z.f.low), of_f.slack), h.f, z.f)
        on_g = self._won(rows.g, (of_g, zero, of_g.slack), h.g, z.g)
        self.send(twin.sources[0], Rows(on_f, on_g, self._won(rows.delta, apart, h.delta, z.delta)))

    def _won(
        self, a: Block, around: tuple[Winners, Tensor, Tensor], before: Interval, after: Interval
    ) -> Block:
        if a is None:
            return None
        winners, below, above = around
        by_interval = above - below > after.high - after.low
        ended = torch.where(by_interval, a, torch.zeros_like(a))
        moved = a - ended
        self._end(ended, after)
        self.add((moved.clamp_min(0), above), (moved.clamp_max(0), below))
        zeros = torch.zeros((len(moved), *before.shape[1:]), dtype=torch.float64)
        (coefficients,) = torch.func.vjp(winners.take, zeros)[1](moved)
        return coefficients  # type: ignore[no-any-return]

    def add(self, *products: tuple[Block, Tensor]) -> None:
        """Add Σ coefficients · values to the constant."""
        for a, values in products:
            if a is not None:
                self.constant = self.constant + dot(a, values)

    def spend(self, a: Block, size: Tensor) -> None:
        """Add Σ |a| · size to the error."""
        if a is not None and self.rounded:
            with torch.no_grad():
                self.error = self.error + dot(a.abs(), size)

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
        own = plus(rows.g, None if rows.delta is None else -rows.delta)
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
            on_f = plus(on_f, spread(heard.index_fill(place, index, 0.0), others, shape))
        self.send(twin.sources[0], Rows(on_f, plus(on_g, apart), apart))

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
            self.charge(rows, *sizes, twin.kept, rounding_share(f.terms))
        pulled = zip(
            twin.sources,
            pull(f.linear, zeros, rows.f),
            pull(g.linear, small, rows.g),
            pull(g.linear, small, rows.delta),
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
            rows = gauged(rows, twin.kept, share, (tuple(h.f.shape), tuple(h.g.shape)))
        if self.seen is not None:
            self.seen[twin.name] = rows
        f, g = self._through(on_f, rows.f, h.f), self._through(on_g, rows.g, h.g)
        if tuning is not None and tuning.sides is not None:
            sides = tuning.sides
            f, g = plus(f, sides.f * sides.f_beta), plus(g, sides.g * sides.g_beta)
            self.charge(Rows(f, g, None), h.f.magnitude, h.g.magnitude, twin.kept, 4 * UNIT_ROUNDOFF)
        self.send(twin.sources[0], Rows(f, g, self._through(apart, rows.delta, h.delta)))

    def _through(self, around: Lines | None, a: Block, z: Interval) -> Block:
        """Positive coefficients go to the upper lines, negative ones to the lower."""
        if a is None or around is None:
            return None
        up, down = a.clamp_min(0), a.clamp_max(0)
        self.add((up, around.high), (down, around.low))
        self.spend(a, around.size(z.magnitude) * rounding_share(z.low.numel()))
        return up * around.high_slope + down * around.low_slope

    def _product(self, twin: Twin, rows: Rows) -> None:
        """(a − m_a)(b − m_b) lies within ± r_a r_b, so ab is within that of m_b a + m_a b − m_a m_b.

        Δ(ab) = a_f Δb + b_g Δa, and each of these two is treated the same way.
        """
        a, b = (self.home.reached[name] for name in twin.sources)
        if rows.delta is not None or (rows.f is not None and rows.g is not None):
            reach = self.home.reached[twin.name]
            rows = gauged(rows, twin.kept, 1.0, (tuple(reach.f.shape), tuple(reach.g.shape)))
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
        self.spend(a, size * (4 * rounding_share(a[0].numel())))


def _restricted(winners: Winners, kept: Kept) -> Winners:
    """Of what is left of the windows."""
    mask = restrict(winners.mask, (*kept, None))
    return Winners(winners.form, mask, restrict(winners.slack, kept))
