"""What the benchmark scripts share: options, rows of figures, JSON files and tables.

A script measures and gives back rows; a row is one number with everything that is needed to find it
again. Machine and versions are rows too (their subject is `environment`), so a file of rows speaks for
itself. Nothing here imports torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgeprune.errors import UsageError
from edgeprune.files import write_text
from edgeprune.records.environment import describe

Item = TypeVar("Item")

RESULTS = Path(__file__).resolve().parent / "results"
ENVIRONMENT = "environment"
SPEEDUP = "speed-up"
TOLD = ("platform", "cpu", "cores", "python", "torch", "onnx", "onnxruntime", "onnxsim", "edgeprune")
"""Fields of `edgeprune.records.run.Environment` that become rows, in the order they are printed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        subject: the net or the command it is about.
        method: what was done to the subject; '' where nothing was.
        size: how much is left of it (widths, or a share of the channels); '' for the original.
        figure: what the number is.
        value: the number; a text for the rows of the environment.
        unit: '%', 's', 'ms', or '' for a pure number.
        seed: of the samples and of the random choices.
    """

    subject: str
    method: str
    size: str
    figure: str
    value: float | int | str
    unit: str
    seed: int


def options(about: str | None) -> argparse.ArgumentParser:
    """The options that every script has; `about` is the script's docstring."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a first impression in less than a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as a list of rows")
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows that are in FILE already and go on behind them"
    )
    parser.add_argument("--size", action="append", help="a column of the table; may be repeated")
    parser.add_argument("--seeds", type=int, metavar="N", help="repeat what is random N times at most")
    return parser


def environment_rows(seed: int = 0) -> list[Row]:
    """This machine and the versions on it."""
    here = describe(seed)
    return [Row(ENVIRONMENT, "", "", name, getattr(here, name), "", seed) for name in TOLD]


def environment_line(rows: Iterable[Row]) -> str:
    """The machine and the versions that a list of rows was measured with, as a sentence."""
    found = {row.figure: str(row.value) for row in rows if row.subject == ENVIRONMENT}
    versions = [f"{name} {found[name]}" for name in TOLD[3:] if found.get(name)]
    cores = f"{found.get('cores', '?')} core" + ("" if found.get("cores") == "1" else "s")
    where = f"{found.get('platform', '?')}, {found.get('cpu', '?')}, {cores}"
    return f"{where}; {', '.join(versions)}."


def save(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON, all or nothing.

    Raises:
        StorageError: the file cannot be written.
    """
    lines = (json.dumps(dataclasses.asdict(row), ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def load(path: Path) -> list[Row]:
    """Read what `save` wrote.

    Raises:
        UsageError: the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise TypeError("it is no list")
        return [Row(**row) for row in content]
    except (OSError, ValueError, TypeError) as error:
        script = f"'python -m benchmarks.{path.stem} --json {path}'"
        raise UsageError(f"{path}: cannot be read as rows ({error}); make it with {script}.") from error


@dataclass(slots=True)
class Ledger:
    """Rows as they come, written to a file after each measurement, so that an interrupted script goes on.

    Attributes:
        path: of the file, or None to keep nothing.
        rows: what is known by now.
    """

    path: Path | None
    rows: list[Row]

    @staticmethod
    def open(path: Path | None, resume: bool) -> Ledger:
        """An empty one, or what the file holds; the rows of the environment are made anew."""
        kept = load(path) if resume and path is not None and path.is_file() else []
        rows = [*environment_rows(), *(row for row in kept if row.subject != ENVIRONMENT)]
        return Ledger(path, rows)

    def has(self, method: str, size: str, seed: int) -> bool:
        """Whether that was measured already."""
        wanted = (method, size, seed)
        return any(
            (row.method, row.size, row.seed) == wanted for row in self.rows if row.subject != ENVIRONMENT
        )

    def add(self, rows: Sequence[Row]) -> None:
        """Note one measurement, tell it on stderr, and write the file."""
        for row in rows:
            told = f"{row.value:.4g}" if isinstance(row.value, float) else row.value
            print(
                f"{row.method} {row.size} seed {row.seed}: {row.figure} {told}", file=sys.stderr, flush=True
            )
        self.rows.extend(rows)
        if self.path is not None:
            save(self.path, self.rows)

    def arranged(self, methods: Sequence[str], sizes: Iterable[str]) -> list[Row]:
        """The rows in the order of the methods and of the sizes, others behind."""
        line = {method: k for k, method in enumerate(("", *methods))}
        column = {size: k for k, size in enumerate(("", *sizes))}

        def place(row: Row) -> tuple[bool, int, int]:
            return (
                row.subject != ENVIRONMENT,
                line.get(row.method, len(line)),
                column.get(row.size, len(column)),
            )

        return sorted(self.rows, key=place)


@dataclass(frozen=True, slots=True)
class Table:
    """Lines of cells under a head, and a sentence below them."""

    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    caption: str

    def plain(self) -> str:
        """For a terminal: columns padded to one width."""
        everything = (self.head, *self.lines)
        widths = [max(len(line[k]) for line in everything) for k in range(len(self.head))]
        padded = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in everything
        ]
        return "\n".join([*padded, self.caption])

    def markdown(self) -> str:
        """For a document."""
        rule = ("---",) + ("---:",) * (len(self.head) - 1)
        lines = [f"| {' | '.join(line)} |" for line in (self.head, rule, *self.lines)]
        return "\n".join([*lines, "", self.caption])


