"""Options that several commands share, and what they amount to as settings."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edgeprune.cli.together import CommandT, together
from edgeprune.cli.verdicts import limit_options, limits_of, output_options
from edgeprune.config import CHOICES, Settings

__all__ = [
    "CommandT",
    "bound_option",
    "certify_options",
    "couple_options",
    "domain_option",
    "export_options",
    "given",
    "inventory_option",
    "json_option",
    "latency_option",
    "limit_options",
    "model_argument",
    "model_options",
    "output_options",
    "prune_options",
    "run_argument",
    "samples_option",
    "target_option",
    "together",
]

DEFAULT = Settings()


model_argument = click.argument("model", required=False, metavar="[MODEL]")
run_argument = click.argument("folder", type=click.Path(path_type=Path), metavar="RUN")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
samples_option = click.option("--calibration", metavar="SET", help="Take example inputs from there.")

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


couple_options = together(
    click.option(
        "--exclude", multiple=True, metavar="LAYER", help="A layer whose channels stay; repeatable."
    ),
    click.option(
        "--allow-norm-axes/--no-allow-norm-axes",
        default=None,
        help="Let channels go that a layer norm normalises over; then only approximate [default: off].",
    ),
    click.option(
        "--couple-limit-s",
        type=float,
        metavar="S",
        help="Seconds that finding the groups may take [default: no limit].",
    ),
)


class Shares(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Several shares, as .3,.5,.7."""

    name = "shares"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers.

        Raises:
            BadParameter: one is no number.
        """
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is no list of shares; write .3,.5,.7.", param, ctx)


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
        "--ratios",
        type=Shares(),
        metavar="SHARE,…",
        help="Try these shares to keep, and take the smallest whose error is certified within "
        "--limit statistical_error=….",
    ),
    click.option(
        "--selection",
        type=click.Choice(CHOICES["selection"]),
        help="How --ratios keeps certificates true: other samples choose than certify, or fixed sequence "
        f"testing on all [default: {DEFAULT.selection}].",
    ),
    click.option(
        "--bytes", type=float, metavar="SHARE", help="Share of the weights' bytes to keep, instead of --keep."
    ),
    click.option(
        "--speedup",
        type=float,
        metavar="TIMES",
        help="How many times as fast on the first target that can be timed, instead of --keep.",
    ),
    click.option(
        "--latency-ms", type=float, metavar="MS", help="Milliseconds it may take there, instead of --keep."
    ),
    click.option(
        "--moments",
        type=click.Choice(CHOICES["moments"]),
        help=f"Where second moments come from [default: {DEFAULT.moments}].",
    ),
    click.option(
        "--direction",
        type=click.Choice(CHOICES["direction"]),
        help=f"Order of the groups; top-down for methods without data [default: {DEFAULT.direction}].",
    ),
    click.option(
        "--allocation",
        type=click.Choice(CHOICES["allocation"]),
        help=f"The same share of every group, or what is heard least first [default: {DEFAULT.allocation}].",
    ),
    click.option(
        "--emphasis",
        multiple=True,
        metavar="FAMILY=WEIGHT",
        help="With --allocation global: how much the error of a family of groups counts, as conv-64=2; "
        "repeatable.",
    ),
    click.option(
        "--price-mix",
        type=float,
        metavar="SHARE",
        help="With --allocation global --macs: price parameters with this weight, MACs with the rest.",
    ),
    click.option(
        "--minimax-lambda",
        type=float,
        metavar="L",
        help="Weigh what reads pruned units for the certified worst error too, L times as much as for the "
        "mean [default: 0].",
    ),
    click.option(
        "--learn-steps",
        type=int,
        metavar="N",
        help=f"Steps of Adam in --method learned [default: {DEFAULT.learn_steps}].",
    ),
    click.option(
        "--finetune", type=int, metavar="N", help="Epochs of fine-tuning on the fitting samples [default: 0]."
    ),
    click.option(
        "--loss",
        metavar="NAME",
        help="Of the fine-tuning: match, distil, cross-entropy, mixed, or module:function "
        f"[default: {DEFAULT.loss}].",
    ),
    click.option(
        "--augment",
        metavar="NAME",
        help="module:function of (*inputs, generator) that varies each batch of a training at random.",
    ),
    couple_options,
    click.option(
        "--processes",
        type=int,
        metavar="N",
        help="Processes that share every batch of the fine-tuning, by torchrun "
        f"[default: {DEFAULT.processes}].",
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
    click.option(
        "--fp16/--no-fp16",
        default=None,
        help="Convert the pruned file to float16, and judge that; inputs and outputs stay float32 "
        "[default: off].",
    ),
    click.option(
        "--masked-twin/--no-masked-twin",
        default=None,
        help="Also write masked.onnx: the original's shapes, zeros where units were cut [default: off].",
    ),
)

target_option = click.option(
    "--target",
    multiple=True,
    metavar="NAME",
    help="Where to validate: a name or a .toml; repeatable [default: cpu].",
)


def _use(_: click.Context, __: click.Parameter, inventory: Path | None) -> None:
    """The transports find the inventory by its variable, as a user's own scripts do."""
    if inventory is not None:
        os.environ["EDGEPRUNE_INVENTORY"] = str(inventory)


