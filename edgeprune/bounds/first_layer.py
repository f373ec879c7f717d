"""The end of a backward walk: what is left at the net's first activations, bounded by a quadratic form.

A walk that stops at the first hidden layer has made a linear function of any later node a sum
    Σᵢ aᵢ relu(pᵢ · x + bᵢ) + v · x + constant
of the net's input x, with the units of both nets side by side; those that are the same in both count once,
with a_f + a_g. Lines around every unit forget that units of opposite sign cancel;
`edgeprune.bounds.quadratic` sees it. Either way is a bound, so the lesser one counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edgeprune.bounds.backward import Backward, Tuning
from edgeprune.bounds.coefficients import Rows, dot, plus
from edgeprune.bounds.differential import Reach
from edgeprune.bounds.parabolas import Region, Units
from edgeprune.bounds.primal import Ascent
from edgeprune.bounds.quadratic import suprema
from edgeprune.bounds.relax import is_relu
from edgeprune.bounds.walk import Walk
from edgeprune.bounds.watch import Watch
from edgeprune.domains.sets import L2Ball
from edgeprune.functions.forms import Affine, Elementwise, Input, Structural, Twin
from edgeprune.functions.intervals import UNIT_ROUNDOFF, Interval
from edgeprune.functions.kernels import spread

LARGEST = 1024
"""Units that can be on both sides, beyond which a quadratic form takes too long."""

SAME = 1e-200
"""Units whose pre-activations differ by no more are one unit."""


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """The first layer of one net: its map, its pre-activations, and what its units count for.

    Attributes:
        noise: what one unit of coefficient on the map costs in rounding.
        inexact: what the pre-activations can be off by, as weights are.
    """

    form: Affine
    z: Interval
    a: Tensor
    noise: Tensor
    inexact: Tensor


class _Taken(NamedTuple):
    """Units that can be on both sides, what they count for, and the linear rest."""

    p: list[Tensor]
    bias: list[Tensor]
    z: list[Interval]
    a: list[Tensor]


class FirstLayer:
    """The first hidden layer of a pair of nets over a domain.

    Args:
        home: whose walks are ended here.
        ascent: how hard the quadratic certificate is looked for.
    """

    def __init__(self, home: Backward, source: str, readers: Mapping[str, str], ascent: Ascent) -> None:
        self.home = home
        self.source = source
        self.readers = readers
        self.ascent = ascent
        domain = home.domains.get(source)
        box = home.reached[source].f
        self.shape = box.shape
        if isinstance(domain, L2Ball):
            center = torch.as_tensor(domain.center, dtype=torch.float64).expand(self.shape[1:]).reshape(-1)
            self.region = Region(center.clone(), None, (center.clone(), domain.radius))
        else:
            self.region = Region(box.center.reshape(-1), box.radius.reshape(-1))

    @staticmethod
    def of(home: Backward, ascent: Ascent) -> FirstLayer | None:
        """The layer that reads the input through a single affine map; None where there is none."""
        twins = {twin.name: twin for twin in home.twins}
        source: str | None = None
        readers: dict[str, str] = {}
        for twin in home.twins:
            if not (isinstance(twin.f, Elementwise) and is_relu(twin.f.curve)):
                continue
            first = twins[twin.sources[0]]
            if not (isinstance(first.f, Affine) and isinstance(first.g, Affine)):
                continue
            if _is_input(first.sources[0], twins) and source in (None, first.sources[0]):
                source = first.sources[0]
                readers[twin.name] = first.name
        if source is None or source not in home.reached or home.reached[source].f.shape[0] != 1:
            return None
        return FirstLayer(home, source, readers, ascent)

    def cost(self, rows: int) -> float:
        """Multiplications that so many rows take, roughly; inf where there are too many units."""
        reached = self.home.reached
        n = sum(int(_unstable(reached[name].f).sum()) for name in self.readers.values() if name in reached)
        if not 0 < n <= LARGEST:
            return float("inf")
        inputs = len(self.region.center)
        return rows * ((n + 1.0) ** 2 * (inputs + 4 * n) + 20.0 * self.ascent.steps * n * inputs)

    def upper(
        self, name: str, rows: Rows, tuning: Mapping[str, Tuning] | None = None, watch: Watch | None = None
    ) -> Tensor:
        """Upper bounds of linear functions of a node; see `Backward.upper`."""
        n = len(next(a for a in (rows.f, rows.g, rows.delta) if a is not None))
        walk = Walk(self.home, tuning or {}, n, True)
        walk.pending[name] = rows
        for twin in reversed(self.home.twins[: self.home.place[name] + 1]):
            if twin.name == self.source or twin.name in self.readers:
                continue
            found = walk.pending.pop(twin.name, None)
            if found is not None:
                walk.visit(twin, found)
        linear, taken = self._gathered(walk, n)
        total = walk.constant + walk.error * (1 + 1e-9)
        if not taken.p:
            return torch.full((n,), torch.inf, dtype=torch.float64)
        units = Units.of(torch.cat(taken.p), torch.cat(taken.bias), self.region)
        low, high = (torch.cat([getattr(z, end) for z in taken.z]) for end in ("low", "high"))
        units = units.within(low, high)
        best = suprema(units, self.region, torch.cat(taken.a, 1), linear, self.ascent, watch)
        total = total + best + 4 * UNIT_ROUNDOFF * (total.abs() + best.abs())
        return torch.where(total.isnan(), torch.inf, total)

    def _gathered(self, walk: Walk, n: int) -> tuple[Tensor, _Taken]:
        """All that was left pending: linear in the source, or units of the first layer."""
        linear = torch.zeros((n, len(self.region.center)), dtype=torch.float64)
        at_source = walk.pending.pop(self.source, None)
        if at_source is not None:
            h = self.home.reached[self.source]
            linear = linear + _direct(walk, at_source, h, n).reshape(n, -1)
        taken = _Taken([], [], [], [])
        for relu, first in self.readers.items():
            rows = walk.pending.pop(relu, None)
            if rows is not None:
                for side in self._sides(walk, relu, first, rows):
                    linear = linear + self._add(walk, side, taken).reshape(n, -1)
        size = self.home.reached[self.source].f.magnitude.reshape(-1)
        walk.error = walk.error + (linear.abs() @ size) * (8 * (len(taken.p) + 2) * UNIT_ROUNDOFF)
        return linear, taken

    def _sides(self, walk: Walk, relu: str, first: str, rows: Rows) -> list[_Side]:
        """The units of f and of g; of f alone where they are the same."""
        twin = self.home.twins[self.home.place[first]]
        z, h = self.home.reached[first], self.home.reached[relu]
        assert isinstance(twin.f, Affine)
        assert isinstance(twin.g, Affine)
        x = self.home.reached[self.source].f.magnitude
        noise, other = self.home.noise_of(twin)
        n = len(next(a for a in (rows.f, rows.g, rows.delta) if a is not None))
        shape, left = (n, *h.f.shape[1:]), (n, *h.g.shape[1:])
        apart = torch.zeros(left, dtype=torch.float64) if rows.delta is None else rows.delta
        on_f = torch.zeros(shape, dtype=torch.float64) if rows.f is None else rows.f
        on_g = torch.zeros(left, dtype=torch.float64) if rows.g is None else rows.g
        walk.spend(on_f, h.f.magnitude * (4 * UNIT_ROUNDOFF))
        walk.spend(on_g, h.g.magnitude * (4 * UNIT_ROUNDOFF))
        walk.spend(apart, (h.f_kept.magnitude + h.g.magnitude) * (4 * UNIT_ROUNDOFF))
        if bool((z.delta.magnitude <= SAME).all()):
            walk.spend(apart.abs() + on_g.abs(), z.delta.magnitude * 2)
            merged = on_f + spread(on_g, h.kept, h.f.shape)
            return [_Side(twin.f, z.f, merged, noise, _inexact(twin.f, x, z.f))]
        on_f = on_f + spread(apart, h.kept, h.f.shape)
        return [
            _Side(twin.f, z.f, on_f, noise, _inexact(twin.f, x, z.f)),
            _Side(twin.g, z.g, on_g - apart, other, _inexact(twin.g, x, z.g)),
        ]

    def _add(self, walk: Walk, side: _Side, taken: _Taken) -> Tensor:
        """Units that can be on both sides are taken; the rest is linear in the source and returned."""
        kernel, weight = side.form.kernel, side.form.weight
        alive = side.a * (side.z.low >= 0)
        walk.add((alive, side.form.bias))
        walk.spend(alive, side.noise)
        index = _unstable(side.z).reshape(-1).nonzero().reshape(-1)
        if len(index):
            ones = torch.zeros((len(index), side.z.low.numel()), dtype=torch.float64)
            ones[torch.arange(len(index)), index] = 1.0
            ones = ones.reshape(-1, *side.z.shape[1:])
            taken.p.append(kernel.adjoint(weight, ones, self.shape).reshape(len(index), -1))
            taken.bias.append(side.form.bias.expand(side.z.shape).reshape(-1)[index])
            taken.z.append(Interval(side.z.low.reshape(-1)[index], side.z.high.reshape(-1)[index]))
            signed = side.a.reshape(len(side.a), -1)[:, index]
            taken.a.append(signed)
            walk.error = walk.error + signed.abs() @ side.inexact.expand(side.z.shape).reshape(-1)[index]
        return kernel.adjoint(weight, alive, self.shape)


def _direct(walk: Walk, rows: Rows, h: Reach, n: int) -> Tensor:
    """Coefficients on the source itself, where f = g but for its Δ."""
    walk.charge(rows, h.f.magnitude, h.g.magnitude, h.kept, 8 * UNIT_ROUNDOFF)
    if rows.delta is not None:
        walk.error = walk.error + dot(rows.delta.abs(), h.delta.magnitude)
    total = plus(rows.f, rows.g)
    if rows.g is not None:
        walk.error = walk.error + dot(rows.g.abs(), h.delta.magnitude)
    return torch.zeros((n, *h.f.shape[1:]), dtype=torch.float64) if total is None else total


def _inexact(form: Affine, x: Tensor, z: Interval) -> Tensor:
    by = form.kernel.apply(form.weight_error, x) * (1 + 1e-9) + form.bias_error
    return (by * (1 + 1e-9)).expand(z.shape)


def _unstable(z: Interval) -> Tensor:
    return (z.low < 0) & (z.high > 0)


def _is_input(name: str, twins: Mapping[str, Twin]) -> bool:
    """Whether a node is an input, or one whose elements were only moved."""
    twin = twins[name]
    if isinstance(twin.f, Input):
        return True
    moved = isinstance(twin.f, Structural) and not twin.f.terms and len(twin.sources) == 1
    return moved and _is_input(twin.sources[0], twins)


__all__: Sequence[str] = ["FirstLayer"]
