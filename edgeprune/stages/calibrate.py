"""Big set, loss, queries → a small weighted set on which the loss averages to the same.

Let f(A, q) = Σ_{a∈A} f(a, q) ≥ 0 be a loss over a set A of n samples, q a query (the parameters of a model, a
direction, …) from a distribution Q. Sought are m ≪ n samples C with weights u ≥ 0 such that

    E_Q |1 − f(C, u, q) / f(A, q)|,    f(C, u, q) = Σ_{c∈C} u_c f(c, q),

is small: the *average-loss coreset*. It is learned on training queries and measured on validation queries
that nothing was learned on; on those |1 − f(C)/f(A)| is averaged, with an interval for E_Q.

For fixed C the weights are a convex problem with a closed solver: with rows F_qc = f(c, q)/f(A, q), the
non-negative least squares fit of F u ≈ 1 and Σu ≈ n. C is first chosen by greedy pursuit (the sample
whose column explains most of the residual), a basis of the same problem. Where samples may move,
Adam then descends on C and u together as the paper does, and the weights are solved again at the end.

Source:
    Maalouf, Eini, Mussay, Feldman, Osadchy, "A Unified Approach to Coreset Learning", TNNLS 2022: the
    objective, λ = 1, training and validation queries. Their C starts as a random subset; pursuit and the
    exact weights are our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from edgeprune.bounds.statistical import Statement, mean_bernstein, mean_betting
from edgeprune.errors import UsageError
from edgeprune.progress import Progress, silent

Floats = npt.NDArray[np.float64]

Samples = Tensor | tuple[Tensor, ...]
"""One tensor for one input, a tuple for several; samples first."""

Loss = Callable[[Tensor, Any, Tensor | None], Tensor]
"""Of a query, `Samples` (k, …) and their labels: the loss of each sample, (k,), not negative."""

LAMBDA = 1.0
RATE = 1e-2
LARGEST = 1.0
"""At which a query's relative error is cut off, so that its mean has a finite-sample bound."""


@dataclass(frozen=True, slots=True)
class WeightedSet:
    """A learned coreset.

    Attributes:
        samples: (m, …) float32, or int64 ids; a tuple where the model has several inputs.
        labels: (m,) of the samples, None where there are none.
        weights: (m,) float64, not negative; they sum to about n.
        index: (m,) int64, which samples of the set these are; None where they have moved.
        size: n, of the whole set.
    """

    samples: Samples
    labels: Tensor | None
    weights: Floats
    index: npt.NDArray[np.int64] | None
    size: int


@dataclass(frozen=True, slots=True)
class Judged:
    """How well a weighted set stands for the whole one, on queries that nothing was learned on.

    Attributes:
        errors: (queries,) |1 − f(C, u, q)/f(A, q)|.
        hoeffding: a bound on E min(error, 1), by Hoeffding's inequality.
        bernstein: the same by the empirical Bernstein inequality.
        betting: the same by betting; the tightest.
        quantile: what the error of one more query exceeds with probability δ at most, over the draw of all
            of them; None where there are too few queries for that.
    """

    errors: Floats
    hoeffding: float
    bernstein: Statement
    betting: Statement
    quantile: float | None = None

    @property
    def mean(self) -> float:
        """The mean error."""
        return float(self.errors.mean())


def count_of(samples: Samples) -> int:
    """How many samples there are."""
    return len(samples) if isinstance(samples, Tensor) else len(samples[0])


def taken(samples: Samples, index: npt.NDArray[np.int64]) -> Samples:
    """Some of the samples, copied."""
    if isinstance(samples, Tensor):
        return samples[index].clone()
    return tuple(one[index].clone() for one in samples)


def losses(loss: Loss, queries: Tensor, samples: Samples, labels: Tensor | None) -> Floats:
    """Every query's loss on every sample, (queries, samples) float64.

    Raises:
        UsageError: a loss is negative, not finite, or of another shape.
    """
    with torch.no_grad():
        rows = [loss(query, samples, labels) for query in queries]
    if any(row.shape != (count_of(samples),) for row in rows):
        raise UsageError(
            f"--loss: gives shape {tuple(rows[0].shape)} for {count_of(samples)} samples; it must give "
            "the loss of each."
        )
    found: Floats = torch.stack(rows).double().numpy()
    if not np.isfinite(found).all() or (found < 0).any():
        raise UsageError("--loss: gives losses that are negative or not finite; a coreset needs them ≥ 0.")
    return found


def weigh(relative: Floats, size: int) -> Floats:
    """The weights u ≥ 0 that bring F u nearest to 1 and Σu to n; (m,).

    Args:
        relative: (queries, m) f(c, q)/f(A, q).
        size: n.
    """
    scale = math.sqrt(len(relative) * LAMBDA) / size
    rows = np.concatenate([relative, np.full((1, relative.shape[1]), scale)])
    target = np.append(np.ones(len(relative)), scale * size)
    return nonnegative(rows, target)


def nonnegative(rows: Floats, target: Floats) -> Floats:
    """Argmin ‖rows u − target‖ over u ≥ 0; (columns,)."""
    found = optimize.nnls(rows, target)  # type: ignore[attr-defined]
    return np.asarray(found[0], dtype=np.float64)


