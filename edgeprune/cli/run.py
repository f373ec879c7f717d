"""`run`, `prune` and `demo`: walk the line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeprune.cli import options, verdicts
from edgeprune.cli.console import Bars, show
from edgeprune.cli.options import CommandT
from edgeprune.records.run import to_json


def _output(default: str | None = None) -> Callable[[CommandT], CommandT]:
    return click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        required=default is None,
        default=default,
        metavar="DIR",
        help="The run folder"
        + (f" [default: {default}]." if default else "; an unfinished run there is resumed."),
    )


overwrite_option = click.option("--overwrite", is_flag=True, help="Start anew even where a run lies.")


@click.command()
@options.model_argument
@options.model_options
@options.prune_options
@options.export_options
@options.target_option
@options.inventory_option
@options.latency_option
@options.certify_options
@options.bound_option("--bound")
@options.limit_options
@options.output_options
@click.option(
    "--quick",
    is_flag=True,
    default=None,
    help="A first impression: few launches, short bounds and attacks; the record says so.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The run folder; an unfinished run there is resumed [default: runs/ and the model's name].",
)
@overwrite_option
def run(model: str | None, output: Path | None, overwrite: bool, inconclusive: Any, **values: Any) -> int:
    r"""The whole line, from a torch MODEL to a run folder and a verdict.

    MODEL is package.module:factory, path/to/file.py:factory (a function without arguments that
    returns an nn.Module), or a .pt2 file.

    \b
      edgeprune run model.py:build --weights w.safetensors --calibration mnist --keep 0.5 -o runs/x
      edgeprune run model.py:build --input 1x3x224x224 --method sensitivity --macs 0.4 -o runs/y
      edgeprune run --config edgeprune.toml --junit gate.xml
    """
    return _walk(model, output, overwrite, inconclusive, values)


@click.command()
@options.model_argument
@options.model_options
@options.prune_options
@options.domain_option
@options.target_option
@options.inventory_option
@_output()
@overwrite_option
def prune(model: str | None, output: Path, overwrite: bool, **values: Any) -> int:
    r"""Choose channels and shrink the MODEL; writes plan.json and pruned.safetensors.

    `edgeprune run` with the same settings goes on from there.

    \b
      edgeprune prune model.py:build --calibration data.npz --params 0.4 -o runs/x
    """
    return _walk(model, output, overwrite, "error", values, until="shrink")


@click.command()
@_output("runs/demo")
@click.option(
    "--keep", type=float, default=0.5, show_default=True, metavar="SHARE", help="Share of the units to keep."
)
@click.option("--method", default="gram", show_default=True, metavar="NAME", help="How units are chosen.")
@options.latency_option
def demo(output: Path, **values: Any) -> int:
    r"""Prune the bundled LeNet-300-100, trained on MNIST, and show what came of it.

    \b
      edgeprune demo
      edgeprune demo --keep 0.2 --method magnitude -o runs/magnitude
    """
    values = {**values, "calibration": "mnist", "look": False}  # the folder's own settings are not about it
    return _walk("edgeprune.demo.lenet:build", output, True, "error", values)


def _walk(
    model: str | None,
    output: Path | None,
    overwrite: bool,
    inconclusive: Any,
    values: dict[str, Any],
    until: str = "",
) -> int:
    from edgeprune.cli.model import loaded_and_resolved
    from edgeprune.inputs.measures import load_function
    from edgeprune.pipeline import run as walk
    from edgeprune.report.terminal import overview
    from edgeprune.stages.gate import exit_code

    loaded, resolved = loaded_and_resolved(model, values)
    for metric in resolved.settings.limits.metrics:
        load_function(metric)  # a misspelt one is told before anything is done
    output = output or Path("runs") / (re.sub(r"[^\w.-]+", "-", loaded.name).strip(".-") or "model")
    result = walk(loaded, resolved, output, overwrite=overwrite, until=until, progress=Bars())
    if values.get("as_json"):
        click.echo(json.dumps(to_json(result), indent=1))
        verdicts.told(result, output, values)
        return exit_code(result.verdict, inconclusive) if result.verdict is not None else 0
    verbose = click.get_current_context().find_root().params.get("verbose")
    show(overview(result, every=bool(verbose)))
    if until:
        click.echo(f"\nplan     {output / 'plan.json'}\nweights  {output / 'pruned.safetensors'}")
        return 0
    click.echo(f"\nreport   {output / 'report.html'}\nmodel    {output / 'pruned.onnx'}")
    verdicts.told(result, output, values)
    return exit_code(result.verdict, inconclusive) if result.verdict is not None else 0
