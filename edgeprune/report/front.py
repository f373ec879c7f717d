"""The picture of error against size: the least error of every size, and the point that was chosen."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from edgeprune.records.allocation import AllocationRecord, WidthsTried
from edgeprune.records.run import Run
from edgeprune.report import svg, wording
from edgeprune.report.charts import Chart

UNITS = {"ms": "predicted time", "of the whole": "mixed price"}


def front(run: Run) -> Chart | None:
    """The front of expected error and price; None where the method states no error for other widths."""
    record = run.plan.allocation if run.plan is not None else None
    if record is None:
        return None
    points = [(share, error) for share, error in record.front if error > 0]
    tried = [one for one in record.candidates if one.error is not None and one.error > 0]
    if len(points) < 2:
        return None
    chosen = next((one for one in tried if one.chosen), None)
    words = "; ".join(f"{_share(share)} left: {wording.number(error)}" for share, error in points)
    taken = (
        "" if chosen is None else f"; chosen: {_share(chosen.predicted)} left, {wording.number(chosen.error)}"
    )
    image = svg.inline(
        lambda: _draw(points, tried, record), "front", "Expected error against size", f"{words}{taken}."
    )
    return Chart(image, _caption(record, tried, chosen))


def _caption(record: AllocationRecord, tried: list[WidthsTried], chosen: WidthsTried | None) -> str:
    """What the line and the marks mean."""
    caption = (
        "Line: the least expected error that was found for nets of each size, by the curves that the units "
        "were chosen with: squared, relative to what a group's readers hear, summed over groups, before any "
        "training. "
    )
    if chosen is not None:
        caption += f"Ringed: this run, {_share(chosen.predicted)} of the {_unit(record)} left"
        caption += f" (asked: {wording.clean(record.budget, 60)})."
    if len(tried) > 1:
        caption += " Squares: other widths that were looked at."
    return caption


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _unit(record: AllocationRecord) -> str:
    return UNITS.get(record.unit, wording.clean(record.unit, 40))


def _draw(points: list[tuple[float, float]], tried: list[WidthsTried], record: AllocationRecord) -> Figure:
    figure = Figure(figsize=(8.0, 3.4))
    axes = figure.add_axes((0.1, 0.17, 0.86, 0.78))
    axes.set_yscale("log")
    axes.plot(*zip(*points, strict=True), "o-", color=svg.BOUND, linewidth=1.6, markersize=5)
    for one in tried:
        _mark(axes, one)
    axes.margins(x=0.05, y=0.12)
    axes.set_xlabel(f"share of the {_unit(record)} that is left")
    axes.set_ylabel("expected error", color=svg.MUTED)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _share(value)))
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value)))
    axes.grid(color=svg.LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure


def _mark(axes: Axes, one: WidthsTried) -> None:
    """A point that was looked at; the chosen one is filled, ringed and named."""
    assert one.error is not None
    if not one.chosen:
        axes.plot(one.predicted, one.error, "s", color=svg.MUTED, markersize=6, zorder=3)
        return
    axes.plot(one.predicted, one.error, "o", color=svg.ATTACKED, markersize=7, zorder=4)
    axes.plot(
        one.predicted,
        one.error,
        "o",
        markersize=16,
        markerfacecolor="none",
        markeredgecolor=svg.ATTACKED,
        zorder=4,
    )
    axes.annotate(
        "this run", (one.predicted, one.error), xytext=(12, 9), textcoords="offset points", color=svg.INK
    )
