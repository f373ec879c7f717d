"""What cutting channels brings on this machine's CPU: widths on the target's grid beside any widths.

    python -m benchmarks.latency [--quick] [--json FILE]

MobileNetV2 and ResNet-50 (shapes only, 224 × 224, batch 1, one thread) with the share 0.05, 0.3 and 0.5 of
every group's channels cut. `any width` rounds to whole channels, as pruning libraries do; `multiple of 8` and
the default (the grid of the target cpu-1t) round as edgeprune does. A cell is original ÷ pruned time, so
above 1 is faster: paired runs in fresh processes, the ends of its 95 % interval in the JSON file. `--quick`
measures MobileNetV2 at 0.3 only.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import SPEEDUP as FIGURE
from benchmarks.harness import Row, by_ratio, environment_rows, finish, options
from benchmarks.net_shapes import NETS
from edgeprune.profiles import find_target
from edgeprune.progress import silent
from edgeprune.stages.allocate import rounded
from edgeprune.stages.validate import validate
from edgeprune.target import Target

RATIOS = (0.05, 0.3, 0.5)

LAYOUT = by_ratio


def plan(target: Target) -> dict[str, int]:
    """Multiples by the name of their column; the last one is the default."""
    own = target.conv_multiple()
    return {"any width": 1, "multiple of 8": 8, f"multiple of {own}, the default": own}


def narrowed(channels: int, *, ratio: float, multiple: int) -> int:
    """What is left of a group, as `edgeprune` rounds it (any width: whole channels)."""
    return rounded(channels, 1 - ratio, multiple)


def main() -> None:
    chosen = options(__doc__).parse_args()
    base = find_target("cpu-1t")
    quick = {"launches_min": 4, "launches_max": 4, "pairs": 20, "budget_s": 60.0}
    full = {"launches_min": 8, "launches_max": 12, "pairs": 40, "budget_s": 120.0}
    measure = dataclasses.replace(base.measure, warm_up=5, **(quick if chosen.quick else full))
    target = dataclasses.replace(base, measure=measure)
    inputs = (np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32),)
    rows = environment_rows()
    for subject, make in list(NETS.items())[: 1 if chosen.quick else None]:
        for ratio in (0.3,) if chosen.quick else RATIOS:
            for method, multiple in plan(target).items():
                with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
                    folder = Path(work)
                    original = make(folder / "original.onnx", lambda channels: channels)
                    pruned = make(folder / "pruned.onnx", partial(narrowed, ratio=ratio, multiple=multiple))
                    zeros = (np.zeros((2, 1000)),)  # only the time is asked for
                    found = validate(
                        original, pruned, zeros, inputs, target, seed=0, work=folder / "w", progress=silent
                    ).validation.latency
                assert found is not None
                size = f"{ratio:g}"
                rows += [
                    Row(subject, method, size, FIGURE, 1 / found.ratio, "×", 0),
                    Row(subject, method, size, f"{FIGURE}, low", 1 / found.ratio_high, "×", 0),
                    Row(subject, method, size, f"{FIGURE}, high", 1 / found.ratio_low, "×", 0),
                ]
                print(f"{subject} {size} {method}: {1 / found.ratio:.2f}×", file=sys.stderr)
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
