"""Shrunk net, original → the shrunk net trained further: matched to the original, or to a loss of the user's.

Two uses, one loop. `learned` (paper 3 for whole networks) matches every layer at once to the original's
outputs on unlabelled queries, from where the coreset left them. `--finetune N` trains N epochs with a loss.
Both see the fitting half of a calibration set only; what certificates are computed on is never looked at.
The same loop run from random weights is the control that is always told beside the result.

Source:
    Maalouf, Eini, Mussay, Feldman, Osadchy, "A Unified Approach to Coreset Learning", TNNLS 2022 (all
    layers at once, on training queries). Starting from a selected coreset, and the control, are our own.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edgeprune.errors import UsageError
from edgeprune.files import write_bytes
from edgeprune.graph.copies import copied
from edgeprune.graph.execution import flatten_outputs
from edgeprune.inputs.losses import BY_LABEL, Augmentation, Loss, Outputs, resolve_augmentation, resolve_loss
from edgeprune.progress import Progress, silent
from edgeprune.team import Alone, Team

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        loss: a name in `LOSSES`, or `module:function` of (output, labels).
        epochs: passes over the samples.
        rate: of Adam at the start; it falls to 0 along a cosine.
        frozen: whether batch norms keep their statistics (no training mode).
        decay: weight decay, decoupled.
        average: of the weights over the steps, w̄ ← d w̄ + (1 − d) w with d = min(average, (1 + t)/(10 + t)) at
            step t; that average is what is judged and what stays. 0 for the weights themselves.
        augment: `module:function` of (*inputs, generator) that varies the inputs of every batch, or None. The
            original answers the varied inputs anew; labels stay.
    """

    loss: str = "match"
    epochs: int = 10
    batch: int = 256
    rate: float = 2e-3
    frozen: bool = True
    decay: float = 0.0
    average: float = 0.0
    augment: str | None = None

    @staticmethod
    def of_steps(steps: int, count: int, augment: str | None = None) -> Recipe:
        """Matching for about that many steps on `count` samples."""
        return Recipe(epochs=max(1, round(steps / math.ceil(count / Recipe().batch))), augment=augment)


@dataclass(frozen=True, slots=True)
class Queries:
    """What is trained on.

    Attributes:
        inputs: one tensor per input, samples first.
        outputs: of the original, on those inputs.
        labels: int64 (n,), None where unknown.
        original: what gave the outputs; asked again where inputs are varied.
    """

    inputs: tuple[Tensor, ...]
    outputs: Outputs
    labels: Tensor | None = None
    original: nn.Module | None = None

    @staticmethod
    def of(original: nn.Module, inputs: Sequence[Tensor], labels: Tensor | None, batch: int = 256) -> Queries:
        """Run the original over all inputs."""
        with torch.no_grad():
            parts = [
                flatten_outputs(original(*(x[k : k + batch] for x in inputs)))
                for k in range(0, len(inputs[0]), batch)
            ]
        outputs = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        return Queries(tuple(inputs), outputs, labels, original)

    def part(self, index: Tensor) -> Queries:
        """Some of them."""
        labels = None if self.labels is None else self.labels[index]
        inputs, outputs = tuple(x[index] for x in self.inputs), tuple(y[index] for y in self.outputs)
        return Queries(inputs, outputs, labels, self.original)

    def varied(self, augment: Augmentation, generator: torch.Generator, asked: bool) -> Queries:
        """The same with varied inputs; `asked` tells whether the original answers them anew."""
        inputs = augment(self.inputs, generator)
        outputs = self.outputs
        if asked and self.original is not None:
            with torch.no_grad():
                outputs = flatten_outputs(self.original(*inputs))
        return Queries(inputs, outputs, self.labels, self.original)


