"""What a shrunk net is trained for: losses by name, and functions of the user's own.

Source:
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (`distil`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.errors import CalibrationError, UsageError
from edgeprune.registry import suggestion

Outputs = tuple[Tensor, ...]
Loss = Callable[[Outputs, Outputs, Tensor | None], Tensor]
"""Of the outputs, the original's outputs and the labels of a batch (None without), a scalar."""

Augmentation = Callable[[Outputs, torch.Generator], Outputs]
"""Of the inputs of a batch and a source of randomness, the inputs varied."""

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
BY_LABEL = frozenset({"cross-entropy"})
"""Losses that do not look at the original's outputs."""


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
    if ":" not in name:
        raise UsageError(f"--loss {name}: {suggestion(name, list(LOSSES))}, or give module:function.")
    given = imported("--loss", name)

    def own(found: Outputs, wanted: Outputs, labels: Tensor | None) -> Tensor:
        loss: Tensor = given(found[0] if len(found) == 1 else found, wanted[0] if labels is None else labels)
        return loss

    return own


def resolve_augmentation(name: str | None) -> Augmentation | None:
    """The user's function of (*inputs, generator) that gives the inputs of a batch, varied at random.

    Raises:
        UsageError: it cannot be imported.
    """
    if name is None:
        return None
    given = imported("--augment", name)

    def own(inputs: tuple[Tensor, ...], generator: torch.Generator) -> tuple[Tensor, ...]:
        found = given(*inputs, generator)
        return (found,) if isinstance(found, Tensor) else tuple(found)

    return own


def imported(option: str, name: str) -> Any:
    """A function by `module:function`.

    Raises:
        UsageError: there is none.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise UsageError(f"{option} {name}: give module:function.")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{option} {name}: cannot be imported ({error}); check the path.") from error
