"""Fine-tuning shared by several processes: `torchrun`, DistributedDataParallel, gloo.

The same batches in the same order as in one process, each split among the processes (`edgeprune.team`). What
differs is the order of sums in float32. A checkpoint is that of one process, so that either goes on with the
other's.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m edgeprune.line.torchrun JOB
"""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgeprune.errors import ModelError, UsageError
from edgeprune.files import write_bytes, write_text
from edgeprune.graph.groups import Coupling
from edgeprune.inputs.models import load_model
from edgeprune.inputs.preparation import Line
from edgeprune.plan import Cuts, Shrunk
from edgeprune.stages.couple import couple
from edgeprune.stages.finetune import Queries, Recipe, tune
from edgeprune.stages.shrink import restore
from edgeprune.stages.trace import trace

logger = logging.getLogger(__name__)

LAST_WORDS = 1500


class Together:
    """This process among those that torchrun started."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @property
    def first(self) -> bool:
        """Whether this process writes what all have."""
        return self.rank == 0

    def joined(self, student: nn.Module) -> nn.Module:
        """The net whose gradients are averaged over the processes."""
        return DistributedDataParallel(student, find_unused_parameters=True)

    def share(self, count: int) -> Tensor:
        """Every R-th sample; who gets none of a short batch computes one that counts nothing."""
        mine = torch.arange(count)[self.rank :: self.size]
        return mine if len(mine) else torch.arange(1)

    def whole(self, outputs: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
        """All outputs; only this process's own carry gradients."""
        most, mine = -(-count // self.size), len(range(self.rank, count, self.size))
        found = []
        for own in outputs:
            padded = own.new_zeros((most, *own.shape[1:]))
            padded[:mine] = own.detach()[:mine]
            parts = [torch.empty_like(padded) for _ in range(self.size)]
            dist.all_gather(parts, padded)
            if mine:
                parts[self.rank] = torch.cat([own[:mine], padded[mine:]])
            # sample k lies in part k mod R, at place k ÷ R
            found.append(torch.stack(parts, 1).flatten(0, 1)[:count])
        return tuple(found)

    def scaled(self, loss: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """R times the loss, since gradients are averaged; every process has a part in it."""
        return self.size * loss + sum(0.0 * y.sum() for y in outputs)

    def wait(self) -> None:
        """Until all are here."""
        dist.barrier()


def tuned_together(
    line: Line,
    shrunk: Shrunk,
    module: nn.Module,
    queries: tuple[Queries, Queries],
    recipe: Recipe,
    checkpoint: Path,
    label: str,
) -> list[float]:
    """Train `module` in place as `tune` does, by `line.settings.processes` processes.

    Raises:
        ModelError: the model has no name that other processes could load it by.
        UsageError: the training failed, or the net has batch norms that learn statistics of whole batches.
    """
    settings = line.settings
    if not line.loaded.factory:
        raise ModelError(
            "--processes: other processes load the model by its name, and this one came from a program; name "
            "a factory, or train in one process."
        )
    statistics = any(name.endswith("running_mean") for name, _ in module.named_buffers())
    if not recipe.frozen and statistics:
        raise UsageError(
            f"--processes {settings.processes}: batch norms would see parts of batches only, and the result "
            "would "
            "not be that of one process; train with --loss match, which keeps their statistics, or in one "
            "process."
        )
    with tempfile.TemporaryDirectory(prefix="edgeprune-torchrun-") as name:
        job = Path(name)
        _write(job, line, shrunk, module, queries, recipe, checkpoint, label)
        words = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
            str(settings.processes), "-m", "edgeprune.line.torchrun", str(job),
        ]  # fmt: skip
        with (job / "log").open("w") as log:
            done = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode or not (job / "done.json").is_file():
            told = (job / "log").read_text(encoding="utf-8", errors="replace")
            why = job / "error.txt"
            reason = why.read_text(encoding="utf-8") if why.is_file() else told[-LAST_WORDS:]
            raise UsageError(
                f"--processes {settings.processes}: the training ended with exit code {done.returncode}; "
                "what was "
                f"finished is kept in {checkpoint}. {reason}"
            )
        module.load_state_dict(load_file(job / "student.safetensors"))
        module.eval()
        history: list[float] = json.loads((job / "done.json").read_text(encoding="utf-8"))
        return history


def _write(
    job: Path,
    line: Line,
    shrunk: Shrunk,
    module: nn.Module,
    queries: tuple[Queries, Queries],
    recipe: Recipe,
    checkpoint: Path,
    label: str,
) -> None:
    settings = line.settings
    shrunk.cuts.save(job / "plan.json")
    write_bytes(job / "student.safetensors", save(_state(module)))
    tensors: dict[str, Tensor] = {f"example{k}": x.contiguous() for k, x in enumerate(line.inputs)}
    for part, each in zip(("train", "aside"), queries, strict=True):
        tensors |= {f"{part}.input{k}": x.contiguous().clone() for k, x in enumerate(each.inputs)}
        tensors |= {f"{part}.output{k}": y.contiguous().clone() for k, y in enumerate(each.outputs)}
        if each.labels is not None:
            tensors[f"{part}.labels"] = each.labels.contiguous().clone()
    write_bytes(job / "queries.safetensors", save(tensors))
    content = {
        "model": line.loaded.factory,
        "weights": settings.weights,
        "weights_sha256": line.loaded.weights_sha256,
        "trust_pickle": settings.trust_pickle,
        "exclude": list(settings.exclude),
        "norm_axes": settings.allow_norm_axes,
        "recipe": dataclasses.asdict(recipe),
        "seed": settings.seed,
        "checkpoint": str(checkpoint.resolve()),
        "label": label,
    }
    write_text(job / "job.json", json.dumps(content))


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().contiguous().clone() for name, value in module.state_dict().items()}


def _several(tensors: dict[str, Tensor], prefix: str) -> tuple[Tensor, ...]:
    names = sorted((n for n in tensors if n.startswith(prefix)), key=lambda n: int(n.removeprefix(prefix)))
    return tuple(tensors[name] for name in names)


def work(job: Path) -> None:
    """One process of a training.

    Raises:
        EdgepruneError: see `tune`.
    """
    told: dict[str, Any] = json.loads((job / "job.json").read_text(encoding="utf-8"))
    loaded = load_model(told["model"], told["weights"], trust_pickle=told["trust_pickle"])
    if loaded.weights_sha256 != told["weights_sha256"]:
        raise ModelError("the factory makes other weights in every process; give --weights, or seed it.")
    tensors = load_file(job / "queries.safetensors")
    coupling: Coupling = couple(
        trace(loaded.module, _several(tensors, "example")),
        tuple(told["exclude"]),
        allow_norm_axes=told["norm_axes"],
    )
    student = restore(
        loaded.module, coupling, Cuts.load(job / "plan.json"), load_file(job / "student.safetensors")
    ).module
    queries, aside = (
        Queries(
            _several(tensors, f"{part}.input"),
            _several(tensors, f"{part}.output"),
            tensors.get(f"{part}.labels"),
            loaded.module,
        )
        for part in ("train", "aside")
    )
    dist.init_process_group("gloo")
    try:
        team = Together()
        history = tune(
            student, queries, Recipe(**told["recipe"]), aside, seed=int(told["seed"]),
            checkpoint=Path(told["checkpoint"]), label=told["label"], team=team,
        )  # fmt: skip
        if team.first:
            write_bytes(job / "student.safetensors", save(_state(student)))
            write_text(job / "done.json", json.dumps(history))
        team.wait()
    except Exception as error:
        write_text(job / "error.txt", f"{type(error).__name__}: {error}")
        raise
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
