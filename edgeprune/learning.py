"""What is trained after shrinking: `learned` to the original, `--finetune` to a loss; each with a control."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.config import Settings
from edgeprune.coresets import CORESETS
from edgeprune.errors import CalibrationError
from edgeprune.files import write_text
from edgeprune.folder import RunFolder
from edgeprune.graph import Coupling
from edgeprune.observation.knowledge import know
from edgeprune.plan import Shrunk
from edgeprune.preparation import Line
from edgeprune.progress import Progress
from edgeprune.stages.finetune import Queries, Recipe, from_scratch, relative_error, tune
from edgeprune.stages.shrink import restore

logger = logging.getLogger(__name__)

ASIDE = 0.1
"""Share of the fitting samples that are kept as validation queries: never trained on."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What one training gave: mean relative errors of the outputs on validation queries.

    Attributes:
        before: of the shrunk net as it came.
        after: of the trained one.
        control: of a net of the same widths, trained alike from random weights.
        losses: of each epoch.
    """

    name: str
    before: float
    after: float
    control: float
    losses: tuple[float, ...]
    queries: int
    validation: int


def recipes(settings: Settings, count: int) -> tuple[tuple[str, Recipe], ...]:
    """What is trained on `count` samples, in order."""
    found = []
    if CORESETS[settings.method].matches:
        found.append(("learned", Recipe.of_steps(settings.learn_steps, count)))
    if settings.finetune:
        frozen = settings.loss == "match"
        found.append(("finetune", Recipe(settings.loss, settings.finetune, rate=1e-3, frozen=frozen)))
    return tuple(found)


def learn(
    line: Line, coupling: Coupling, shrunk: Shrunk, folder: RunFolder, progress: Progress
) -> tuple[Shrunk, tuple[Learned, ...]]:
    """Train the shrunk net as the settings say; the net itself where they ask for nothing.

    Raises:
        CalibrationError: there is nothing to train on.
    """
    if not recipes(line.settings, 1):
        return shrunk, ()
    train, validation = _queries(line, coupling)
    asked = recipes(line.settings, len(train.inputs[0]))
    module, work, told = shrunk.module, folder.log("learning"), []
    for name, recipe in asked:
        before = relative_error(module.eval(), validation)
        seed = line.settings.seed
        path = work / f"{name}.safetensors"
        losses = tune(
            module, train, recipe, validation, seed=seed, checkpoint=path, label=name, progress=progress
        )
        after = relative_error(module, validation)
        control = from_scratch(module, seed + 1)
        tune(control, train, recipe, validation, seed=seed, label=f"{name}, control", progress=progress)
        apart = relative_error(control, validation)
        told.append(
            Learned(
                name, before, after, apart, tuple(losses), len(train.inputs[0]), len(validation.inputs[0])
            )
        )
        logger.info(
            "%s: mean relative output error %.4f → %.4f on %d validation queries; from random weights %.4f",
            name,
            before,
            after,
            told[-1].validation,
            apart,
        )
    write_text(work / "learning.json", json.dumps([dataclasses.asdict(one) for one in told], indent=1) + "\n")
    state = {name: value.detach() for name, value in module.state_dict().items()}
    whole = restore(line.loaded.module, coupling, shrunk.cuts, state)
    return dataclasses.replace(shrunk, module=module, graph=whole.graph), tuple(told)


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
