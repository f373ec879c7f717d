"""Progress and log lines on standard error; results on standard output."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

ItemT = TypeVar("ItemT")
EVERY_S = 10.0
"""Seconds between progress lines where the output is no terminal."""


def set_up_logging(verbose: bool, quiet: bool) -> None:
    """Library log lines go to standard error: warnings always, steps with --verbose."""
    level = logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=logging.ERROR, handlers=[_Lines()])
    logging.getLogger("edgeprune").setLevel(level)
    if not verbose:
        logging.getLogger("torch").setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")


class _Lines(logging.Handler):
    """Log lines in the shape that errors have: a word, a colon, a sentence."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line to what standard error is now."""
        word = {logging.WARNING: "warning: ", logging.ERROR: "error: "}.get(record.levelno, "")
        colour = {"warning: ": "yellow", "error: ": "red"}.get(word)
        click.echo(click.style(word, fg=colour) + record.getMessage(), err=True, color=colours())


def colours() -> bool | None:
    """False where NO_COLOR is set (https://no-color.org), else what the terminal can."""
    return False if os.environ.get("NO_COLOR") else None


def output() -> Console:
    """Standard output as a rich console; colours only on a terminal and without NO_COLOR."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 110)


def show(*renderables: RenderableType) -> None:
    """Print results."""
    console = output()
    for item in renderables:
        console.print(item)


class Bars:
    """A `Progress` that draws bars on a terminal and writes a line now and then elsewhere.

    What is told between two items stands behind the bar's own words.
    """

    def __init__(self) -> None:
        self._shown: tuple[RichProgress, TaskID, str] | None = None
        self._words = ""
        self._last = time.monotonic()

    def tell(self, said: str) -> None:
        """Show how far the present item has come; from any thread."""
        if self._shown is not None:
            drawn, task, description = self._shown
            drawn.update(task, description=f"{description}: {said}")
        elif self._words and time.monotonic() - self._last > EVERY_S:
            self._last = time.monotonic()
            click.echo(f"{self._words}: {said}", err=True)

    def __call__(self, iterable: Iterable[ItemT], description: str, total: int | None) -> Iterable[ItemT]:
        """The same items, shown as they pass."""
        context = click.get_current_context(silent=True)
        if context is not None and context.find_root().params.get("quiet"):
            return iterable
        return (
            self._drawn(iterable, description, total)
            if sys.stderr.isatty()
            else self._told(iterable, description, total)
        )

    def _drawn(self, iterable: Iterable[ItemT], description: str, total: int | None) -> Iterator[ItemT]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with RichProgress(*columns, console=Console(stderr=True), transient=True) as drawn:
            before, task = self._shown, drawn.add_task(description, total=total)
            self._shown = drawn, task, description
            try:
                yield from drawn.track(iterable, total=total, task_id=task)
            finally:
                self._shown = before

    def _told(self, iterable: Iterable[ItemT], description: str, total: int | None) -> Iterator[ItemT]:
        started = self._last = time.monotonic()
        click.echo(f"{description} …", err=True)
        before, self._words = self._words, description
        try:
            for done, item in enumerate(iterable):
                if time.monotonic() - self._last > EVERY_S:
                    self._last = time.monotonic()
                    of = f" of {total}" if total else ""
                    click.echo(f"{description}: {done}{of}, {self._last - started:.0f} s", err=True)
                yield item
        finally:
            self._words = before
