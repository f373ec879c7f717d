"""`schema`, `config` and `init`: settings described, shown with their origins, and written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edgeprune.cli import options
from edgeprune.cli.console import Bars
from edgeprune.errors import ConfigError, EdgepruneError, UsageError
from edgeprune.files import write_text

FORMATS = ("settings", "target", "run")


@click.command()
@click.argument("what", type=click.Choice(FORMATS), default="settings", metavar="[settings|target|run]")
def schema(what: str) -> int:
    r"""Print the JSON Schema of edgeprune.toml, of a target's file, or of run.json.

    \b
      edgeprune schema > edgeprune.schema.json     # then, first line of edgeprune.toml:
                                                   # "#:schema edgeprune.schema.json"
    """
    from edgeprune.schema import schema_of, settings_schema

    if what == "settings":
        made = settings_schema()
    elif what == "target":
        from edgeprune.target import Target

        made = schema_of(Target, "a target of edgeprune")
        made["properties"]["extends"] = {"type": "string", "description": "a target to start from"}
        made["required"] = []
    else:
        from edgeprune.records.run import Run

        made = schema_of(Run, "run.json of edgeprune", strict=False)
    click.echo(json.dumps(made, indent=1))
    return 0


@click.command()
@click.argument("files", type=click.Path(path_type=Path), metavar="[FILE]…", nargs=-1)
@click.option("--check", is_flag=True, help="Only say whether the files are right (for pre-commit).")
@options.json_option
def config(files: tuple[Path, ...], check: bool, as_json: bool) -> int:
    r"""Show each setting, its value, and where that comes from.

    FILE is an edgeprune.toml or a pyproject.toml; without one the file that `edgeprune run` would
    read in this folder.

    \b
      edgeprune config
      edgeprune config --check edgeprune.toml
    """
    if check:
        return _checked(files or (Path("edgeprune.toml"),))
    if len(files) > 1:
        raise UsageError("only one file at a time can be shown; give --check to check several.")
    from edgeprune.config import resolve

    records = resolve({}, files[0] if files else None).records()
    if as_json:
        shown = {r.name: {"value": r.value, "origin": r.origin} for r in records}
        click.echo(json.dumps(shown, indent=1))
        return 0
    width = max(len(r.name) for r in records)
    values = [_short(r.value) for r in records]
    room = min(max(len(v) for v in values), 60)
    for record, value in zip(records, values, strict=True):
        origin = record.origin
        line = f"{record.name:<{width}}  {value:<{room}}  {origin}"
        click.echo(click.style(line, dim=origin == "default"))
    return 0


def _short(value: Any) -> str:
    """A value on one line, without what is not set."""
    given = _given(value)
    return "–" if given in (None, {}, []) else json.dumps(given, ensure_ascii=False)


def _given(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _given(item) for key, item in value.items()}
    return {key: item for key, item in inner.items() if item not in (None, {}, [])}


def _checked(files: tuple[Path, ...]) -> int:
    """One line a file; 2 if one is wrong."""
    from edgeprune.config import resolve

    worst = 0
    for file in files:
        try:
            if file.suffix != ".toml":
                raise ConfigError(f"{file}: is no .toml file.")
            resolve({}, file)
        except EdgepruneError as error:
            click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
            worst = error.exit_code
    return worst


@click.command()
@options.model_argument
@options.model_options
@click.option(
    "--calibration", metavar="SET", help="Samples to fit with; example inputs are taken from there."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="edgeprune.toml",
    show_default=True,
    metavar="FILE",
    help="The file to write.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(model: str | None, output: Path, force: bool, **values: Any) -> int:
    r"""Look at the MODEL and write a commented edgeprune.toml to start from.

    \b
      edgeprune init model.py:build --input 1x3x224x224
      edgeprune run
    """
    if output.exists() and not force:
        raise UsageError(f"{output}: is there already; give --force to replace it, or -o to write elsewhere.")
    from edgeprune.cli.model import loaded_and_resolved
    from edgeprune.commands.starter import starter
    from edgeprune.inputs.preparation import prepare
    from edgeprune.line.planning import coupled
    from edgeprune.stages.inspect import survey

    from_file = values.get("config")
    loaded, resolved = loaded_and_resolved(model, values) if from_file else _alone(model, values)
    line = prepare(loaded, resolved.settings)
    found = survey(coupled(line, Bars()))
    write_text(output, starter(resolved.settings, loaded.name, line.inputs, found))
    free, pinned = len(found.groups), len(found.pinned)
    click.echo(f"{output}: {free} group{'' if free == 1 else 's'} can lose units, {pinned} cannot")
    click.echo(
        "next: read it, then `edgeprune run`"
        + ("" if output.name == "edgeprune.toml" else f" --config {output}")
    )
    return 0


def _alone(model: str | None, values: dict[str, Any]) -> Any:
    """The model and settings from flags only: the file that lies here is about to be written."""
    from edgeprune.config import resolve
    from edgeprune.inputs.models import load_model

    resolved = resolve({**options.given(values), "model": model or None}, search=False)
    settings = resolved.settings
    if not settings.model:
        raise UsageError("no model is named; give package.module:factory or path/to/file.py:factory.")
    return load_model(settings.model, settings.weights, trust_pickle=settings.trust_pickle), resolved
