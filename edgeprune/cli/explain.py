"""`lint` and `explain`: rules with stable ids, found and explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeprune.cli import options
from edgeprune.errors import UsageError
from edgeprune.files import write_text

if TYPE_CHECKING:
    from edgeprune.verdict.lints import Lint

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command()
@click.argument("rule", required=False, metavar="[RULE]")
@options.json_option
def explain(rule: str | None, as_json: bool) -> int:
    r"""Say what a rule means and what to do about it; without one, list them all.

    RULE is an id such as EP203 or a name such as slower-than-the-original.

    \b
      edgeprune explain EP203
    """
    from edgeprune.records.run import to_json
    from edgeprune.registry import suggestion
    from edgeprune.verdict.lints import RULES

    by_name = {item.name: item for item in RULES.values()}
    if rule is None:
        if as_json:
            click.echo(json.dumps([to_json(item) for item in RULES.values()], indent=1))
            return 0
        for item in RULES.values():
            click.echo(f"{item.id}  {item.name:<24} {item.severity:<8} {item.short}")
        return 0
    found = RULES.get(rule.upper()) or by_name.get(rule.lower())
    if found is None:
        close = suggestion(rule.upper() if rule[:2].upper() == "EP" else rule, [*RULES, *by_name])
        hint = close if close.startswith("did") else "`edgeprune explain` lists them all."
        raise UsageError(f"there is no rule '{rule}'; {hint}")
    if as_json:
        click.echo(json.dumps(to_json(found), indent=1))
        return 0
    severity = click.style(found.severity, fg=_COLOURS[found.severity])
    click.echo(f"{click.style(found.id, bold=True)} {found.name} ({severity})\n\n{found.short}\n")
    click.echo(f"Why:    {found.why}\nRemedy: {found.remedy}")
    return 0


@click.command()
@click.argument("places", type=click.Path(path_type=Path), metavar="RUN|FILE.onnx…", nargs=-1, required=True)
@click.option("--sarif", type=click.Path(path_type=Path), metavar="FILE", help="Also write SARIF 2.1.0.")
@click.option("--github", is_flag=True, help="Also print GitHub annotations (at most 10 of a type).")
@click.option("--strict", is_flag=True, help="Warnings make the exit code 1, too.")
@options.json_option
def lint(places: tuple[Path, ...], sarif: Path | None, github: bool, strict: bool, as_json: bool) -> int:
    r"""Look over runs and ONNX files for what deserves a second look; 1 if something is wrong.

    Nothing is run: a file is only read. `edgeprune explain RULE` tells more.

    \b
      edgeprune lint runs/x
      edgeprune lint model.onnx --strict
    """
    from edgeprune.records import environment
    from edgeprune.report.annotations import told
    from edgeprune.report.sarif import log

    found = [(item, place) for folder in places for item, place in _found(folder)]
    if as_json:
        rows = [
            {
                "rule": x.rule.id,
                "severity": x.severity,
                "subject": x.subject,
                "message": x.message,
                "file": str(p),
            }
            for x, p in found
        ]
        click.echo(json.dumps(rows, indent=1))
    else:
        for item, _ in found:
            severity = click.style(f"{item.severity:<8}", fg=_COLOURS[item.severity])
            click.echo(f"{item.rule.id} {severity} {item.message}")
        click.echo(f"{len(found)} findings" + ("; `edgeprune explain RULE` tells more" if found else ""))
    if sarif is not None:
        version = environment.installed("edgeprune") or "0"
        write_text(sarif, log(((item, place, 1) for item, place in found), version))
    if github:
        for line in told((item, place, 1) for item, place in found):
            click.echo(line, err=as_json)
    grave = ("error", "warning") if strict else ("error",)
    return int(any(item.severity in grave for item, _ in found))


def _found(place: Path) -> list[tuple[Lint, Path]]:
    """The lints of one argument, each with its file."""
    if place.suffix == ".onnx":
        from edgeprune.verdict.onnx_lints import lint_onnx

        return [(item, place) for item in lint_onnx(place)]
    from edgeprune.records.run import Run
    from edgeprune.verdict.lints import lints

    file = place / "run.json" if place.is_dir() else place
    return [(item, file) for item in lints(Run.load(place))]
