"""Who trains a net: one process alone, or several that share every batch.

A loss need not be a mean over samples (matching is relative to the batch), so what is shared is the net's
work: each process computes its part of the outputs, all outputs are put together, and every process has the
loss of the whole batch. Gradients flow through a process's own part; their sum over processes is the batch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Team(Protocol):
    """Processes that take the same steps with the same weights."""

    @property
    def first(self) -> bool:
        """Whether this process writes what all have."""

    def joined(self, student: nn.Module) -> nn.Module:
        """The net whose gradients all processes share."""

    def share(self, count: int) -> Tensor:
        """Which of a batch's samples this process takes."""

    def whole(self, outputs: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
        """The outputs of all samples of a batch, out of this process's and the others'."""

    def scaled(self, loss: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """What to take the gradient of, so that the shared gradient is that of the loss."""

    def wait(self) -> None:
        """Until all are here."""


class Alone:
    """One process."""

    first = True

    def joined(self, student: nn.Module) -> nn.Module:
        """The net itself."""
        return student

    def share(self, count: int) -> Tensor:
        """All samples."""
        return torch.arange(count)

    def whole(self, outputs: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
        """The outputs themselves."""
        return tuple(outputs)

    def scaled(self, loss: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The loss itself."""
        return loss

    def wait(self) -> None:
        """Nobody to wait for."""
