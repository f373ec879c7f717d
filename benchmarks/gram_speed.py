"""How long choosing takes: one layer of many units, from its weights alone and from samples.

    python -m benchmarks.gram_speed [--quick] [--json FILE]

A linear layer of n units on 784 inputs behind a ReLU, read by 10 outputs, default random weights; half of the
units stay. Timed is all that `choose` does: second moments, elimination, compensation, the refit where there
are samples (4 000 normal inputs), and the expected error. `walk` is the elimination alone, from n units
down to none: every width.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune.coresets.coreset import Hearing
from edgeprune.coresets.elimination import backward
from edgeprune.stages.choose import Manner, choose
from edgeprune.stages.couple import couple
from edgeprune.stages.trace import trace

SIZES = (256, 1024, 4096)
SAMPLES = 4000
CASES = (("gram", "none"), ("gram-forward", "none"), ("gram", "samples"))


def walk_seconds(units: int) -> float:
    random = np.random.default_rng(0)
    heard = random.standard_normal((units, units))
    weight = random.standard_normal((10, units))
    hearing = Hearing("reader", weight.T @ weight, np.abs(weight).max(0), 10, heard @ heard.T / units)
    began = time.perf_counter()
    backward((hearing,))
    return time.perf_counter() - began


def measure(units: int) -> list[Row]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, units), nn.ReLU(), nn.Linear(units, 10)).eval()
    inputs = torch.randn(SAMPLES, 784)
    coupling = couple(trace(net, (inputs[:2],)))
    (group,) = coupling.groups
    rows = [Row(f"{units} units", "", "", "walk", walk_seconds(units), "s", 0)]
    for method, source in CASES:
        began = time.perf_counter()
        choose(coupling, {group.name: units // 2}, method, (inputs,), seed=0, manner=Manner(source))
        told = f"{method}, {'no data' if source == 'none' else source}"
        rows.append(Row(f"{units} units", "", "", told, time.perf_counter() - began, "s", 0))
    return rows


def main() -> None:
    chosen = options(__doc__).parse_args()
    rows = environment_rows()
    for units in SIZES[: 2 if chosen.quick else None]:
        rows += measure(units)
    finish(rows, by_figure, chosen.json)


if __name__ == "__main__":
    main()
