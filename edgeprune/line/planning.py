"""Settings → widths → plan: how many units each group keeps, and which."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgeprune.certificates.worst_case import weighed_again
from edgeprune.config import Settings
from edgeprune.errors import UsageError
from edgeprune.graph.families import emphasised
from edgeprune.graph.groups import Coupling
from edgeprune.inputs.preparation import Line
from edgeprune.line.latency_budget import Fitted, dense_groups, fit
from edgeprune.observation.knowledge import know
from edgeprune.plan import Plan
from edgeprune.profiles import Target
from edgeprune.progress import Progress
from edgeprune.records.allocation import AllocationRecord, GroupPrices, WidthsTried
from edgeprune.stages.allocate import allocate
from edgeprune.stages.choose import Manner, choose
from edgeprune.stages.couple import couple
from edgeprune.stages.distribute import Answer, Curve, answers, curves, distribute, front, grid, monotone
from edgeprune.stages.radii import radii
from edgeprune.stages.trace import trace
from edgeprune.widths.budget import Budget, Multiples
from edgeprune.widths.costs import Costs, Piece, counted
from edgeprune.widths.left_whole import left_whole
from edgeprune.widths.pricing import Prices


def coupled(line: Line, progress: Progress) -> Coupling:
    """Trace the model, once, and find its groups."""
    for _ in progress(range(1), "tracing the model", 1):
        graph = trace(line.loaded.module, line.inputs)
    settings = line.settings
    return couple(
        graph,
        settings.exclude,
        allow_norm_axes=settings.allow_norm_axes,
        limit_s=settings.couple_limit_s,
        progress=progress,
    )


FRONT = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the price for which the least error is recorded."""
MANY = 50
"""Groups from which on only some of these shares are looked at for a front that nobody asked for."""
TOLD = 33
"""Widths of a group whose price is recorded, at most."""


@dataclass(frozen=True, slots=True)
class Allotment:
    """How many units each group keeps, how that came about, and what the user should know of it."""

    widths: dict[str, int]
    record: AllocationRecord
    costs: Costs
    multiples: Multiples
    warnings: tuple[str, ...] = ()

    def informed(self, coupling: Coupling, plan: Plan) -> Allotment:
        """The same, with the errors that the choice of units came by where the allocation looked at none.

        A group's curve is that of the net which was pruned below it; a group that was left whole without
        one stays whole on the front.
        """
        if self.record.front:
            return self
        known = {name: one.curve for name, one in plan.selections.items() if one.curve is not None}
        if len(known) < len(plan.selections) or not known:
            return self
        found = {name: Curve(name, monotone(error)) for name, error in known.items()}
        told = tuple(_told(one, self.widths, found) for one in self.record.candidates)
        shares = FRONT if len(coupling.groups) <= MANY else FRONT[::3]
        line = front(coupling, self.multiples, found, self.costs, shares)
        return replace(self, record=replace(self.record, candidates=told, front=line))


def _told(one: WidthsTried, widths: Mapping[str, int], found: Mapping[str, Curve]) -> WidthsTried:
    """What was chosen, with the sum of the groups' errors."""
    error = sum(float(curve.error[widths[name]]) for name, curve in found.items())
    return replace(one, error=error) if one.chosen else one


def allotted(line: Line, coupling: Coupling, progress: Progress) -> Allotment:
    """How many units each group keeps: the same share everywhere, or less where less is lost."""
    multiples = multiples_of(line.settings, line.targets)
    settings = line.settings
    found: dict[str, Curve] | None = None
    if settings.allocation == "global":
        knowledge = know(
            coupling, settings.moments, line.fit, settings.seed, bounds=line.bounds, progress=progress
        )
        found = _weighed(coupling, settings, curves(coupling, knowledge, settings.seed, progress))
    kind, value = settings.budget
    if kind == "speedup" or kind == "latency_ms":
        fitted = fit(line, coupling, multiples, found, progress)
        record = _timed_record(fitted, coupling, multiples, found, settings)
        return Allotment(fitted.chosen.answer.widths, record, fitted.costs, multiples, fitted.warnings())
    budget = Budget(kind, value)
    costs = counted(coupling, kind) if settings.price_mix is None else _mixed(coupling, settings.price_mix)
    if found is None:
        made: tuple[Answer, ...] = (Answer(allocate(coupling, budget, multiples, costs), "uniform", 0.0),)
    else:
        made = answers(coupling, budget, multiples, found, costs)
    candidates = tuple(
        WidthsTried(
            one.how, costs.share(one.widths), None if found is None else one.error, chosen=one is made[0]
        )
        for one in made
    )
    record = AllocationRecord(
        budget.option, costs.unit, value, candidates[0].predicted, costs.price({}), None, candidates,
        _front(coupling, multiples, found, costs),
        left_whole(coupling, made[0].widths, multiples, settings, {}),
        _prices(coupling, multiples, found, costs),
    )  # fmt: skip
    return Allotment(made[0].widths, record, costs, multiples)


