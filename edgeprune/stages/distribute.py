"""Error curves, budget → widths that differ from group to group: what is heard least goes first.

One elimination of a group gives the expected error of every width at once (`coresets.elimination`). With
err_g(m) of each group and a price of all widths together,

    minimise  Σ_g err_g(m_g)   subject to   price(m) ≤ budget,   m_g on the target's grid.

The price of a net is a sum of products of widths (a layer costs inputs × outputs), so groups cannot be
priced one by one. Two searches are made, and the answer that loses less is taken. *Greedy*: the Lagrangian
Σ err + λ price is minimised by turns, one group at a time and exactly over its whole grid, and λ is found by
bisection. *Programme*: an integer programme over a part of every grid (`edgeprune.widths.programme`). What
either leaves of the budget goes to the groups that gain most from it. Any price will do: units, parameters,
multiply-accumulates, bytes, or milliseconds from a table that was measured on a target
(`edgeprune.widths.costs`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from edgeprune.coresets import Hearing
from edgeprune.coresets.elimination import backward
from edgeprune.errors import CalibrationError
from edgeprune.graph.groups import Coupling, Group
from edgeprune.observation import Scene, gather
from edgeprune.observation.knowledge import Knowledge
from edgeprune.progress import Progress, silent
from edgeprune.widths.budget import Budget, Multiples, limit_of
from edgeprune.widths.costs import Costs, counted
from edgeprune.widths.programme import programmed

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

BISECTIONS = 30
TURNS = 3


@dataclass(frozen=True, slots=True)
class Curve:
    """A group's expected relative squared error by number of units kept.

    Attributes:
        error: (n + 1,) float64, 0 for all units; each step down is no fall.
    """

    group: str
    error: Floats


def curves(
    coupling: Coupling, knowledge: Knowledge, seed: int, progress: Progress = silent
) -> dict[str, Curve]:
    """The curve of every group, each in the otherwise whole net.

    Raises:
        CalibrationError: nothing is known of the inputs.
    """
    if not knowledge.anything:
        raise CalibrationError(
            "--allocation global needs second moments; give a calibration set, or --moments synthetic or "
            "none."
        )
    graph = coupling.graph
    whole = coupling.alive({})
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for group in progress(coupling.groups, "error curves", len(coupling.groups)):
        scene = Scene(graph, graph.weights, whole, knowledge, {}, generator)
        hearings = tuple(h for h in gather(scene, group).hearings if h.moment is not None)
        found[group.name] = Curve(group.name, _curve(hearings, group.size))
    return found


def _curve(hearings: tuple[Hearing, ...], size: int) -> Floats:
    """Monotone; a group that nothing is known of costs as if its error fell evenly."""
    if not hearings:
        return np.linspace(1.0, 0.0, size + 1)
    return monotone(backward(hearings).curve)


def monotone(error: Floats) -> Floats:
    """The same curve, where fewer units never err less."""
    return np.maximum.accumulate(error[::-1])[::-1]


@dataclass(frozen=True, slots=True)
class Answer:
    """Widths, and what they lose.

    Attributes:
        how: `greedy` or `programme`.
        error: the sum of the groups' expected relative squared errors.
    """

    widths: dict[str, int]
    how: str
    error: float


def distribute(
    coupling: Coupling,
    budget: Budget,
    multiples: Multiples,
    found: Mapping[str, Curve],
    costs: Costs | None = None,
    exact: bool = True,
) -> dict[str, int]:
    """The widths that lose least within the budget.

    Args:
        costs: another price than the budget's kind counts; its limit is the budget's share of the whole.
        exact: also try the integer programme, which may take seconds.

    Raises:
        UsageError: no width meets the budget.
    """
    return answers(coupling, budget, multiples, found, costs, exact)[0].widths


def answers(
    coupling: Coupling,
    budget: Budget,
    multiples: Multiples,
    found: Mapping[str, Curve],
    costs: Costs | None = None,
    exact: bool = True,
) -> tuple[Answer, ...]:
    """What each search found, all different, the least error first.

    Raises:
        UsageError: no width meets the budget.
    """
    priced = costs or counted(coupling, budget.counted)
    grids = {group.name: grid(group, multiples.multiple(group)) for group in coupling.groups}
    limit = limit_of(budget, priced, {name: int(widths[0]) for name, widths in grids.items()})
    errors = {name: found[name].error for name in grids}
    problem = _Problem(grids, errors, priced, limit)
    if priced.price({}) <= limit or not grids:
        return (Answer(dict(priced.whole), "greedy", 0.0),)
    greedy = problem.filled(problem.bisected())
    made = [problem.answer(greedy, "greedy")]
    widths = programmed(grids, errors, priced, limit, greedy) if exact else None
    if widths is not None and priced.price(widths) <= limit * (1 + 1e-9):
        made.append(problem.answer(problem.filled(widths), "programme"))
        logger.info("greedy loses %.4g, the integer programme %.4g", *(one.error for one in made))
    ordered = sorted(made, key=lambda one: one.error)
    return tuple(ordered[:1] if ordered[0].widths == ordered[-1].widths else ordered)


def front(
    coupling: Coupling,
    multiples: Multiples,
    found: Mapping[str, Curve],
    costs: Costs,
    shares: Sequence[float],
) -> tuple[tuple[float, float], ...]:
    """Error against price: (share of the whole price, error) where each of the shares can be met.

    Groups without a curve stay whole.
    """
    grids, errors, whole = {}, {}, costs.price({})
    for group in coupling.groups:
        known = group.name in found
        grids[group.name] = grid(group, multiples.multiple(group)) if known else np.array([group.size])
        errors[group.name] = found[group.name].error if known else np.zeros(group.size + 1)
    points = []
    for share in shares if grids else ():
        problem = _Problem(grids, errors, costs, share * whole)
        if costs.price(problem.least) <= problem.limit:
            answer = problem.answer(problem.filled(problem.bisected()), "greedy")
            points.append((costs.share(answer.widths), answer.error))
    return tuple(dict.fromkeys(points))


def grid(group: Group, multiple: int) -> npt.NDArray[np.int64]:
    """The widths a group may have, ascending; at least one multiple, and all of it."""
    if group.size <= multiple:
        return np.array([group.size])
    return np.unique(np.append(np.arange(multiple, group.size, multiple), group.size))


@dataclass(frozen=True, slots=True)
class _Problem:
    grids: Mapping[str, npt.NDArray[np.int64]]
    errors: Mapping[str, Floats]
    costs: Costs
    limit: float

    @property
    def least(self) -> dict[str, int]:
        """The narrowest widths."""
        return {name: int(widths[0]) for name, widths in self.grids.items()}

    def answer(self, widths: dict[str, int], how: str) -> Answer:
        """The widths with their error."""
        return Answer(widths, how, sum(float(self.errors[name][width]) for name, width in widths.items()))

    def bisected(self) -> dict[str, int]:
        """The best widths within the limit that any λ gives."""
        scale = self.costs.price({})
        low, high, best = 1e-9, 1e6, self.least
        start = dict(self.costs.whole)
        for _ in range(BISECTIONS):
            middle = float(np.sqrt(low * high))
            widths = self._by_turns(dict(start), middle / scale)
            if self.costs.price(widths) <= self.limit:
                high, best = middle, widths
            else:
                low = middle
                start = widths
            if high / low < 1.01:
                break
        return best

    def _by_turns(self, widths: dict[str, int], weight: float) -> dict[str, int]:
        for _ in range(TURNS):
            before = dict(widths)
            for name, grid in self.grids.items():
                total = self.errors[name][grid] + weight * self.costs.part(widths, name, grid)
                widths[name] = int(grid[int(np.argmin(total))])
            if widths == before:
                break
        return widths

    def filled(self, widths: dict[str, int]) -> dict[str, int]:
        """Spend what the budget leaves, on the step that gains most for its price."""
        while True:
            here, best, chosen = self.costs.price(widths), 0.0, None
            for name, grid in self.grids.items():
                k = int(np.searchsorted(grid, widths[name]))
                if k + 1 == len(grid):
                    continue
                wider = {**widths, name: int(grid[k + 1])}
                there = self.costs.price(wider)
                gain = self.errors[name][grid[k]] - self.errors[name][grid[k + 1]]
                if there <= self.limit and (worth := gain / max(there - here, 1e-12)) >= best:
                    best, chosen = float(worth), wider
            if chosen is None:
                return widths
            widths = chosen
