"""Profile: one ONNX file on a target, from its load to its steady state, and by operation.

Absolute times belong to one machine on one day; to compare two models use pairs
(`edgeprune.stages.validate`). Every raw sample is kept. Percentiles carry distribution-free
bounds: the order statistics that hold the quantile with the asked confidence, were the runs
independent (within a launch they are not quite, which is why launches are told apart in `raw_ms`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import TargetUnavailable
from edgeprune.files import sha256_of
from edgeprune.progress import Progress
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.conditions import disturbances
from edgeprune.runtimes.jobs import Operation, TimesAnswer, read_times, read_trace, write_job
from edgeprune.runtimes.pairs import percentile_lower, percentile_upper
from edgeprune.target import Target

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
SHARES = (0.5, 0.9, 0.95, 0.99)
LAUNCHES = 4


@dataclass(frozen=True, slots=True)
class Percentile:
    """A percentile of the steady runs and where it may lie; an end is None with too few runs."""

    share: float
    ms: float
    low_ms: float | None
    high_ms: float | None


@dataclass(frozen=True, slots=True)
class Profile:
    """What one model does on a target.

    Attributes:
        model: the file's name.
        sha256: of the file that ran.
        target: where.
        provider: the execution provider.
        placement: nodes by provider.
        runtime_version: of onnxruntime.
        load_ms: making the session, one number a launch.
        first_ms: the first run, one number a launch.
        warm_up: runs until the times came to rest, one number a launch.
        confidence: of the percentiles' bounds.
        percentiles: of all steady runs together.
        raw_ms: every steady run, one tuple a launch.
        peak_mb: peak memory of the process, smallest and largest launch, MiB.
        operations: the model's nodes by time, the longest first; traced apart, so their sum is
            not the latency.
        notes: what a reader should know beside the numbers.
    """

    model: str
    sha256: str
    target: str
    provider: str
    placement: dict[str, int]
    runtime_version: str
    load_ms: tuple[float, ...]
    first_ms: tuple[float, ...]
    warm_up: tuple[int, ...]
    confidence: float
    percentiles: tuple[Percentile, ...]
    raw_ms: tuple[tuple[float, ...], ...]
    peak_mb: tuple[float, float]
    operations: tuple[Operation, ...] = ()
    notes: tuple[str, ...] = ()


def profile(
    model: Path,
    inputs: tuple[Array, ...],
    target: Target,
    *,
    launches: int = LAUNCHES,
    trace: bool = True,
    work: Path,
    progress: Progress,
) -> Profile:
    """Measure one model alone.

    Args:
        model: an ONNX file.
        inputs: one array per model input, first axis the samples.
        target: where to run.
        launches: fresh processes.
        trace: also time each operation, where the target can.
        work: a scratch folder.
        progress: wraps the loop over launches.

    Raises:
        TargetUnavailable: the target cannot be reached, or says that its times mean nothing.
        UsageError: the target's transport does not exist.
    """
    measure = target.measure
    if not measure.latency:
        raise TargetUnavailable(
            f"{target.name}: says that its times mean nothing ([measure] latency = false); profile "
            "another target."
        )
    answers = _launched(model, inputs, target, launches, work, progress)
    operations: tuple[Operation, ...] = ()
    notes = _notes(answers)
    if trace:
        try:
            operations = operations_of(model, inputs, target, work / "trace")
        except TargetUnavailable as error:
            notes.append(f"there is no time by operation: {error}")
    return Profile(
        model=model.name,
        sha256=sha256_of(model),
        target=target.name,
        provider=target.runtime.provider,
        placement=answers[0].ran.placement,
        runtime_version=answers[0].ran.version,
        load_ms=tuple(a.load_ms for a in answers),
        first_ms=tuple(a.first_ms for a in answers),
        warm_up=tuple(a.warm_up for a in answers),
        confidence=measure.confidence,
        percentiles=percentiles(np.concatenate([a.steady_ms for a in answers]), measure.confidence),
        raw_ms=tuple(tuple(a.steady_ms.tolist()) for a in answers),
        peak_mb=(min(a.peak_mb for a in answers), max(a.peak_mb for a in answers)),
        operations=operations,
        notes=tuple(notes),
    )


def _launched(
    model: Path, inputs: tuple[Array, ...], target: Target, launches: int, work: Path, progress: Progress
) -> list[TimesAnswer]:
    """One answer a fresh process."""
    measure, runtime = target.measure, RUNTIMES[target.transport]
    launch_s = 0.7 * min(measure.budget_s / launches, measure.limit_s)
    answers: list[TimesAnswer] = []
    for number in progress(range(launches), f"timing {model.name} on {target.name}", launches):
        job = write_job(
            work / f"times-{number}", target, "times", {"model": model}, inputs, launch_s=launch_s
        )
        answers.append(read_times(job, runtime.run(job.folder, target, measure.limit_s), target))
    return answers


def _notes(answers: Sequence[TimesAnswer]) -> list[str]:
    """What disturbed the launches."""
    notes = list(dict.fromkeys(w for a in answers for w in a.ran.warnings))
    notes += disturbances([a.ran for a in answers])
    restless = sum(not a.settled for a in answers)
    if restless:
        notes.append(f"in {restless} of {len(answers)} launches the warm-up did not come to rest")
    return notes


def operations_of(
    model: Path, inputs: tuple[Array, ...], target: Target, work: Path, most_s: float = math.inf
) -> tuple[Operation, ...]:
    """A model's time by operation, from the runtime's own trace.

    Args:
        model: an ONNX file.
        inputs: one array per model input, first axis the samples.
        target: where to run.
        work: a scratch folder.
        most_s: seconds of tracing at most; a fifth of the target's budget where that is less.

    Raises:
        TargetUnavailable: the target cannot be reached, or cannot trace.
    """
    launch_s = min(most_s, 0.2 * min(target.measure.budget_s, target.measure.limit_s))
    job = write_job(work, target, "trace", {"model": model}, inputs, launch_s=launch_s)
    return read_trace(job, RUNTIMES[target.transport].run(job.folder, target, target.measure.limit_s), target)


def percentiles(values: Sequence[float] | Array, confidence: float) -> tuple[Percentile, ...]:
    """Percentiles with two-sided binomial bounds, each of the asked confidence."""
    side = (1 + confidence) / 2
    return tuple(
        Percentile(
            share=share,
            ms=float(np.quantile(values, share)),
            low_ms=percentile_lower(values, share, side),
            high_ms=percentile_upper(values, share, side),
        )
        for share in SHARES
    )