def _timed_record(
    fitted: Fitted,
    coupling: Coupling,
    multiples: Multiples,
    found: dict[str, Curve] | None,
    settings: Settings,
) -> AllocationRecord:
    """What was measured on the way to a budget of time."""
    candidates = tuple(
        WidthsTried(
            one.answer.how,
            one.predicted,
            None if found is None else one.answer.error,
            (one.latency.ratio, one.latency.ratio_low, one.latency.ratio_high),
            one is fitted.chosen,
        )
        for one in fitted.tried
    )
    least = {group.name: int(grid(group, multiples.multiple(group))[0]) for group in coupling.groups}
    widths = fitted.chosen.answer.widths
    dense = left_whole(coupling, widths, multiples, settings, dense_groups(fitted.costs, widths, least))
    return AllocationRecord(
        fitted.option, "ms", fitted.asked, fitted.chosen.latency.ratio, fitted.costs.price({}),
        fitted.target.name, candidates, _front(coupling, multiples, found, fitted.costs),
        dense, _prices(coupling, multiples, found, fitted.costs),
    )  # fmt: skip


def _front(
    coupling: Coupling, multiples: Multiples, found: dict[str, Curve] | None, costs: Costs
) -> tuple[tuple[float, float], ...]:
    return () if found is None else front(coupling, multiples, found, costs, FRONT)


def _prices(
    coupling: Coupling, multiples: Multiples, found: dict[str, Curve] | None, costs: Costs
) -> tuple[GroupPrices, ...]:
    """The price of every group's widths, the other groups whole."""
    rows = []
    for group in coupling.groups:
        widths = grid(group, multiples.multiple(group))
        if len(widths) > TOLD:
            widths = widths[np.unique(np.round(np.linspace(0, len(widths) - 1, TOLD)).astype(np.int64))]
        errors = () if found is None else tuple(float(e) for e in found[group.name].error[widths])
        prices = costs.along({}, group.name, widths)
        rows.append(GroupPrices(group.name, tuple(widths.tolist()), tuple(prices.tolist()), errors))
    return tuple(rows)


def spread(
    coupling: Coupling,
    settings: Settings,
    multiples: Multiples,
    found: Mapping[str, Curve],
    prices: Prices | None = None,
) -> dict[str, int]:
    """The widths of a global allocation, with families weighed and prices mixed as the settings say.

    Args:
        found: the error curve of each group.
        prices: of this net, where they are known already.
    """
    weighed = _weighed(coupling, settings, found)
    costs = None if settings.price_mix is None else _mixed(coupling, settings.price_mix, prices)
    return distribute(coupling, counted_budget(settings), multiples, weighed, costs, exact=prices is None)


def counted_budget(settings: Settings) -> Budget:
    """The budget of what can be counted without running anything.

    Raises:
        UsageError: the settings ask for a time.
    """
    kind, value = settings.budget
    if kind == "speedup" or kind == "latency_ms":
        raise UsageError(f"--{kind.replace('_', '-')}: a budget of time is for `run`; leave it out.")
    return Budget(kind, value)


def _weighed(coupling: Coupling, settings: Settings, found: Mapping[str, Curve]) -> dict[str, Curve]:
    """The curves with families weighed as the settings say."""
    errors = emphasised(coupling, {name: curve.error for name, curve in found.items()}, settings.emphasis)
    return {name: Curve(name, error) for name, error in errors.items()}


def _mixed(coupling: Coupling, share: float, prices: Prices | None = None) -> Costs:
    """The mix of two counted prices, as one piece on all groups."""
    price = (prices or Prices.of(coupling)).mixed(share)
    whole = {group.name: group.size for group in coupling.groups}
    names = tuple(whole)
    piece = Piece(names, lambda widths: price(dict(zip(names, widths, strict=True))))
    return Costs("mix", "of the whole", whole, 0.0, (piece,))


def multiples_of(settings: Settings, targets: Sequence[Target]) -> Multiples:
    """The least common multiples of what the targets compute well."""
    if settings.multiple is not None:
        return Multiples(settings.multiple, settings.multiple)
    return Multiples(
        math.lcm(*(t.conv_multiple() for t in targets)), math.lcm(*(t.grid.units for t in targets))
    )


def planned(line: Line, coupling: Coupling, widths: Mapping[str, int], progress: Progress) -> Plan:
    """The plan that the settings and the samples give for these widths."""
    settings = line.settings
    plan = choose(
        coupling,
        widths,
        settings.method,
        line.fit,
        seed=settings.seed,
        radii=radii(coupling, line.everywhere, line.inputs),
        manner=Manner(settings.moments, settings.direction, settings.recalibrate, line.bounds),
        labels=None if line.fit_labels is None else torch.from_numpy(line.fit_labels[: settings.samples]),
        progress=progress,
    )
    if not settings.minimax_lambda:
        return plan
    return weighed_again(coupling, plan, line.fit, line.everywhere, settings.minimax_lambda, progress)
