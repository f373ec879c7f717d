"""`plan`: what a choice will cost, told before anything is run or written."""

from __future__ import annotations

import json
from typing import Any

import click

from edgeprune.cli import options
from edgeprune.cli.console import Bars, show
from edgeprune.cli.look import table
from edgeprune.records.run import to_json


@click.command()
@options.model_argument
@options.model_options
@options.prune_options
@options.domain_option
@options.target_option
@click.option(
    "--epsilon",
    type=click.FloatRange(0, min_open=True),
    metavar="E",
    help="How many draws make every reader's error at most E, in place of a plan.",
)
@click.option(
    "--delta",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    metavar="P",
    help="Probability with which that may fail.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(model: str | None, epsilon: float | None, delta: float, as_json: bool, **values: Any) -> int:
    r"""Tell what pruning MODEL would keep and cost; nothing is shrunk, run on a target, or written.

    With --epsilon: the sample size that the coreset theorem asks for, layer by layer.

    \b
      edgeprune plan model.py:build --input 1x784 --moments none --keep 0.25
      edgeprune plan model.py:build --calibration data.npz --macs 0.5
      edgeprune plan model.py:build --input 1x784 --domain 0,1 --epsilon 0.5 --delta 0.01
    """
    from edgeprune.certificates.foresight import foreseen, sample_sizes
    from edgeprune.cli.model import loaded_and_resolved
    from edgeprune.inputs.preparation import prepare
    from edgeprune.line.planning import allotted, coupled, planned
    from edgeprune.stages.radii import radii

    loaded, resolved = loaded_and_resolved(model, values)
    line = prepare(loaded, resolved.settings)
    coupling = coupled(line, Bars())
    if epsilon is not None:
        sizes = sample_sizes(coupling, radii(coupling, line.everywhere, line.inputs), epsilon, delta)
        _told_sizes(sizes, epsilon, delta, as_json)
        return 0
    found = foreseen(coupling, planned(line, coupling, allotted(line, coupling, Bars()).widths, Bars()))
    if as_json:
        click.echo(json.dumps(to_json(found), indent=1))
        return 0
    groups = table(
        ("group", False), ("units", True), ("kept", True), ("expected error", True), ("draws", True)
    )
    for one in found:
        error = "–" if one.error is None else f"{100 * one.error**0.5:.3g} %"
        groups.add_row(
            one.group, f"{one.before}", f"{one.after}", error, "–" if one.draws is None else f"{one.draws}"
        )
    show(groups)
    click.echo(
        "\nexpected error: root of the expected squared error of what the readers hear, relative to it, each "
        "group alone, before any refit"
    )
    return 0


def _told_sizes(sizes: Any, epsilon: float, delta: float, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(to_json(sizes), indent=1))
        return
    layers = table(
        ("group", False),
        ("units", True),
        ("outputs", True),
        ("taps", True),
        ("β", True),
        ("t", True),
        ("draws", True),
        ("paper's form", True),
    )
    for one in sizes:
        layers.add_row(
            one.group,
            f"{one.units}",
            f"{one.outputs}",
            f"{one.taps}",
            f"{one.radius:.4g}",
            f"{one.spread:.4g}",
            f"{one.draws:,}",
            f"{one.paper_draws:,}",
        )
    show(layers)
    click.echo(
        f"\ndraws: so many make each reader's error at most {epsilon:g} on every input of the layer with "
        f"‖x‖₂ ≤ β, with probability {1 - delta:g}; they are made with repetitions, and more of them than "
        "units mean: leave the layer as it is. The paper's form takes its open constant as 1: no promise."
    )
