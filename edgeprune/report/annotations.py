"""The verdict as GitHub's workflow commands, which a job's log turns into annotations.

GitHub shows ten of each type for a step and drops the rest without a word, so the tenth says how
many more there are.

Source: GitHub Actions, "Workflow commands" and the escaping of @actions/core (command.ts).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgeprune.records.run import Run
from edgeprune.report import wording
from edgeprune.report.sarif import place
from edgeprune.verdict.lints import Lint, Severity, lints

MOST = 10
_COMMANDS: dict[Severity, str] = {"error": "error", "warning": "warning", "note": "notice"}


def annotated(run: Run, folder: Path) -> tuple[str, ...]:
    """A line for each lint, at most ten of a type."""
    return told((found, *place(run, folder, found)) for found in lints(run))


def told(found: Iterable[tuple[Lint, Path, int]]) -> tuple[str, ...]:
    """Lints, each with its file and line, as workflow commands."""
    by_type: dict[str, list[tuple[Lint, Path, int]]] = {"error": [], "warning": [], "notice": []}
    for item, path, line in found:
        by_type[_COMMANDS[item.severity]].append((item, path, line))
    lines: list[str] = []
    for command, items in by_type.items():
        shown = items if len(items) <= MOST else items[: MOST - 1]
        lines += [_line(command, item, path, line) for item, path, line in shown]
        if len(items) > len(shown):
            more = f"and {len(items) - len(shown)} more; see the summary or the report"
            lines.append(f"::{command} title=edgeprune::{data(more)}")
    return tuple(lines)


def _line(command: str, item: Lint, path: Path, line: int) -> str:
    title = f"title={property_value(f'edgeprune {item.rule.id} {item.rule.name}')}"
    inside = _inside(path)
    where = f"file={property_value(inside)},line={line},{title}" if inside else title
    return f"::{command} {where}::{data(wording.clean(item.message, 1000))}"


def _inside(path: Path) -> str:
    """A path relative to the current folder, which is the checkout; '' where it lies elsewhere."""
    try:
        return wording.clean((Path.cwd() / path).relative_to(Path.cwd()).as_posix())
    except ValueError:
        return ""


def data(text: str) -> str:
    """A message, escaped so that it cannot start a command of its own."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def property_value(text: str) -> str:
    """A property of a command, escaped."""
    return data(text).replace(":", "%3A").replace(",", "%2C")
