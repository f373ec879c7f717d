"""`profile` and `compare`: ONNX files measured where they are meant to run. Neither needs torch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeprune.cli import options
from edgeprune.cli.console import Bars, show

if TYPE_CHECKING:
    from rich.table import Table

    from edgeprune.runtimes.jobs import Operation
    from edgeprune.stages.profile import Profile

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
TOP = 12


def _options(command: CommandT) -> CommandT:
    for option in reversed(
        (
            click.option(
                "--target", default="cpu", show_default=True, metavar="NAME", help="Where: a name or a .toml."
            ),
            click.option(
                "--inputs",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Samples, a .npz with one array an input or a .npy [default: seeded noise].",
            ),
            click.option(
                "--operations/--no-operations", default=True, help="Also time each operation [default: on]."
            ),
            click.option(
                "--seed", type=int, default=0, show_default=True, help="Of noise and random orders."
            ),
            options.inventory_option,
            click.option("--json", "as_json", is_flag=True, help="Print JSON, with every raw sample."),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE.onnx|RUN")
@_options
@click.option("--launches", type=click.IntRange(1), default=4, show_default=True, help="Fresh processes.")
def profile(
    source: Path, target: str, inputs: Path | None, operations: bool, seed: int,
    as_json: bool, launches: int,
) -> int:  # fmt: skip
    r"""Time an ONNX file alone: load, first run, steady state, and where the time goes.

    Of a RUN both models are profiled. To say that one model is faster than another use `compare`,
    which measures them in pairs.

    \b
      edgeprune profile model.onnx --target cpu-1t
    """
    from edgeprune.profiles import find_target
    from edgeprune.records.run import to_json
    from edgeprune.stages.profile import profile as measure

    where = find_target(target)
    found = []
    for model in _models(source):
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
            found.append(
                measure(
                    model,
                    _samples(inputs, model, seed),
                    where,
                    launches=launches,
                    trace=operations,
                    work=Path(work),
                    progress=Bars(),
                )
            )
    if as_json:
        click.echo(json.dumps([to_json(item) for item in found], indent=1))
        return 0
    for item in found:
        _tell(item)
    return 0


@click.command()
@click.argument("first", type=click.Path(path_type=Path), metavar="A.onnx")
@click.argument("second", type=click.Path(path_type=Path), metavar="B.onnx")
@_options
@click.option("--latency/--no-latency", default=True, help="Measure latency [default: on].")
def compare(
    first: Path, second: Path, target: str, inputs: Path | None, operations: bool, seed: int,
    as_json: bool, latency: bool,
) -> int:  # fmt: skip
    r"""Compare two ONNX files on a target: outputs, latency in pairs, memory, and by operation.

    B is held against A: a ratio below 1 means that B is faster, and outputs are compared with
    those of A on this machine's CPU. Exits with 5 if the target could not be reached.

    \b
      edgeprune compare original.onnx pruned.onnx --target cpu-1t
    """
    from edgeprune.commands.side_by_side import compare as measure
    from edgeprune.profiles import find_target
    from edgeprune.records.run import to_json

    where = find_target(target)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
        found = measure(
            first, second, _samples(inputs, first, seed), where,
            latency=latency, trace=operations, seed=seed, work=Path(work), progress=Bars(),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(to_json(found), indent=1))
    else:
        for line in found.lines():
            click.echo(line)
        if found.operations != ((), ()):
            show("", _both(*found.operations))
        for note in found.validation.warnings:
            click.echo(f"{click.style('note:', fg='cyan')} {note}")
    return 0 if found.validation.reached else 5


@click.command()
@click.argument("source", type=click.Path(path_type=Path), metavar="FILE.onnx|RUN")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where to."
)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="What free sizes become.")
@click.option("--fp16", is_flag=True, help="Also write a float16 file.")
@click.option("--external-data", is_flag=True, help="Keep the weights of the ONNX file beside it.")
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Samples to check with, .npz or .npy [default: seeded noise].",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of that noise.")
def package(
    source: Path, output: Path, batch: int, fp16: bool, external_data: bool, inputs: Path | None, seed: int
) -> int:
    r"""Make an ONNX file (of a RUN the pruned one) ready for phones, and say which providers take it.

    Writes the file with fixed shapes, as .ort with the operators a small onnxruntime must be built
    with, and on demand in float16. Each is run here and held against the original.

    \b
      edgeprune package pruned.onnx -o phone --fp16
    """
    from edgeprune.stages.package import package as make

    model = _models(source)[-1]
    made = make(model, output, _samples(inputs, model, seed), batch=batch, half=fp16, external=external_data)
    for item in made.files:
        told = f"{item.path}: {item.size_bytes} bytes"
        if item.difference is not None:
            told += f"; outputs differ by at most {item.difference:.2g} on a scale of {item.scale:.2g}"
        click.echo(told)
    table = _grid(("provider", False), ("takes", True), ("stretches", True), ("advice", False))
    for found in made.usability:
        table.add_row(
            found.provider, f"{found.taken} of {len(found.nodes)}", str(found.partitions), found.advice
        )
    show("", table)
    for found in made.usability:
        for reason, count in found.reasons().items():
            click.echo(f"{found.provider}: {count} stay on the CPU: {reason}")
    return 0


def _models(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    from edgeprune.records.run import Run

    artifacts = Run.load(source).artifacts
    return [source / artifacts[name].path for name in ("original", "pruned") if name in artifacts]


def _samples(inputs: Path | None, model: Path, seed: int) -> tuple[Any, ...]:
    from edgeprune.runtimes.reference import noise_for, samples_from

    return noise_for(model, seed) if inputs is None else samples_from(inputs)


def _tell(item: Profile) -> None:
    runs = sum(len(launch) for launch in item.raw_ms)
    click.echo(f"{click.style(item.model, bold=True)} on {item.target} ({item.provider})")
    click.echo(f"load      {_range(item.load_ms, 'ms')}")
    click.echo(f"first run {_range(item.first_ms, 'ms')}")
    click.echo(f"memory    {_range(item.peak_mb, 'MiB')}")
    for percentile in item.percentiles:
        ends = [percentile.low_ms, percentile.high_ms]
        low, high = ("?" if end is None else f"{end:.4g}" for end in ends)
        click.echo(f"p{percentile.share * 100:<8g} {percentile.ms:.4g} ms  ({low} to {high})")
    click.echo(
        f"          {runs} steady runs in {len(item.raw_ms)} processes, bounds of {item.confidence:.0%} each"
    )
    if item.operations:
        show("", _operations(item.operations))
    for note in item.notes:
        click.echo(f"{click.style('note:', fg='cyan')} {note}")
    click.echo()


def _range(values: tuple[float, ...], unit: str) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g} {unit}" if low == high else f"{low:.4g} to {high:.4g} {unit}"


def _grid(*columns: tuple[str, bool]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for name, right in columns:
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    return table


def _operations(operations: tuple[Operation, ...]) -> Table:
    table = _grid(("node", False), ("operation", False), ("µs", True), ("share", True))
    total = sum(o.us for o in operations) or 1.0
    for o in operations[:TOP]:
        table.add_row(o.name, o.operation, f"{o.us:.1f}", f"{o.us / total:.1%}")
    if len(operations) > TOP:
        rest = sum(o.us for o in operations[TOP:])
        table.add_row(f"{len(operations) - TOP} more", "", f"{rest:.1f}", f"{rest / total:.1%}")
    return table


def _both(first: tuple[Operation, ...], second: tuple[Operation, ...]) -> Table:
    """Nodes of both models side by side, by name, those that cost A or B most first."""
    table = _grid(("node", False), ("operation", False), ("A µs", True), ("B µs", True))
    by_name: dict[str, list[Operation | None]] = {o.name: [o, None] for o in first}
    for o in second:
        by_name.setdefault(o.name, [None, None])[1] = o
    rows = sorted(by_name.items(), key=lambda row: -max(o.us for o in row[1] if o))
    for name, pair in rows[:TOP]:
        kinds = dict.fromkeys(o.operation for o in pair if o)
        table.add_row(name, " → ".join(kinds), *(f"{o.us:.1f}" if o else "–" for o in pair))
    if len(rows) > TOP:
        hidden = [[pair[side] for _, pair in rows[TOP:]] for side in (0, 1)]
        rest = [sum(item.us for item in column if item is not None) for column in hidden]
        table.add_row(f"{len(rows) - TOP} more", "", *(f"{us:.1f}" for us in rest))
    table.add_row("all", "", *(f"{sum(o.us for o in side):.1f}" for side in (first, second)))
    return table