def tune(
    student: nn.Module,
    queries: Queries,
    recipe: Recipe,
    validation: Queries | None = None,
    *,
    seed: int,
    checkpoint: Path | None = None,
    label: str = "fine-tuning",
    progress: Progress = silent,
    team: Team | None = None,
) -> list[float]:
    """Train `student` in place with Adam.

    Args:
        validation: queries that are never trained on; of the start and of every epoch's end the net with the
            least loss on them is what stays. Without them it is the last.
        checkpoint: written after every epoch; where it is found, training goes on from there.
        team: the processes that share every batch; one alone where None.

    Returns:
        The mean loss of each epoch.

    Raises:
        UsageError: the loss became infinite or NaN.
    """
    loss_of, team = resolve_loss(recipe.loss, queries.labels is not None), team or Alone()
    names, parameters = _trainable(student)
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.decay)
    best, average = _Best(validation, loss_of), _Average(recipe.average)
    best.look(student)
    history = _resumed(student, optimizer, names, best, average, checkpoint)
    joined = team.joined(student) if len(history) < recipe.epochs else student
    for epoch in progress(range(len(history), recipe.epochs), label, recipe.epochs - len(history)):
        mean = _epoch(student, joined, optimizer, queries, recipe, loss_of, average, team, epoch, seed)
        if not math.isfinite(mean):
            raise UsageError(f"{label}: the loss became {mean}; lower the learning rate or check the loss.")
        history.append(mean)
        with average.within(student):
            best.look(student)
        _save(student, optimizer, names, history, best, average, checkpoint if team.first else None)
        team.wait()
    average.take(student)
    best.take(student)
    student.eval()
    return history


def _epoch(
    student: nn.Module,
    joined: nn.Module,
    optimizer: torch.optim.Optimizer,
    queries: Queries,
    recipe: Recipe,
    loss_of: Loss,
    average: _Average,
    team: Team,
    epoch: int,
    seed: int,
) -> float:
    """One pass in an order of its own; the mean loss."""
    student.train(not recipe.frozen)
    augment, asked = resolve_augmentation(recipe.augment), recipe.loss not in BY_LABEL
    count = len(queries.inputs[0])
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(count, generator=generator)
    parts = torch.split(order, recipe.batch)
    total = 0.0
    for k, index in enumerate(parts):
        done = (epoch + k / len(parts)) / recipe.epochs
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * recipe.rate * (1 + math.cos(math.pi * done))
        batch = queries.part(index)
        if augment is not None:
            batch = batch.varied(augment, generator, asked)
        found = flatten_outputs(joined(*batch.part(team.share(len(index))).inputs))
        loss = loss_of(team.whole(found, len(index)), batch.outputs, batch.labels)
        optimizer.zero_grad()
        team.scaled(loss, found).backward()  # type: ignore[no-untyped-call,unused-ignore]
        optimizer.step()
        average.step(student)
        total += float(loss.detach()) * len(index)
    return total / count


