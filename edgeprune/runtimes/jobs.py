"""Job folders: what is asked of the agent, and what is believed of its answer.

A job is a folder that a transport carries to a device and back: `job.json`, `inputs.npz` (arrays
`input_0`, `input_1`, …), `models/NAME/FILE.onnx`. The answer is a folder with `result.json` and,
for outputs, `outputs.npz`. Nothing in an answer is believed before it was checked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgeprune.errors import StorageError, TargetUnavailable
from edgeprune.files import sha256_of, write_text
from edgeprune.profiles import Target
from edgeprune.runtimes.soundness import are_counts, check_packed, check_size, told

Array = npt.NDArray[Any]
TIMED_BATCHES = 16
"""Batches of samples that a latency job brings along."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job folder that was written, and what stands in its `job.json`."""

    folder: Path
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What every kind of job says about where it ran.

    Attributes:
        placement: nodes by provider; empty where the runtime does not tell.
        version: of onnxruntime.
        environment: versions, platform, cores, load.
        warnings: what the runtime complained about.
        state: load, heat and throttling before and after; see `agent/machine.py`.
    """

    placement: dict[str, int]
    version: str
    environment: dict[str, Any]
    warnings: tuple[str, ...]
    state: tuple[dict[str, float], dict[str, float]] = field(default_factory=lambda: ({}, {}))


@dataclass(frozen=True, slots=True, eq=False)
class OutputsAnswer:
    """One model run over all inputs.

    Attributes:
        outputs: as the runtime gave them, first axis the samples.
        load_ms: making the session, in a fresh process.
        first_ms: the first run, one batch.
        peak_mb: peak resident memory of the process after load and first run, MiB.
    """

    ran: Answer
    outputs: tuple[Array, ...]
    load_ms: float
    first_ms: float
    peak_mb: float


@dataclass(frozen=True, slots=True, eq=False)
class PairsAnswer:
    """One launch of paired latencies.

    Attributes:
        pairs: float64 (n, 2), milliseconds of (original, pruned).
        control: float64 (m, 2), milliseconds of (original, a second session of the original).
        settled: whether the warm-up came to rest.
    """

    ran: Answer
    pairs: npt.NDArray[np.float64]
    control: npt.NDArray[np.float64]
    settled: bool


@dataclass(frozen=True, slots=True, eq=False)
class TimesAnswer:
    """One launch of one model, from its load to its steady state.

    Attributes:
        load_ms: making the session, in a fresh process.
        first_ms: the first run.
        warm_up: runs until the times came to rest.
        settled: whether they did.
        steady_ms: float64 (n,), every timed run.
        peak_mb: peak resident memory of the process, MiB.
    """

    ran: Answer
    load_ms: float
    first_ms: float
    warm_up: int
    settled: bool
    steady_ms: npt.NDArray[np.float64]
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Operation:
    """One node of the graph as the runtime ran it.

    Attributes:
        name: the node's, after the runtime's own fusions.
        operation: what it does (Conv, MatMul, …).
        provider: where it ran.
        us: mean microseconds a run.
    """

    name: str
    operation: str
    provider: str
    us: float


def write_job(
    folder: Path,
    target: Target,
    kind: Literal["probe", "outputs", "pairs", "times", "trace", "layers"],
    models: Mapping[str, Path],
    inputs: tuple[Array, ...] = (),
    *,
    seed: int = 0,
    launch_s: float = 0.0,
) -> Job:
    """Write a job folder.

    Args:
        folder: made anew; what lay there is removed.
        target: where it will run.
        kind: `probe` asks whether the provider works, the others are told in `agent/__init__.py`.
        models: `original` and `pruned` for pairs, none for a probe, any for layers, else `model`.
        inputs: one array per model input, first axis the samples; timed jobs take the first few.
        seed: of the random orders of a pairs job.
        launch_s: seconds after which a timed job ends.

    Raises:
        StorageError: the disk cannot take it.
    """
    measure = target.measure
    if kind in ("pairs", "times", "trace"):
        inputs = tuple(array[: TIMED_BATCHES * measure.batch] for array in inputs)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        paths = {name: _bring(model, folder, f"models/{name}") for name, model in models.items()}
        folder.mkdir(parents=True, exist_ok=True)
        if inputs:
            arrays: dict[str, Any] = {f"input_{i}": np.ascontiguousarray(a) for i, a in enumerate(inputs)}
            np.savez(folder / "inputs.npz", **arrays)
    except OSError as error:
        raise StorageError(
            f"{folder}: a job cannot be written there ({error.strerror or error}); free some space."
        ) from error
    brought = [p for p in folder.glob("models/*/*") if p.is_file()]
    content: dict[str, Any] = {
        "kind": kind,
        "models": {name: path.relative_to(folder).as_posix() for name, path in paths.items()},
        "files": {p.relative_to(folder).as_posix(): sha256_of(p) for p in brought},
        "runtime": dataclasses.asdict(target.runtime) | dataclasses.asdict(target.threads),
        "batch": measure.batch,
        "batch_outputs": measure.batch_outputs,
        "samples": len(inputs[0]) if inputs else 0,
        "pairs": measure.pairs,
        "warm_up": measure.warm_up,
        "bind": measure.bind,
        "seed": seed,
        "launch_s": launch_s,
    }
    write_text(folder / "job.json", json.dumps(content, indent=1) + "\n")
    return Job(folder, content)


def _bring(model: Path, folder: Path, under: str) -> Path:
    """A model, and its external data if it has any, under their own names. Linked, not copied."""
    place = folder / under
    place.mkdir(parents=True)
    for path in (model, model.with_name(model.name + ".data")):
        if path == model or path.is_file():
            try:
                os.link(path, place / path.name)
            except OSError:
                shutil.copyfile(path, place / path.name)
    return place / model.name


def read_outputs(job: Job, folder: Path, target: Target) -> OutputsAnswer:
    """The checked answer to an outputs job.

    Raises:
        TargetUnavailable: the target did not do what was asked, or its answer is not sound.
    """
    result, ran = _read(job, folder, target)
    try:
        check_packed(folder / "outputs.npz", target.name)
        with (folder / "outputs.npz").open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            outputs = tuple(archive[f"output_{i}"] for i in range(len(archive.files)))
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise TargetUnavailable(f"{target.name}: its outputs.npz cannot be read ({error}).") from error
    samples = job.content["samples"]
    model = Path(job.content["models"]["model"]).name
    for i, output in enumerate(outputs):
        if output.ndim == 0 or len(output) != samples:
            raise TargetUnavailable(
                f"{target.name}: {model}: output {i} has shape {output.shape} for {samples} inputs."
            )
        bad = len(output) - int(np.isfinite(output.reshape(samples, -1)).all(axis=1).sum())
        if bad:
            raise TargetUnavailable(
                f"{target.name}: {model}: output {i} is not finite for {bad} of {samples} inputs; "
                "nothing measured on it would mean anything."
            )
    if not outputs:
        raise TargetUnavailable(f"{target.name}: {model} gave no output.")
    return OutputsAnswer(
        ran=ran,
        outputs=outputs,
        load_ms=_number(result, "load_ms", target),
        first_ms=_number(result, "first_ms", target),
        peak_mb=_number(result, "peak_mb", target),
    )


def read_pairs(job: Job, folder: Path, target: Target) -> PairsAnswer:
    """The checked answer to a pairs job.

    Raises:
        TargetUnavailable: the target did not do what was asked, or its answer is not sound.
    """
    result, ran = _read(job, folder, target)
    return PairsAnswer(
        ran=ran,
        pairs=_times(result, "pairs", target),
        control=_times(result, "control", target),
        settled=bool(result.get("settled")),
    )


def read_times(job: Job, folder: Path, target: Target) -> TimesAnswer:
    """The checked answer to a times job.

    Raises:
        TargetUnavailable: the target did not do what was asked, or its answer is not sound.
    """
    result, ran = _read(job, folder, target)
    try:
        steady = np.asarray(result.get("steady"), dtype=np.float64)
    except (TypeError, ValueError):
        steady = np.empty(0)
    if steady.ndim != 1 or not len(steady) or not (np.isfinite(steady).all() and (steady > 0).all()):
        raise TargetUnavailable(f"{target.name}: its result.json holds no sound times under 'steady'.")
    return TimesAnswer(
        ran=ran,
        load_ms=_number(result, "load_ms", target),
        first_ms=_number(result, "first_ms", target),
        warm_up=int(_number(result, "warm_up", target)),
        settled=bool(result.get("settled")),
        steady_ms=steady,
        peak_mb=_number(result, "peak_mb", target),
    )


def read_trace(job: Job, folder: Path, target: Target) -> tuple[Operation, ...]:
    """The checked answer to a trace job, the longest operation first.

    Raises:
        TargetUnavailable: the target did not do what was asked, or its answer is not sound.
    """
    result, _ = _read(job, folder, target)
    rows = result.get("operations")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TargetUnavailable(f"{target.name}: its result.json holds no trace of operations.")
    found = [
        Operation(
            str(row.get("name", "")),
            str(row.get("operation", "")),
            str(row.get("provider", "")),
            _number(row, "us", target),
        )
        for row in rows
    ]
    return tuple(sorted(found, key=lambda operation: -operation.us))


def read_layers(job: Job, folder: Path, target: Target) -> dict[str, float]:
    """The checked answer to a layers job: milliseconds by name, each of them positive.

    Raises:
        TargetUnavailable: the target did not do what was asked, or its answer is not sound.
    """
    result, _ = _read(job, folder, target)
    ms = result.get("ms")
    if not isinstance(ms, dict) or set(ms) != set(job.content["models"]):
        raise TargetUnavailable(f"{target.name}: its result.json does not time the layers that were sent.")
    return {name: max(_number(ms, name, target), 1e-6) for name in ms}


def read_probe(job: Job, folder: Path, target: Target) -> Answer:
    """The checked answer to a probe.

    Raises:
        TargetUnavailable: the target cannot do what would be asked of it.
    """
    return _read(job, folder, target)[1]


def _read(job: Job, folder: Path, target: Target) -> tuple[dict[str, Any], Answer]:
    """`result.json`, if it says that what was asked was done to the very files that were sent."""
    check_size(folder / "result.json", target.name)
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TargetUnavailable(f"{target.name}: gave no readable result.json ({error}).") from error
    if not isinstance(result, dict) or result.get("kind") != job.content["kind"]:
        raise TargetUnavailable(
            f"{target.name}: its result.json does not answer a '{job.content['kind']}' job."
        )
    if result.get("status") != "ok":
        raise TargetUnavailable(f"{target.name}: {result.get('reason') or 'failed and gave no reason'}.")
    if result.get("files") != job.content["files"]:
        raise TargetUnavailable(
            f"{target.name}: what ran there is not what was sent (the SHA-256 of a model differs); "
            "run it again, and look for a stale copy on the device."
        )
    environment, placement = result.get("environment"), result.get("placement", {})
    if not isinstance(environment, dict) or not are_counts(placement):
        raise TargetUnavailable(f"{target.name}: its result.json does not say where it ran.")
    elsewhere = sum(count for name, count in placement.items() if name != target.runtime.provider)
    if elsewhere and not target.runtime.allow_fallback:
        raise TargetUnavailable(
            f"{target.name}: {elsewhere} of {sum(placement.values())} nodes did not run on "
            f"{target.runtime.provider}: {placement}."
        )
    return result, Answer(
        placement=placement,
        version=str(environment.get("onnxruntime", "")),
        environment=environment,
        warnings=told(result.get("warnings")),
        state=_state(result.get("state")),
    )


def _state(given: Any) -> tuple[dict[str, float], dict[str, float]]:
    """What the machine said about itself, numbers only: it is shown, nothing is decided by it."""
    halves = given if isinstance(given, list) and len(given) == 2 else [{}, {}]
    before, after = (
        {
            str(name): float(value)
            for name, value in half.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        if isinstance(half, dict)
        else {}
        for half in halves
    )
    return before, after


def _number(result: Mapping[str, Any], name: str, target: Target) -> float:
    value = result.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise TargetUnavailable(f"{target.name}: its result.json gives {name} as {value!r}.")
    return float(value)


def _times(result: Mapping[str, Any], name: str, target: Target) -> npt.NDArray[np.float64]:
    """Pairs of positive, finite milliseconds, at least one."""
    try:
        times = np.asarray(result.get(name), dtype=np.float64)
    except (TypeError, ValueError):
        times = np.empty(0)
    if times.ndim != 2 or times.shape[1] != 2 or not len(times):
        raise TargetUnavailable(f"{target.name}: its result.json holds no pairs of times under '{name}'.")
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise TargetUnavailable(
            f"{target.name}: its result.json holds a time under '{name}' that is no time."
        )
    return times
