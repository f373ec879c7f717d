"""A budget of time → widths: predicted from a table of layers, then corrected by measuring candidates whole.

Layers alone are quicker than layers in a net, which share its caches, so a predicted share p is not the
share m that is measured. The next candidate is asked for the share r · p/m, r being what was asked for,
until m is within `CLOSE` of r or `ROUNDS` candidates were measured. Of those that keep to the budget the
one that loses least is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import UsageError
from edgeprune.graph.groups import Coupling, Ints
from edgeprune.inputs.preparation import Line
from edgeprune.line.candidates import Bench, bench
from edgeprune.line.layer_costs import Placed, latency_costs, placed
from edgeprune.progress import Progress
from edgeprune.records.run import Latency
from edgeprune.stages.allocate import allocate
from edgeprune.stages.distribute import Answer, Curve, answers, grid
from edgeprune.stages.latency_table import CostTable, cost_table, slower
from edgeprune.target import Target
from edgeprune.widths.budget import Budget, Multiples
from edgeprune.widths.costs import Costs, Extents

logger = logging.getLogger(__name__)

ROUNDS = 5
"""Candidates that are measured, at most."""
CLOSE = 0.015
"""A measured ratio this near to the asked one, relatively, ends the search."""
KEPT = 0.02
"""How far beyond the asked ratio a candidate still counts as keeping to it."""
FREE = 0.002
"""A share of the net's time that is not worth narrowing a group for."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate that was measured; `answer.error` is 0 for uniform shares, where none is known."""

    answer: Answer
    predicted: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class Fitted:
    """Widths for a budget of time.

    Attributes:
        asked: the ratio that was asked for.
        chosen: of `tried`, what the widths are.
        target: whose time it is.
    """

    asked: float
    chosen: Tried
    tried: tuple[Tried, ...]
    costs: Costs
    target: Target
    option: str
    table: CostTable
    layers: tuple[Placed, ...]
    coupling: Coupling

    def warnings(self) -> tuple[str, ...]:
        """That the budget was missed, or that the smaller net is slower, and why."""
        found, told = self.chosen.latency, []
        if found.ratio > self.asked * (1 + KEPT):
            told.append(
                f"{self.option}: the quickest of {len(self.tried)} candidates takes {found.ratio:.3f} of the "
                f"original's time on {self.target.name}, {self.asked:.3f} was asked for; its layers are as "
                "narrow as the groups and the grid allow, or cost what does not get narrower."
            )
        if found.ratio_low > 1.0:
            told += [f"slower: {reason}" for reason in self._reasons()[:3]]
        return tuple(told)

    def _reasons(self) -> tuple[str, ...]:
        sizes = Extents.of(self.coupling).at
        before, after = sizes({}), sizes(self.chosen.answer.widths)
        return slower(
            self.table,
            [(one.layer, *one.widths(before)) for one in self.layers],
            [(one.layer, *one.widths(after)) for one in self.layers],
        )


def clock_of(line: Line, option: str) -> Target:
    """The target whose time the budget speaks of: the first one that can tell time.

    Raises:
        UsageError: none can.
    """
    for target in line.targets:
        if target.measure.latency:
            return target
    names = ", ".join(target.name for target in line.targets)
    raise UsageError(f"{option}: the times of {names} mean nothing; name a --target that can be timed.")


def fit(
    line: Line,
    coupling: Coupling,
    multiples: Multiples,
    found: Mapping[str, Curve] | None,
    progress: Progress,
) -> Fitted:
    """The widths that lose least within the settings' budget of time.

    Args:
        found: error curves; without them every group keeps the same share.

    Raises:
        TargetUnavailable: the target could not be timed.
        UsageError: no widths meet the budget.
    """
    kind, value = line.settings.budget
    option = f"--{kind.replace('_', '-')} {value:g}"
    target = clock_of(line, option)
    with bench(line, coupling, target, progress) as original:
        asked = 1 / value if kind == "speedup" else value / original.original_ms
        if asked > 1:
            raise UsageError(
                f"{option}: the original takes {original.original_ms:.3g} ms on {target.name} already; ask "
                "for less, or give another budget."
            )
        layers, seed = placed(coupling), line.settings.seed
        table = cost_table(
            [one.layer for one in layers], target, batch=line.batch, multiple=multiples.conv, seed=seed,
            work=original.work / "layers", progress=progress,
        )  # fmt: skip
        costs = latency_costs(coupling, table, original.original_ms)
        search = _Search(original, coupling, multiples, costs, found, asked, option)
        tried = search.tried()
    return Fitted(asked, best_of(tried, asked), tried, costs, target, option, table, layers, coupling)


