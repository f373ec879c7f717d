"""A device whose time is counted, not measured: what bounds a processor, by its arithmetic and its memory.

A net takes MACs / RATE + weights / BANDWIDTH + START. With it searches can be compared that would need days
of a quiet machine: its answers have no noise, and a net costs only what choosing its units costs. Errors are
those of the real nets on real samples.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from edgeprune.search.bench import Bench
from edgeprune.search.work import Draft, MeasuredTrial, Package, Prepared, Subject
from edgeprune.search.workers import Done, Task

RATE = 20e9
"""MACs a second, of one core."""
BANDWIDTH = 10e9
"""Bytes a second, for weights."""
START = 5e-6
"""Seconds a run takes whatever the net."""
BYTES = 4

Nets = dict[tuple[str, str, tuple[tuple[str, int], ...]], dict[str, float]]


def seconds(macs: float, params: float) -> float:
    """What a net takes there."""
    return START + macs / RATE + BYTES * params / BANDWIDTH


@dataclass(slots=True)
class Roofline:
    """A crew of this very process, and one counted device.

    Attributes:
        whole: seconds of the original.
        nets: what is known of nets that were made for another search over the same model.
    """

    bench: Bench
    target: str
    whole: float
    nets: Nets
    tasks: deque[Task] = field(default_factory=deque)
    counts: dict[int, dict[str, float]] = field(default_factory=dict)

    def makers(self) -> int:
        """One net is made at a time."""
        return 1

    def units(self, target: str) -> int:
        """One device."""
        return 1

    def begin(self, subject: Subject, package: Package) -> None:
        """Nothing is needed that is not here."""

    def submit(self, task: Task) -> None:
        """Take a task."""
        self.tasks.append(task)

    def cancel(self, trial: int) -> None:
        """Forget what still waits for a trial."""
        self.tasks = deque(task for task in self.tasks if task.trial != trial)

    def finished(self, timeout_s: float) -> list[Done]:
        """The next task, done."""
        task, began = self.tasks.popleft(), time.time()
        result = self._made(task.trial, task.job) if isinstance(task.job, Draft) else self._measured(task)
        return [Done(task, result, None, False, "here", began, time.time())]

    def close(self) -> None:
        """Nothing runs."""

    def _made(self, trial: int, draft: Draft) -> Prepared:
        name = (draft.method, draft.direction, draft.widths)
        started = time.monotonic()
        if name not in self.nets:
            shrunk = self.bench.shrunk(draft.method, draft.direction, dict(draft.widths))
            self.nets[name] = self.bench.drift(shrunk.module)
        known = dict(draft.known)
        self.counts[trial] = known
        size = BYTES * known["params_count"]
        found = {**known, **self.nets[name], "size_bytes": size, "size": size / known["original_bytes"]}
        spent = {"net": time.monotonic() - started}
        return Prepared(found, spent, model=repr(name).encode(), sha256=repr(name))

    def _measured(self, task: Task) -> MeasuredTrial:
        known, now = self.counts[task.trial], time.time()
        ratio = seconds(known["macs_count"], known["params_count"]) / self.whole
        return MeasuredTrial({f"latency@{self.target}": ratio}, {}, True, "", "counted", now, now)
