"""Validate: run both models on a target, compare outputs and latencies.

Drift is the pruned model, as the target runs it, against the original torch net in float64, so
pruning, export, simplification and the target's rounding are all inside. Latency is paired: see
`edgeprune.runtimes.pairs`. Measuring goes on over fresh processes until the interval is as narrow
as the target asks, or its budget of time or launches is spent. The rule looks at the interval's
width only, never at where it lies, so stopping does not lean towards either verdict.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import BrokenPromise, CalibrationError, TargetUnavailable
from edgeprune.profiles import Measure, Target
from edgeprune.progress import Progress
from edgeprune.records import Drift, Latency, Validation
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.conditions import disturbances
from edgeprune.runtimes.jobs import OutputsAnswer, PairsAnswer, read_outputs, read_pairs, write_job
from edgeprune.runtimes.pairs import RatioInterval, median_log_ratio, percentile_upper, ratio_interval

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
PERCENTILE = 0.95
SHARES = (0.0, *(k / 20 for k in range(1, 19)), 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
"""Shares of the inputs whose largest error is kept: what a picture of the distribution needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a target did.

    Attributes:
        validation: the record.
        pruned_outputs: the pruned model's outputs on all inputs, as the target gave them, one
            array per output, first axis the samples; empty when the target was not reached.
        original_outputs: the same of the original model.
    """

    validation: Validation
    pruned_outputs: tuple[Array, ...] = ()
    original_outputs: tuple[Array, ...] = ()


def validate(
    original: Path,
    pruned: Path,
    reference: tuple[Array, ...],
    inputs: tuple[Array, ...],
    target: Target,
    *,
    labels: Array | None = None,
    latency: bool = True,
    seed: int,
    work: Path,
    progress: Progress,
) -> Measured:
    """Run both models on a target and compare them.

    Args:
        original: the original model's ONNX file.
        pruned: the pruned model's ONNX file.
        reference: the original torch net's outputs on `inputs`, float64, first axis the samples.
        inputs: one array per model input, first axis the samples.
        target: where to run.
        labels: integer class of each sample, for accuracy.
        latency: whether to time; the target can refuse it (`[measure] latency = false`).
        seed: of the random orders of sessions and pairs.
        work: a scratch folder; job folders are made in it and left there.
        progress: wraps the loop over launches.

    Returns:
        What was measured. A target that cannot be reached, or does not run what it was asked to,
        gives a record with `reached=False` and the reason.

    Raises:
        CalibrationError: inputs and labels differ in number, or there are none.
        BrokenPromise: a model gives outputs of other shapes than the torch net.
        UsageError: the target's transport does not exist.
    """
    _check_samples(reference, inputs, labels)
    folder = work / target.name
    try:
        answers = {
            name: _run_outputs(path, inputs, target, folder / f"outputs-{name}")
            for name, path in (("original", original), ("pruned", pruned))
        }
    except TargetUnavailable as error:
        logger.warning("%s", error)
        return Measured(_unreached(target, str(error)))
    drift, notes = _compare(reference, answers["original"], answers["pruned"], labels)
    measured_latency, reason = None, ""
    more: tuple[str, ...] = ()
    if latency and target.measure.latency:
        try:
            measured_latency, more = _time(original, pruned, inputs, target, folder, seed, progress)
        except TargetUnavailable as error:
            logger.warning("%s", error)
            reason = f"latency could not be measured: {error}"
    elif latency:
        reason = f"{target.name} says that its times mean nothing ([measure] latency = false)"
    validation = _reached(target, answers["original"], answers["pruned"], drift, measured_latency, reason)
    warnings = tuple(dict.fromkeys((*validation.warnings, *notes, *more)))
    return Measured(
        dataclasses.replace(validation, warnings=warnings),
        pruned_outputs=answers["pruned"].outputs,
        original_outputs=answers["original"].outputs,
    )


def _check_samples(reference: tuple[Array, ...], inputs: tuple[Array, ...], labels: Array | None) -> None:
    if not inputs or not len(inputs[0]):
        raise CalibrationError(
            "there is no input to validate on; give a calibration set with held-out samples."
        )
    counts = {len(array) for array in (*inputs, *reference)}
    if labels is not None:
        counts.add(len(labels))
    if len(counts) != 1:
        raise CalibrationError(
            f"inputs, reference outputs and labels differ in number ({sorted(counts)}); give as many of each."
        )


def _unreached(target: Target, reason: str) -> Validation:
    return Validation(
        target=target.name,
        reached=False,
        provider=target.runtime.provider,
        placement={},
        precision=target.precision,
        reason=reason,
    )


def _reached(
    target: Target,
    original: OutputsAnswer,
    pruned: OutputsAnswer,
    drift: Drift,
    latency: Latency | None,
    reason: str,
) -> Validation:
    return Validation(
        target=target.name,
        reached=True,
        provider=target.runtime.provider,
        placement=pruned.ran.placement,
        precision=target.precision,
        drift=drift,
        latency=latency,
        memory_mb=(original.peak_mb, pruned.peak_mb),
        load_ms=(original.load_ms, pruned.load_ms),
        first_ms=(original.first_ms, pruned.first_ms),
        runtime_version=pruned.ran.version,
        reason=reason,
        warnings=(*original.ran.warnings, *pruned.ran.warnings),
    )


def _run_outputs(model: Path, inputs: tuple[Array, ...], target: Target, folder: Path) -> OutputsAnswer:
    job = write_job(folder, target, "outputs", {"model": model}, inputs)
    answer = RUNTIMES[target.transport].run(job.folder, target, target.measure.limit_s)
    return read_outputs(job, answer, target)


# -------------------------------------------------------------------------------------- drift


def _compare(
    reference: tuple[Array, ...], original: OutputsAnswer, pruned: OutputsAnswer, labels: Array | None
) -> tuple[Drift, tuple[str, ...]]:
    expected = [array.shape for array in reference]
    for name, answer in (("original", original), ("pruned", pruned)):
        found = [array.shape for array in answer.outputs]
        if found != expected:
            raise BrokenPromise(
                f"the {name} model gives outputs of shapes {found}, the torch net {expected}; "
                "the export changed them: please report it."
            )
    zero = not any(np.any(array) for array in reference)
    notes = ("every output of the original is zero, so comparing with it proves little",) if zero else ()
    return measure_drift(reference, pruned.outputs, labels), notes


def measure_drift(
    reference: tuple[Array, ...], outputs: tuple[Array, ...], labels: Array | None = None
) -> Drift:
    """How far `outputs` are from `reference`, over all outputs of the model together.

    An input whose reference is zero has no relative error of its own; there the average norm of
    the references is the measure (1 where all are zero). The class is the largest entry of the
    first output, where that is a matrix of at least two columns.

    Args:
        reference: one array per output, first axis the samples.
        outputs: of the same shapes.
        labels: integer (n,), the true classes.
    """
    count = len(reference[0])
    truth = np.concatenate([a.astype(np.float64).reshape(count, -1) for a in reference], axis=1)
    found = np.concatenate([a.astype(np.float64).reshape(count, -1) for a in outputs], axis=1)
    difference = np.abs(found - truth)
    linf = difference.max(axis=1)
    norms = np.linalg.norm(truth, axis=1)
    scale = np.where(norms > 0, norms, norms.mean() or 1.0)
    agreement, accuracy = None, None
    if reference[0].ndim == 2 and reference[0].shape[1] > 1:
        true_class, found_class = reference[0].argmax(axis=1), outputs[0].argmax(axis=1)
        agreement = float((true_class == found_class).mean())
        if labels is not None:
            accuracy = (float((true_class == labels).mean()), float((found_class == labels).mean()))
    return Drift(
        linf_max=float(linf.max()),
        linf_mean=float(linf.mean()),
        relative_l2=float((np.linalg.norm(difference, axis=1) / scale).mean()),
        top1_agreement=agreement,
        n=count,
        accuracy=accuracy,
        quantiles=error_quantiles(linf),
    )


def error_quantiles(errors: Array) -> tuple[tuple[float, float], ...]:
    """The order statistics of float64 errors (n,) at `SHARES`: at least that share is at or below."""
    found = np.quantile(errors, SHARES, method="inverted_cdf")
    return tuple((share, float(value)) for share, value in zip(SHARES, found, strict=True))


# ------------------------------------------------------------------------------------ latency


def _time(
    original: Path,
    pruned: Path,
    inputs: tuple[Array, ...],
    target: Target,
    folder: Path,
    seed: int,
    progress: Progress,
) -> tuple[Latency, tuple[str, ...]]:
    """Paired latency over fresh processes."""
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
        launch, measure, time.monotonic, lambda it: progress(it, f"timing on {target.name}", None)
    )
    return summarise(answers, measure), _notes(answers, measure)


def sample(
    launch: Callable[[int], PairsAnswer],
    measure: Measure,
    clock: Callable[[], float],
    shown: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> tuple[PairsAnswer, ...]:
    """Launch until the interval is narrow enough, or launches or seconds run out.

    At least two launches are made whatever the budget (fewer give no interval), and
    `launches_min` unless the budget ends before.
    """
    end = clock() + measure.budget_s
    answers: list[PairsAnswer] = []

    def numbers() -> Iterable[int]:
        for number in itertools.count():
            over = number >= measure.launches_max or (number >= 2 and clock() >= end)
            if over or (number >= measure.launches_min and _narrow(answers, measure)):
                return
            yield number

    for number in shown(numbers()):
        answers.append(launch(number))  # noqa: PERF401 - numbers() reads the list as it grows
    return tuple(answers)


def _interval(answers: Iterable[PairsAnswer], measure: Measure, arm: str) -> RatioInterval:
    return ratio_interval([median_log_ratio(getattr(a, arm)) for a in answers], measure.confidence)


def _narrow(answers: Iterable[PairsAnswer], measure: Measure) -> bool:
    return _interval(answers, measure, "pairs").half_width <= measure.half_width


def summarise(answers: tuple[PairsAnswer, ...], measure: Measure) -> Latency:
    """The record of a paired comparison.

    Settled means: at least `launches_min` launches, and an interval as narrow as asked.
    """
    pairs, control = _interval(answers, measure, "pairs"), _interval(answers, measure, "control")
    times = np.concatenate([a.pairs for a in answers])
    enough = len(answers) >= measure.launches_min and pairs.half_width <= measure.half_width
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


def _notes(answers: tuple[PairsAnswer, ...], measure: Measure) -> tuple[str, ...]:
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
