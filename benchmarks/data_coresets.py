"""Data coresets: average relative error of a weighted set against its size, for three learning problems.

    python -m benchmarks.data_coresets [--quick] [--json FILE]

Linear regression on diabetes (442 patients), logistic regression and SVM (hinge loss) on breast cancer (569
patients), the tables that scikit-learn bundles. Queries are parameters that gradient descent passes through
from random starts; learning sees some of them, the figures are of others. Controls: uniform sampling and
sampling by leverage scores, both reweighted and averaged over 20 draws.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from sklearn import datasets
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Row, Table, environment_line, environment_rows, finish, options
from edgeprune.stages.calibrate import Loss, WeightedSet, judge, learn_set, losses

SIZES = (10, 20, 40, 80)
DRAWS = 20
STARTS = 12
STEPS = 60
MOVES = 400

Floats = npt.NDArray[np.float64]


def squared(query: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
    assert y is not None
    return (x @ query[:-1] + query[-1] - y) ** 2


def logistic(query: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
    assert y is not None
    return F.softplus(-y * (x @ query[:-1] + query[-1]))


def hinge(query: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
    """With the ridge of a soft-margin SVM shared out among the samples."""
    assert y is not None
    ridge = 0.01 * (query[:-1] ** 2).sum()
    return (1 - y * (x @ query[:-1] + query[-1])).clamp_min(0) + ridge


def trajectory(loss: Loss, x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Parameters that gradient descent passes through, (STARTS × STEPS, d + 1)."""
    generator = torch.Generator().manual_seed(seed)
    passed = []
    for _ in range(STARTS):
        query = torch.randn(x.shape[1] + 1, generator=generator, dtype=x.dtype).requires_grad_(True)
        optimizer = torch.optim.Adam([query], lr=0.05)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(query, x, y).mean().backward()
            optimizer.step()
            passed.append(query.detach().clone())
    return torch.stack(passed)


def leverage(x: Tensor) -> Floats:
    """Leverage scores of [x, 1], as probabilities."""
    q, _ = np.linalg.qr(np.c_[x.numpy(), np.ones(len(x))])
    score = (q**2).sum(1)
    return np.asarray(score / score.sum())


def sampled(probability: Floats, x: Tensor, y: Tensor, size: int, random: np.random.Generator) -> WeightedSet:
    index = random.choice(len(x), size, p=probability)
    return WeightedSet(x[index], y[index], 1 / (size * probability[index]), index, len(x))


def subjects() -> dict[str, tuple[Tensor, Tensor, Loss]]:
    x, y = datasets.load_diabetes(return_X_y=True)
    a, b = datasets.load_breast_cancer(return_X_y=True)
    scaled: Callable[[Floats], Tensor] = lambda v: torch.from_numpy((v - v.mean(0)) / v.std(0))  # noqa: E731
    signs = torch.from_numpy(2.0 * b - 1.0)
    return {
        "linear regression": (scaled(x), scaled(y[:, None])[:, 0], squared),
        "logistic regression": (scaled(a), signs, logistic),
        "SVM": (scaled(a), signs, hinge),
    }


def measure(name: str, x: Tensor, y: Tensor, loss: Loss, sizes: tuple[int, ...]) -> list[Row]:
    train, fresh = trajectory(loss, x, y, 0), trajectory(loss, x, y, 1)
    whole = losses(loss, fresh, x, y)
    rows = []

    def told(method: str, size: int, found: list[WeightedSet]) -> None:
        judged = [judge(one, whole, losses(loss, fresh, one.samples, one.labels), 0.05) for one in found]
        mean = float(np.mean([one.mean for one in judged]))
        rows.append(Row(name, method, str(size), "average relative error", mean, "", 0))
        if len(judged) == 1 and judged[0].betting.bound is not None:
            rows.append(Row(name, method, str(size), "95 % bound", judged[0].betting.bound, "", 0))

    for size in sizes:
        random = np.random.default_rng(0)
        even = np.full(len(x), 1 / len(x))
        told("uniform", size, [sampled(even, x, y, size, random) for _ in range(DRAWS)])
        told("leverage", size, [sampled(leverage(x), x, y, size, random) for _ in range(DRAWS)])
        told("learned weights", size, [learn_set(x, y, loss, train, size, seed=0)])
        told("learned, moved", size, [learn_set(x, y, loss, train, size, seed=0, moving=MOVES)])
    return rows


def layout(rows: list[Row]) -> Table:
    """A line per subject and method, a column per size."""
    figures = [row for row in rows if row.figure == "average relative error"]
    sizes = tuple(dict.fromkeys(row.size for row in figures))
    lines = []
    for subject, method in dict.fromkeys((row.subject, row.method) for row in figures):
        cells = [
            f"{100 * float(row.value):.2g} %"
            for row in figures
            if (row.subject, row.method) == (subject, method)
        ]
        lines.append((f"{subject}: {method}", *cells))
    return Table(("samples", *sizes), tuple(lines), environment_line(rows))


LAYOUT = layout


def main() -> None:
    chosen = options(__doc__).parse_args()
    torch.set_num_threads(1)
    rows = environment_rows()
    for name, (x, y, loss) in subjects().items():
        rows += measure(name, x, y, loss, SIZES[1:2] if chosen.quick else SIZES)
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
