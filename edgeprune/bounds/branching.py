"""Branch and bound: a domain cut where units of a ReLU change sides, the worst part first.

Every input of a domain has a unit's pre-activation z ≥ 0 or z ≤ 0, so the largest of the bounds of both cases
is a bound for the domain. In each case the unit is linear, what can be beyond zero is forgotten in both nets
(Δ = z_f − z_g carries it from one to the other), and since s z ≥ 0 for the case's sign s any multiple β ≥ 0
of s z may be added to what is bounded above: that is where the case's own inputs are told from the others.

The part with the largest bound is always cut next. Where: the units whose lines are farthest apart, times
their coefficients, are tried on both sides without descent, and the one whose worse side is best is taken.

Source:
    Bunel et al. (2020), "Branch and bound for piecewise linear neural network verification"; De Palma et al.
    (2021), filtered smart branching; Wang et al. (2021), "Beta-CROWN", for the multipliers.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from edgeprune.bounds.backward import Backward, Rows, Sides, Tuning
from edgeprune.bounds.descent import descended, tunings_of
from edgeprune.bounds.differential import Reach
from edgeprune.bounds.relax import Lines, is_relu
from edgeprune.bounds.watch import Watch
from edgeprune.functions.forms import Elementwise, Twin
from edgeprune.functions.intervals import Interval
from edgeprune.functions.kernels import spread

AT_ONCE = 8
"""Parts that are cut together."""

TRIED = 4
"""Units of each part that are tried."""

STEPS = 10
"""Of descent for each new part."""

Ended = Callable[[str, Rows, Mapping[str, Tuning]], Tensor | None]
"""Another way to bound the same rows; None where there is none."""


@dataclass(frozen=True, slots=True)
class Cut:
    """One unit of one net on one side of zero.

    Attributes:
        activation: name of the ReLU.
        net: whose unit.
        unit: flat index.
        side: 1 where z ≥ 0, −1 where z ≤ 0.
        size: the unit's coefficient there, which its multiplier is measured in.
    """

    activation: str
    net: Literal["f", "g"]
    unit: int
    side: float
    size: float


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """What is known of one row where some units are on known sides; sorted with the largest bound first."""

    key: float
    row: int
    cuts: tuple[Cut, ...] = field(compare=False)

    @property
    def bound(self) -> float:
        """Nowhere in the part is the row's function larger."""
        return -self.key


