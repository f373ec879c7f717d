"""Widths measured whole: a net narrowed to them, exported, and timed in pairs against the original.

Only shapes matter for time, so a candidate keeps the first units of each group with the weights that they
have.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.graph.groups import Coupling
from edgeprune.half import halved
from edgeprune.inputs.preparation import Line
from edgeprune.plan import Plan, Selection
from edgeprune.progress import Progress
from edgeprune.records.run import Latency
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.jobs import read_times, write_job
from edgeprune.runtimes.timing import timed
from edgeprune.stages.export import export
from edgeprune.stages.shrink import shrink
from edgeprune.stages.simplify import simplify
from edgeprune.target import Target

LAUNCHES = (4, 10)
"""Fresh processes that a candidate is measured in, at least and at most."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The original on a target, ready to be held against candidates.

    Attributes:
        original: its ONNX file.
        original_ms: median of its steady runs, one batch.
    """

    line: Line
    coupling: Coupling
    target: Target
    original: Path
    original_ms: float
    work: Path
    progress: Progress

    def ratio(self, widths: Mapping[str, int], number: int) -> Latency:
        """The latency of a net of these widths over the original's.

        Raises:
            TargetUnavailable: the target could not time it.
        """
        narrow = self.work / f"candidate-{number}.onnx"
        module, settings = narrowed(self.line, self.coupling, widths), self.line.settings
        single = self.work / f"candidate-{number}.float32.onnx" if settings.fp16 else narrow
        _written(module, self.line, single)
        if settings.fp16:
            halved(single, narrow)
        low, high = LAUNCHES
        measure = self.target.measure
        quick = dataclasses.replace(measure, launches_min=low, launches_max=max(high, low))
        target = dataclasses.replace(self.target, measure=quick)
        return timed(
            self.original, narrow, self.line.holdout, target, self.work / f"pairs-{number}",
            self.line.settings.seed + number, self.progress, against=(),
        ).latency  # fmt: skip


@contextmanager
def bench(line: Line, coupling: Coupling, target: Target, progress: Progress) -> Iterator[Bench]:
    """Export and time the original.

    Raises:
        TargetUnavailable: the target could not time it.
    """
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        work = Path(scratch)
        path = work / "original.onnx"
        for _ in progress(range(1), f"timing the original on {target.name}", 1):
            _written(line.loaded.module, line, path)
            launch_s = 0.2 * min(target.measure.budget_s, target.measure.limit_s)
            job = write_job(work / "times", target, "times", {"model": path}, line.holdout, launch_s=launch_s)
            folder = RUNTIMES[target.transport].run(job.folder, target, target.measure.limit_s)
            times = read_times(job, folder, target)
        yield Bench(line, coupling, target, path, float(np.median(times.steady_ms)), work, progress)


def narrowed(line: Line, coupling: Coupling, widths: Mapping[str, int]) -> nn.Module:
    """The model, cut to the first units of each group."""
    selections = {
        group.name: Selection(np.arange(widths[group.name]))
        for group in coupling.groups
        if widths[group.name] < group.size
    }
    width = coupling.graph.traced_batch
    inputs = tuple(torch.cat([x] * width) if _lone(x, coupling) else x for x in line.inputs)
    return shrink(
        line.loaded.module, coupling, Plan("", selections, {}), inputs, line.settings.exclude
    ).module


def _lone(x: Tensor, coupling: Coupling) -> bool:
    return coupling.graph.batch is None and x.dim() > 0 and x.shape[0] == 1


def _written(module: nn.Module, line: Line, path: Path) -> None:
    """The file that a run would make of it: another exporter's took 7 % less or more time."""
    settings, plain = line.settings, path.with_suffix(".exported.onnx")
    export(module, line.inputs, plain, dynamic_batch=settings.dynamic_batch, opset=settings.opset)
    if settings.simplify:
        simplify(plain, path, settings.simplify_limit_s)
    else:
        simplify(plain, path, 0.0, unchanged="it was not asked for")
