"""Where each target spends its time before and after, by operation: a picture and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from edgeprune.records.run import OperationTime, Run
from edgeprune.report import svg, wording
from edgeprune.report.charts import Chart, beside, canvas
from edgeprune.report.tables import Column, Table, table_of

MOST_TARGETS = 3
MOST_ROWS = 14


@dataclass(frozen=True, slots=True)
class OperationTimes:
    """A target's name, the picture and the table."""

    target: str
    chart: Chart
    table: Table


def operation_times(run: Run) -> tuple[OperationTimes, ...]:
    """What each target that was traced spent on which node; at most `MOST_TARGETS` are shown."""
    found = []
    for k, validation in enumerate([v for v in run.validations if v.operations][:MOST_TARGETS]):
        rows = validation.operations
        table = _table(rows)
        if table is not None:
            found.append(OperationTimes(wording.clean(validation.target, 60), _chart(rows, k), table))
    return tuple(found)


def _table(rows: Sequence[OperationTime]) -> Table | None:
    columns = (
        Column("Node", "code"),
        Column("Operation"),
        Column("Original", "number"),
        Column("Pruned", "number"),
        Column("Change", "number"),
    )
    cells = (
        (
            wording.clean(row.name),
            wording.clean(row.operation) or wording.NOTHING,
            _time(row.original_us),
            _time(row.pruned_us),
            _change(row),
        )
        for row in rows
    )
    return table_of("Mean time of each node, original and pruned", columns, cells)


def _time(us: float | None) -> str:
    return "absent" if us is None else f"{wording.number(us)} µs"


def _change(row: OperationTime) -> str:
    if not row.original_us or row.pruned_us is None:
        return wording.NOTHING
    return f"{wording.number(row.pruned_us / row.original_us)} ×"


def _chart(rows: Sequence[OperationTime], number: int) -> Chart:
    drawn = rows[:MOST_ROWS]
    before, after = (
        sum(us for row in rows if (us := getattr(row, side)) is not None)
        for side in ("original_us", "pruned_us")
    )
    caption = (
        f"Grey: original, {wording.number(before)} µs in all. Blue: pruned, {wording.number(after)} µs. "
        "Traced apart from the timing, which slows a session down: read shares, not latencies."
    )
    words = "; ".join(
        f"{wording.clean(row.name, 60)}: {_time(row.original_us)} before, {_time(row.pruned_us)} after"
        for row in drawn
    )
    name = f"operations{chr(ord('a') + number)}"
    image = svg.inline(lambda: _draw(drawn), name, "Time of each operation, before and after", f"{words}.")
    return Chart(image, caption)


def _draw(rows: Sequence[OperationTime]) -> Figure:
    names = [f"{row.name} ({row.operation})" if row.operation else row.name for row in rows]
    figure, axes = canvas(names, right_inches=1.5, row_inches=0.4)
    for k, row in enumerate(rows):
        axes.barh(k - 0.19, row.original_us or 0.0, height=0.34, color=svg.BEFORE)
        axes.barh(k + 0.19, row.pruned_us or 0.0, height=0.34, color=svg.AFTER)
        beside(axes, k, f"{_time(row.original_us)} → {_time(row.pruned_us)}")
    axes.margins(x=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.number(value)))
    axes.set_xlabel("µs a run, traced")
    return figure
