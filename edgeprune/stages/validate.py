"""Validate: run both models on a target, compare outputs and latencies.

Drift is the pruned model, as the target runs it, against the original torch net in float64, so
pruning, export, simplification and the target's rounding are all inside. Latency is paired: see
`edgeprune.runtimes.pairs`, and `edgeprune.runtimes.timing` for when measuring ends.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import BrokenPromise, CalibrationError, TargetUnavailable
from edgeprune.progress import Progress
from edgeprune.records.run import Drift, Latency, Validation
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.jobs import OutputsAnswer, PairsAnswer, read_outputs, write_job
from edgeprune.runtimes.timing import EQUAL, Timed, timed
from edgeprune.target import Target

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
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
        launches: every time that latency was made from; empty where none was measured.
    """

    validation: Validation
    pruned_outputs: tuple[Array, ...] = ()
    original_outputs: tuple[Array, ...] = ()
    launches: tuple[PairsAnswer, ...] = ()


def validate(
    original: Path,
    pruned: Path,
    reference: tuple[Array, ...],
    inputs: tuple[Array, ...],
    target: Target,
    *,
    labels: Array | None = None,
    latency: bool = True,
    against: tuple[float, ...] = EQUAL,
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
        against: latency ratios that will be judged by, besides how narrow the interval is.
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
        both = progress((("original", original), ("pruned", pruned)), f"running on {target.name}", 2)
        answers = {
            name: _run_outputs(path, inputs, target, folder / f"outputs-{name}") for name, path in both
        }
    except TargetUnavailable as error:
        logger.warning("%s", error)
        return Measured(_unreached(target, str(error)))
    drift, notes = _compare(reference, answers["original"], answers["pruned"], labels)
    found, reason = (
        _latency(original, pruned, inputs, target, folder, seed, progress, against) if latency else (None, "")
    )
    ratio, more = (found.latency, found.notes) if found else (None, ())
    validation = _reached(target, answers["original"], answers["pruned"], drift, ratio, reason)
    warnings = tuple(dict.fromkeys((*validation.warnings, *notes, *more)))
    validation = dataclasses.replace(validation, warnings=warnings)
    launches = found.launches if found else ()
    return Measured(validation, answers["pruned"].outputs, answers["original"].outputs, launches)


def _latency(
    original: Path,
    pruned: Path,
    inputs: tuple[Array, ...],
    target: Target,
    folder: Path,
    seed: int,
    progress: Progress,
    against: tuple[float, ...],
) -> tuple[Timed | None, str]:
    """The latency, or why there is none."""
    if not target.measure.latency:
        return None, f"{target.name} says that its times mean nothing ([measure] latency = false)"
    try:
        return timed(original, pruned, inputs, target, folder, seed, progress, against), ""
    except TargetUnavailable as error:
        logger.warning("%s", error)
        return None, f"latency could not be measured: {error}"


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