class Branching:
    """Branch and bound for some functions of one node.

    Args:
        backward: whose walks bound the parts.
        name: of the node.
        rows: the functions.
        ended: see `Ended`.
    """

    def __init__(self, backward: Backward, name: str, rows: Rows, ended: Ended, watch: Watch) -> None:
        self.backward = backward
        self.name = name
        self.rows = rows
        self.ended = ended
        self.watch = watch
        self.roots: dict[int, dict[str, Tuning]] = {}

    def run(self, bounds: Tensor, most: int) -> Tensor:
        """Bounds (rows,) made smaller by up to `most` cuts, the row with the largest bound first."""
        parts = [Part(-float(bound), row, ()) for row, bound in enumerate(bounds)]
        heapq.heapify(parts)
        done = 0
        while parts and done < most and self.watch.left and parts[0].bound > 0:
            worst = [heapq.heappop(parts) for _ in range(min(AT_ONCE, most - done, len(parts)))]
            made, closed = self._cut(worst)
            done += len(worst)
            for part in (*made, *closed):
                heapq.heappush(parts, part)
            self.watch.tell(f"at most {parts[0].bound:.4g} after {done} of {most} cuts")
            if any(part.bound >= parts[0].bound for part in closed):
                break  # the worst part cannot be cut
        found = torch.full_like(bounds, -torch.inf)
        for part in parts:
            found[part.row] = max(float(found[part.row]), part.bound)
        return torch.minimum(bounds, found)

    def _cut(self, parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
        """Each part in two, and those that have no unit to cut."""
        places = [part.row for part in parts]
        rows = self._rows(places)
        tuning = self._tuned(parts)
        seen: dict[str, Rows] = {}
        with torch.no_grad():
            self.backward.upper(self.name, rows, tuning, rounded=False, seen=seen)
            options = self._options(tuning, seen, len(parts))
        tried = [(k, cut) for k, cuts in enumerate(options) for cut in cuts]
        closed = [part for part, cuts in zip(parts, options, strict=True) if not cuts]
        if not tried:
            return [], closed
        pairs = [
            replace(parts[k], cuts=(*parts[k].cuts, replace(cut, side=side)))
            for k, cut in tried
            for side in (1.0, -1.0)
        ]
        chosen = self._chosen([k for k, _ in tried], pairs)
        return self._bounded([pairs[2 * place + side] for place in chosen for side in (0, 1)]), closed

    def _chosen(self, owners: Sequence[int], pairs: Sequence[Part]) -> list[int]:
        """For each owner, the try whose worse side is best."""
        with torch.no_grad():
            rows = self._rows([part.row for part in pairs])
            values = self.backward.upper(self.name, rows, self._tuned(pairs), rounded=False).reshape(-1, 2)
        # the better side decides where the worse ones are alike
        score = (values.amax(1) + 0.1 * values.amin(1)).tolist()
        return [
            min((k for k, other in enumerate(owners) if other == owner), key=lambda k: score[k])
            for owner in sorted(set(owners))
        ]

    def _bounded(self, parts: Sequence[Part]) -> list[Part]:
        """The parts with bounds of their own, never above what they came with."""
        rows = self._rows([part.row for part in parts])
        found, tuning = descended(self.backward, self.name, rows, self._tuned(parts), STEPS, self.watch)
        other = self.ended(self.name, rows, tuning)
        best = found if other is None else torch.minimum(found, other)
        pairs = zip(parts, best.tolist(), strict=True)
        return [replace(part, key=max(part.key, -(math.inf if b != b else b))) for part, b in pairs]

    def _rows(self, places: Sequence[int]) -> Rows:
        index = torch.tensor(places)
        f, g, delta = (None if a is None else a[index] for a in (self.rows.f, self.rows.g, self.rows.delta))
        return Rows(f, g, delta)

    def _root(self, row: int) -> dict[str, Tuning]:
        """The free choices of a row on the whole domain."""
        if row not in self.roots:
            rows = self._rows([row])
            start = tunings_of(self.backward, self.name, 1)
            self.roots[row] = descended(self.backward, self.name, rows, start, 2 * STEPS, self.watch)[1]
        return self.roots[row]

    def _tuned(self, parts: Sequence[Part]) -> dict[str, Tuning]:
        """The rows' choices, and their branches."""
        roots = [self._root(part.row) for part in parts]
        found = {}
        for name in roots[0]:
            f, g, share = (
                torch.cat([getattr(root[name], which) for root in roots]) for which in ("f", "g", "share")
            )
            on_f, on_g = torch.zeros_like(f), torch.zeros_like(g)
            for row, part in enumerate(parts):
                for cut in part.cuts:
                    if cut.activation == name:
                        side = on_f if cut.net == "f" else on_g
                        side[row].view(-1)[cut.unit] = cut.side * cut.size
            sides = Sides(on_f, on_g, torch.zeros_like(f), torch.zeros_like(g))
            cut_here = bool((on_f != 0).any() | (on_g != 0).any())
            found[name] = Tuning(f, g, share, sides if cut_here else None)
        return found

    def _options(self, tuning: Mapping[str, Tuning], seen: Mapping[str, Rows], n: int) -> list[list[Cut]]:
        """Units to try for each row: those whose lines leave most room."""
        found: list[list[tuple[float, Cut]]] = [[] for _ in range(n)]
        for name, rows in seen.items():
            twin = self.backward.twins[self.backward.place[name]]
            if name not in tuning or not (isinstance(twin.f, Elementwise) and is_relu(twin.f.curve)):
                continue
            on_f, on_g, sizes_f, sizes_g = self._room(twin, tuning[name], rows, n)
            for net, room, sizes in (("f", on_f, sizes_f), ("g", on_g, sizes_g)):
                count = min(TRIED, room.shape[1])
                top = room.topk(count, dim=1)
                for row in range(n):
                    for value, unit in zip(top.values[row].tolist(), top.indices[row].tolist(), strict=True):
                        if value > 0:
                            size = float(sizes[row, unit]) or 1.0
                            cut = Cut(name, "f" if net == "f" else "g", unit, 1.0, size)
                            found[row].append((value, cut))
        return [[cut for _, cut in sorted(of, key=lambda o: -o[0])[:TRIED]] for of in found]

    def _room(self, twin: Twin, tuning: Tuning, rows: Rows, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How far apart lines are, times coefficients, of f's units and of g's; and the coefficients."""
        h: Reach = self.backward.reached[twin.sources[0]]
        if tuning.sides is not None:
            h = tuning.sides.within(h)
        around = self.backward.lines_of(twin, tuning)
        zero_f = torch.zeros((n, *h.f.shape[1:]), dtype=torch.float64)
        zero_g = torch.zeros((n, *h.g.shape[1:]), dtype=torch.float64)
        a_f, a_g = zero_f if rows.f is None else rows.f, zero_g if rows.g is None else rows.g
        a_d = zero_g if rows.delta is None else rows.delta
        on_f, on_g = _gap(a_f, around[0], h.f), _gap(a_g, around[1], h.g)
        if around[2] is not None:
            both = a_d.clamp_min(0) * around[2].high + a_d.clamp_max(0) * around[2].low
            on_g = on_g + both
            on_f = on_f + spread(both, h.kept, tuple(zero_f.shape))
        on_f, on_g = torch.where(_open(h.f), on_f, 0.0), torch.where(_open(h.g), on_g, 0.0)
        sizes = a_f.abs() + spread(a_d.abs(), h.kept, tuple(zero_f.shape)), a_g.abs() + a_d.abs()
        return on_f.flatten(1), on_g.flatten(1), sizes[0].flatten(1), sizes[1].flatten(1)


def _gap(a: Tensor, around: Lines, z: Interval) -> Tensor:
    """|a| times how far the line that is used can be from a ReLU."""
    below = torch.maximum(-around.low_slope * z.low, (1 - around.low_slope) * z.high)
    return a.clamp_min(0) * around.high - a.clamp_max(0) * below


def _open(z: Interval) -> Tensor:
    return (z.low < 0) & (z.high > 0)


__all__ = ["Branching"]
