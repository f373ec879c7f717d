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

import importlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edgeprune.errors import CalibrationError, UsageError
from edgeprune.execution import copied, flatten_outputs
from edgeprune.files import write_bytes
from edgeprune.progress import Progress, silent
from edgeprune.registry import suggestion

logger = logging.getLogger(__name__)

Outputs = tuple[Tensor, ...]
Loss = Callable[[Outputs, Outputs, Tensor | None], Tensor]
"""Of the outputs, the original's outputs and the labels of a batch (None without), a scalar."""

TEMPERATURE = 2.0


def match(found: Outputs, wanted: Outputs, labels: Tensor | None) -> Tensor:
    """Σ_outputs ‖g − f‖² / ‖f‖² over the batch."""
    parts = [
        (((g - f) ** 2).sum() / (f**2).sum().clamp_min(1e-12)) for g, f in zip(found, wanted, strict=True)
    ]
    return torch.stack(parts).sum()


def distil(found: Outputs, wanted: Outputs, labels: Tensor | None) -> Tensor:
    """T² · KL(softmax(f/T) ‖ softmax(g/T)) of the first output, T = 2."""
    student = F.log_softmax(found[0] / TEMPERATURE, dim=-1)
    teacher = F.softmax(wanted[0] / TEMPERATURE, dim=-1)
    return TEMPERATURE**2 * F.kl_div(student, teacher, reduction="batchmean")


def cross_entropy(found: Outputs, wanted: Outputs, labels: Tensor | None) -> Tensor:
    """Of the first output against the labels."""
    assert labels is not None
    return F.cross_entropy(found[0], labels)


def mixed(found: Outputs, wanted: Outputs, labels: Tensor | None) -> Tensor:
    """Half cross-entropy, half distillation."""
    return 0.5 * cross_entropy(found, wanted, labels) + 0.5 * distil(found, wanted, labels)


LOSSES: dict[str, Loss] = {"match": match, "distil": distil, "cross-entropy": cross_entropy, "mixed": mixed}
LABELLED = ("cross-entropy", "mixed")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        loss: a name in `LOSSES`, or `module:function` of (output, labels).
        epochs: passes over the samples.
        rate: of Adam at the start; it falls to 0 along a cosine.
        frozen: whether batch norms keep their statistics (no training mode).
        decay: weight decay, decoupled.
    """

    loss: str = "match"
    epochs: int = 10
    batch: int = 256
    rate: float = 2e-3
    frozen: bool = True
    decay: float = 0.0

    @staticmethod
    def of_steps(steps: int, count: int) -> Recipe:
        """Matching for about that many steps on `count` samples."""
        return Recipe(epochs=max(1, round(steps / math.ceil(count / Recipe().batch))))


@dataclass(frozen=True, slots=True)
class Queries:
    """What is trained on.

    Attributes:
        inputs: one tensor per input, samples first.
        outputs: of the original, on those inputs.
        labels: int64 (n,), None where unknown.
    """

    inputs: tuple[Tensor, ...]
    outputs: Outputs
    labels: Tensor | None = None

    @staticmethod
    def of(original: nn.Module, inputs: Sequence[Tensor], labels: Tensor | None, batch: int = 256) -> Queries:
        """Run the original over all inputs."""
        with torch.no_grad():
            parts = [
                flatten_outputs(original(*(x[k : k + batch] for x in inputs)))
                for k in range(0, len(inputs[0]), batch)
            ]
        return Queries(tuple(inputs), tuple(torch.cat(part) for part in zip(*parts, strict=True)), labels)

    def part(self, index: Tensor) -> Queries:
        """Some of them."""
        labels = None if self.labels is None else self.labels[index]
        return Queries(tuple(x[index] for x in self.inputs), tuple(y[index] for y in self.outputs), labels)


def resolve_loss(name: str, labelled: bool) -> Loss:
    """The loss of that name, or the user's own.

    Raises:
        UsageError: there is no such loss, or it cannot be imported.
        CalibrationError: it needs labels and there are none.
    """
    if name in LABELLED and not labelled:
        raise CalibrationError(
            f"--loss {name} needs labels, and the calibration set has none; store fit_labels, or use "
            "--loss match."
        )
    if name in LOSSES:
        return LOSSES[name]
    module, _, function = name.partition(":")
    if not function:
        raise UsageError(f"--loss {name}: {suggestion(name, list(LOSSES))}, or give module:function.")
    try:
        given = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--loss {name}: cannot be imported ({error}); check the path.") from error

    def own(found: Outputs, wanted: Outputs, labels: Tensor | None) -> Tensor:
        loss: Tensor = given(found[0] if len(found) == 1 else found, wanted[0] if labels is None else labels)
        return loss

    return own


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
) -> list[float]:
    """Train `student` in place with Adam.

    Args:
        validation: queries that are never trained on; of the start and of every epoch's end the net with the
            least loss on them is what stays. Without them it is the last.
        checkpoint: written after every epoch; where it is found, training goes on from there.

    Returns:
        The mean loss of each epoch.

    Raises:
        UsageError: the loss became infinite or NaN.
    """
    loss_of = resolve_loss(recipe.loss, queries.labels is not None)
    names, parameters = _trainable(student)
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.decay)
    best = _Best(validation, loss_of)
    best.look(student)
    history = _resumed(student, optimizer, names, best, checkpoint)
    for epoch in progress(range(len(history), recipe.epochs), label, recipe.epochs - len(history)):
        mean = _epoch(student, optimizer, queries, recipe, loss_of, epoch, seed)
        if not math.isfinite(mean):
            raise UsageError(f"{label}: the loss became {mean}; lower the learning rate or check the loss.")
        history.append(mean)
        best.look(student)
        _save(student, optimizer, names, history, best, checkpoint)
    best.take(student)
    student.eval()
    return history


def _epoch(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    queries: Queries,
    recipe: Recipe,
    loss_of: Loss,
    epoch: int,
    seed: int,
) -> float:
    """One pass in an order of its own; the mean loss."""
    student.train(not recipe.frozen)
    count = len(queries.inputs[0])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    parts = torch.split(order, recipe.batch)
    total = 0.0
    for k, index in enumerate(parts):
        done = (epoch + k / len(parts)) / recipe.epochs
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * recipe.rate * (1 + math.cos(math.pi * done))
        batch = queries.part(index)
        loss = loss_of(flatten_outputs(student(*batch.inputs)), batch.outputs, batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        optimizer.step()
        total += float(loss.detach()) * len(index)
    return total / count


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
    content["history"] = torch.tensor(history, dtype=torch.float64)
    content["least"] = torch.tensor(best.loss, dtype=torch.float64)
    write_bytes(path, save(content))


def _resumed(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    best: _Best,
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


@torch.no_grad()
def relative_error(student: nn.Module, queries: Queries, batch: int = 256) -> float:
    """Mean over samples of ‖g − f‖₂ / ‖f‖₂, all outputs of a sample as one vector."""
    count, total = len(queries.inputs[0]), 0.0
    for k in range(0, count, batch):
        found = flatten_outputs(student(*(x[k : k + batch] for x in queries.inputs)))
        wanted = [y[k : k + batch] for y in queries.outputs]
        away = sum(((g - f) ** 2).flatten(1).sum(1) for g, f in zip(found, wanted, strict=True))
        scale = sum((f**2).flatten(1).sum(1) for f in wanted)
        assert isinstance(away, Tensor)
        assert isinstance(scale, Tensor)
        total += float((away / scale.clamp_min(1e-24)).sqrt().sum())
    return total / count
