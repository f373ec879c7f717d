"""`bisect`, `verify` and `sign`: where an error comes from, and whether a run is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli import options
from edgeprune.errors import UsageError

if TYPE_CHECKING:
    from edgeprune.commands.bisection import Bisected


@click.command()
@options.run_argument
@click.option(
    "--limit",
    type=float,
    metavar="ERROR",
    help="Largest output difference allowed [default: the run's limit observed_error].",
)
@click.option(
    "--tolerance",
    type=float,
    default=1e-3,
    show_default=True,
    metavar="SHARE",
    help="Of a node's largest value, by which a runtime and torch may differ.",
)
@click.option("--every", is_flag=True, help="Try every group instead of halving; finds the very first.")
@click.option(
    "--training/--no-training",
    default=True,
    show_default=True,
    help="Where the run trained after pruning, train the partly pruned nets alike.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Also write a reproduction there."
)
@click.option("--without-weights", is_flag=True, help="The reproduction holds noise instead of your weights.")
@options.json_option
def bisect(
    folder: Path,
    limit: float | None,
    tolerance: float,
    every: bool,
    training: bool,
    output: Path | None,
    without_weights: bool,
    as_json: bool,
) -> int:
    r"""Find the group whose pruning breaks the error limit, and the node where runtime and torch part.

    The plan is made again for its first groups only, from the model's code; then the intermediate
    values of pruned.onnx on each target are held against torch in float64.

    \b
      edgeprune bisect runs/x --limit 0.5
      edgeprune bisect runs/x --limit 0.5 -o repro --without-weights
    """
    from edgeprune.cli.console import Bars
    from edgeprune.cli.model import of_run
    from edgeprune.commands.bisection import bisect as search
    from edgeprune.records.run import to_json

    loaded, resolved = of_run(folder, {})
    allowed = limit if limit is not None else resolved.settings.limits.observed_error
    if allowed is None:
        raise UsageError("no limit tells what is too much; give --limit, such as --limit 0.5.")
    if without_weights and output is None:
        raise UsageError("--without-weights is about the reproduction; name its folder with -o.")
    found = search(
        loaded,
        resolved,
        folder,
        allowed,
        tolerance=tolerance,
        every=every,
        training=training,
        output=output,
        weights=not without_weights,
        progress=Bars(),
    )
    if as_json:
        click.echo(json.dumps(to_json(found), indent=1))
    else:
        _tell(found, output)
    return 0


def _tell(found: Bisected, output: Path | None) -> None:
    from edgeprune.stages.bisect import Parting

    crossing = found.crossing
    for count in sorted(crossing.tried):
        click.echo(f"first {count:>3} groups pruned: error {crossing.tried[count]:.4g}")
    if crossing.group is None:
        click.echo(f"the limit {found.limit:g} holds: the whole plan errs by {crossing.after:.4g}")
    else:
        click.echo(
            f"{click.style(crossing.group, bold=True)} carries the error from {crossing.before:.4g} to "
            f"{crossing.after:.4g}, across the limit {found.limit:g}; keep more of it, or --exclude it"
        )
    for target, parting in found.parting.items():
        if not isinstance(parting, Parting):
            click.echo(f"{target}: not compared node by node: {parting}")
        elif parting.node is None:
            click.echo(f"{target}: runtime and torch agree in all {len(parting.compared)} values compared")
        else:
            click.echo(
                f"{target}: parts from torch first at {click.style(parting.node, bold=True)} "
                f"({parting.operation}), by {parting.difference:.4g} on a scale of {parting.scale:.4g}"
            )
    if output is not None:
        click.echo(f"reproduction  {output}")


@click.command()
@options.run_argument
@click.option(
    "--key", type=click.Path(path_type=Path), metavar="FILE", help="Public key (PEM) of a signature."
)
@click.option("--drift", is_flag=True, help="Also measure the outputs again, on the run's targets.")
@click.option("--certificates", is_flag=True, help="Also make the certificates again.")
@options.json_option
def verify(folder: Path, key: Path | None, drift: bool, certificates: bool, as_json: bool) -> int:
    r"""Recheck the digests of a RUN's files; 1 if one is not what the run wrote.

    --drift and --certificates need the model's code, and do the work again on a copy.

    \b
      edgeprune verify runs/x
      edgeprune verify runs/x --key public.pem --drift
    """
    from edgeprune.records.provenance import verify as check
    from edgeprune.records.provenance import verify_signature
    from edgeprune.records.run import to_json

    found = list(check(folder))
    if key is not None:
        found.append(verify_signature(folder, key))
    if drift or certificates:
        found += _again(folder, drift, certificates)
    if as_json:
        click.echo(json.dumps([to_json(item) for item in found], indent=1))
    else:
        colours = {"ok": "green", "wrong": "red", "unknown": "yellow"}
        for item in found:
            mark = click.style(f"{item.outcome:<8}", fg=colours[item.outcome])
            click.echo(f"{mark} {item.subject}: {item.words}")
    return int(any(item.outcome == "wrong" for item in found))


def _again(folder: Path, drift: bool, certificates: bool) -> list[Any]:
    from edgeprune.cli.console import Bars
    from edgeprune.cli.model import of_run
    from edgeprune.commands.recheck import recheck

    stages = tuple(name for name, asked in (("validate", drift), ("certify", certificates)) if asked)
    loaded, resolved = of_run(folder, {"latency": False})
    return list(recheck(loaded, resolved, folder, stages, Bars()))


@click.command()
@options.run_argument
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Private elliptic-curve key, PEM.",
)
def sign(folder: Path, key: Path) -> int:
    r"""Sign a RUN's files with OpenSSF model-signing (pip install 'edgeprune[sign]').

    The key is an elliptic-curve one of yours; no service is asked.

    \b
      openssl ecparam -name prime256v1 -genkey -noout -out private.pem
      edgeprune sign runs/x --key private.pem
      edgeprune verify runs/x --key public.pem
    """
    from edgeprune.records.provenance import sign as make

    click.echo(f"signature  {make(folder, key)}")
    return 0
