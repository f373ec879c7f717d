"""A reader as a matrix: what it multiplies its weights with, and the least-squares refit of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.graph import Graph, Ints, Node, Reader, Ref
from edgeprune.observation.moments import ROWS, batches, part

LARGEST = 4608
"""Most unknowns (kept channels × taps) for which the normal equations are formed."""

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a constant can be added to what a reader computes.

    Attributes:
        sign: +1 for a bias, −1 for the running mean of the batch norm that follows.
    """

    weight: str
    sign: int


def shift_site(graph: Graph, reader: Reader) -> Site | None:
    """The reader's bias, or else the running mean of the batch norm that alone follows it."""
    node = graph.nodes[reader.node]
    bias = graph.weight_of(node.get("bias"))
    if bias is not None:
        return Site(bias, 1) if _read_once(graph, node["bias"]) else None
    users = graph.users(node.name)
    if node.get("bias") is None and len(users) == 1 and users[0].operation == "batch_norm":
        mean = users[0].get("running_mean")
        name = graph.weight_of(mean)
        if name is not None and _read_once(graph, mean):
            return Site(name, -1)
    return None


def _read_once(graph: Graph, ref: Ref) -> bool:
    return len(graph.users(ref.name)) == 1


def patches(node: Node, taps: Sequence[int], heard: Tensor, channels: Ints) -> Tensor:
    """What a reader multiplies its weight with, (rows, channels × taps)."""
    index = torch.from_numpy(channels)
    if node.operation == "linear":
        return heard[..., index].reshape(-1, len(channels))
    x = heard.index_select(1, index)
    stride, dilation = _list(node["stride"], len(taps)), _list(node["dilation"], len(taps))
    x = F.pad(x, _padding(node["padding"], taps, dilation))
    if node.operation == "conv1d":
        x, taps, stride, dilation = x.unsqueeze(2), (1, *taps), [1, *stride], [1, *dilation]
    rows = F.unfold(x, tuple(taps), dilation=tuple(dilation), stride=tuple(stride))
    return rows.movedim(1, -1).reshape(-1, rows.shape[1])


def responses(node: Node, value: Tensor) -> Tensor:
    """What a reader computed, as rows that match `patches`: (rows, outputs)."""
    last: Tensor = value if node.operation == "linear" else value.movedim(1, -1)
    return last.reshape(-1, last.shape[-1])


