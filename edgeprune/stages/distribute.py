"""Error curves, budget → widths that differ from group to group: what is heard least goes first.

One elimination of a group gives the expected error of every width at once (`coresets.elimination`). With
err_g(m) of each group and a price of all widths together,

    minimise  Σ_g err_g(m_g)   subject to   price(m) ≤ budget,   m_g on the target's grid.

The price of a net is a sum of products of widths (a layer costs inputs × outputs), so groups cannot be
priced one by one. The Lagrangian Σ err + λ price is minimised by turns, one group at a time and exactly
over its whole grid, and λ is found by bisection; what the budget still leaves then goes to the groups that
gain most from it. Any price will do: parameters and multiply-accumulates are counted here, a table of
measured latencies plugs in as another `Price`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from edgeprune.budget import Budget, Multiples, cost
from edgeprune.coresets import Hearing
from edgeprune.coresets.elimination import backward
from edgeprune.errors import CalibrationError, UsageError
from edgeprune.graph import Coupling, Group
from edgeprune.observation import Scene, gather
from edgeprune.observation.knowledge import Knowledge
from edgeprune.progress import Progress, silent

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

Price = Callable[[Mapping[str, int]], float]
"""What a net of these widths costs, by group; groups that are not named are whole."""

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
    return np.maximum.accumulate(backward(hearings).curve[::-1])[::-1]


def counted(coupling: Coupling, kind: str) -> Price:
    """The price in parameters or multiply-accumulates, or in units (`keep`)."""
    sizes = {group.name: group.size for group in coupling.groups}
    if kind == "keep":
        return lambda widths: float(sum({**sizes, **widths}.values()))

    def price(widths: Mapping[str, int]) -> float:
        return float(
            getattr(cost(coupling, {name: np.arange(width) for name, width in widths.items()}), kind)
        )

    return price


def distribute(
    coupling: Coupling,
    budget: Budget,
    multiples: Multiples,
    found: Mapping[str, Curve],
    price: Price | None = None,
    polynomial: bool = False,
) -> dict[str, int]:
    """The widths that lose least within the budget.

    Args:
        price: another price than the budget's kind counts; its limit is the budget's share of the whole.
        polynomial: whether that price is of degree two in any one width, as counts are.

    Raises:
        UsageError: no width meets the budget.
    """
    if not 0.0 < budget.share <= 1.0:
        raise UsageError(f"--{budget.kind} {budget.share:g}: a share must be above 0 and at most 1.")
    priced = price or counted(coupling, budget.kind)
    exact = price is None or polynomial
    grids = {group.name: grid(group, multiples.multiple(group)) for group in coupling.groups}
    whole = {group.name: group.size for group in coupling.groups}
    limit = budget.share * priced(whole)
    least = {name: int(widths[0]) for name, widths in grids.items()}
    if priced(least) > limit * (1 + 1e-12):
        raise UsageError(
            f"--{budget.kind} {budget.share:g}: the smallest net that the groups and the grid allow "
            f"still takes {priced(least) / priced(whole):.3f} of the original; ask for "
            "more, or see `edgeprune inspect`."
        )
    if priced(whole) <= limit or not grids:
        return whole
    problem = _Problem(grids, {name: curve.error for name, curve in found.items()}, priced, exact, limit)
    return problem.filled(problem.bisected(whole, least))


def grid(group: Group, multiple: int) -> npt.NDArray[np.int64]:
    """The widths a group may have, ascending; at least one multiple, and all of it."""
    if group.size <= multiple:
        return np.array([group.size])
    return np.unique(np.append(np.arange(multiple, group.size, multiple), group.size))


@dataclass(frozen=True, slots=True)
class _Problem:
    grids: Mapping[str, npt.NDArray[np.int64]]
    errors: Mapping[str, Floats]
    price: Price
    polynomial: bool
    limit: float

    def bisected(self, whole: dict[str, int], least: dict[str, int]) -> dict[str, int]:
        """The best widths within the limit that any λ gives."""
        scale = self.price(whole)
        low, high, best = 1e-9, 1e6, least
        start = dict(whole)
        for _ in range(BISECTIONS):
            middle = float(np.sqrt(low * high))
            widths = self._by_turns(dict(start), middle / scale)
            if self.price(widths) <= self.limit:
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
                total = self.errors[name][grid] + weight * self._along(widths, name)
                widths[name] = int(grid[int(np.argmin(total))])
            if widths == before:
                break
        return widths

    def _along(self, widths: Mapping[str, int], name: str) -> Floats:
        """The price at each width of one group, the others as they are.

        A count is a polynomial of degree two in any one width (a layer inside a residual stream reads and
        makes the same group): three evaluations tell it all.
        """
        grid = self.grids[name]
        if not self.polynomial or len(grid) <= 3:
            return np.array([self.price({**widths, name: int(width)}) for width in grid])
        known = np.array([grid[0], grid[len(grid) // 2], grid[-1]])
        values = [self.price({**widths, name: int(width)}) for width in known]
        return np.asarray(np.polyval(np.polyfit(known.astype(np.float64), values, 2), grid))

    def filled(self, widths: dict[str, int]) -> dict[str, int]:
        """Spend what the budget leaves, on the step that gains most for its price."""
        while True:
            here, best, chosen = self.price(widths), 0.0, None
            for name, grid in self.grids.items():
                k = int(np.searchsorted(grid, widths[name]))
                if k + 1 == len(grid):
                    continue
                wider = {**widths, name: int(grid[k + 1])}
                there = self.price(wider)
                gain = self.errors[name][grid[k]] - self.errors[name][grid[k + 1]]
                if there <= self.limit and (worth := gain / max(there - here, 1e-12)) >= best:
                    best, chosen = float(worth), wider
            if chosen is None:
                return widths
            widths = chosen
