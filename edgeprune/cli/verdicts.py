"""Options that say what a run is held against, and the forms in which the verdict is told."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.together import together
from edgeprune.files import write_text
from edgeprune.registry import suggestion
from edgeprune.verdict.limits import LEVELS, NAMES, Limits, Regressions, UserMetric

if TYPE_CHECKING:
    from edgeprune.records.run import Check, Run

_METRIC = re.compile(r"(?P<name>[^=]+)=(?P<function>[^<>]+:[^<>=]+)(?P<side><=|>=)(?P<value>.+)")


class LimitType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """NAME=VALUE, NAME=VALUE:warn or NAME=off for one of the gate's limits."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The limit's name, its number (None where it is only switched off) and its level."""
        if isinstance(value, tuple):
            return value
        name, separator, rest = str(value).partition("=")
        name = name.strip().replace("-", "_")
        if not separator:
            self.fail(f"'{value}' is not NAME=VALUE", param, ctx)
        if name not in NAMES:
            self.fail(f"there is no limit '{name}'; {suggestion(name, list(NAMES))}", param, ctx)
        if rest in LEVELS:
            return name, None, rest
        number, _, level = rest.partition(":")
        if level and level not in LEVELS:
            self.fail(f"'{level}' is no level; {suggestion(level, list(LEVELS))}", param, ctx)
        return name, _number(self, number, param, ctx), level


class MetricType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """NAME=module:function<=VALUE (or >=)."""

    name = "metric"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The metric."""
        if isinstance(value, UserMetric):
            return value
        found = _METRIC.fullmatch(str(value).replace(" ", ""))
        if found is None:
            self.fail(f"'{value}' is not of the form wer=metrics.py:wer<=0.1", param, ctx)
        number = _number(self, found["value"], param, ctx)
        side = {"<=": "at_most", ">=": "at_least"}[found["side"]]
        try:
            return UserMetric(found["name"], found["function"], **{side: number})
        except ValueError as error:
            self.fail(str(error), param, ctx)


class RegressionType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """PERCENT, or NAME=PERCENT."""

    name = "regression"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The figure's name and the per cent it may be worse."""
        if isinstance(value, tuple):
            return value
        name, separator, number = str(value).rpartition("=")
        name = name.strip().replace("-", "_") if separator else "all"
        known = [f.name for f in dataclasses.fields(Regressions)]
        if name not in known:
            self.fail(f"there is no figure '{name}'; {suggestion(name, known)}", param, ctx)
        return name, _number(self, number.rstrip("%"), param, ctx)


def _number(
    kind: click.ParamType,  # type: ignore[type-arg,unused-ignore]
    text: str,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> float:
    try:
        return float(text)
    except ValueError:
        kind.fail(f"'{text}' is not a number", param, ctx)


limit_options = together(
    click.option(
        "--limit",
        multiple=True,
        type=LimitType(),
        metavar="NAME=VALUE",
        help="A limit of the gate, repeatable; NAME=VALUE:warn only warns, NAME=off drops it. Names: "
        + ", ".join(NAMES)
        + ".",
    ),
    click.option(
        "--metric",
        multiple=True,
        type=MetricType(),
        metavar="SPEC",
        help="A number of your own, repeatable: wer=metrics.py:wer<=0.1 (or >=); the function gets the "
        "pruned outputs, the original's and the labels.",
    ),
    click.option(
        "--inconclusive",
        type=click.Choice(["error", "pass", "fail"]),
        default="error",
        show_default=True,
        help="What an unsettled measurement counts as.",
    ),
)

_FILE = click.Path(path_type=Path)

output_options = together(
    click.option("--junit", type=_FILE, metavar="FILE", help="Also write JUnit XML, a test case a limit."),
    click.option("--sarif", type=_FILE, metavar="FILE", help="Also write lints and verdict as SARIF 2.1.0."),
    click.option(
        "--summary",
        type=_FILE,
        metavar="FILE",
        help="Also append Markdown, at most 1 MiB (for $GITHUB_STEP_SUMMARY).",
    ),
    click.option(
        "--openmetrics",
        type=_FILE,
        metavar="FILE",
        help="Also write OpenMetrics text (GitLab's metrics report).",
    ),
    click.option("--github", is_flag=True, help="Also print GitHub annotations (at most 10 of a type)."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else."),
)


def limits_of(values: dict[str, Any]) -> Limits:
    """The limits that were given as options.

    Raises:
        click.UsageError: one is out of range.
    """
    pairs = values.get("limit") or ()
    try:
        return Limits(
            **{name: number for name, number, _ in pairs if number is not None},
            level={name: level for name, _, level in pairs if level},
            metrics=tuple(values.get("metric") or ()),
            regression=Regressions(**dict(values.get("regression") or ())),
        )
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


def told(record: Run, folder: Path, values: dict[str, Any]) -> None:
    """Write the forms that were asked for.

    Raises:
        StorageError: a file cannot be written.
    """
    junit, sarif, summary, metrics = (values.get(n) for n in ("junit", "sarif", "summary", "openmetrics"))
    if junit is not None:
        from edgeprune.report.junit import junit as as_junit

        write_text(junit, as_junit(record))
    if sarif is not None:
        from edgeprune.report.sarif import sarif as as_sarif

        write_text(sarif, as_sarif(record, folder))
    if summary is not None:
        _append(summary, record)
    if metrics is not None:
        from edgeprune.report.metrics import openmetrics

        write_text(metrics, openmetrics(record))
    if values.get("github"):
        from edgeprune.report.annotations import annotated

        for line in annotated(record, folder):
            click.echo(line, err=bool(values.get("as_json")))


def _append(path: Path, record: Run) -> None:
    """Add to a summary; what no longer fits GitHub's limit is left out, and that is said."""
    from edgeprune.report.summary import LIMIT_BYTES, markdown

    try:
        before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        before = ""
    text = before + markdown(record)
    if len(text.encode("utf-8")) <= LIMIT_BYTES:
        write_text(path, text)
    else:
        click.echo(f"warning: {path} is full (1 MiB); the summary was not added to it.", err=True)


def say(record: Run) -> None:
    """The verdict on the terminal: a line a check, then a word."""
    verdict = record.verdict
    assert verdict is not None
    for check in verdict.checks:
        click.echo(_line(check))
    errors = [c for c in verdict.checks if c.level == "error"]
    if not verdict.checks:
        text, colour = "no limit was set", "cyan"
    elif any(c.outcome == "fail" for c in errors):
        text, colour = "failed", "red"
    elif any(c.outcome != "pass" for c in errors):
        text, colour = "not decided", "yellow"
    else:
        warned = sum(c.outcome != "pass" for c in verdict.checks)
        text, colour = (f"passed, with {warned} warning{'s' * (warned > 1)}" if warned else "passed"), "green"
    click.echo(click.style(text, fg=colour, bold=True))


def _line(check: Check) -> str:
    colours = {"pass": "green", "fail": "red", "inconclusive": "yellow", "unavailable": "yellow"}
    warned = check.level == "warn" and check.outcome != "pass"
    word, colour = (f"warn: {check.outcome}", "yellow") if warned else (check.outcome, colours[check.outcome])
    where = f" on {check.target}" if check.target else ""
    numbers = "" if check.measured is None else f"{check.measured:.4g} against {check.limit:.4g}"
    unit = " per cent" if check.name.startswith("regression:") and numbers else ""
    reason = f"  {check.reason}" if check.reason else ""
    return f"{click.style(f'{word:<12}', fg=colour)} {check.name}{where}  {numbers}{unit}{reason}"
