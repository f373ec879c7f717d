"""`inspect`, `targets` and `doctor`: look before doing anything."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli import options
from edgeprune.cli.console import Bars, show
from edgeprune.errors import EdgepruneError

if TYPE_CHECKING:
    from rich.table import Table


def table(*columns: tuple[str, bool]) -> Table:
    """An empty table of named columns, each aligned right where its flag says so."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for name, right in columns:
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    return table


@click.command()
@options.model_argument
@options.model_options
@options.samples_option
@options.couple_options
@options.json_option
def inspect(model: str | None, as_json: bool, **values: Any) -> int:
    r"""List the MODEL's groups of channels, what is pinned and why, and the cost of each layer.

    \b
      edgeprune inspect model.py:build --input 1x3x224x224
    """
    from edgeprune.cli.model import loaded_and_resolved
    from edgeprune.inputs.preparation import prepare
    from edgeprune.line.planning import coupled
    from edgeprune.stages.inspect import survey

    loaded, resolved = loaded_and_resolved(model, values)
    line = prepare(loaded, resolved.settings)
    found = survey(coupled(line, Bars()))
    if as_json:
        import json

        from edgeprune.records.run import to_json

        click.echo(json.dumps(to_json(found), indent=1))
        return 0
    groups = table(
        ("group", False), ("units", True), ("parameters", True), ("made by", False), ("read by", False)
    )
    for group in found.groups:
        groups.add_row(
            group.name + (" (approximate)" if group.approximate else ""),
            str(group.units),
            f"{group.params:,}",
            ", ".join(group.made_by),
            ", ".join(group.read_by) or "–",
        )
    pinned = table(("left alone", False), ("units", True), ("because it is", False))
    for item in found.pinned:
        pinned.add_row(item.name, str(item.units), item.reason)
    layers = table(("layer", False), ("operation", False), ("parameters", True), ("MACs", True))
    for layer in found.layers:
        layers.add_row(layer.name, layer.operation, f"{layer.params:,}", f"{layer.macs:,}")
    show(groups, "", pinned, "", layers)
    share = found.prunable_params / max(found.params, 1)
    click.echo(
        f"\n{loaded.name}: {found.params:,} parameters, {found.macs:,} MACs a sample; "
        f"{share:.1%} of the parameters carry prunable units"
    )
    for reason in found.reasons:
        click.echo(f"  {reason.params / max(found.params, 1):6.1%} carry none: {reason.reason}")
    for note in loaded.notes:
        click.echo(f"{click.style('note:', fg='cyan')} {note}")
    return 0


@click.command()
@click.argument("name", required=False, metavar="[NAME]")
@options.inventory_option
@click.option("--check", is_flag=True, help="Try whether it can be reached and has its provider.")
@options.json_option
def targets(name: str | None, check: bool, as_json: bool) -> int:
    r"""List the targets, show one, or check whether it can be reached.

    NAME is a target's name or the path of a .toml file.

    \b
      edgeprune targets
      edgeprune targets ./board.toml --check
    """
    import json

    from edgeprune.profiles import find_target, list_targets
    from edgeprune.records.run import to_json

    found = (find_target(name),) if name else list_targets()
    answers = {target.name: _probe(target) for target in found} if check else {}
    if as_json:
        click.echo(
            json.dumps(
                [{**to_json(t), **({"check": answers[t.name]} if check else {})} for t in found], indent=1
            )
        )
    elif name:
        click.echo(json.dumps(to_json(found[0]), indent=1))
        if check:
            click.echo(answers[found[0].name]["says"])
    else:
        columns = [
            ("target", False),
            ("provider", False),
            ("transport", False),
            ("precision", False),
            ("tested", False),
            ("what", False),
        ]
        listed = table(*columns, *([("check", False)] if check else []))
        for target in found:
            row = [
                target.name,
                target.runtime.provider,
                target.transport,
                target.precision,
                "yes" if target.tested else "no",
                target.description,
            ]
            listed.add_row(*row, *([answers[target.name]["says"]] if check else []))
        show(listed)
    return 0 if all(answer["reached"] for answer in answers.values()) else 5


def _probe(target: Any) -> dict[str, Any]:
    import tempfile
    from pathlib import Path

    from edgeprune.runtimes import probe

    with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
        try:
            answer = probe(target, Path(work) / "probe")
        except EdgepruneError as error:
            return {"reached": False, "says": str(error)}
    return {"reached": True, "says": f"reachable, onnxruntime {answer.version}"}


@click.command()
def doctor() -> int:
    r"""Tell versions, providers and what is missing; exits with 2 if something needed is.

    \b
      edgeprune doctor
    """
    from edgeprune.records import environment

    about = environment.describe(0)
    click.echo(f"edgeprune {about.edgeprune}  python {about.python}  {about.platform}")
    click.echo(
        f"cpu       {about.cpu}, {about.cores} cores, {' '.join(about.flags) or 'no known extensions'}"
    )
    missing = []
    for package in ("torch", "onnx", "onnxruntime", "onnxscript", "onnxsim", "numpy", "scipy", "safetensors"):
        version = environment.installed(package)
        click.echo(f"{package:<12}{version or click.style('missing', fg='red')}")
        missing += [] if version else [package]
    if not missing:
        from edgeprune.runtimes.agent.machine import builds

        if len(found := builds()) > 1:
            click.echo(
                f"{click.style('warning:', fg='yellow')} {', '.join(found)} overwrite each other's files, "
                "and which of them runs is chance; uninstall all of them, then install one."
            )
    if "onnxruntime" not in missing:
        providers = importlib.import_module("onnxruntime").get_available_providers()
        click.echo(f"providers   {', '.join(providers)} (built in; `edgeprune targets --check` tries them)")
    if missing:
        click.echo(f"install:    pip install {' '.join(missing)}")
    return 2 if missing else 0
