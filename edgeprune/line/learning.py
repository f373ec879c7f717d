"""What is trained after shrinking: `learned` to the original, `--finetune` to a loss; each with a control.

Both are judged on fresh queries, the held-out samples, with a bound on the average loss: paper 3's guarantee,
by a sharper inequality than Hoeffding's.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from edgeprune.bounds import statistical
from edgeprune.config import Settings
from edgeprune.coresets import CORESETS
from edgeprune.errors import CalibrationError
from edgeprune.files import write_text
from edgeprune.graph.groups import Coupling
from edgeprune.inputs.preparation import Line
from edgeprune.observation.knowledge import know
from edgeprune.plan import Shrunk
from edgeprune.progress import Progress
from edgeprune.records.folder import RunFolder, key_of
from edgeprune.records.run import Training, to_json
from edgeprune.stages.finetune import Queries, Recipe, from_scratch, relative_errors, tune
from edgeprune.stages.shrink import restore

logger = logging.getLogger(__name__)

ASIDE = 0.1
"""Share of the fitting samples that are kept as validation queries: never trained on."""

AVERAGE = 0.999
"""Decay of the running mean of the weights that fine-tuning leaves."""


def recipes(settings: Settings, count: int) -> tuple[tuple[Literal["learned", "finetune"], Recipe], ...]:
    """What is trained on `count` samples, in order."""
    found: list[tuple[Literal["learned", "finetune"], Recipe]] = []
    if CORESETS[settings.method].matches:
        found.append(("learned", Recipe.of_steps(settings.learn_steps, count, settings.augment)))
    if settings.finetune:
        frozen = settings.loss == "match"
        found.append(
            (
                "finetune",
                Recipe(
                    settings.loss,
                    settings.finetune,
                    rate=1e-3,
                    frozen=frozen,
                    average=AVERAGE,
                    augment=settings.augment,
                ),
            )
        )
    return tuple(found)


def learn(
    line: Line, coupling: Coupling, shrunk: Shrunk, folder: RunFolder, progress: Progress
) -> tuple[Shrunk, tuple[Training, ...]]:
    """Train the shrunk net as the settings say; the net itself where they ask for nothing.

    Raises:
        CalibrationError: there is nothing to train on.
    """
    if not recipes(line.settings, 1):
        return shrunk, ()
    train, validation = _queries(line, coupling)
    fresh = Queries.of(
        line.loaded.module,
        tuple(torch.from_numpy(x) for x in line.holdout),
        None,
        batch=coupling.graph.batch or 256,
    )
    module, told = shrunk.module, []
    # one folder for each cut: with --ratios several nets are trained, and none goes on from another's weights
    work = folder.log(f"learning/{key_of(to_json(shrunk.cuts.keep))[:12]}")
    losses: dict[str, list[float]] = {}
    for name, recipe in recipes(line.settings, len(train.inputs[0])):
        before = relative_errors(module.eval(), fresh)
        seed = line.settings.seed
        path = work / f"{name}.safetensors"
        if line.settings.processes > 1:
            from edgeprune.line.torchrun import tuned_together

            both = (train, validation)
            losses[name] = tuned_together(line, shrunk, module, both, recipe, path, name)
        else:
            losses[name] = tune(
                module, train, recipe, validation, seed=seed, checkpoint=path, label=name, progress=progress
            )
        control = from_scratch(module, seed + 1)
        tune(control, train, recipe, validation, seed=seed, label=f"{name}, control", progress=progress)
        counts = (len(train.inputs[0]), len(validation.inputs[0]))
        ends = (before, relative_errors(module, fresh), relative_errors(control, fresh))
        told.append(_told(name, recipe, counts, ends, line.settings.confidence))
        logger.info(
            "%s: mean relative output error %.4f → %.4f on %d fresh inputs; from random weights %.4f",
            name,
            told[-1].before,
            told[-1].after,
            told[-1].fresh,
            told[-1].control,
        )
    write_text(work / "learning.json", json.dumps(losses, indent=1) + "\n")
    state = {name: value.detach() for name, value in module.state_dict().items()}
    whole = restore(line.loaded.module, coupling, shrunk.cuts, state)
    return dataclasses.replace(shrunk, module=module, graph=whole.graph), tuple(told)


def _told(
    name: Literal["learned", "finetune"],
    recipe: Recipe,
    counts: tuple[int, int],
    errors: tuple[Tensor, Tensor, Tensor],
    confidence: float,
) -> Training:
    """The record: losses of the start, the end and the control on fresh queries, cut at 1."""
    before, after, control = (found.clamp_max(1.0) for found in errors)
    sure, loose = (
        statistical.mean_betting(found.double().numpy(), 1.0, 1 - confidence) for found in (after, control)
    )
    return Training(
        name=name,
        loss=recipe.loss,
        queries=counts[0],
        validation=counts[1],
        fresh=len(after),
        before=float(before.mean()),
        after=float(after.mean()),
        control=float(control.mean()),
        bound=sure.bound,
        control_bound=loose.bound,
        confidence=confidence,
        source=sure.source,
    )


def trained_again(line: Line, coupling: Coupling, shrunk: Shrunk, progress: Progress) -> None:
    """Train a shrunk module in place as `learn` does, without a control, a checkpoint or a record.

    Raises:
        CalibrationError: there is nothing to train on.
    """
    if not recipes(line.settings, 1):
        return
    train, validation = _queries(line, coupling)
    for name, recipe in recipes(line.settings, len(train.inputs[0])):
        tune(shrunk.module, train, recipe, validation, seed=line.settings.seed, label=name, progress=progress)


def _queries(line: Line, coupling: Coupling) -> tuple[Queries, Queries]:
    """Training and validation queries, apart, both from the fitting half."""
    settings = line.settings
    inputs: Sequence[Tensor] | None = line.fit
    labels = None if line.fit_labels is None else torch.from_numpy(line.fit_labels[: settings.samples])
    if inputs is None and settings.moments == "synthetic":
        inputs, labels = know(coupling, "synthetic", None, settings.seed, bounds=line.bounds).samples, None
    if inputs is None:
        raise CalibrationError(
            "training needs samples to train on; give a calibration set, or --moments synthetic for a net "
            "with batch norms."
        )
    count = len(inputs[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed))
    aside = max(1, round(ASIDE * count)) if count > 1 else 0
    every = Queries.of(line.loaded.module, inputs, labels, batch=coupling.graph.batch or 256)
    return every.part(order[aside:]), every.part(order[:aside] if aside else order)
