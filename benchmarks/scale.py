"""How searches scale: devices, overhead a trial, and ten thousand finished trials.

    python -m benchmarks.scale [--quick] [--json FILE] [--trials N]

Devices are emulated: a target whose every job takes a fixed time and computes nothing. Their nets are made
beforehand, so that what is measured is how well the search keeps devices busy, on however few cores; jobs,
leases, processes, store and study are the real ones. Overhead is the time of a trial whose work takes none.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from benchmarks.harness import Row, environment_rows, options, save
from edgeprune.config import Settings
from edgeprune.inputs.models import from_module
from edgeprune.progress import silent
from edgeprune.search.begin import ORIGINAL, SAMPLES, Wishes, ground, space
from edgeprune.search.conduct import Conductor
from edgeprune.search.ground import Rules
from edgeprune.search.objectives import objectives
from edgeprune.search.store import Store
from edgeprune.search.study import Book, Desk
from edgeprune.search.work import Draft, File, MeasuredTrial, Package, Prepared
from edgeprune.search.workers import Done, Local, Task

DEVICES = (1, 2, 4, 8)
EACH = 4
"""Trials a device measures in a round."""
SECONDS = 1.0
"""An emulated job takes; a measurement is four jobs."""

PROGRAM = """
import json, sys, time
from pathlib import Path
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
job = json.loads((folder / "job.json").read_text())
time.sleep(seconds)
answer = {"kind": job["kind"], "status": "ok", "files": job["files"], "environment": {}, "placement": {},
          "load_ms": 1.0, "first_ms": 1.0, "peak_mb": 1.0, "settled": True,
          "pairs": [[1.0, 0.5]] * 3, "control": [[1.0, 1.0]] * 3}
if job["kind"] == "outputs":
    import struct, zipfile
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 3), }" % job["samples"]
    head = head.encode() + b" " * (-(len(head) + 11) % 64) + bytes([10])
    array = bytes([0x93]) + b"NUMPY" + bytes([1, 0]) + struct.pack("<H", len(head)) + head
    with zipfile.ZipFile(folder / "outputs.npz", "w") as archive:
        archive.writestr("output_0.npy", array + bytes(12 * job["samples"]))
(folder / "result.json").write_text(json.dumps(answer))
"""
TARGET = """
name = "emulated"
description = "answers after a fixed time"
device_class = "emulator"
transport = "command"
[connection]
command = ["{python}", "-S", "{program}", "{{job}}", "{seconds}"]
[grid]
conv = 1
[measure]
launches_min = 2
launches_max = 2
budget_s = 600
limit_s = 600
"""


def net() -> nn.Module:
    """A small net of three layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 3)).eval()


class Ready(Local):
    """Real devices, and nets that lie ready: a different file for every trial."""

    def submit(self, task: Task) -> None:
        """Nets are there at once; measurements are handed out as ever."""
        if isinstance(task.job, Draft):
            self.ready.append(task)
        else:
            super().submit(task)

    ready: deque[Task]
    known: dict[int, dict[str, float]]

    def finished(self, timeout_s: float) -> list[Done]:
        """Nets that were asked for, and measurements that ended."""
        if not self.ready:
            return super().finished(timeout_s)
        task = self.ready.popleft()
        self.known[task.trial] = known = dict(task.job.known)
        found = {"observed_error": 1.0, "size_bytes": 100.0, "size": 0.5, **known}
        content = repr((task.trial, task.job.widths)).encode()
        made = Prepared(found, model=content, sha256=content.hex())
        return [Done(task, made, None, False, "ready", time.time(), time.time())]


class Instant(Ready):
    """Devices that take no time either."""

    def submit(self, task: Task) -> None:
        """Everything is done at once."""
        self.ready.append(task)

    def finished(self, timeout_s: float) -> list[Done]:
        """The next task, done."""
        if not self.ready or isinstance(self.ready[0].job, Draft):
            return super().finished(timeout_s)
        task = self.ready.popleft()
        known = self.known.pop(task.trial)
        found = {"latency@emulated": known["macs"] * (1 + 0.02 * (task.trial * 0.618 % 1))}
        found["observed_error@emulated"] = 1 + known["expected_error"]
        now = time.time()
        return [
            Done(
                task,
                MeasuredTrial(found, {}, True, "", "instant", now, now),
                None,
                False,
                "instant",
                now,
                now,
            )
        ]


