"""What the command line shows when a run ends, as rich renderables; only the cli prints them."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edgeprune.records.run import GroupRecord, Run, Validation
from edgeprune.report import figures, sampling, tables, wording

MOST_GROUPS = 16
BAR_WIDTH = 24
MOST_REASONS = 2
MOST_NAMES = 3

_COLOURS: dict[figures.Key, str] = {
    "pass": "green",
    "fail": "red",
    "inconclusive": "yellow",
    "unavailable": "yellow",
    "open": "cyan",
}
_SPEEDS = {"faster": "green", "slower": "red", "no difference shown": "", "not settled": "yellow"}


def overview(run: Run, *, every: bool = False) -> RenderableType:
    """Widths, key figures, targets and the verdict; what the run does not know is left out.

    Args:
        run: the run.
        every: tell of each group that was left whole why, not of the first few reasons only.
    """
    title = Text.assemble((wording.clean(run.model.name) or "unnamed model", "bold"))
    if run.plan is not None:
        title.append(f"  {wording.clean(run.plan.method)}", style="dim")
    parts: list[RenderableType] = [title]
    widths = _widths(tables.groups(run), _left_whole(run, every))
    tables_of_run = (widths, _figures(run), _targets(run.validations))
    parts += [Padding(table, (1, 0, 0, 0)) for table in tables_of_run if table is not None]
    told = sampling.sentences(run)
    if told:
        parts.append(Padding(Text("\n".join(told), style="dim"), (1, 0, 0, 0)))
    if run.warnings:
        lines = "\n".join(f"! {text}" for text in wording.several(run.warnings))
        parts.append(Padding(Text(lines, style="yellow"), (1, 0, 0, 0)))
    parts.append(Padding(verdict(run), (1, 0, 0, 0)))
    return Group(*parts)


def verdict(run: Run) -> RenderableType:
    """The verdict in its colour, with what kept the run from passing."""
    state = figures.standing(run)
    words = Text(state.sentence)
    for check in state.checks:
        words.append(f"\n• {check}")
    title = Text(state.title, style=f"bold {_COLOURS[state.key]}")
    return Panel(words, title=title, title_align="left", border_style=_COLOURS[state.key], box=box.ROUNDED)


def _grid(*columns: tuple[str, bool]) -> Table:
    """A table of named columns, each aligned right where its flag says so."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for name, right in columns:
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    return table


def _widths(groups: tuple[GroupRecord, ...], whole: str) -> RenderableType | None:
    free = [g for g in groups if not g.reason_if_pinned]
    if not groups:
        return None
    table = _grid(("group", False), ("before", True), ("after", True), ("kept", False), ("change", True))
    # Where not all fit, those that lost the most are shown, in the order of the net.
    by_loss = sorted(range(len(free)), key=lambda i: free[i].after - free[i].before)[:MOST_GROUPS]
    for group in (free[i] for i in sorted(by_loss)):
        table.add_row(
            Text(wording.middle(wording.clean(group.name), 40) + (" ≈" if group.approximate else "")),
            wording.count(group.before),
            Text(wording.count(group.after), style="bold"),
            _bar(group),
            wording.change(group.before, group.after),
        )
    left = [f"and {len(free) - MOST_GROUPS} more"] if len(free) > MOST_GROUPS else []
    left += [whole] if whole else []
    return Group(table, Text("\n".join(left), style="dim")) if left else table


def _left_whole(run: Run, every: bool) -> str:
    """The groups that keep all their units, by reason; the first few reasons, or all of them."""
    by_reason: dict[str, list[str]] = {}
    for group, reason in tables.left_alone(run):
        by_reason.setdefault(reason, []).append(wording.middle(wording.clean(group.name), 40))
    shown = list(by_reason.items())
    if every:
        return "\n".join(f"{', '.join(names)} left whole: {reason}" for reason, names in shown)
    told = "; ".join(f"{_named(names)} ({reason})" for reason, names in shown[:MOST_REASONS])
    rest = sum(len(names) for _, names in shown[MOST_REASONS:])
    more = f"; and {rest} more, --verbose tells why" if rest else ""
    return f"left whole: {told}{more}" if told else ""


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _bar(group: GroupRecord) -> ProgressBar:
    return ProgressBar(
        max(group.before, 1),
        group.after,
        BAR_WIDTH,
        style="bright_black",
        complete_style="cyan",
        finished_style="cyan",
    )


def _figures(run: Run) -> Table | None:
    found = figures.key_figures(run)
    if not found:
        return None
    table = _grid(("figure", False), ("value", True), ("", False))
    for figure in found:
        table.add_row(figure.name, Text(figure.value, style="bold"), Text(figure.detail, style="dim"))
    return table


def _targets(validations: tuple[Validation, ...]) -> Table | None:
    if not validations:
        return None
    table = _grid(("target", False), ("latency", True), ("interval", True), ("", False), ("drift", True))
    for validation in validations:
        name = Text(wording.middle(wording.clean(validation.target), 40))
        largest = wording.number(validation.drift.linf_max) if validation.drift else wording.NOTHING
        found = validation.latency
        if not validation.reached:
            reason = wording.clean(validation.reason) or "no reason was recorded"
            table.add_row(name, wording.NOTHING, "", Text(f"not reached: {reason}", style="yellow"), largest)
        elif found is None:
            table.add_row(name, wording.NOTHING, "", Text("not timed", style="dim"), largest)
        else:
            says = wording.speed(found)
            ratio = Text(f"{wording.number(found.ratio)} ×", style=f"bold {_SPEEDS[says]}".strip())
            table.add_row(name, ratio, wording.interval(found), Text(says, style=_SPEEDS[says]), largest)
    return table