inventory_option = click.option(
    "--inventory",
    type=click.Path(path_type=Path),
    metavar="FILE",
    expose_value=False,
    callback=_use,
    help="Your machines, for targets by ssh [default: ~/.config/edgeprune/inventory.toml].",
)
latency_option = click.option("--latency/--no-latency", default=None, help="Measure latency [default: on].")


class Duration(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Seconds, as 90, 90s, 2m, 1h or 1h30m."""

    name = "time"
    form = re.compile(r"(?:(\d+\.?\d*)h)?(?:(\d+\.?\d*)m)?(?:(\d+\.?\d*|\.\d+)s?)?")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds.

        Raises:
            BadParameter: it is no time.
        """
        found = self.form.fullmatch(str(value).replace(" ", ""))
        if found is None or not any(found.groups()):
            self.fail(f"'{value}' is no time; write 90s, 2m, 1h or 1h30m.", param, ctx)
        return sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True))


def bound_option(*names: str) -> Callable[[CommandT], CommandT]:
    """Which deterministic bounds are computed."""
    return click.option(
        *names,
        "bound",
        multiple=True,
        type=click.Choice(["intervals", "crown", "quadratic", "branches"]),
        help="A bound over the whole domain, repeatable; quadratic and branches are the tightest and slowest "
        "[default: intervals, crown].",
    )


domain_option = click.option(
    "--domain",
    metavar="SPEC",
    help="The inputs that certificates speak about: LOW,HIGH of every value, linf:RADIUS@sampleK, "
    "l2:RADIUS, … (see docs/guides/domains.md) [default: the calibration set's].",
)

certify_options = together(
    click.option("--certify/--no-certify", default=None, help="Compute certificates [default: on]."),
    domain_option,
    click.option(
        "--budget",
        "--budget-s",
        "budget_s",
        type=Duration(),
        metavar="TIME",
        help=f"For each bound, such as 90s or 2m; the best bound found by then counts "
        f"[default: {DEFAULT.budget_s:g}s].",
    ),
    click.option(
        "--jobs",
        type=int,
        metavar="N",
        help=f"Threads that share a bound's outputs among them; a bound may differ in its last digits with "
        f"another number [default: {DEFAULT.jobs}].",
    ),
    click.option(
        "--robust",
        type=float,
        metavar="RADIUS",
        help="Also bound the worst error within ±RADIUS of held-out samples.",
    ),
    click.option(
        "--balls",
        type=int,
        metavar="N",
        help=f"Held-out samples that --robust looks at, at most [default: {DEFAULT.balls}].",
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


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Settings out of a command's parameters; what was not given is left out."""
    known = {f.name for f in dataclasses.fields(Settings)}
    found = {
        name: value for name, value in values.items() if name in known and value is not None and value != ()
    }
    limits = limits_of(values)
    if limits.anything():
        found["limits"] = limits
    return found
