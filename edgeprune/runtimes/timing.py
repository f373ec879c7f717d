"""Two models timed in pairs over fresh processes, until the interval of their ratio says enough.

Measuring ends when the interval is as narrow as the target asks, or when it is *clear*: it holds none of
the ratios that somebody will judge by (1, where neither is faster, and the gate's limit). Otherwise it goes
on until its seconds or its launches are spent.

Looking again and again until an interval is clear would find differences that are none. So while measuring
goes on, clear is held against a wider interval, of confidence 1 − (1 − c)/k for k possible looks: by the
union bound the chance that any of these intervals misses the ratio is at most 1 − c, however often it was
looked at. Narrowness looks at the width only, never at where the interval lies, so it leans towards neither
verdict.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.progress import Progress
from edgeprune.records.run import Latency
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.conditions import disturbances
from edgeprune.runtimes.jobs import PairsAnswer, read_pairs, write_job
from edgeprune.runtimes.pairs import RatioInterval, median_log_ratio, percentile_upper, ratio_interval
from edgeprune.target import Measure, Target

Array = npt.NDArray[Any]
PERCENTILE = 0.95
EQUAL = (1.0,)
"""The ratio at which neither model is faster."""


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """A paired comparison, and everything it was made from.

    Attributes:
        notes: what should be read beside the latency.
        launches: the answer of each fresh process, with every pair of times.
    """

    latency: Latency
    notes: tuple[str, ...]
    launches: tuple[PairsAnswer, ...]


def raw_times(launches: Iterable[PairsAnswer]) -> dict[str, npt.NDArray[np.float64]]:
    """Every time that was measured: `pairs_00`, `control_00`, `pairs_01`, … by launch, float64 (n, 2), ms."""
    found = {}
    for number, launch in enumerate(launches):
        found[f"pairs_{number:02d}"] = launch.pairs
        found[f"control_{number:02d}"] = launch.control
    return found


def timed(
    original: Path,
    pruned: Path,
    inputs: tuple[Array, ...],
    target: Target,
    folder: Path,
    seed: int,
    progress: Progress,
    against: tuple[float, ...] = EQUAL,
) -> Timed:
    """Paired latency over fresh processes.

    Args:
        original: the ONNX file whose time the ratio is divided by.
        pruned: the other one.
        inputs: one array per model input, first axis the samples.
        folder: job folders are made in it and left there.
        seed: of the random orders of sessions and pairs.
        against: ratios that will be judged by.

    Raises:
        TargetUnavailable: the target could not time them.
    """
    measure, orders = target.measure, random.Random(seed)
    models = {"original": original, "pruned": pruned}
    # leave a margin for starting, loading and ending, so that the first launches fit the budget
    launch_s = 0.7 * min(measure.budget_s / measure.launches_min, measure.limit_s)

    def launch(number: int) -> PairsAnswer:
        job = write_job(
            folder / f"pairs-{number}", target, "pairs", models, inputs, seed=orders.getrandbits(32),
            launch_s=launch_s,
        )  # fmt: skip
        return read_pairs(job, RUNTIMES[target.transport].run(job.folder, target, measure.limit_s), target)

    answers = sample(
        launch, measure, time.monotonic, lambda it: progress(it, f"timing on {target.name}", None), against
    )
    return Timed(summarise(answers, measure, against), notes_of(answers, measure), answers)


def sample(
    launch: Callable[[int], PairsAnswer],
    measure: Measure,
    clock: Callable[[], float],
    shown: Callable[[Iterable[int]], Iterable[int]] = iter,
    against: tuple[float, ...] = EQUAL,
) -> tuple[PairsAnswer, ...]:
    """Launch until the interval is narrow or clear enough, or launches or seconds run out.

    At least two launches are made whatever the budget (fewer give no interval), and
    `launches_min` unless the budget ends before.
    """
    end = clock() + measure.budget_s
    answers: list[PairsAnswer] = []

    def numbers() -> Iterable[int]:
        for number in itertools.count():
            over = number >= measure.launches_max or (number >= 2 and clock() >= end)
            if over or (number >= measure.launches_min and _enough(answers, measure, against)):
                return
            yield number

    for number in shown(numbers()):
        answers.append(launch(number))  # noqa: PERF401 - numbers() reads the list as it grows
    return tuple(answers)


def _interval(
    answers: Iterable[PairsAnswer], measure: Measure, arm: str, confidence: float | None = None
) -> RatioInterval:
    figures = [median_log_ratio(getattr(a, arm)) for a in answers]
    return ratio_interval(figures, confidence or measure.confidence)


def _enough(answers: Iterable[PairsAnswer], measure: Measure, against: tuple[float, ...]) -> bool:
    """Whether measuring may end before its budget does."""
    if _interval(answers, measure, "pairs").half_width <= measure.half_width:
        return True
    looks = measure.launches_max - measure.launches_min + 1
    confidence = 1 - (1 - measure.confidence) / looks
    return _clear(_interval(answers, measure, "pairs", confidence), against)


def _clear(interval: RatioInterval, against: tuple[float, ...]) -> bool:
    """Whether the interval holds none of the ratios."""
    return not any(interval.low <= ratio <= interval.high for ratio in against)


def summarise(
    answers: tuple[PairsAnswer, ...], measure: Measure, against: tuple[float, ...] = EQUAL
) -> Latency:
    """The record of a paired comparison.

    Settled means: at least `launches_min` launches, and an interval that is as narrow as asked or
    holds none of the ratios in `against`.
    """
    pairs, control = _interval(answers, measure, "pairs"), _interval(answers, measure, "control")
    times = np.concatenate([a.pairs for a in answers])
    said = pairs.half_width <= measure.half_width or _clear(pairs, against)
    enough = said and len(answers) >= measure.launches_min
    return Latency(
        original_ms=float(np.median(times[:, 0])),
        pruned_ms=float(np.median(times[:, 1])),
        ratio=pairs.ratio,
        ratio_low=pairs.low,
        ratio_high=pairs.high,
        confidence=measure.confidence,
        launches=len(answers),
        noise_floor=(control.high - control.low) / 2,
        quality="settled" if enough else "inconclusive",
        p95_ms=percentile_upper(times[:, 1], PERCENTILE, measure.confidence),
        raw=tuple(float(np.exp(median_log_ratio(a.pairs))) for a in answers),
    )


def notes_of(answers: tuple[PairsAnswer, ...], measure: Measure) -> tuple[str, ...]:
    """What a reader of the latency should know beside it."""
    notes = list(dict.fromkeys(w for a in answers for w in a.ran.warnings))
    control = _interval(answers, measure, "control")
    away = max(control.low - 1, 1 - control.high)
    if away > measure.half_width:
        notes.append(
            f"the original against itself came out at {control.ratio:.3f} "
            f"({control.low:.3f} to {control.high:.3f}): this machine shifts latencies by more than "
            f"{measure.half_width:.0%}"
        )
    notes += disturbances([a.ran for a in answers])
    restless = sum(not a.settled for a in answers)
    if restless:
        notes.append(f"in {restless} of {len(answers)} launches the warm-up did not come to rest")
    return tuple(notes)