def pursue(relative: Floats, size: int) -> npt.NDArray[np.int64]:
    """`size` columns that explain 1 best, by greedy pursuit with non-negative weights; ascending.

    A tenth of them is taken between two fits of the weights. The columns are first brought to their principal
    directions, where more queries than those say nothing new.
    """
    left, values, right = np.linalg.svd(relative, full_matrices=False)
    rank = int((values > 1e-10 * values[0]).sum())
    columns = values[:rank, None] * right[:rank]
    target = left[:, :rank].T @ np.ones(len(relative))
    norms = np.linalg.norm(columns, axis=0) + 1e-300
    taken: list[int] = []
    residual, step = target, max(1, size // 20)
    while len(taken) < size:
        gain = (columns.T @ residual) / norms
        gain[taken] = -np.inf
        taken.extend(int(k) for k in np.argsort(-gain, kind="stable")[: min(step, size - len(taken))])
        weights = nonnegative(columns[:, taken], target)
        residual = target - columns[:, taken] @ weights
    return np.sort(np.array(taken, dtype=np.int64))


def learn_set(
    samples: Samples,
    labels: Tensor | None,
    loss: Loss,
    queries: Tensor,
    size: int,
    *,
    seed: int,
    moving: int = 0,
    progress: Progress = silent,
) -> WeightedSet:
    """A weighted set of `size` samples that answers the queries as the whole does.

    Args:
        samples: (n, …) float32, or int64 ids; a tuple where there are several inputs.
        queries: (q, …): what the set is learned on; keep others to judge it.
        moving: steps of Adam in which the samples themselves may move; 0 keeps them real.

    Raises:
        UsageError: the size does not fit, or the loss is no loss.
    """
    count = count_of(samples)
    if not 1 <= size <= count:
        raise UsageError(f"--size {size}: the set has {count} samples; ask for 1 to {count}.")
    whole = losses(loss, queries, samples, labels)
    total = whole.sum(1)
    if (total <= 0).any():
        raise UsageError("--loss: a query has no loss on the whole set, so nothing can be relative to it.")
    relative = whole / total[:, None]
    index = pursue(relative, size)
    weights = weigh(relative[:, index], count)
    kept = taken(samples, index)
    kept_labels = None if labels is None else labels[index]
    if not moving:
        return WeightedSet(kept, kept_labels, weights, index, count)
    if not isinstance(kept, Tensor) or not kept.is_floating_point():
        raise UsageError("--move: only one input of real numbers can move; leave --move out.")
    moved = _moved(kept, kept_labels, weights, loss, queries, total, count, moving, seed, progress)
    again = losses(loss, queries, moved, kept_labels) / total[:, None]
    return WeightedSet(moved, kept_labels, weigh(again, count), None, count)


def _moved(
    samples: Tensor,
    labels: Tensor | None,
    weights: Floats,
    loss: Loss,
    queries: Tensor,
    total: Floats,
    count: int,
    steps: int,
    seed: int,
    progress: Progress,
) -> Tensor:
    """Adam on samples and weights together, on random batches of queries."""
    points = samples.clone().requires_grad_(True)
    heavy = torch.from_numpy(weights).to(samples.dtype).clamp_min(1e-3).requires_grad_(True)
    scale = float(samples.std()) or 1.0
    optimizer = torch.optim.Adam([{"params": [points], "lr": RATE * scale}, {"params": [heavy], "lr": RATE}])
    generator = torch.Generator().manual_seed(seed)
    for _ in progress(range(steps), "moving samples", steps):
        batch = torch.randint(len(queries), (min(64, len(queries)),), generator=generator)
        found = torch.stack([(heavy * loss(queries[k], points, labels)).sum() for k in batch])
        away = (1 - found / torch.from_numpy(total)[batch].to(found)).abs().mean()
        objective = away + LAMBDA * (count - heavy.sum()).abs() / count
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call,unused-ignore]
        optimizer.step()
        with torch.no_grad():
            heavy.clamp_(min=0.0)
    return points.detach()


def judge(found: WeightedSet, whole: Floats, kept: Floats, delta: float) -> Judged:
    """The error on fresh queries, with intervals on its mean over their distribution.

    Args:
        whole: (queries, n) losses on the whole set.
        kept: (queries, m) losses on the weighted one.
        delta: δ; each bound holds with probability 1 − δ.
    """
    errors = np.abs(1 - (kept @ found.weights) / whole.sum(1))
    cut = np.minimum(errors, LARGEST)
    hoeffding = float(cut.mean() + LARGEST * math.sqrt(math.log(1 / delta) / (2 * len(cut))))
    return Judged(
        errors,
        min(hoeffding, LARGEST),
        mean_bernstein(cut, LARGEST, delta),
        mean_betting(cut, LARGEST, delta),
        conformal(errors, delta),
    )


def conformal(errors: Floats, delta: float) -> float | None:
    """The ⌈(n + 1)(1 − δ)⌉-th smallest of n errors: one more, drawn alike, exceeds it with probability ≤ δ.

    All n + 1 ranks of the new error are equally likely (ties only help). None where n is below 1/δ − 1.

    Source:
        Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005 (split conformal prediction).
    """
    rank = math.ceil((len(errors) + 1) * (1 - delta) - 1e-9)
    return None if rank > len(errors) else float(np.sort(errors)[rank - 1])


def second_moment(query: Tensor, samples: Samples, labels: Tensor | None) -> Tensor:
    """(q·[x; 1])², x all inputs side by side.

    A set that keeps it for random q keeps mean and covariance, all that `gram` looks at.
    """
    every = (samples,) if isinstance(samples, Tensor) else samples
    flat = torch.cat([one.flatten(1) for one in every], dim=1)
    return (flat @ query[:-1] + query[-1]) ** 2


def directions(count: int, sample: Samples, seed: int) -> Tensor:
    """Gaussian queries for `second_moment`, (count, values + 1).

    Args:
        sample: one sample, without its first axis.
    """
    every = (sample,) if isinstance(sample, Tensor) else sample
    generator = torch.Generator().manual_seed(seed)
    values = sum(one.numel() for one in every)
    return torch.randn(count, values + 1, generator=generator).to(every[0].dtype)
