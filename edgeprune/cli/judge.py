"""`gate` and `report`: a finished run judged and shown. Neither needs torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from edgeprune.cli import options
from edgeprune.errors import EdgepruneError
from edgeprune.files import write_text
from edgeprune.records import Run

run_argument = click.argument("folder", type=click.Path(path_type=Path), metavar="RUN")


@click.command()
@run_argument
@options.limit_option
@options.inconclusive_option
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Also write JUnit XML.")
@click.option(
    "--summary",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also append Markdown ($GITHUB_STEP_SUMMARY).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def gate(
    folder: Path, limit: Any, inconclusive: Any, junit: Path | None, summary: Path | None, as_json: bool
) -> int:
    r"""Hold a RUN against limits; the exit code is 0 if all hold, 1 if one does not.

    Without --limit the run's own settings apply. A target that could not be measured exits with
    5, a measurement that did not settle with 6: neither ever passes silently.

    \b
      edgeprune gate runs/x --limit observed_error=0.5 --limit latency_ratio=0.8
    """
    from edgeprune.stages.gate import exit_code
    from edgeprune.stages.gate import gate as judge

    record = Run.load(folder)
    judged = dataclasses.replace(record, verdict=judge(record, *_limits(record, limit)))
    assert judged.verdict is not None
    _write_extra(judged, junit, summary)
    if as_json:
        import json

        from edgeprune.records import to_json

        click.echo(json.dumps(to_json(judged.verdict), indent=1))
    else:
        _tell(judged)
    return exit_code(judged.verdict, inconclusive)


def _limits(record: Run, pairs: Any) -> tuple[Any, dict[str, Any]]:
    """Limits from the flags, over the run's settings, over each target's own."""
    from edgeprune.limits import Limits
    from edgeprune.profiles import find_target

    stored = next((s.value for s in record.settings if s.name == "limits"), None) or {}
    limits = options.limits_of(pairs).over(Limits(**{k: v for k, v in stored.items() if v is not None}))
    by_target = {}
    for validation in record.validations:
        try:
            by_target[validation.target] = limits.over(find_target(validation.target).limits)
        except EdgepruneError:
            by_target[validation.target] = limits  # the target's file is not at hand here
    return limits, by_target


def _tell(record: Run) -> None:
    verdict = record.verdict
    assert verdict is not None
    colours = {"pass": "green", "fail": "red", "inconclusive": "yellow", "unavailable": "yellow"}
    for check in verdict.checks:
        mark = click.style(f"{check.outcome:<12}", fg=colours[check.outcome])
        where = f" on {check.target}" if check.target else ""
        numbers = "" if check.measured is None else f"{check.measured:.4g} against {check.limit:.4g}"
        click.echo(f"{mark} {check.name}{where}  {numbers}{'  ' + check.reason if check.reason else ''}")
    words = {True: ("passed", "green"), False: ("failed", "red"), None: ("no limit was set", "cyan")}
    settled = (
        verdict.passed
        if all(c.outcome in ("pass", "fail") for c in verdict.checks) or verdict.passed is False
        else None
    )
    text, colour = words[settled] if verdict.checks else words[None]
    if settled is None and verdict.checks:
        text, colour = "not decided", "yellow"
    click.echo(click.style(text, fg=colour, bold=True))


def _write_extra(record: Run, junit: Path | None, summary: Path | None) -> None:
    if junit is not None:
        from edgeprune.report.junit import junit as as_junit

        write_text(junit, as_junit(record))
    if summary is not None:
        from edgeprune.report.summary import markdown

        before = summary.read_text(encoding="utf-8") if summary.is_file() else ""
        write_text(summary, before + markdown(record))


@click.command()
@run_argument
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to [default: RUN/report.html].",
)
def report(folder: Path, output: Path | None) -> int:
    """Write a RUN as one self-contained HTML page."""
    from edgeprune.report.html import render

    path = output or (folder if folder.is_dir() else folder.parent) / "report.html"
    write_text(path, render(Run.load(folder)))
    click.echo(str(path))
    return 0
