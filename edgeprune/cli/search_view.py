"""A search while it runs: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from edgeprune.cli.console import EVERY_S
from edgeprune.report.search_page import named
from edgeprune.report.wording import number

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from edgeprune.records.search import SearchRecord
    from edgeprune.search.conduct import Conductor

REDRAW_S = 0.5
ROWS = 12


class View:
    """Shows a search under way; used as its `watch`."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._last = 0.0
        context = click.get_current_context(silent=True)
        self._quiet = context is not None and bool(context.find_root().params.get("quiet"))

    def __enter__(self) -> View:
        """Begin to show."""
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.close()

    def close(self) -> None:
        """Take the live table away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, conductor: Conductor) -> None:
        """Something has changed."""
        now = time.monotonic()
        if self._quiet or now - self._last < (REDRAW_S if self._live else EVERY_S):
            return
        self._last = now
        if self._live is not None:
            self._live.update(state_table(conductor), refresh=True)
            return
        counts = ", ".join(f"{count} {state}" for state, count in sorted(conductor.counts.items()))
        click.echo(
            f"search: {conductor.done} of {conductor.rules.trials} trials ({counts}), "
            f"{len(conductor.desk.best)} on the front, {time.time() - conductor.began:.0f} s",
            err=True,
        )


def state_table(conductor: Conductor) -> Table:
    """The best points so far, the latest trials, and who is at work."""
    from rich.table import Table

    keys = [objective.key for objective in conductor.rules.minimized]
    seconds = time.time() - conductor.began
    under_way = f"{len(conductor.running)} under way, {seconds:.0f} s"
    title = f"{conductor.done} of {conductor.rules.trials} trials, {under_way}"
    table = Table(title=title, title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("state")
    for key in keys:
        table.add_column(named(key), justify="right")
    table.add_column("method")
    best = sorted(conductor.desk.best.values(), key=lambda t: t.values)
    shown = [*((t, "front") for t in best[:ROWS]), *((t, t.state) for t in conductor.desk.latest[-4:])]
    for trial, state in shown:
        values = (number(trial.found.get(key)) for key in keys)
        table.add_row(str(trial.number), state, *values, str(trial.params.get("method", "")))
    for open_trial in list(conductor.running.values())[:ROWS]:
        doing = "measured on " + ", ".join(sorted(open_trial.waiting)) if open_trial.waiting else "being made"
        values = (number(open_trial.found.get(key)) for key in keys)
        table.add_row(
            str(open_trial.number), doing, *values, str(open_trial.params.get("method", "")), style="dim"
        )
    return table


def front_table(record: SearchRecord) -> Table:
    """The front when a search is over."""
    from rich.table import Table

    by_number = {trial.number: trial for trial in record.trials}
    keys = [*record.minimized, *(k for k in ("macs", "params", "size") if k not in record.minimized)]
    keys += [f"latency_ms@{t}" for t in record.targets]
    table = Table(
        title=f"The front: {len(record.front)} point{'s' * (len(record.front) != 1)}", title_justify="left"
    )
    table.add_column("trial", justify="right")
    for key in keys:
        table.add_column(named(key), justify="right")
    for trial in (by_number[k] for k in record.front):
        table.add_row(str(trial.number), *(number(trial.found.get(key)) for key in keys))
    return table
