"""The command line: parse, call, print. Nothing here decides anything.

Commands are loaded when they are called, so that `edgeprune --help` and `edgeprune gate` start in
a blink.
"""

from __future__ import annotations

import importlib
from typing import ClassVar

import click

from edgeprune.cli.errors import told

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "The whole line: prune, shrink, export, validate, certify, gate."),
    "demo": ("run", "The bundled model, end to end."),
    "search": ("search", "The front of latency, error and size, on as many devices as there are."),
    "merge": ("search", "The parts of a search that was split, put together."),
    "inspect": ("look", "Groups of channels, what is pinned and why, cost by layer."),
    "plan": ("plan", "What pruning would keep and cost, and sample sizes, before anything is run."),
    "prune": ("run", "Choose and shrink only; go on later with `run`."),
    "export": ("stages", "A model as a checked ONNX file, unpruned."),
    "simplify": ("stages", "An ONNX file made simpler, and checked."),
    "validate": ("stages", "A run's models on other targets."),
    "certify": ("stages", "A run's certificates again, with other settings."),
    "profile": ("measure", "An ONNX file alone on a target: load, first run, steady state, operations."),
    "compare": ("measure", "Two ONNX files on a target: outputs, and latency in pairs."),
    "package": ("measure", "An ONNX file for phones: fixed shapes, .ort, float16, who takes which node."),
    "gate": ("judge", "A run held against limits: the exit code is for CI."),
    "report": ("judge", "A run as one self-contained HTML page; several side by side."),
    "lint": ("explain", "Runs and ONNX files looked over, by rules with stable ids."),
    "explain": ("explain", "What a rule means, and what to do about it."),
    "bisect": ("trace_back", "The group and the node that an error comes from."),
    "verify": ("trace_back", "A run's digests and signature rechecked; drift and certificates on demand."),
    "sign": ("trace_back", "A run's files signed."),
    "init": ("configure", "A commented edgeprune.toml, written by looking at the model."),
    "config": ("configure", "Each setting, its value, and where that comes from."),
    "schema": ("configure", "JSON Schema of edgeprune.toml, of a target, of run.json."),
    "calibrate": ("calibrate", "A small weighted calibration set from a big one."),
    "estimate": ("calibrate", "The metric on a whole set, from a weighted set's few samples."),
    "targets": ("look", "Where a model can be validated: list, show, check."),
    "doctor": ("look", "Versions, providers, and what is missing."),
}
"""Name → (module of this folder, short help). The order is that of the help."""


def _louder(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """`edgeprune gate -q` is `edgeprune -q gate`."""
    if value and param.name is not None:
        from edgeprune.cli.console import set_up_logging

        root = ctx.find_root()
        root.params[param.name] = True
        set_up_logging(bool(root.params.get("verbose")), bool(root.params.get("quiet")))


_VERBOSITY: list[click.Parameter] = [
    click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_louder,
        help="Tell every step, and show tracebacks.",
    ),
    click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_louder,
        help="Tell errors only: no progress, no warnings.",
    ),
]
"""Every command takes them, before its name or behind it."""


def _lined(text: str | None) -> str | None:
    """A help text whose examples keep their lines: raw docstrings spell click's mark for that out."""
    return None if text is None else text.replace("\\b\n", "\b\n")


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    members: ClassVar[dict[str, tuple[str, str]]] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return list(self.members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in self.members:
            return None
        module = importlib.import_module(f"edgeprune.cli.{self.members[cmd_name][0]}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        command.help = _lined(command.help)
        if not any(p.name == _VERBOSITY[0].name for p in command.params):
            command.params += _VERBOSITY
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.members.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or a usage error that says which was meant."""
        if args and args[0] not in self.members and not args[0].startswith("-"):
            from edgeprune.registry import suggestion

            ctx.fail(f"there is no command '{args[0]}'; {suggestion(args[0], list(self.members))}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgeprune")
@click.option("-v", "--verbose", is_flag=True, help="Tell every step, and show tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Tell errors only.")
@click.pass_context
def main(ctx: click.Context, verbose: bool, quiet: bool) -> None:
    r"""Prune a torch model, shrink it for real, and prove what it costs.

    edgeprune keeps the channels that matter (coresets), cuts the others out, exports to ONNX, and
    validates latency and output error on the targets that ship.

    \b
    Try it:   edgeprune demo
    Yours:    edgeprune run model.py:build --weights w.safetensors --calibration data.npz -o runs/x
    In CI:    edgeprune gate runs/x --limit observed_error=0.5 --limit latency_ratio=0.8

    Exit codes: 0 ok, 1 a gate failed, 2 usage, 3 model not supported, 4 a stage broke its own
    promise, 5 a target could not be reached or measured, 6 a measurement stayed inconclusive.
    """
    ctx.obj = {"verbose": verbose, "quiet": quiet}
    from edgeprune.cli.console import colours, set_up_logging

    ctx.color = colours()
    set_up_logging(verbose, quiet)


main.help = _lined(main.help)


def entry() -> None:
    """What the console script calls: errors become one message and an exit code."""
    told(main)
