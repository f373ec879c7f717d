"""The run as Markdown, for a CI job's summary page."""

from __future__ import annotations

import re

from edgeprune.records.run import Run
from edgeprune.report import figures, tables, wording

LIMIT_BYTES = 1 << 20
"""What GitHub takes for one step."""

_SIGNS: dict[figures.Key, str] = {
    "pass": "✅",
    "fail": "❌",
    "inconclusive": "⚠️",
    "unavailable": "⚠️",
    "open": "ℹ️",
}
_OUTCOMES = {
    "pass": "✅ pass",
    "fail": "❌ fail",
    "inconclusive": "⚠️ inconclusive",
    "unavailable": "⚠️ unavailable",
}
_CUT = "\n\n*Cut here; the report and run.json have the rest.*\n"


def markdown(run: Run) -> str:
    """The verdict, the key figures, the limits, the targets and the pinned groups; at most 1 MiB.

    Returns:
        GitHub-flavoured Markdown. Names cannot bring markup of their own.
    """
    state = figures.standing(run)
    title = escape(wording.clean(run.model.name) or "unnamed model")
    parts = [f"## {_SIGNS[state.key]} {escape(state.title)}: {title}", escape(state.sentence)]
    parts.append("\n".join(f"- {escape(words)}" for words in state.checks))
    found = figures.key_figures(run)
    if found:
        rows = tuple((figure.name, figure.value, figure.detail) for figure in found)
        columns = (tables.Column("Figure"), tables.Column("Value", "number"), tables.Column("Of what"))
        parts.append(_table(tables.Table("", columns, rows)))
    parts += [
        _section("Limits", tables.checks(run)),
        _section("Latency", tables.latency(run)),
        _section("Drift", tables.drift(run)),
        _section("What ran", tables.placement(run)),
        _folded("Certificates", tables.certificates(run)),
        _folded("Widths before and after", tables.pruned_groups(run)),
        _folded("Groups left alone", tables.pinned_groups(run)),
    ]
    if run.warnings:
        parts.append(
            "### Warnings\n\n" + "\n".join(f"- {escape(wording.clean(text))}" for text in run.warnings)
        )
    return _fit("\n\n".join(part for part in parts if part) + "\n")


def escape(text: str) -> str:
    """`text` so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>#|~$&!@]|:(?=//|[\w+-]+:))", r"\\\1", text)


def _section(heading: str, table: tables.Table | None) -> str:
    return f"### {heading}\n\n{_table(table)}" if table else ""


def _folded(heading: str, table: tables.Table | None) -> str:
    if table is None:
        return ""
    return f"<details><summary>{heading} ({len(table.rows)})</summary>\n\n{_table(table)}\n\n</details>"


def _table(table: tables.Table) -> str:
    heads = [escape(column.name) for column in table.columns]
    rules = ["---:" if column.style == "number" else "---" for column in table.columns]
    lines = [_row(heads), _row(rules)]
    lines += [
        _row([_cell(text, column.style) for text, column in zip(cells, table.columns, strict=True)])
        for cells in table.rows
    ]
    if table.omitted:
        lines.append(f"\n{table.omitted} more rows are in run.json.")
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str, style: tables.Style) -> str:
    if style == "outcome":
        return _OUTCOMES[text]
    return escape(text.replace("-", " ") if style == "label" else text)


def _fit(text: str) -> str:
    """`text`, cut at the end of a line where it is larger than a summary may be."""
    content = text.encode("utf-8")
    if len(content) <= LIMIT_BYTES:
        return text
    room = content[: LIMIT_BYTES - len(_CUT.encode("utf-8"))]
    return room[: room.rfind(b"\n")].decode("utf-8") + _CUT
