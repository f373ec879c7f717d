"""`calibrate` and `estimate`: a small weighted set out of a big one, and what it tells of a net."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import click

from edgeprune.cli.console import Bars
from edgeprune.records.run import to_json


@click.command()
@click.argument("data", metavar="DATA")
@click.option(
    "--size", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="Samples to keep."
)
@click.option(
    "--loss",
    "loss_name",
    metavar="MODULE:FN",
    help="fn(query, samples, labels) → the loss of each sample, ≥ 0 [default: second moments].",
)
@click.option(
    "--queries",
    "queries_name",
    metavar="MODULE:FN",
    help="fn(count, sample, seed) → queries, a tensor with one a row [default: random directions].",
)
@click.option(
    "--model",
    metavar="MODEL",
    help="Learn for nets like this one (package.module:factory or file.py:factory), by --metric.",
)
@click.option("--weights", metavar="FILE", help="A .safetensors file for that model.")
@click.option(
    "--metric",
    default="cross-entropy",
    show_default=True,
    metavar="NAME",
    help="cross-entropy, error, or module:function of (outputs, labels) → a number ≥ 0 for each sample.",
)
@click.option(
    "--count",
    type=click.IntRange(4),
    default=600,
    show_default=True,
    metavar="N",
    help="Queries to learn on.",
)
@click.option(
    "--move", type=click.IntRange(0), default=0, show_default=True, metavar="STEPS", help="Let samples move."
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.9999),
    default=0.95,
    show_default=True,
    metavar="P",
    help="Of the bound.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="Of the queries."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE.toml", help="The new set."
)
def calibrate(
    data: str,
    loss_name: str | None,
    queries_name: str | None,
    model: str | None,
    weights: str | None,
    output: Path,
    **values: Any,
) -> int:
    r"""Learn a small weighted set on which a loss averages to what it is on all of DATA.

    Learned on half of the queries' seeds, judged on others. The held-out half of DATA stays as it is.

    \b
      edgeprune calibrate mnist --size 200 -o calibration/small.toml
      edgeprune run model.py:build --calibration calibration/small.toml
      edgeprune calibrate mnist --model model.py:build --metric error -o calibration/quick.toml
      edgeprune estimate runs/x/pruned.onnx --calibration calibration/quick.toml --metric error
    """
    from edgeprune.commands.condense import condense
    from edgeprune.inputs.models import load_model

    told = condense(
        data,
        output,
        loss=_imported("--loss", loss_name),
        queries=_imported("--queries", queries_name),
        model=None if model is None else load_model(model, weights).module,
        progress=Bars(),
        **values,
    )
    click.echo(told)
    return 0


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--weights", metavar="FILE", help="A .safetensors file for the model.")
@click.option(
    "--calibration", required=True, metavar="SET", help="A weighted set that `edgeprune calibrate` made."
)
@click.option(
    "--metric",
    default="cross-entropy",
    show_default=True,
    metavar="NAME",
    help="cross-entropy, error, or module:function of (outputs, labels) → a number ≥ 0 for each sample.",
)
@click.option("--at-most", type=float, metavar="X", help="Exit with 1 where the upper end is above X.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def estimate(
    model: str, weights: str | None, calibration: str, metric: str, at_most: float | None, as_json: bool
) -> int:
    r"""Estimate the metric that MODEL has on the whole set, from its few weighted samples.

    MODEL is what `run` takes, or a FILE.onnx. The error is that which the set states for nets like those it
    was learned on; for another metric none is stated.

    \b
      edgeprune estimate runs/x/pruned.onnx --calibration quick.toml --metric error --at-most 0.03
    """
    from edgeprune.commands.estimate import estimate as estimated

    found = estimated(model, calibration, metric, weights=weights)
    if as_json:
        click.echo(json.dumps(to_json(found), indent=1))
    else:
        ends = (
            f"no error is stated: {found.reason}"
            if found.low is None
            else f"{found.low:.4g} to {found.high:.4g} with {100 * (found.confidence or 0):g} % confidence, "
            f"for a net drawn like {found.queries}"
        )
        click.echo(
            f"{metric}: {found.value:.4g} on {found.size} samples, estimated from {found.samples} weighted "
            f"ones; {ends}"
        )
    if at_most is None:
        return 0
    if found.high is None:
        click.echo(f"not judged against {at_most:g}: no error is stated", err=True)
        return 6
    return 0 if found.high <= at_most else 1


def _imported(option: str, name: str | None) -> Any:
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function or "-")
    except (ImportError, AttributeError, ValueError) as error:
        raise click.UsageError(
            f"{option} {name}: cannot be imported ({error}); give module:function."
        ) from error
