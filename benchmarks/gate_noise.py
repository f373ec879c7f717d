"""How often the latency gate is wrong: alarms on a net against itself, and a slow-down it must find.

    python -m benchmarks.gate_noise [--quick] [--json FILE] [--busy N] [--repetitions N]

One repetition is what a gate does once: paired runs in eight or more fresh processes until the interval is
narrow. A net of two products is held against itself and against a twin with 14 % more hidden units, both at
the limit +2.5 %, while N other processes (default 2) keep the machine busy. An alarm is a verdict `fail`.
What stays inconclusive neither passes nor fails. 200 repetitions take about half an hour; `--quick` makes 3.
"""

from __future__ import annotations

import dataclasses
import math
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune.environment import describe
from edgeprune.limits import Limits
from edgeprune.profiles import find_target
from edgeprune.records import Latency, ModelRecord, Run, Validation
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.jobs import PairsAnswer, read_pairs, write_job
from edgeprune.stages.gate import gate
from edgeprune.stages.validate import sample, summarise

LIMIT = 1.025
SLOWER = 1.14
INPUTS, HIDDEN = 256, 1024
LAYOUT = by_figure


def net(path: Path, hidden: int) -> Path:
    """Two products: y = Relu(x A) B, x float32 (32, 256)."""
    draw = np.random.default_rng(0)
    weights = {"a": draw.standard_normal((INPUTS, hidden)), "b": draw.standard_normal((hidden, INPUTS))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]
    shape = [32, INPUTS]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@contextmanager
def busy(count: int) -> Iterator[None]:
    """That many processes that do nothing but count."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def verdict(latency: Latency) -> str:
    """What the gate says to this latency."""
    validation = Validation("cpu-1t", True, "", {}, "fp32", latency=latency)
    run = Run(ModelRecord("net", "", "0" * 64, (), ()), describe(0), validations=(validation,))
    (check,) = gate(run, Limits(latency_ratio=LIMIT)).checks
    return check.outcome


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--busy", type=int, default=2, help="processes that keep the machine busy")
    parser.add_argument("--repetitions", type=int, default=200)
    chosen = parser.parse_args()
    repetitions = 3 if chosen.quick else chosen.repetitions
    base = find_target("cpu-1t")
    measure = dataclasses.replace(base.measure, pairs=80, warm_up=10, launches_max=16)
    target, orders = dataclasses.replace(base, measure=measure), random.Random(0)
    same: Counter[str] = Counter()
    slower: Counter[str] = Counter()
    ratios: list[float] = []
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as work, busy(chosen.busy):
        folder = Path(work)
        models = {
            "original": net(folder / "a.onnx", HIDDEN),
            "pruned": net(folder / "b.onnx", round(HIDDEN * SLOWER)),
        }
        inputs = (np.random.default_rng(1).standard_normal((64, INPUTS)).astype(np.float32),)

        def launch(_: int) -> PairsAnswer:
            seed = orders.getrandbits(32)
            job = write_job(folder / "job", target, "pairs", models, inputs, seed=seed, launch_s=10)
            return read_pairs(job, RUNTIMES["local"].run(job.folder, target, measure.limit_s), target)

        for number in range(repetitions):
            answers = sample(launch, measure, time.monotonic)
            found = summarise(answers, measure)
            itself = summarise(tuple(dataclasses.replace(a, pairs=a.control) for a in answers), measure)
            same[verdict(itself)] += 1
            slower[verdict(found)] += 1
            ratios.append(math.log(found.ratio))
            print(f"{number + 1}: itself {itself.ratio:.3f}, slower {found.ratio:.3f}", file=sys.stderr)
    rows = environment_rows()
    for subject, counts, asked in (
        ("itself", same, 1.0), ("14 % more hidden units", slower, math.exp(float(np.median(ratios)))),
    ):  # fmt: skip
        share = 100 / repetitions
        rows += [
            Row(subject, "", "", "ratio", asked, "", 0),
            Row(subject, "", "", "repetitions", repetitions, "", 0),
            Row(subject, "", "", "busy processes", chosen.busy, "", 0),
            Row(subject, "", "", "fail", counts["fail"] * share, "%", 0),
            Row(subject, "", "", "pass", counts["pass"] * share, "%", 0),
            Row(subject, "", "", "inconclusive", counts["inconclusive"] * share, "%", 0),
        ]
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
