"""A reader as a matrix: what it multiplies its weights with, and the least-squares refit of them.

What a reader computes often reaches further nodes unbent: through a batch norm, and into the sum of
a residual stream. There all errors of the branches that were pruned before meet, and there the refit
measures what is missing. A ResNet-20 on MNIST at half and at a quarter of its channels, 500 samples, has
1.3 and 3.4 % test error with that; 2.1 and 12 % when each reader is held against its own output alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.graph.groups import Graph, Ints, Node, Reader, Ref
from edgeprune.observation import kernel_ridge
from edgeprune.observation.kernel_ridge import RowEquations
from edgeprune.observation.moments import ROWS, batches, part
from edgeprune.observation.originals import Originals

LARGEST = 4608
"""Most unknowns (kept channels × taps) for which the normal equations are formed; else some rows are kept."""

FAINT = 1e-3
"""An output whose scale is below this share of the largest is not refitted: it is hardly heard."""

HANDED_ON = frozenset(
    {"dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "detach", "alias"}
)
"""Operations that change no value: nets are traced for inference, where nothing is dropped."""

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Strengths of the ridge, relative to the mean diagonal of a half's UᵀU."""

STRONGER = (*RIDGES, 3e-1, 1.0, 3.0, 10.0)
"""The same where the ridge holds weights at the original's."""


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
    norm = _norm_after(graph, node.name)
    if node.get("bias") is None and norm is not None:
        mean = norm.get("running_mean")
        name = graph.weight_of(mean)
        if name is not None and _read_once(graph, mean):
            return Site(name, -1)
    return None


@dataclass(frozen=True, slots=True)
class Landing:
    """The last node that a reader's output reaches unbent: itself, or behind norms and sums.

    Attributes:
        scale: (outputs,) float64, what a change of each output by one changes there.
    """

    node: str
    scale: Tensor


def landing(graph: Graph, reader: Reader, weights: Mapping[str, Tensor]) -> Landing:
    """Follow the only user of each node through batch norms (as constants), copies, sums of equal shapes."""
    assert reader.weight is not None
    node, scale = graph.nodes[reader.node], torch.ones(weights[reader.weight].shape[0], dtype=torch.float64)
    while True:
        norm = _norm_after(graph, node.name)
        if norm is not None:
            scale, node = scale * _norm_scale(graph, norm, weights), norm
            continue
        users = graph.users(node.name)
        if len(users) == 1 and users[0].operation in HANDED_ON and users[0].shape == node.shape:
            node = users[0]
            continue
        if len(users) != 1 or users[0].operation != "add" or users[0].shape != node.shape:
            return Landing(node.name, scale)
        if users[0].sources().count(node.name) != 1 or users[0].get("alpha", 1) != 1:
            return Landing(node.name, scale)
        node = users[0]


def _norm_after(graph: Graph, name: str) -> Node | None:
    """The batch norm that alone reads a node, channel by channel of the node's outputs."""
    users = graph.users(name)
    if len(users) != 1 or users[0].operation != "batch_norm" or users[0].get("training"):
        return None
    shape, linear = graph.nodes[name].shape, graph.nodes[name].operation == "linear"
    if shape is None or (linear and len(shape) != 2):
        return None  # the norm's channels are not the outputs
    return users[0] if graph.weight_of(users[0].get("running_var")) is not None else None


