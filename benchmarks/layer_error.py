"""Approximation error of one layer against the size of its coreset: the papers' figures, and ours.

    python -m benchmarks.layer_error [--quick] [--json FILE] [--picture FILE]

One hidden layer read by 10 outputs; weights Gaussian, uniform (784 → 300 → 10 each) or those of the trained
LeNet-300-100 (its first hidden layer, read by the second). Mean relative error of what is read, on 2 000
MNIST test images. Random methods: mean of five draws. `gram` knows 2 000 training images, their mean and
covariance, or nothing but the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Row, Table, environment_line, environment_rows, finish, options
from benchmarks.train_lenet import tensors
from edgeprune.coresets import CORESETS
from edgeprune.demo.lenet import build
from edgeprune.stages.choose import Manner, choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

SIZES = (10, 30, 75, 150, 225)
METHODS = (
    ("uniform", "samples"),
    ("magnitude", "samples"),
    ("sensitivity", "samples"),
    ("sensitivity-neuron", "samples"),
    ("gram", "none"),
    ("gram", "moments"),
    ("gram", "samples"),
)
DRAWS = 5


def subjects() -> dict[str, nn.Module]:
    trained = build()
    nets = {"trained": nn.Sequential(trained.fc1, nn.ReLU(), trained.fc2)}
    for name in ("Gaussian", "uniform"):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 10))
        for parameter in net.parameters():
            with torch.no_grad():
                parameter.normal_() if name == "Gaussian" else parameter.uniform_(-1, 1)
        nets[name] = net
    return {name: net.eval() for name, net in nets.items()}


def measure(name: str, net: nn.Module, images: Tensor, tests: Tensor, sizes: Sequence[int]) -> list[Row]:
    coupling = couple(trace(net, (images[:2],)))
    group, rows = coupling.groups[0].name, []
    with torch.no_grad():
        expected = net(tests)
    for method, source in METHODS:
        for size in sizes:
            errors = []
            for seed in range(DRAWS if CORESETS[method].random else 1):
                plan = choose(coupling, {group: size}, method, (images,), seed=seed, manner=Manner(source))
                with torch.no_grad():
                    found = shrink(net, coupling, plan, (images[:4],)).module(tests)
                errors.append(float(((found - expected).norm(dim=1) / expected.norm(dim=1)).mean()))
            told = method + {"none": ", no data", "moments": ", mean and covariance"}.get(source, "")
            rows.append(Row(name, told, str(size), "relative error", float(np.mean(errors)), "", 0))
    return rows


def layout(rows: Sequence[Row]) -> Table:
    """A line per subject and method, a column per size."""
    figures = [row for row in rows if row.figure == "relative error"]
    sizes = tuple(dict.fromkeys(row.size for row in figures))
    lines = [
        (
            f"{subject}: {method}",
            *(f"{float(r.value):.2g}" for r in figures if (r.subject, r.method) == (subject, method)),
        )
        for subject, method in dict.fromkeys((row.subject, row.method) for row in figures)
    ]
    return Table(("units kept of 300", *sizes), tuple(lines), environment_line(rows))


LAYOUT = layout


def draw(rows: Sequence[Row], path: Path) -> None:
    """Error against size, one panel per kind of weights."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figures = [row for row in rows if row.figure == "relative error"]
    names = list(dict.fromkeys(row.subject for row in figures))
    figure, panels = pyplot.subplots(1, len(names), figsize=(4 * len(names), 3.4), sharey=True)
    for panel, name in zip(panels, names, strict=True):
        for method in dict.fromkeys(row.method for row in figures):
            mine = [row for row in figures if (row.subject, row.method) == (name, method)]
            panel.plot(
                [int(r.size) for r in mine], [float(r.value) for r in mine], marker="o", ms=3, label=method
            )
        panel.set(title=f"{name} weights", xlabel="units kept of 300", yscale="log")
    panels[0].set_ylabel("mean relative error")
    panels[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="also draw it")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    images, tests = tensors("train")[0][:2000], tensors("test")[0][:2000]
    rows = environment_rows()
    for name, net in subjects().items():
        rows += measure(name, net, images, tests, SIZES[1:3] if chosen.quick else SIZES)
    if chosen.picture is not None:
        draw(rows, chosen.picture)
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
