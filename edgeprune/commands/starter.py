"""A commented edgeprune.toml for a model that was looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence

from torch import Tensor

from edgeprune.config import Settings
from edgeprune.stages.inspect import Survey

MOST = 12
"""Groups and pinned groups listed; `edgeprune inspect` lists all."""


def starter(settings: Settings, name: str, inputs: Sequence[Tensor], found: Survey) -> str:
    """The text of the file: what was given is set, the rest stands as comments with its default.

    Args:
        settings: what the user gave.
        name: of the model, for people.
        inputs: example inputs.
        found: what can be pruned.
    """
    share = found.prunable_params / max(found.params, 1)
    lines = [
        f"# {_comment(name)}: {found.params:,} parameters, {found.macs:,} multiply-accumulates a sample;",
        f"# {share:.1%} of the parameters carry units that can be pruned.",
        "# `edgeprune config` shows every setting, `edgeprune schema` describes them, `edgeprune run` runs.",
        "",
        f"model = {_text(settings.model)}",
        _given("weights", settings.weights, "w.safetensors", "the model's weights"),
        *_example_inputs(settings, inputs),
        _given(
            "calibration",
            settings.calibration,
            "data.npz",
            "samples to fit with and to measure on: arrays fit and holdout, or one array x",
        ),
        "",
        *_method(settings),
        "",
        "# How much to keep; one of:",
        "keep = 0.5          # of each group's units",
        "# params = 0.5      # of the parameters",
        "# macs = 0.5        # of the multiply-accumulates",
        "",
        *_groups(found),
        "",
        'target = ["cpu"]    # where it ships; `edgeprune targets` lists them',
        "# domain = '0,1'  # every input value lies between these: certificates are about that",
        "",
        "[limits]            # what `edgeprune gate` and the end of a run hold it against",
        "# observed_error = 0.5     # largest output difference on a target",
        "# top1_agreement = 0.99    # smallest share of inputs with the same answer",
        "# latency_ratio = 0.8      # pruned / original, with the whole interval",
        "# compression = 1.5        # smallest original / pruned file",
        '# level = {latency_ratio = "warn"}  # error (as if not named), warn or off',
    ]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    return " ".join(text.split())


def _given(key: str, value: str | None, example: str, words: str) -> str:
    line = f"{key} = {_text(value if value is not None else example)}"
    return f"{line}  # {words}" if value is not None else f"# {line}  # {words}"


def _example_inputs(settings: Settings, inputs: Sequence[Tensor]) -> list[str]:
    shapes = [f"{'x'.join(map(str, x.shape))}:{str(x.dtype).removeprefix('torch.')}" for x in inputs]
    listed = ", ".join(_text(shape) for shape in (settings.input or shapes))
    words = "what forward takes: [name=]sizes[:dtype], batch first"
    return [f"input = [{listed}]  # {words}" if settings.input else f"# input = [{listed}]  # {words}"]


def _method(settings: Settings) -> list[str]:
    if settings.calibration is not None:
        return ['method = "gram"     # fits what stays to the samples, in closed form']
    return [
        'method = "sensitivity"  # needs no samples; with samples, "gram" loses far less',
    ]


def _groups(found: Survey) -> list[str]:
    lines = ['# What can lose units (exclude = ["layer"] leaves a layer alone):']
    lines += [f"#   {_comment(g.name)}: {g.units} units" for g in found.groups[:MOST]]
    if len(found.groups) > MOST:
        lines.append(f"#   and {len(found.groups) - MOST} more")
    if not found.groups:
        lines.append("#   nothing: every group is pinned")
    if found.pinned:
        lines.append("# What cannot, and why:")
        lines += [f"#   {_comment(p.name)}: {_comment(p.reason)}" for p in found.pinned[:MOST]]
    return [*lines, "exclude = []"]
