"""How often the latency gate is wrong: alarms on a net against itself, and a slow-down it must find.

    python -m benchmarks.gate_noise [--quick] [--json FILE] [--busy N] [--repetitions N] [--keep FILE]

One repetition is what a gate does once: paired runs in eight or more fresh processes until the interval is
narrow or clear. A net of two products is held against itself and against a twin with 14 % more hidden units,
both at the limit +2.5 %, while N other processes (default 2) keep the machine busy. An alarm is a verdict
`fail`. What stays inconclusive neither passes nor fails. 200 repetitions take an hour; with `--keep` each
is written to a file as soon as it is done, and the next call goes on from there. `--quick` makes 3.
"""

from __future__ import annotations

import dataclasses
import json
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
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune.profiles import find_target
from edgeprune.records.environment import describe
from edgeprune.records.run import Latency, ModelRecord, Run, Validation
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.jobs import PairsAnswer, read_pairs, write_job
from edgeprune.runtimes.timing import sample, summarise
from edgeprune.stages.gate import gate
from edgeprune.verdict.limits import Limits

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


class Machine:
    """Launches on this machine, made when first asked for, so that both arms see the same ones."""

    def __init__(self, folder: Path, seed: int) -> None:
        base = find_target("cpu-1t")
        self.measure = dataclasses.replace(base.measure, pairs=80, warm_up=10, launches_max=16)
        self.target = dataclasses.replace(base, measure=self.measure)
        self.orders = random.Random(seed)
        self.folder = folder
        self.models = {
            "original": net(folder / "a.onnx", HIDDEN),
            "pruned": net(folder / "b.onnx", round(HIDDEN * SLOWER)),
        }
        self.inputs = (np.random.default_rng(1).standard_normal((64, INPUTS)).astype(np.float32),)
        self.answers: list[PairsAnswer] = []

    def launch(self, number: int) -> PairsAnswer:
        """The launch of that number: a new one, or the one that is known."""
        while len(self.answers) <= number:
            job = write_job(
                self.folder / "job", self.target, "pairs", self.models, self.inputs,
                seed=self.orders.getrandbits(32), launch_s=10,
            )  # fmt: skip
            answer = RUNTIMES["local"].run(job.folder, self.target, self.measure.limit_s)
            self.answers.append(read_pairs(job, answer, self.target))
        return self.answers[number]

    def against_itself(self, number: int) -> PairsAnswer:
        """The same launch, its control arm in place of the pairs."""
        answer = self.launch(number)
        return dataclasses.replace(answer, pairs=answer.control)

    def repetition(self) -> dict[str, Latency]:
        """What a gate would have measured of each, stopping by its own numbers."""
        self.answers.clear()
        against = (1.0, LIMIT)
        return {
            name: summarise(
                sample(launch, self.measure, time.monotonic, against=against), self.measure, against
            )
            for name, launch in (("itself", self.against_itself), ("slower", self.launch))
        }


def repeated(count: int, processes: int, keep: Path | None) -> list[dict[str, Any]]:
    """One record a repetition: verdicts and ratios; those in `keep` are not made again."""
    done = []
    if keep is not None and keep.is_file():
        done = [json.loads(line) for line in keep.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as work, busy(processes):
        machine = Machine(Path(work), len(done))
        for number in range(len(done), count):
            found = machine.repetition()
            done.append(
                {
                    name: {"verdict": verdict(latency), "ratio": latency.ratio, "launches": latency.launches}
                    for name, latency in found.items()
                }
                | {"busy": processes}
            )
            if keep is not None:
                with keep.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(done[-1]) + "\n")
            print(f"{number + 1}: {json.dumps(done[-1])}", file=sys.stderr)
    return done[:count]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--busy", type=int, default=2, help="processes that keep the machine busy")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="finished repetitions, one a line")
    chosen = parser.parse_args()
    done = repeated(3 if chosen.quick else chosen.repetitions, chosen.busy, chosen.keep)
    rows = environment_rows()
    for subject, name in (("itself", "itself"), ("14 % more hidden units", "slower")):
        said = Counter(one[name]["verdict"] for one in done)
        rows += [
            Row(
                subject,
                "",
                "",
                "ratio",
                math.exp(np.median([math.log(o[name]["ratio"]) for o in done])),
                "",
                0,
            ),
            Row(subject, "", "", "repetitions", len(done), "", 0),
            Row(subject, "", "", "busy processes", max(one["busy"] for one in done), "", 0),
            Row(
                subject,
                "",
                "",
                "processes a verdict",
                float(np.mean([o[name]["launches"] for o in done])),
                "",
                0,
            ),
            *(
                Row(subject, "", "", outcome, 100 * said[outcome] / len(done), "%", 0)
                for outcome in ("fail", "pass", "inconclusive")
            ),
        ]
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