def _list(value: Any, rank: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _padding(given: Any, taps: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """In the order that `F.pad` takes: the last axis first, low and high."""
    pairs = [(p, p) for p in ([0] * len(taps) if isinstance(given, str) else _list(given, len(taps)))]
    if given == "same":
        total = [d * (k - 1) for k, d in zip(taps, dilation, strict=True)]
        pairs = [(t // 2, t - t // 2) for t in total]
    return [amount for pair in reversed(pairs) for amount in pair]


@dataclass(slots=True)
class NormalEquations:
    """Sums of UᵀU, Uᵀ R and RᵀR over rows, where R is what the present weights leave unexplained.

    U has a last column of ones where the reader can take a constant.
    """

    inner: Tensor
    outer: Tensor
    energy: float = 0.0
    count: int = 0

    @staticmethod
    def of(unknowns: int, outputs: int) -> NormalEquations:
        """Empty sums."""
        return NormalEquations(
            torch.zeros(unknowns, unknowns, dtype=torch.float64),
            torch.zeros(unknowns, outputs, dtype=torch.float64),
        )

    def add(self, rows: Tensor, rest: Tensor) -> None:
        """Add rows U (r, unknowns) and what they should explain (r, outputs)."""
        self.inner += rows.T @ rows
        self.outer += rows.T @ rest
        self.energy += float((rest * rest).sum())
        self.count += len(rows)

    def solve(self, ridge: float) -> Tensor:
        """Argmin ‖R − U D‖² + λ‖D‖² with λ = ridge · mean diagonal; (unknowns, outputs)."""
        scale = ridge * self.inner.diagonal().mean().clamp_min(1e-30)
        damped = self.inner + scale * torch.eye(len(self.inner), dtype=torch.float64)
        solved: Tensor = torch.linalg.solve(damped, self.outer)
        return solved

    def loss(self, change: Tensor) -> float:
        """Σ‖R − U D‖² over the rows that were added."""
        quadratic = (change * (self.inner @ change)).sum() - 2 * (change * self.outer).sum()
        return self.energy + float(quadratic)

    def plus(self, other: NormalEquations) -> NormalEquations:
        """The sums over both sets of rows."""
        return NormalEquations(
            self.inner + other.inner,
            self.outer + other.outer,
            self.energy + other.energy,
            self.count + other.count,
        )


def refit(
    graph: Graph,
    reader: Reader,
    channels: Ints,
    weights: Mapping[str, Tensor],
    samples: Sequence[Tensor],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """New weights for a reader, so that it computes from `channels` what the original net computes.

    Ridge regression of the original's output on what the reader hears in the net with the present
    weights, regularised towards those weights. The strength is chosen on the half of the samples
    that was not fitted on, and the fit is kept only if it helps there.

    Args:
        channels: indices of the data's channels that are left.
        weights: current weights, at original sizes.

    Returns:
        The reader's weight and the weight of its shift site, where they change.
    """
    node = graph.nodes[reader.node]
    assert reader.weight is not None
    weight = weights[reader.weight]
    taps = tuple(weight.shape[2:])
    unknowns = len(channels) * int(torch.tensor(taps).prod()) if taps else len(channels)
    if not _refittable(node) or unknowns > LARGEST:
        return {}
    site = shift_site(graph, reader)
    halves = [NormalEquations.of(unknowns + (site is not None), weight.shape[0]) for _ in range(2)]
    present = weight.index_select(1, torch.from_numpy(channels)).flatten(1).double()
    limit = max(1, ROWS * 64 // max(len(samples[0]), 1))
    wanted = frozenset({reader.data, reader.node})
    for k, batch in enumerate(_split(batches(graph, samples))):
        heard = graph.values(batch, weights, wanted)
        target = graph.values(batch, {}, frozenset({reader.node}))[reader.node]
        rows = patches(node, taps, heard[reader.data], channels)
        rest = responses(node, target) - responses(node, heard[reader.node])
        chosen = part(torch.arange(len(rows)), limit, generator)
        picked = rows[chosen].double()
        if site is not None:
            picked = torch.cat([picked, torch.ones(len(picked), 1, dtype=torch.float64)], dim=1)
        halves[k % 2].add(picked, rest[chosen].double())
    change = _best(halves)
    if change is None:
        return {}
    return _written(weights, reader, channels, present, change, site)


def _refittable(node: Node) -> bool:
    return node.operation == "linear" or (node.operation in ("conv1d", "conv2d") and node["groups"] == 1)


def _split(source: Any) -> Any:
    """Every batch in two, so that both halves of the samples see all of the set."""
    for batch in source:
        middle = len(batch[0]) // 2
        if middle == 0 or any(len(x) != len(batch[0]) for x in batch):
            yield batch
            continue
        yield tuple(x[:middle] for x in batch)
        yield tuple(x[middle:] for x in batch)


def _best(halves: list[NormalEquations]) -> Tensor | None:
    """The change fitted on all rows, at the strength that does best across the halves."""
    first, second = halves
    if not first.count or not second.count:
        return None
    nothing = torch.zeros_like(first.outer)
    best, least = None, first.loss(nothing) + second.loss(nothing)
    for ridge in RIDGES:
        loss = second.loss(first.solve(ridge)) + first.loss(second.solve(ridge))
        if loss < least:
            best, least = ridge, loss
    return None if best is None else first.plus(second).solve(best)


def _written(
    weights: Mapping[str, Tensor],
    reader: Reader,
    channels: Ints,
    present: Tensor,
    change: Tensor,
    site: Site | None,
) -> dict[str, Tensor]:
    assert reader.weight is not None
    weight = weights[reader.weight]
    index = torch.from_numpy(channels)
    count = present.shape[1]
    new = torch.zeros_like(weight)
    new.index_copy_(
        1, index, (present + change[:count].T).reshape(-1, len(channels), *weight.shape[2:]).to(weight)
    )
    result = {reader.weight: new}
    if site is not None:
        old = weights[site.weight]
        result[site.weight] = old + site.sign * change[count].to(old)
    return result
