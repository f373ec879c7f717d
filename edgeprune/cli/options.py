"""Options that several commands share, and what they amount to as settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeprune.config import Settings
from edgeprune.limits import Limits
from edgeprune.registry import suggestion

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

DEFAULT = Settings()


class together:  # noqa: N801  # used as a decorator, like those it gathers
    """Several options as one decorator, in the order of the help."""

    def __init__(self, *options: Callable[[Any], Any]) -> None:
        self.options = options

    def __call__(self, command: CommandT) -> CommandT:
        """The command with all the options."""
        for option in reversed(self.options):
            command = option(command)
        return command


model_argument = click.argument("model", required=False, metavar="[MODEL]")

model_options = together(
    click.option("--weights", metavar="FILE", help="A .safetensors file for the model."),
    click.option(
        "--input",
        multiple=True,
        metavar="SPEC",
        help="An example input: [name=]1x3x224x224[:dtype]; repeatable.",
    ),
    click.option(
        "--trust-pickle",
        is_flag=True,
        default=None,
        help="Read .pt, .pth and .pt2 files, which can run code.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings; default: edgeprune.toml, or pyproject.toml [tool.edgeprune].",
    ),
)

prune_options = together(
    click.option(
        "--calibration",
        metavar="SET",
        help="Samples to fit with and to measure on: a name, a .toml, .npz or .npy.",
    ),
    click.option("--method", metavar="NAME", help=f"How channels are chosen [default: {DEFAULT.method}]."),
    click.option(
        "--keep", type=float, metavar="SHARE", help="Share of each group's channels to keep [default: 0.5]."
    ),
    click.option(
        "--params", type=float, metavar="SHARE", help="Share of the parameters to keep, instead of --keep."
    ),
    click.option(
        "--macs",
        type=float,
        metavar="SHARE",
        help="Share of the multiply-accumulates to keep, instead of --keep.",
    ),
    click.option(
        "--exclude", multiple=True, metavar="LAYER", help="A layer whose channels stay; repeatable."
    ),
    click.option(
        "--multiple",
        type=int,
        metavar="N",
        help="Keep channels in multiples of N [default: what the targets compute well].",
    ),
    click.option(
        "--recalibrate/--no-recalibrate",
        default=None,
        help="Re-estimate batch-norm statistics (methods that do not refit).",
    ),
    click.option(
        "--samples",
        type=int,
        metavar="N",
        help=f"Most calibration samples to fit with [default: {DEFAULT.samples}].",
    ),
    click.option("--seed", type=int, metavar="N", help=f"Of everything random [default: {DEFAULT.seed}]."),
)

export_options = together(
    click.option("--opset", type=int, metavar="N", help="ONNX opset [default: the exporter's]."),
    click.option(
        "--dynamic-batch/--no-dynamic-batch", default=None, help="Leave the batch size of the files free."
    ),
    click.option("--simplify/--no-simplify", default=None, help="Run onnxsim on the files [default: on]."),
)

target_option = click.option(
    "--target",
    multiple=True,
    metavar="NAME",
    help="Where to validate: a name or a .toml; repeatable [default: cpu].",
)
latency_option = click.option("--latency/--no-latency", default=None, help="Measure latency [default: on].")

certify_options = together(
    click.option("--certify/--no-certify", default=None, help="Compute certificates [default: on]."),
    click.option(
        "--domain",
        nargs=2,
        type=float,
        metavar="LOW HIGH",
        default=None,
        help="Range of every input value that certificates speak about [default: the calibration set's].",
    ),
    click.option(
        "--confidence",
        type=float,
        metavar="P",
        help=f"Of statistical statements [default: {DEFAULT.confidence}].",
    ),
    click.option(
        "--quantile",
        type=float,
        metavar="P",
        help=f"Share of inputs the quantile bound speaks about [default: {DEFAULT.quantile}].",
    ),
)


class LimitType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """NAME=VALUE for one of the gate's limits."""

    name = "limit"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """The limit's name and number."""
        if isinstance(value, tuple):
            return value
        name, separator, number = str(value).partition("=")
        name = name.strip().replace("-", "_")
        known = [f.name for f in dataclasses.fields(Limits)]
        if not separator:
            self.fail(f"'{value}' is not NAME=VALUE", param, ctx)
        if name not in known:
            self.fail(f"there is no limit '{name}'; {suggestion(name, known)}", param, ctx)
        try:
            return name, float(number)
        except ValueError:
            self.fail(f"'{number}' is not a number", param, ctx)


limit_option = click.option(
    "--limit",
    multiple=True,
    type=LimitType(),
    metavar="NAME=VALUE",
    help="A limit of the gate, repeatable: " + ", ".join(f.name for f in dataclasses.fields(Limits)) + ".",
)
inconclusive_option = click.option(
    "--inconclusive",
    type=click.Choice(["error", "pass", "fail"]),
    default="error",
    show_default=True,
    help="What an unsettled measurement counts as.",
)


def limits_of(pairs: tuple[tuple[str, float], ...]) -> Limits:
    """The limits that were given."""
    try:
        return Limits(**dict(pairs))
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Settings out of a command's parameters; what was not given is left out."""
    known = {f.name for f in dataclasses.fields(Settings)}
    found = {
        name: value for name, value in values.items() if name in known and value is not None and value != ()
    }
    if values.get("limit"):
        found["limits"] = limits_of(values["limit"])
    return found