def _norm_scale(graph: Graph, norm: Node, weights: Mapping[str, Tensor]) -> Tensor:
    """γ/√(σ² + ε), float64."""
    spread = weights[str(graph.weight_of(norm["running_var"]))].double()
    factor = graph.weight_of(norm.get("weight"))
    numerator = torch.ones_like(spread) if factor is None else weights[factor].double()
    return numerator / torch.sqrt(spread + float(norm["eps"]))


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

    def solve(self, ridge: float, anchor: Tensor | None = None) -> Tensor:
        """Argmin ‖R − U D‖² + λ‖D − anchor‖² with λ = ridge · mean diagonal; (unknowns, outputs)."""
        scale = ridge * self.inner.diagonal().mean().clamp_min(1e-30)
        damped = self.inner + scale * torch.eye(len(self.inner), dtype=torch.float64)
        outer = self.outer if anchor is None else self.outer + scale * anchor
        solved: Tensor = torch.linalg.solve(damped, outer)
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
    outputs: Ints,
    weights: Mapping[str, Tensor],
    samples: Sequence[Tensor],
    generator: torch.Generator,
    originals: Originals | None = None,
    counted: Tensor | None = None,
) -> dict[str, Tensor]:
    """New weights for a reader, so that the net computes from `channels` what the original computes.

    Let R be the original's value minus the present one where the reader's output lands, s the scale with
    which each output lands there, and U what the reader hears in the net with the present weights. The
    change D of the weights solves the ridge regression R ≈ U D diag(s), so it also makes up for what other
    branches of the same sum have lost. The strength of the ridge is chosen on the half of the samples that
    was not fitted on. A convolution is held at its present weights, and the fit is kept only if it helps
    there. A linear layer is held at the original's: its present ones were fitted to both halves.

    Args:
        channels: indices of the data's channels that are left.
        outputs: indices of the reader's outputs that are left; the others stay as they are.
        weights: current weights, at original sizes.
        originals: where the original's values are kept between refits on the same samples.
        counted: bool (samples, positions), the rows that are fitted; all of them where None.

    Returns:
        The reader's weight and the weight of its shift site, where they change.
    """
    node = graph.nodes[reader.node]
    assert reader.weight is not None
    weight = weights[reader.weight]
    taps = tuple(weight.shape[2:])
    unknowns = len(channels) * math.prod(taps)
    if not refittable(graph, reader):
        return {}
    site, end = shift_site(graph, reader), landing(graph, reader, weights)
    loud = end.scale[torch.from_numpy(outputs)].abs()
    fitted = torch.from_numpy(outputs)[loud > FAINT * loud.max()]
    halves, most = _halves(unknowns, site is not None, len(fitted))
    present = weight.index_select(1, torch.from_numpy(channels)).flatten(1).double()
    originals = originals or Originals(graph, frozenset({end.node}))
    parts, first = batches(graph, samples), 0
    for k, batch in enumerate(parts if graph.batch is not None else _split(parts)):
        heard = graph.values(batch, weights, frozenset({reader.data, end.node}))
        target = originals.value(k, batch, end.node)
        limit = max(1, most * len(batch[0]) // len(samples[0]))
        rows = patches(node, taps, heard[reader.data], channels)
        rest = responses(node, target - heard[end.node])[:, fitted]
        chosen = part(_counted(counted, first, len(batch[0]), len(rows)), limit, generator)
        first += len(batch[0])
        halves[k % 2].add(_affine(rows[chosen].double(), site), rest[chosen].double())
    linear = node.operation == "linear"
    landed = _best(halves, _anchor(graph, reader, channels, present, end, fitted) if linear else None)
    if landed is None:
        return {}
    change = torch.zeros(len(landed), weight.shape[0], dtype=torch.float64)
    change[:, fitted] = landed / end.scale[fitted]
    return _written(weights, reader, channels, present, change, site)


def _counted(counted: Tensor | None, first: int, samples: int, rows: int) -> Tensor:
    """Indices of the rows of a batch that are fitted."""
    if counted is None:
        return torch.arange(rows)
    return counted[first : first + samples].reshape(-1).nonzero()[:, 0]


def _affine(rows: Tensor, site: Site | None) -> Tensor:
    """With a last column of ones where there is a constant to fit."""
    if site is None:
        return rows
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)


def _anchor(
    graph: Graph, reader: Reader, channels: Ints, present: Tensor, end: Landing, fitted: Tensor
) -> Tensor:
    """The change that leads back to the original's weights, where it lands; (unknowns, fitted)."""
    before = graph.weights[str(reader.weight)].index_select(1, torch.from_numpy(channels)).double()
    change = ((before - present) * end.scale[:, None])[fitted].T
    constant = int(shift_site(graph, reader) is not None)
    return torch.cat([change, torch.zeros(constant, len(fitted), dtype=torch.float64)])


def _halves(unknowns: int, constant: bool, outputs: int) -> tuple[list[NormalEquations | RowEquations], int]:
    """Empty sums for both halves of the samples, and the rows that go into them together."""
    if unknowns > LARGEST:
        return [RowEquations(), RowEquations()], kernel_ridge.rows_for(unknowns)
    return [NormalEquations.of(unknowns + constant, outputs) for _ in range(2)], ROWS


def refittable(graph: Graph, reader: Reader) -> bool:
    """Whether a reader is a linear layer or a plain convolution, whose weights may change.

    Others (transposed convolutions, the gates of recurrent layers) keep the closed form of the choice.
    """
    node = graph.nodes[reader.node]
    plain = node.operation == "linear" or (node.operation in ("conv1d", "conv2d") and node["groups"] == 1)
    return plain and reader.compensable and reader.axis == 1


def _split(source: Any) -> Any:
    """Every batch in two, so that both halves of the samples see all of the set."""
    for batch in source:
        middle = len(batch[0]) // 2
        if middle == 0 or any(len(x) != len(batch[0]) for x in batch):
            yield batch
            continue
        yield tuple(x[:middle] for x in batch)
        yield tuple(x[middle:] for x in batch)


def _best(halves: Sequence[NormalEquations | RowEquations], anchor: Tensor | None) -> Tensor | None:
    """The change fitted on all rows, at the strength that does best across the halves."""
    first, second = halves
    if isinstance(first, RowEquations) or isinstance(second, RowEquations):
        return kernel_ridge.best([half for half in halves if isinstance(half, RowEquations)])
    if not first.count or not second.count:
        return None
    best, least = None, math.inf
    if anchor is None:
        nothing = torch.zeros_like(first.outer)
        least = first.loss(nothing) + second.loss(nothing)
    for ridge in RIDGES if anchor is None else STRONGER:
        loss = second.loss(first.solve(ridge, anchor)) + first.loss(second.solve(ridge, anchor))
        if loss < least:
            best, least = ridge, loss
    # twice the rows, the same λ
    return None if best is None else first.plus(second).solve(best / 2, anchor)


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
