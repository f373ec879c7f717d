"""Fine-tuning by two real processes that torchrun starts, held against one process."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from safetensors.torch import load_file
from torch import nn

from edgeprune.config import Settings
from edgeprune.errors import ModelError, UsageError
from edgeprune.inputs.models import load_model
from edgeprune.inputs.preparation import Line, prepare
from edgeprune.line.planning import planned
from edgeprune.line.torchrun import tuned_together
from edgeprune.progress import silent
from edgeprune.stages.couple import couple
from edgeprune.stages.finetune import Queries, Recipe, tune
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

FACTORY = f"{Path(small.__file__).resolve()}:build"


def _scene(folder: Path):
    np.savez(folder / "data.npz", x=np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32))
    settings = Settings(model=FACTORY, calibration=str(folder / "data.npz"), processes=2, target=())
    line = prepare(load_model(FACTORY), settings)
    coupling = couple(trace(line.loaded.module, line.inputs), ())
    widths = {group.name: group.size // 2 for group in coupling.groups}
    plan = planned(line, coupling, widths, silent)
    shrunk = shrink(line.loaded.module, coupling, plan, line.inputs, ())
    assert line.fit is not None
    every = Queries.of(line.loaded.module, line.fit, None)
    count = len(line.fit[0])
    return line, shrunk, (every.part(torch.arange(8, count)), every.part(torch.arange(8)))


def _copy(module: nn.Module) -> nn.Module:
    import copy

    return copy.deepcopy(module)


def _apart(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.slow
def test_two_processes_give_what_one_gives_and_go_on_where_another_stopped(tmp_path: Path):
    line, shrunk, queries = _scene(tmp_path)
    # batches of 33 split unevenly, and the last one is a single sample: one process has none of it
    recipe = Recipe(epochs=3, batch=33, average=0.9)
    assert len(queries[0].inputs[0]) % recipe.batch
    one, two = _copy(shrunk.module), _copy(shrunk.module)
    alone = tune(one, queries[0], recipe, queries[1], seed=0)
    path = tmp_path / "checkpoint.safetensors"
    together = tuned_together(line, shrunk, two, queries, recipe, path, "finetune")
    assert together == pytest.approx(alone, rel=1e-4)
    assert alone[-1] < 0.9 * alone[0]  # it was trained,
    assert _apart(one, two) < 1e-4
    assert _apart(one, shrunk.module) > 50 * 1e-4  # and moved far more than the two are apart
    assert len(load_file(path)["history"]) == 3
    longer = dataclasses.replace(recipe, epochs=3)
    again = _copy(shrunk.module)
    assert tune(again, queries[0], longer, queries[1], seed=0, checkpoint=path) == together
    assert _apart(again, two) < 1e-6  # one process takes up the checkpoint of two
    cut = tmp_path / "cut.safetensors"
    half = _copy(shrunk.module)
    with pytest.raises(KeyboardInterrupt):
        tune(half, queries[0], recipe, queries[1], seed=0, checkpoint=cut, progress=_interrupted)
    resumed = _copy(shrunk.module)
    assert tuned_together(line, shrunk, resumed, queries, recipe, cut, "finetune") == pytest.approx(
        alone, rel=1e-4
    )
    assert _apart(resumed, one) < 1e-4


def _interrupted(iterable, description, total):
    for count, item in enumerate(iterable):
        if count == 1:
            raise KeyboardInterrupt
        yield item


class Statistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)


def test_what_several_processes_cannot_do_is_told(tmp_path: Path):
    line, shrunk, queries = _scene(tmp_path)
    path = tmp_path / "c"
    with pytest.raises(UsageError, match="batch norms"):
        tuned_together(line, shrunk, Statistics(), queries, Recipe(frozen=False), path, "finetune")
    nameless: Line = dataclasses.replace(line, loaded=dataclasses.replace(line.loaded, factory=""))
    with pytest.raises(ModelError, match="from a program"):
        tuned_together(nameless, shrunk, shrunk.module, queries, Recipe(), path, "finetune")
