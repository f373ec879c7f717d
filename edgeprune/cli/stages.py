"""`export`, `simplify`, `validate` and `certify`: one stage alone."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from edgeprune.cli import options, verdicts
from edgeprune.cli.console import Bars, show
from edgeprune.records.run import to_json


@click.command()
@options.model_argument
@options.model_options
@options.samples_option
@click.option("--opset", type=int, metavar="N", help="ONNX opset [default: the exporter's].")
@click.option("--dynamic-batch/--no-dynamic-batch", default=None, help="Leave the batch size free.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The ONNX file."
)
def export(model: str | None, output: Path, **values: Any) -> int:
    r"""Write MODEL as an ONNX file, checked against the torch net in float64; nothing is pruned.

    \b
      edgeprune export model.py:build --input 1x3x224x224 -o model.onnx
    """
    from edgeprune.cli.model import loaded_and_resolved
    from edgeprune.inputs.preparation import prepare
    from edgeprune.stages.export import export as write
    from edgeprune.stages.parity import checked, torch_outputs

    loaded, resolved = loaded_and_resolved(model, values)
    settings = resolved.settings
    line = prepare(loaded, settings)
    artifact = write(
        loaded.module, line.inputs, output, dynamic_batch=settings.dynamic_batch, opset=settings.opset
    )
    samples = tuple(x[:64] for x in line.holdout)
    expected = torch_outputs(loaded.module, samples, line.batch)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
        parity = checked(output, expected, samples, Path(work) / "check", "exported")
    click.echo(
        f"{output}: {artifact.size_bytes} bytes, opset {artifact.opset}; differs from torch in float64 "
        f"by at most {parity.difference:.2g} on outputs of size {parity.scale:.2g} ({parity.n_inputs} inputs)"
    )
    return 0


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE.onnx")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The simplified file.",
)
@click.option(
    "--time-limit",
    type=float,
    default=300.0,
    show_default=True,
    metavar="S",
    help="Seconds for the simplifier.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the inputs both files are compared on."
)
def simplify(source: Path, output: Path, time_limit: float, seed: int) -> int:
    r"""Simplify an ONNX file with onnxsim, and check that it still computes the same.

    \b
      edgeprune simplify model.onnx -o simpler.onnx
    """
    from edgeprune.stages.parity import compare, file_outputs, noise_for
    from edgeprune.stages.simplify import simplify as make

    inputs = noise_for(source, seed)
    result = make(source, output, time_limit)
    if result.warning:
        click.echo(f"{click.style('warning:', fg='yellow')} {result.warning}", err=True)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
        before = file_outputs(source, inputs, Path(work) / "before")
        parity = compare(before, file_outputs(output, inputs, Path(work) / "after"))
        if not parity.holds:
            make(source, output, time_limit, unchanged="its result was wrong")
            click.echo(
                f"{click.style('warning:', fg='yellow')} onnxsim changed the outputs by "
                f"{parity.difference:.3g}; its result was thrown away.",
                err=True,
            )
    click.echo(
        f"{output}: {source.stat().st_size} → {output.stat().st_size} bytes; outputs differ by at most "
        f"{parity.difference:.2g} on a scale of {parity.scale:.2g}"
    )
    return 0


@click.command()
@options.run_argument
@options.target_option
@options.inventory_option
@options.latency_option
@options.limit_options
@options.output_options
def validate(folder: Path, inconclusive: Any, **values: Any) -> int:
    r"""Validate a RUN's models on the given targets, again or for the first time.

    \b
      edgeprune validate runs/x --target cpu-1t --target ./board.toml
    """
    return _again(folder, values, ("validate", "certify"), inconclusive)


@click.command()
@options.run_argument
@options.certify_options
@options.bound_option("--method", "--bound")
@click.option("--attack-steps", type=int, metavar="N", help="Gradient steps of the search for large errors.")
@click.option("--attack-restarts", type=int, metavar="N", help="Starts of that search.")
@options.limit_options
@options.output_options
def certify(folder: Path, inconclusive: Any, **values: Any) -> int:
    r"""Compute a RUN's certificates again, over another domain or with other odds.

    \b
      edgeprune certify runs/x --domain 0,1 --confidence 0.99
      edgeprune certify runs/x --domain linf:0.05@sample3 --method quadratic --budget 2m
    """
    return _again(folder, values, ("certify",), inconclusive)


def _again(folder: Path, values: dict[str, Any], stages: tuple[str, ...], inconclusive: Any) -> int:
    from edgeprune.cli.model import of_run
    from edgeprune.pipeline import again
    from edgeprune.report.terminal import overview
    from edgeprune.stages.gate import exit_code

    loaded, resolved = of_run(folder, values)
    names = [f"validate-{name}" for name in resolved.settings.target] if "validate" in stages else []
    done = again(loaded, resolved, folder, (*stages, *names), Bars())
    if values.get("as_json"):
        click.echo(json.dumps(to_json(done), indent=1))
    else:
        show(overview(done))
    verdicts.told(done, folder, values)
    return exit_code(done.verdict, inconclusive) if done.verdict is not None else 0