Layout = Callable[[Sequence[Row]], Table]
"""How the rows of one script become a table."""


def sized(first: str, second: str) -> Layout:
    """A line per method, a column per size.

    A cell tells the first figure, over the seeds as mean (least–most), and the mean of the second behind a
    semicolon. The last column is the mean time that one choice took.
    """

    def table(rows: Sequence[Row]) -> Table:
        figures = [row for row in rows if row.subject != ENVIRONMENT]
        pruned = [row for row in figures if row.size]
        methods = _distinct(row.method for row in pruned)
        columns = [_distinct(row.size for row in pruned if row.method == method) for method in methods]
        sizes = _distinct(size for some in sorted(columns, key=len, reverse=True) for size in some)
        lines = []
        for method in methods:
            mine = [row for row in pruned if row.method == method]
            cells = [_cell([row for row in mine if row.size == size], first, second) for size in sizes]
            seconds = _values(mine, "choosing")
            lines.append((method, *cells, number(_mean(seconds)) if seconds else ""))
        whole = [f"{row.figure} {number(float(row.value))} {row.unit}" for row in figures if not row.size]
        caption = f"Unpruned: {', '.join(whole)}. " if whole else ""
        return Table(("method", *sizes, "seconds"), tuple(lines), caption + environment_line(rows))

    return table


by_size = sized("test error", "relative logit error")
"""Of a classifier."""


def by_figure(rows: Sequence[Row]) -> Table:
    """A line per subject, a column per figure."""
    figures = [row for row in rows if row.subject != ENVIRONMENT]
    names = _distinct((row.figure, row.unit) for row in figures)
    lines = []
    for subject in _distinct(row.subject for row in figures):
        mine = [row for row in figures if row.subject == subject]
        found = [[row.value for row in mine if row.figure == name] for name, _ in names]
        lines.append((subject, *(_told(values) for values in found)))
    head = tuple(f"{name}, {unit}" if unit else name for name, unit in names)
    return Table(("", *head), tuple(lines), environment_line(rows))


def by_ratio(rows: Sequence[Row]) -> Table:
    """A line per net and ratio, a column per rounding."""
    found = {(r.subject, r.size, r.method): float(r.value) for r in rows if r.figure == SPEEDUP}
    methods = list(dict.fromkeys(method for _, _, method in found))
    lines = [
        (f"{subject}, {size} cut", *(f"{number(found[subject, size, m])}×" for m in methods))
        for subject, size in dict.fromkeys((subject, size) for subject, size, _ in found)
    ]
    return Table(("net", *methods), tuple(lines), environment_line(rows))


def _cell(rows: Sequence[Row], first: str, second: str) -> str:
    values, others = _values(rows, first), _values(rows, second)
    if not values:
        return ""
    spread = f" ({number(min(values))}–{number(max(values))})" if len(values) > 1 else ""
    return f"{number(_mean(values))}{spread}" + (f"; {_mean(others):.2f}" if others else "")


def _told(values: Sequence[float | int | str]) -> str:
    """Counts as they are, and the mean of measured numbers."""
    if all(isinstance(value, int) for value in values):
        return ", ".join(str(value) for value in dict.fromkeys(values))
    return number(_mean([float(value) for value in values]))


def _values(rows: Iterable[Row], figure: str) -> list[float]:
    return [float(row.value) for row in rows if row.figure == figure]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _distinct(items: Iterable[Item]) -> list[Item]:
    return list(dict.fromkeys(items))


def number(value: float) -> str:
    """Three digits that mean something, never an exponent."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def finish(rows: Sequence[Row], layout: Layout, path: Path | None) -> None:
    """Print the table and write the file that was asked for."""
    print(layout(rows).plain())
    if path is not None:
        save(path, rows)
        print(f"{path}: {len(rows)} rows")
