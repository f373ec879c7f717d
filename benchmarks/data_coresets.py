"""Data coresets: average relative error of a weighted set against its size, for three learning problems.

    python -m benchmarks.data_coresets [--quick] [--json FILE] [--picture FILE]

The RAND health table (20 190 rows; the papers' sets have 17 898 and more): linear regression of
ln(1 + visits), logistic regression and SVM (hinge loss) of any visit against none. The small tables of
scikit-learn: diabetes (442 patients), breast cancer (569). Queries are parameters that gradient
descent passes through from random starts; learning sees some of them, the figures are of others. Controls:
uniform sampling and sampling by leverage scores, both reweighted and averaged over 20 draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn import datasets
from torch import Tensor
from torch.nn import functional as F

from benchmarks import rand_health
from benchmarks.harness import Row, Table, environment_line, environment_rows, finish, options
from edgeprune.stages.calibrate import Loss, WeightedSet, judge, learn_set, losses

SIZES = (10, 20, 40, 80)
LARGE = (50, 100, 200, 400)
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


@dataclass(frozen=True, slots=True)
class Problem:
    """Rows x, what is to be told from them, the loss of one row, and the sizes that are tried."""

    x: Tensor
    y: Tensor
    loss: Loss
    sizes: tuple[int, ...]


def scaled(values: Floats) -> Tensor:
    return torch.from_numpy((values - values.mean(0)) / values.std(0))


def subjects() -> dict[str, Problem]:
    x, visits = rand_health.load()
    rows, any_visit = scaled(x), torch.from_numpy(np.where(visits > 0, 1.0, -1.0))
    a, b = datasets.load_diabetes(return_X_y=True)
    c, d = datasets.load_breast_cancer(return_X_y=True)
    patients, signs = scaled(c), torch.from_numpy(2.0 * d - 1.0)
    return {
        "linear regression (RAND health, 20 190)": Problem(
            rows, scaled(np.log1p(visits)[:, None])[:, 0], squared, LARGE
        ),
        "logistic regression (RAND health)": Problem(rows, any_visit, logistic, LARGE),
        "SVM (RAND health)": Problem(rows, any_visit, hinge, LARGE),
        "linear regression (diabetes, 442)": Problem(scaled(a), scaled(b[:, None])[:, 0], squared, SIZES),
        "logistic regression (breast cancer, 569)": Problem(patients, signs, logistic, SIZES),
        "SVM (breast cancer)": Problem(patients, signs, hinge, SIZES),
    }


def measure(name: str, problem: Problem, sizes: Sequence[int]) -> list[Row]:
    x, y, loss = problem.x, problem.y, problem.loss
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


def layout(rows: Sequence[Row]) -> Table:
    """A line per subject and method, a column per size: the smallest of each subject first."""
    figures = [row for row in rows if row.figure == "average relative error"]
    lines = []
    for subject, method in dict.fromkeys((row.subject, row.method) for row in figures):
        mine = [row for row in figures if (row.subject, row.method) == (subject, method)]
        told = ", ".join(row.size for row in mine)
        lines.append((f"{subject}: {method}", told, *(f"{100 * float(row.value):.2g} %" for row in mine)))
    count = max(len(line) for line in lines) - 2
    head = ("", "samples", "at the smallest", *[f"{k}×" for k in (2, 4, 8)][: count - 1])
    return Table(head, tuple(lines), environment_line(rows))


LAYOUT = layout


def draw(rows: Sequence[Row], path: Path) -> None:
    """Average relative error against size, a panel for each subject."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figures = [row for row in rows if row.figure == "average relative error"]
    names = list(dict.fromkeys(row.subject for row in figures))
    figure, panels = pyplot.subplots(2, (len(names) + 1) // 2, figsize=(10, 5.5), squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        for method in dict.fromkeys(row.method for row in figures):
            mine = [row for row in figures if (row.subject, row.method) == (name, method)]
            sizes = [int(row.size) for row in mine]
            panel.plot(sizes, [float(row.value) for row in mine], marker="o", ms=3, label=method)
        panel.set(xscale="log", yscale="log", xlabel="samples kept")
        panel.set_xticks(sizes, [str(size) for size in sizes])
        panel.xaxis.set_minor_locator(ticker.NullLocator())
        panel.yaxis.set_minor_formatter(ticker.PercentFormatter(1, 0))
        panel.yaxis.set_major_formatter(ticker.PercentFormatter(1, 0))
        panel.tick_params(labelsize=6, which="both")
        panel.set_title(name, fontsize=8)
    panels[0][0].set_ylabel("average relative error")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=72)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw it")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = environment_rows()
    for name, problem in subjects().items():
        rows += measure(name, problem, problem.sizes[1:2] if chosen.quick else problem.sizes)
    if chosen.picture is not None:
        draw(rows, chosen.picture)
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
