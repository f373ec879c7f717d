"""`gate` and `report`: a finished run judged and shown. Neither needs torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli import options, verdicts
from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.files import write_text
from edgeprune.records.run import Latency, Run

if TYPE_CHECKING:
    from edgeprune.verdict.limits import Limits


@click.command()
@options.run_argument
@options.limit_options
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also take limits from the [limits] of this edgeprune.toml.",
)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Another run, which this one must not be worse than.",
)
@click.option(
    "--regression",
    multiple=True,
    type=verdicts.RegressionType(),
    metavar="[NAME=]PERCENT",
    help="How much worse than the baseline is allowed, repeatable; without a name for every figure that "
    "two runs can be compared in [default with --baseline: 0].",
)
@click.option("--remeasure", is_flag=True, help="Time both pruned models now, for --regression latency=….")
@options.output_options
def gate(folder: Path, inconclusive: Any, as_json: bool, **values: Any) -> int:
    r"""Hold a RUN against limits; the exit code is 0 if all hold, 1 if one does not.

    Limits come from flags, then --config, then the run's own settings. A target that could not be
    measured exits with 5, a measurement that did not settle with 6: neither ever passes silently.
    Latencies of two runs are never compared: --remeasure times both models in pairs.

    \b
      edgeprune gate runs/x --limit observed_error=0.5 --limit latency_ratio=0.8:warn
      edgeprune gate runs/new --baseline runs/old --regression 5 --regression latency=3 --remeasure
      edgeprune gate runs/x --sarif gate.sarif --summary "$GITHUB_STEP_SUMMARY" --github
    """
    from edgeprune.stages.gate import exit_code
    from edgeprune.stages.gate import gate as judge

    record, run_dir = Run.load(folder), folder if folder.is_dir() else folder.parent
    limits, trusted = _limits(record, values)
    baseline = Run.load(values["baseline"]) if values["baseline"] is not None else None
    if values["baseline"] is None and (values["regression"] or values["remeasure"]):
        raise UsageError("--regression and --remeasure compare with another run; name it with --baseline.")
    verdict = judge(
        record,
        limits,
        _by_target(record, limits),
        measures=_measures(trusted, run_dir, record),
        baseline=baseline,
        remeasured=_remeasured(record, run_dir, values["baseline"]) if values["remeasure"] else None,
    )
    judged = dataclasses.replace(record, verdict=verdict)
    if as_json:
        import json

        from edgeprune.records.run import to_json

        click.echo(json.dumps(to_json(verdict), indent=1))
    else:
        verdicts.say(judged)
    verdicts.told(judged, run_dir, {**values, "as_json": as_json})
    return exit_code(verdict, inconclusive)


def _limits(record: Run, values: dict[str, Any]) -> tuple[Limits, Limits]:
    """All limits, and those that the user named here: only their metrics are run as code."""
    from edgeprune.config import Settings, read_config
    from edgeprune.records.versions import stored
    from edgeprune.tables import read_table
    from edgeprune.verdict.limits import Limits

    named = verdicts.limits_of(values)
    if values["config"] is not None:
        path, content = read_config(values["config"])
        named = named.over(read_table(Settings, content, str(path)).limits)
    kept = next((s.value for s in record.settings if s.name == "limits"), None) or {}
    own = stored(Limits, kept, "run.json: the setting limits", record.environment.edgeprune)
    limits = named.over(own)
    if values["baseline"] is not None and not limits.regression.given():
        regression = dataclasses.replace(limits.regression, all=0.0)
        limits = dataclasses.replace(limits, regression=regression)
    elif values["baseline"] is None and not named.regression.given():
        limits = dataclasses.replace(limits, regression=Limits().regression)
    return limits, named


def _by_target(record: Run, limits: Limits) -> dict[str, Limits]:
    """Limits of each target's own file, beneath these."""
    from edgeprune.profiles import find_target

    found = {}
    for validation in record.validations:
        try:
            found[validation.target] = limits.over(find_target(validation.target).limits)
        except EdgepruneError:
            found[validation.target] = limits  # the target's file is not at hand here
    return found


def _measures(limits: Limits, folder: Path, record: Run) -> dict[str, dict[str, float | str]]:
    """The user's metrics computed now: those named in flags or --config, never those of a run.json."""
    if not limits.metrics:
        return {}
    from edgeprune.inputs.measures import measure

    return measure(limits.metrics, folder, [v.target for v in record.validations if v.reached])


def _remeasured(record: Run, folder: Path, baseline: Path) -> dict[str, Latency | str]:
    """Both pruned models timed in pairs, on every target of the run."""
    import tempfile

    from edgeprune.cli.console import Bars
    from edgeprune.commands.side_by_side import compare
    from edgeprune.profiles import find_target
    from edgeprune.runtimes.reference import noise_for

    home = baseline if baseline.is_dir() else baseline.parent
    files = home / "pruned.onnx", folder / "pruned.onnx"
    found: dict[str, Latency | str] = {}
    for validation in record.validations:
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
            try:
                target = find_target(validation.target)
                inputs = noise_for(files[1], 0, 64)
                compared = compare(*files, inputs, target, trace=False, work=Path(work), progress=Bars())
            except EdgepruneError as error:
                found[validation.target] = f"could not be measured again: {error}"
                continue
        measured = compared.validation
        found[validation.target] = measured.latency or measured.reason or "latency was not measured"
    return found


@click.command()
@click.argument("folders", type=click.Path(path_type=Path), metavar="RUN…", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to [default: RUN/report.html; comparison.html for several].",
)
def report(folders: tuple[Path, ...], output: Path | None) -> int:
    r"""Write a RUN as one self-contained HTML page, or several runs side by side.

    \b
      edgeprune report runs/x
      edgeprune report runs/x runs/y runs/z -o comparison.html
    """
    if len(folders) > 1:
        from edgeprune.report.comparison import render_several

        path = output or Path("comparison.html")
        write_text(path, render_several([(str(f), Run.load(f)) for f in folders]))
    else:
        from edgeprune.report.html import of

        folder = folders[0]
        path = output or (folder if folder.is_dir() else folder.parent) / "report.html"
        write_text(path, of(folder))
    click.echo(str(path))
    return 0
