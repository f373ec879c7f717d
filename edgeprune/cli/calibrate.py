"""`calibrate`: a small weighted calibration set out of a big one."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click

from edgeprune.cli.console import Bars


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
def calibrate(data: str, loss_name: str | None, queries_name: str | None, output: Path, **values: Any) -> int:
    r"""Learn a small weighted set on which a loss averages to what it is on all of DATA.

    Learned on half of the queries' seeds, judged on others. The held-out half of DATA stays as it is.

    \b
      edgeprune calibrate mnist --size 200 -o calibration/small.toml
      edgeprune run MODEL --calibration calibration/small.toml
    """
    from edgeprune.condense import condense

    told = condense(
        data,
        output,
        loss=_imported("--loss", loss_name),
        queries=_imported("--queries", queries_name),
        progress=Bars(),
        **values,
    )
    click.echo(told)
    return 0


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