def best_of(tried: tuple[Tried, ...], asked: float) -> Tried:
    """Of those that keep to the budget the one that loses least, else the quickest.

    Without error curves the one nearest to the budget, which is the widest.
    """
    inside = [one for one in tried if one.latency.ratio <= asked * (1 + KEPT)]
    if not inside:
        return min(tried, key=lambda one: one.latency.ratio)
    return min(inside, key=lambda one: (one.answer.error, -one.latency.ratio))


@dataclass(frozen=True, slots=True)
class _Search:
    bench: Bench
    coupling: Coupling
    multiples: Multiples
    costs: Costs
    found: Mapping[str, Curve] | None
    asked: float
    option: str

    def tried(self) -> tuple[Tried, ...]:
        """The candidates, in the order in which they were measured."""
        share, done = self.asked, list[Tried]()
        while len(done) < ROUNDS:
            new = [a for a in self._answers(share) if all(a.widths != one.answer.widths for one in done)]
            if not new:
                break
            done.append(self._measured(new[0], len(done)))
            last = done[-1]
            if abs(last.latency.ratio / self.asked - 1) <= CLOSE:
                done += [self._measured(other, len(done)) for other in new[1:]]
                break
            share = min(self.asked * last.predicted / last.latency.ratio, 1.0)
        return tuple(done)

    def _measured(self, answer: Answer, number: int) -> Tried:
        latency = self.bench.ratio(answer.widths, number)
        tried = Tried(answer, self.costs.share(answer.widths), latency)
        logger.info(
            "%s: %s widths predicted at %.3f, measured at %.3f (%.3f to %.3f)", self.option, answer.how,
            tried.predicted, latency.ratio, latency.ratio_low, latency.ratio_high,
        )  # fmt: skip
        return tried

    def _answers(self, share: float) -> tuple[Answer, ...]:
        """Widths for a share of the predicted time, the best first."""
        budget = Budget("latency", share, self.option)
        if self.found is None:
            widths = allocate(self.coupling, budget, self.multiples, self.costs)
            grids = {g.name: grid(g, self.multiples.multiple(g)) for g in self.coupling.groups}
            even = evenly_filled(self.costs, widths, grids, share * self.costs.price({}))
            made: tuple[Answer, ...] = (Answer(even, "uniform", 0.0),)
        else:
            made = answers(self.coupling, budget, self.multiples, self.found, self.costs)
        return tuple(Answer(whole_where_free(self.costs, a.widths), a.how, self._error(a)) for a in made)

    def _error(self, answer: Answer) -> float:
        if self.found is None:
            return 0.0
        widths = whole_where_free(self.costs, answer.widths)
        return sum(float(self.found[name].error[width]) for name, width in widths.items())


def evenly_filled(
    costs: Costs, widths: Mapping[str, int], grids: Mapping[str, Ints], limit: float
) -> dict[str, int]:
    """The widths, a step of the grid wider here and there: what an equal share for all left of the limit.

    Each time the group that keeps the least share of itself and still can is widened.
    """
    made, going = dict(widths), True
    while going:
        going = False
        for name in sorted(made, key=lambda name: made[name] / costs.whole[name]):
            step = int(np.searchsorted(grids[name], made[name])) + 1
            wider = {**made, name: int(grids[name][min(step, len(grids[name]) - 1)])}
            if wider != made and costs.price(wider) <= limit:
                made, going = wider, True
                break
    return made


def whole_where_free(costs: Costs, widths: Mapping[str, int]) -> dict[str, int]:
    """The widths, but that groups stay whole where that costs next to nothing; at most five times `FREE`."""
    made, start = dict(widths), costs.price(widths)
    for name, size in costs.whole.items():
        wider = {**made, name: size}
        if made.get(name, size) < size:
            price = costs.price(wider)
            if price <= costs.price(made) + FREE * start and price <= start * (1 + 5 * FREE):
                made = wider
    return made


def dense_groups(costs: Costs, widths: Mapping[str, int], least: Mapping[str, int]) -> dict[str, str]:
    """Groups that are whole though they could be narrower, where narrowing them gains nothing.

    Args:
        widths: of the plan.
        least: the narrowest width of each group.
    """
    here, reasons = costs.price(widths), {}
    for name, size in costs.whole.items():
        if widths.get(name, size) < size or least[name] >= size:
            continue
        gain = here - costs.price({**widths, name: least[name]})
        if gain <= FREE * here * max(1.0, size / max(least[name], 1)) / 2:
            reasons[name] = (
                f"{least[name]} units instead of {size} would save {max(gain, 0.0):.3g} of {here:.3g} "
                f"{costs.unit}"
            )
    return reasons
