"""Time and company for long computations: a deadline that loops look at, words for who waits, threads.

A bound that is computed to a deadline is the best one that was found until then. What cannot be divided
(one chunk of rows) is finished, so a budget is overrun by one chunk at most.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from edgeprune.progress import Tell, unheard

PartT = TypeVar("PartT")


@dataclass(frozen=True, slots=True)
class Watch:
    """A deadline, and who is told about progress.

    Attributes:
        end: of the budget, on the clock of `time.monotonic`.
        tell: hears what is being done; called from the computing thread.
    """

    end: float = float("inf")
    tell: Tell = field(default=unheard)

    @staticmethod
    def of(seconds: float, tell: Tell | None = None) -> Watch:
        """That rings in so many seconds from now."""
        return Watch(time.monotonic() + seconds, tell or unheard)

    @property
    def left(self) -> bool:
        """Whether the budget is not spent."""
        return time.monotonic() < self.end

    @property
    def seconds(self) -> float:
        """What is left of the budget; 0 where it is spent."""
        return max(0.0, self.end - time.monotonic())


def workers() -> int:
    """Threads that are free beside those that torch uses inside one operation."""
    return max(1, (os.cpu_count() or 1) // torch.get_num_threads())


def spread_over(parts: Iterable[PartT], work: Callable[[PartT], None], watch: Watch) -> None:
    """Do independent parts of a work, several at once; what is not begun at the deadline is left out."""
    todo: Sequence[PartT] = list(parts)

    def attend(part: PartT) -> None:
        if watch.left:
            work(part)

    count = min(workers(), len(todo))
    if count <= 1:
        for part in todo:
            attend(part)
        return
    with ThreadPoolExecutor(count) as pool:
        for _ in pool.map(attend, todo):
            pass


__all__ = ["Watch", "spread_over", "workers"]
