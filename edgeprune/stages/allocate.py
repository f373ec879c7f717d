"""Coupling, budget → widths: how many units each group keeps, on the target's channel grid."""

from __future__ import annotations

from edgeprune.graph.groups import Coupling
from edgeprune.widths.budget import Budget, Multiples, limit_of
from edgeprune.widths.costs import Costs, counted


def allocate(
    coupling: Coupling, budget: Budget, multiples: Multiples, costs: Costs | None = None
) -> dict[str, int]:
    """The number of units each group keeps.

    A share of units is applied to every group alike; a share of any other price is met by the
    largest such uniform share whose price fits.

    Args:
        costs: another price than the budget's kind counts; its limit is the budget's share of the whole.

    Raises:
        UsageError: the share is out of (0, 1], or no width meets the budget.
    """
    priced = costs or counted(coupling, budget.counted)
    if budget.kind == "keep":
        limit_of(budget, priced, {})
        return _widths(coupling, budget.share, multiples)
    limit = limit_of(budget, priced, _widths(coupling, 0.0, multiples))
    low, high = 0.0, 1.0
    if priced.price({}) <= limit:
        return _widths(coupling, 1.0, multiples)
    for _ in range(24):
        middle = (low + high) / 2
        if priced.price(_widths(coupling, middle, multiples)) <= limit:
            low = middle
        else:
            high = middle
    return _widths(coupling, low, multiples)


def _widths(coupling: Coupling, share: float, multiples: Multiples) -> dict[str, int]:
    return {group.name: rounded(group.size, share, multiples.multiple(group)) for group in coupling.groups}


def rounded(size: int, share: float, multiple: int) -> int:
    """The multiple nearest to share·size, at least one multiple and at most `size`.

    A group that is no wider than one multiple gains nothing from losing a part of it, so it
    stays whole unless the multiple is 1; and whoever asks for all of it gets all of it.
    """
    if share >= 1.0:
        return size
    if multiple <= 1:
        return min(size, max(1, round(share * size)))
    steps = max(1, round(share * size / multiple))
    return min(size, steps * multiple)