def conductor(
    folder: Path, crew: Any, trials: int, seconds: float, journal: str = "study.journal"
) -> Conductor:
    """A search over the small net with that crew."""
    program, target = folder / "device.py", folder / "emulated.toml"
    program.write_text(PROGRAM, encoding="utf-8")
    words = TARGET.format(python=sys.executable, program=program, seconds=seconds)
    target.write_text(words, encoding="utf-8")
    data = folder / "data.npz"
    np.savez(data, x=np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32))
    settings = Settings(calibration=str(data), target=(str(target),), simplify=False, samples=32, multiple=1)
    told = Rules(objectives(("latency,error",), "observed", ("emulated",)), (), trials, carried=True)
    store = Store(folder / "store")
    found, original, samples = ground(from_module(net()), settings, told, store, silent)
    varied = space(found, settings, Wishes(methods=("gram",)), True)
    keys = [objective.key for objective in told.minimized]
    book = Book.open(folder / journal, "edgeprune", keys, varied, "scale")
    desk = Desk(varied, 2, "tpe", 0, varied.first(trials))
    counts = desk.resume(book.records())
    crew.ready, crew.known = deque(), {}
    crew.begin(found.subject, Package(File(str(original.path(ORIGINAL))), File(str(samples.path(SAMPLES)))))
    return Conductor(found, told, varied, desk, book, store, crew, lambda _: None, counts)


def devices(counts: tuple[int, ...], seconds: float, each: int) -> list[Row]:
    """Trials an hour against devices."""
    rows, base = [], 0.0
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="edgeprune-scale-") as name:
            crew = Ready(0, {"emulated": count})
            search = conductor(Path(name), crew, count * each, seconds)
            started = time.monotonic()
            search.run()
            took = time.monotonic() - started
            crew.close()
        measured = sum(search.measurements.values())
        rate = 3600 * measured / took
        base = base or rate
        share = 100 * rate / (count * base)
        told = (("measurements an hour", rate, ""), ("of linear", share, "%"), ("measured", measured, ""))
        rows += [Row("search", "emulated devices", str(count), f, round(v, 1), u, 0) for f, v, u in told]
        print(f"{count} devices: {rate:.0f} measurements an hour, {share:.1f} % of linear", flush=True)
    return rows


def finished(trials: int) -> list[Row]:
    """Overhead a trial, memory, and how a search begins that has many trials behind it."""
    process, rows, before = psutil.Process(os.getpid()), list[Row](), 0
    with tempfile.TemporaryDirectory(prefix="edgeprune-scale-") as name:
        folder = Path(name)
        search = conductor(folder, Instant(0, {"emulated": 1}), trials, 0.0)
        for mark in (trials // 10, trials // 2, trials):
            search.rules = dataclasses.replace(search.rules, trials=mark)
            wall, busy = time.monotonic(), time.process_time()
            search.run()
            told = [
                ("overhead", "a trial", 1e3 * (time.monotonic() - wall) / (mark - before), "ms"),
                ("processor time", "a trial", 1e3 * (time.process_time() - busy) / (mark - before), "ms"),
                ("memory", "resident", process.memory_info().rss / 2**20, "MiB"),
                ("front", "kept", len(search.desk.best), "points"),
            ]
            rows += [Row("search", m, f"{mark} trials", f, round(v, 1), u, 0) for m, f, v, u in told]
            print(f"{mark} trials: " + ", ".join(f"{m} {v:.1f} {u}" for m, _, v, u in told), flush=True)
            before = mark
        search.book.close()
        started = time.monotonic()
        again = conductor(folder, Instant(0, {"emulated": 1}), trials, 0.0)
        took = time.monotonic() - started
        assert again.done == trials, (again.done, trials)
        rows.append(Row("search", "resumed", f"{trials} trials", "start", round(took, 2), "s", 0))
        print(f"{trials} trials: resumed in {took:.2f} s", flush=True)
    return rows


def main() -> None:
    """Measure, print, and keep."""
    parser = options(__doc__)
    parser.add_argument("--only", choices=("devices", "trials"), help="only this part")
    parser.add_argument(
        "--trials", type=int, default=10_000, metavar="N", help="finished trials at the end [default: 10000]"
    )
    asked = parser.parse_args()
    counts = DEVICES[:2] if asked.quick else DEVICES
    rows = environment_rows()
    if asked.only != "trials":
        rows += devices(counts, 0.3 if asked.quick else SECONDS, 2 if asked.quick else EACH)
    if asked.json:
        save(asked.json, rows)
    if asked.only != "devices":
        rows += finished(200 if asked.quick else asked.trials)
    if asked.json:
        save(asked.json, rows)


if __name__ == "__main__":
    main()
