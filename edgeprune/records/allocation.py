"""How a budget became widths, as it stands in `run.json`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WidthsTried:
    """Widths that were looked at for a budget.

    Attributes:
        how: `uniform`, `greedy` or `programme`.
        predicted: their price, as a share of the whole net's.
        error: the sum of the groups' expected relative squared errors; None where the method states none.
        measured: pruned ÷ original latency of the whole net and the ends of its interval, where it
            was measured.
        chosen: whether these are the widths of the plan.
    """

    how: str
    predicted: float
    error: float | None = None
    measured: tuple[float, float, float] | None = None
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class GroupPrices:
    """What a net costs by the width of one group, the others whole.

    Attributes:
        widths: units kept, ascending, the last one all of them.
        prices: of the net, in the unit of the allocation.
        errors: expected relative squared error of each width, where it is known.
    """

    group: str
    widths: tuple[int, ...]
    prices: tuple[float, ...]
    errors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class AllocationRecord:
    """How a budget became widths.

    Attributes:
        budget: as it was asked for.
        unit: of prices: units, parameters, MACs, bytes or ms.
        asked: the share of the original's price that was to be left.
        reached: the share that is left; measured where that was done, else counted or predicted.
        original: price of the whole net.
        target: whose latency it was, None for what is counted.
        candidates: what was looked at.
        front: (share of the price, least error), the shares ascending, where errors are known: with
            `--allocation global` of each group in the otherwise whole net, else in the net that was pruned
            below it, as the choice of units met them.
        dense: groups that could lose units and keep all of them, each with the reason.
        prices: of every group.
    """

    budget: str
    unit: str
    asked: float
    reached: float
    original: float
    target: str | None = None
    candidates: tuple[WidthsTried, ...] = ()
    front: tuple[tuple[float, float], ...] = ()
    dense: tuple[tuple[str, str], ...] = ()
    prices: tuple[GroupPrices, ...] = ()
