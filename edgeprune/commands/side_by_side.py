"""Compare: any two ONNX files on a target, without torch. The second is held against the first."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgeprune.errors import TargetUnavailable, UsageError
from edgeprune.progress import Progress
from edgeprune.records.run import Validation
from edgeprune.runtimes.jobs import Operation
from edgeprune.runtimes.reference import file_outputs
from edgeprune.runtimes.timing import raw_times
from edgeprune.stages.profile import operations_of
from edgeprune.stages.validate import validate
from edgeprune.target import Target

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two files on a target.

    Attributes:
        first: name of the file that is the measure.
        second: name of the other.
        validation: drift, latency and memory; `original` there is the first, `pruned` the second.
        operations: of the first and of the second, the longest first; empty where not traced.
        raw_ms: by launch, every pair of times (`pairs_00`) and every pair of the control (`control_00`).
    """

    first: str
    second: str
    validation: Validation
    operations: tuple[tuple[Operation, ...], tuple[Operation, ...]] = ((), ())
    raw_ms: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)

    def lines(self) -> tuple[str, ...]:
        """What was found, in words."""
        found = self.validation
        if not found.reached:
            return (f"not measured: {found.reason}",)
        where = ", ".join(f"{count} nodes on {name}" for name, count in found.placement.items())
        lines = [f"on {found.target}, {where or found.provider}, onnxruntime {found.runtime_version}"]
        if found.drift is not None:
            agreement = found.drift.top1_agreement
            same = "" if agreement is None else f", the same largest output for {agreement:.1%}"
            lines.append(
                f"outputs   differ by at most {found.drift.linf_max:.3g}, relatively by "
                f"{found.drift.relative_l2:.2g}, over {found.drift.n} inputs{same}"
            )
        latency = found.latency
        if latency is not None:
            lines.append(
                f"latency   {latency.original_ms:.4g} → {latency.pruned_ms:.4g} ms, "
                f"ratio {latency.ratio:.3f} ({latency.ratio_low:.3f} to {latency.ratio_high:.3f}; "
                f"{latency.launches} processes, {latency.quality}; A against itself "
                f"±{latency.noise_floor:.3f})"
            )
        elif found.reason:
            lines.append(f"latency   {found.reason}")
        rest = (("memory", found.memory_mb, "MiB"), ("load", found.load_ms, "ms"))
        for name, pair, unit in (*rest, ("first run", found.first_ms, "ms")):
            if pair is not None:
                lines.append(f"{name:<9} {pair[0]:.4g} → {pair[1]:.4g} {unit}")
        return tuple(lines)


def compare(
    first: Path,
    second: Path,
    inputs: tuple[Array, ...],
    target: Target,
    *,
    latency: bool = True,
    trace: bool = True,
    seed: int = 0,
    work: Path,
    progress: Progress,
) -> Comparison:
    """Run two files on a target, compare outputs and latencies.

    Args:
        first: the ONNX file that is the measure; its outputs on this machine's CPU are the truth.
        second: the other.
        inputs: one array per model input, first axis the samples.
        target: where to run.
        latency: whether to time.
        trace: whether to time each operation, where the target can.
        seed: of random orders.
        work: a scratch folder.
        progress: wraps the loop over launches.

    Raises:
        UsageError: a file is missing, or the two give outputs of different shapes.
        TargetUnavailable: this machine's CPU does not run one of the files.
    """
    for path in (first, second):
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file; check the path.")
    truth = file_outputs(first, inputs, work / "first")
    other = file_outputs(second, inputs, work / "second")
    if [a.shape for a in truth] != [b.shape for b in other]:
        raise UsageError(
            f"{first.name} gives outputs of shapes {[a.shape for a in truth]}, {second.name} "
            f"{[b.shape for b in other]}; only models with the same outputs can be compared."
        )
    measured = validate(
        first, second, truth, inputs, target, latency=latency, seed=seed, work=work, progress=progress
    )
    operations: tuple[tuple[Operation, ...], tuple[Operation, ...]] = ((), ())
    if trace and measured.validation.reached and target.measure.latency:
        with contextlib.suppress(TargetUnavailable):  # one that cannot trace says so when profiled
            operations = (
                operations_of(first, inputs, target, work / "trace-first"),
                operations_of(second, inputs, target, work / "trace-second"),
            )
    raw = {
        name: tuple((a, b) for a, b in times.tolist()) for name, times in raw_times(measured.launches).items()
    }
    return Comparison(first.name, second.name, measured.validation, operations, raw)
