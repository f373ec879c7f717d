"""Coupling, budget → widths: how many units each group keeps, on the target's channel grid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeprune.budget import Budget, Multiples, cost
from edgeprune.errors import UsageError
from edgeprune.graph import Coupling


def allocate(coupling: Coupling, budget: Budget, multiples: Multiples) -> dict[str, int]:
    """The number of units each group keeps.

    A share of units is applied to every group alike; a share of parameters or
    multiply-accumulates is met by the largest such uniform share whose cost fits.

    Raises:
        UsageError: the share is out of (0, 1], or no width meets the budget.
    """
    if not 0.0 < budget.share <= 1.0:
        raise UsageError(f"--{budget.kind} {budget.share:g}: a share must be above 0 and at most 1.")
    if budget.kind == "keep":
        return _widths(coupling, budget.share, multiples)
    whole = getattr(cost(coupling, {}), budget.kind)
    low, high = 0.0, 1.0
    if not _fits(coupling, _widths(coupling, 0.0, multiples), budget, whole):
        least = _share(coupling, _widths(coupling, 0.0, multiples), budget, whole)
        raise UsageError(
            f"--{budget.kind} {budget.share:g}: the smallest net that the groups and the grid allow still "
            f"takes {least:.3f} of the original; ask for more, or see `edgeprune inspect` for what is pinned."
        )
    if _fits(coupling, _widths(coupling, 1.0, multiples), budget, whole):
        return _widths(coupling, 1.0, multiples)
    for _ in range(24):
        middle = (low + high) / 2
        if _fits(coupling, _widths(coupling, middle, multiples), budget, whole):
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


def _share(coupling: Coupling, widths: Mapping[str, int], budget: Budget, whole: int) -> float:
    keep = {name: np.arange(width) for name, width in widths.items()}
    left: int = getattr(cost(coupling, keep), budget.kind)
    return left / whole if whole else 1.0


def _fits(coupling: Coupling, widths: Mapping[str, int], budget: Budget, whole: int) -> bool:
    return _share(coupling, widths, budget, whole) <= budget.share
