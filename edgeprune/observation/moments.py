"""What the readers of a group hear on the calibration set: first and second moments.

Sums are accumulated batch by batch in float64, so memory does not grow with the number of
samples. Where a layer has many positions, a seeded random part of them is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.errors import CalibrationError
from edgeprune.graph.groups import Graph, Group, Ints, Reader

BATCH = 64
ROWS = 200_000
"""Most rows (samples × positions) that go into one moment matrix."""


def batches(graph: Graph, samples: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The calibration samples in batches that the graph can run.

    Raises:
        CalibrationError: the graph has a fixed batch size that is larger than the set.
    """
    count = len(samples[0])
    size = graph.batch or BATCH
    if graph.batch is not None and count < graph.batch:
        raise CalibrationError(
            f"the model runs only at batch size {graph.batch}, and the calibration set has {count} samples; "
            "give a larger set or example inputs with a smaller batch."
        )
    whole = count - count % size if graph.batch is not None else count
    for start in range(0, whole, size):
        yield tuple(x[start : start + size] for x in samples)


def positions(units: Ints, count: int) -> list[Ints]:
    """Where the units lie on an axis: the r-th array holds each unit's r-th index, −1 if none."""
    order = np.argsort(units, kind="stable")
    order = order[units[order] >= 0]
    owner = units[order]
    first = np.searchsorted(owner, np.arange(count))
    rank = np.arange(len(owner)) - first[owner]
    table = np.full((int(rank.max(initial=-1)) + 1, count), -1, dtype=np.int64)
    table[rank, owner] = order
    return list(table)


@dataclass(slots=True)
class Moments:
    """Running sums of h hᵀ and h over samples and positions, for one reader."""

    places: list[Ints]
    second: Tensor
    first: Tensor
    count: int = 0

    @staticmethod
    def of(reader: Reader, size: int) -> Moments:
        """Empty sums for a group of `size` units."""
        zero = torch.zeros(size, size, dtype=torch.float64)
        return Moments(positions(reader.units, size), zero, zero[0].clone())

    def add(self, heard: Tensor, axis: int, generator: torch.Generator, limit: int) -> None:
        """Add a batch: `heard` is the reader's data, with its channels on `axis`."""
        rows = heard.movedim(axis, -1).reshape(-1, heard.shape[axis])
        rows = part(rows, limit, generator).double()
        for place in self.places:
            index = torch.from_numpy(place)
            h = rows[:, index.clamp_min(0)] * (index >= 0)
            self.second += h.T @ h
            self.first += h.sum(0)
            self.count += len(h)

    @property
    def second_moment(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """E[h hᵀ], (n, n) float64."""
        return (self.second / max(self.count, 1)).numpy()

    @property
    def mean(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """E[h], (n,) float64."""
        return (self.first / max(self.count, 1)).numpy()


def part(rows: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """At most `limit` of the rows, drawn with replacement."""
    if len(rows) <= limit:
        return rows
    return rows[torch.randint(len(rows), (limit,), generator=generator)]


def listen(
    graph: Graph,
    group: Group,
    readers: Sequence[Reader],
    weights: Mapping[str, Tensor],
    samples: Sequence[Tensor],
    generator: torch.Generator,
    audible: Mapping[str, Tensor] | None = None,
) -> list[Moments]:
    """The moments of what each reader hears from the group, in the net with these weights.

    Args:
        audible: positions that count, by name of what is heard (see `edgeprune.observation.audibility`).
    """
    sums = [Moments.of(reader, group.size) for reader in readers]
    wanted = frozenset(reader.data for reader in readers)
    limit = max(1, ROWS * BATCH // max(len(samples[0]), 1))
    first = 0
    for batch in batches(graph, samples):
        values = graph.values(batch, weights, wanted)
        for reader, moments in zip(readers, sums, strict=True):
            heard = values[reader.data]
            if audible and reader.data in audible:
                heard = heard[audible[reader.data][first : first + len(heard)]]
            moments.add(heard, reader.data_axis if heard.dim() > 2 else -1, generator, limit)
        first += len(batch[0])
    return sums