@dataclass(slots=True)
class _Average:
    """A running mean of the weights (and of the statistics of batch norms) over the steps."""

    most: float
    steps: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def step(self, student: nn.Module) -> None:
        if not self.most:
            return
        decay = min(self.most, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, value in student.state_dict().items():
            mean = self.state.get(name)
            if mean is None or not value.is_floating_point():
                self.state[name] = value.detach().clone()
            else:
                mean.lerp_(value, 1 - decay)

    @contextlib.contextmanager
    def within(self, student: nn.Module) -> Iterator[None]:
        """The net with the mean in place of its own weights, for a while."""
        own = {name: value.detach().clone() for name, value in student.state_dict().items()}
        self.take(student)
        try:
            yield
        finally:
            student.load_state_dict(own)

    def take(self, student: nn.Module) -> None:
        if self.state:
            student.load_state_dict(self.state)


@dataclass(slots=True)
class _Best:
    """The state with the least loss on validation queries."""

    validation: Queries | None
    loss_of: Loss
    loss: float = math.inf
    state: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def look(self, student: nn.Module) -> None:
        if self.validation is None:
            return
        student.eval()
        loss = 0.0
        count = len(self.validation.inputs[0])
        for index in torch.split(torch.arange(count), 1024):
            part = self.validation.part(index)
            found = self.loss_of(flatten_outputs(student(*part.inputs)), part.outputs, part.labels)
            loss += float(found) * len(index) / count
        if loss < self.loss:
            self.loss = loss
            self.state = {name: value.detach().clone() for name, value in student.state_dict().items()}

    def take(self, student: nn.Module) -> None:
        if self.state:
            student.load_state_dict(self.state)


def _trainable(student: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    found = [(name, p) for name, p in student.named_parameters() if p.is_floating_point()]
    for _, parameter in found:
        parameter.requires_grad_(True)
    return [name for name, _ in found], [p for _, p in found]


def _save(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    history: Sequence[float],
    best: _Best,
    average: _Average,
    path: Path | None,
) -> None:
    if path is None:
        return
    content = {
        f"net.{name}": value.detach().contiguous().clone() for name, value in student.state_dict().items()
    }
    state = optimizer.state_dict()["state"]
    for k, name in enumerate(names):
        for part, value in state.get(k, {}).items():
            content[f"adam.{part}.{name}"] = torch.as_tensor(value).detach().contiguous().clone()
    content |= {f"best.{name}": value.contiguous().clone() for name, value in best.state.items()}
    content |= {f"mean.{name}": value.contiguous().clone() for name, value in average.state.items()}
    content["steps"] = torch.tensor(average.steps)
    content["history"] = torch.tensor(history, dtype=torch.float64)
    content["least"] = torch.tensor(best.loss, dtype=torch.float64)
    write_bytes(path, save(content))


def _resumed(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    best: _Best,
    average: _Average,
    path: Path | None,
) -> list[float]:
    if path is None or not path.is_file():
        return []
    content = load_file(path)
    student.load_state_dict({k.removeprefix("net."): v for k, v in content.items() if k.startswith("net.")})
    state = optimizer.state_dict()
    for k, name in enumerate(names):
        parts = {
            part: content[f"adam.{part}.{name}"]
            for part in ("step", "exp_avg", "exp_avg_sq")
            if f"adam.{part}.{name}" in content
        }
        if parts:
            state["state"][k] = parts
    optimizer.load_state_dict(state)
    best.state = {k.removeprefix("best."): v for k, v in content.items() if k.startswith("best.")}
    average.state = {k.removeprefix("mean."): v for k, v in content.items() if k.startswith("mean.")}
    average.steps = int(content["steps"])
    best.loss = float(content["least"])
    logger.info("%s: goes on behind epoch %d", path, len(content["history"]))
    return [float(value) for value in content["history"]]


def from_scratch(student: nn.Module, seed: int) -> nn.Module:
    """A copy with random weights: the control.

    Modules that know how to reset themselves do; any other matrix gets U(±1/√fan-in), any other vector
    keeps its value.
    """
    fresh = copied(student)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        settled: set[int] = set()
        for module in fresh.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
                settled.update(id(p) for p in module.parameters(recurse=False))
        for parameter in fresh.parameters():
            if id(parameter) not in settled and parameter.dim() > 1:
                bound = 1 / math.sqrt(max(1, parameter[0].numel()))
                parameter.uniform_(-bound, bound)
    return fresh


def relative_error(student: nn.Module, queries: Queries, batch: int = 256) -> float:
    """Mean over samples of ‖g − f‖₂ / ‖f‖₂, all outputs of a sample as one vector."""
    return float(relative_errors(student, queries, batch).mean())


@torch.no_grad()
def relative_errors(student: nn.Module, queries: Queries, batch: int = 256) -> Tensor:
    """‖g − f‖₂ / ‖f‖₂ of every sample, all its outputs as one vector; (n,) float64."""
    parts = []
    for k in range(0, len(queries.inputs[0]), batch):
        found = flatten_outputs(student(*(x[k : k + batch] for x in queries.inputs)))
        wanted = [y[k : k + batch] for y in queries.outputs]
        pairs = zip(found, wanted, strict=True)
        away = torch.stack([((g - f).double() ** 2).flatten(1).sum(1) for g, f in pairs]).sum(0)
        scale = torch.stack([(f.double() ** 2).flatten(1).sum(1) for f in wanted]).sum(0)
        parts.append((away / scale.clamp_min(1e-24)).sqrt())
    return torch.cat(parts)
