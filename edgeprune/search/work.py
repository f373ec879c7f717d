"""What a worker does: make the net of a trial, step by step, or measure one on a device.

Steps go from cheap to dear, and the first that breaks a constraint for sure ends the trial. Each keeps what
it found in the store, so that no step is ever done twice. A worker on another machine works in a folder of
its own and hands over what it made.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeprune.errors import BoundViolated, ModelError, UsageError
from edgeprune.progress import silent
from edgeprune.records.environment import installed
from edgeprune.records.run import from_json, to_json
from edgeprune.search.lease import computing, measuring
from edgeprune.search.objectives import Condition, Objective, beaten
from edgeprune.search.store import Entry, Store, key
from edgeprune.target import Target

if TYPE_CHECKING:
    from edgeprune.plan import Shrunk
    from edgeprune.search.bench import Bench

UNIT = "EDGEPRUNE_UNIT"
"""Environment variable of a worker: which of several equal devices is attached to it."""
BEATEN = "cannot beat the front, whatever else is found"
PLAN, WEIGHTS, MODEL = "plan.json", "pruned.safetensors", "pruned.onnx"


@dataclass(frozen=True, slots=True)
class Subject:
    """What all trials of a search work on.

    Attributes:
        settings: JSON of `Settings`, without targets and limits.
        weights_sha256: of the model; a worker that finds other weights refuses.
        version: of edgeprune; a worker of another version refuses.
        store: the folder of results, '' on another machine.
        digest: of everything that decides what a trial gives, beside the trial itself.
        certified: whether bounds over the domain are wanted.
    """

    settings: str
    weights_sha256: str
    version: str
    store: str
    digest: str
    certified: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """A trial as a worker sees it: which units are to be chosen how.

    Attributes:
        widths: units to keep, by group.
        known: what was found of it without making it.
        conditions: it ends as soon as one of these is broken for sure.
        minimized: the objectives.
        front: it ends as soon as one of these points beats all that it could be.
    """

    method: str
    direction: str
    widths: tuple[tuple[str, int], ...]
    known: tuple[tuple[str, float], ...] = ()
    conditions: tuple[Condition, ...] = ()
    targets: tuple[str, ...] = ()
    minimized: tuple[Objective, ...] = ()
    front: tuple[tuple[float, ...], ...] = ()

    def name(self, step: str, subject: Subject) -> str:
        """The name of what a step gives for it."""
        return key(
            step,
            subject=subject.digest,
            method=self.method,
            direction=self.direction,
            widths=dict(self.widths),
        )


@dataclass(slots=True)
class Prepared:
    """A trial's net, made.

    Attributes:
        found: see `objectives.Found`.
        seconds: by step, without what was read back.
        ruled_out: why it was given up; '' if it is ready to be measured.
        model: the ONNX file, where it does not lie in the store of the search.
        sha256: of that file.
        where: who made it.
    """

    found: dict[str, float]
    seconds: dict[str, float] = field(default_factory=dict)
    ruled_out: str = ""
    model: bytes | None = None
    sha256: str = ""
    where: str = ""


def here() -> str:
    """This worker, in words: machine and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


@functools.lru_cache(maxsize=1)
def _bench(settings: str) -> Bench:
    from edgeprune.config import Settings
    from edgeprune.search.bench import Bench

    return Bench.of(from_json(Settings, json.loads(settings)))


def opened(subject: Subject) -> Bench:
    """The model and the samples, opened once a process.

    Raises:
        UsageError: this worker has another edgeprune.
        ModelError: this worker finds other weights.
    """
    if installed("edgeprune") != subject.version:
        raise UsageError(
            f"{here()}: has edgeprune {installed('edgeprune')}, the search runs {subject.version}; install "
            "the same."
        )
    bench = _bench(subject.settings)
    if bench.line.loaded.weights_sha256 != subject.weights_sha256:
        raise ModelError(
            f"{here()}: finds other weights ({bench.line.loaded.weights_sha256[:12]}…) than the search has "
            f"({subject.weights_sha256[:12]}…); give all workers the same files, and a factory without "
            "chance."
        )
    return bench


def prepare(subject: Subject, draft: Draft) -> Prepared:
    """Make a trial's net: choose and shrink, then certify where that is asked for, then export.

    Raises:
        EdgepruneError: the net cannot be made, or a bound was seen broken.
    """
    with tempfile.TemporaryDirectory(prefix="edgeprune-search-") as work:
        store = Store(Path(subject.store or work))
        made = Prepared(dict(draft.known), where=here())
        with computing():
            _prepare(subject, draft, store, made)
        if not subject.store and not made.ruled_out:
            entry = store.get(draft.name("file", subject), [MODEL])
            assert entry is not None
            made.model = entry.path(MODEL).read_bytes()
        return made


def _prepare(subject: Subject, draft: Draft, store: Store, made: Prepared) -> None:
    file = store.get(draft.name("file", subject), [MODEL])
    net = store.get(draft.name("net", subject), [] if file else [PLAN, WEIGHTS])
    shrunk: Shrunk | None = None
    if net is None:
        with _timed(made, "net"):
            bench = opened(subject)
            shrunk = bench.shrunk(draft.method, draft.direction, dict(draft.widths))
            net = _keep_net(bench, shrunk, store, draft.name("net", subject))
    made.found |= net.content
    if _ruled_out(draft, made):
        return
    if subject.certified:
        name = draft.name("certificates", subject)
        proved = store.get(name)
        if proved is None:
            with _timed(made, "certificates"):
                bench = opened(subject)
                shrunk = shrunk or bench.restored(net.path(PLAN), net.path(WEIGHTS))
                found, violation = bench.certified(shrunk)
                if violation:
                    raise BoundViolated(violation)
                proved = store.put(name, found, {})
        made.found |= proved.content
        if _ruled_out(draft, made):
            return
    if file is None:
        with _timed(made, "export"), tempfile.TemporaryDirectory(prefix="edgeprune-export-") as work:
            bench = opened(subject)
            shrunk = shrunk or bench.restored(net.path(PLAN), net.path(WEIGHTS))
            path = bench.exported(shrunk.module, "pruned", Path(work))
            size = {"size_bytes": float(path.stat().st_size)}
            file = store.put(draft.name("file", subject), size, {MODEL: path})
    made.found |= file.content
    if "original_bytes" in made.found:
        made.found["size"] = made.found["size_bytes"] / made.found["original_bytes"]
    made.sha256 = file.files[MODEL]
    _ruled_out(draft, made)


def _keep_net(bench: Bench, shrunk: Shrunk, store: Store, name: str) -> Entry:
    with tempfile.TemporaryDirectory(prefix="edgeprune-net-") as work:
        plan, weights = bench.saved(shrunk, Path(work))
        return store.put(name, bench.drift(shrunk.module), {PLAN: plan, WEIGHTS: weights})


def _ruled_out(draft: Draft, made: Prepared) -> bool:
    made.ruled_out = broken(draft.conditions, made.found, draft.targets)
    if not made.ruled_out and beaten(draft.minimized, draft.front, made.found):
        made.ruled_out = BEATEN
    return bool(made.ruled_out)


def broken(conditions: tuple[Condition, ...], found: Mapping[str, float], targets: tuple[str, ...]) -> str:
    """Why what is known breaks a condition for sure, in words; '' if nothing does."""
    for condition in conditions:
        excess = condition.excess(found, targets, certain=True)
        if excess is not None and excess > 0:
            seen = "an error above that was seen" if condition.key not in found else f"over by {excess:.4g}"
            if condition.target or condition.name in ("latency", "p95", "memory"):
                seen = f"over by {excess:.4g}"
            return f"breaks {condition.text} ({seen})"
    return ""


@contextmanager
def _timed(made: Prepared, step: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    made.seconds[step] = time.monotonic() - started


# ------------------------------------------------------------------------------------ devices


@dataclass(frozen=True, slots=True)
class File:
    """A file that a device worker needs: a path here, or its bytes."""

    path: str = ""
    content: bytes | None = field(default=None, repr=False)

    def at(self, folder: Path, name: str) -> Path:
        """The file on this machine; its bytes are written into `folder`."""
        if self.content is None:
            return Path(self.path)
        (folder / name).write_bytes(self.content)
        return folder / name


@dataclass(frozen=True, slots=True)
class Package:
    """What every measurement of a search needs: the original, and the samples with its outputs on them."""

    original: File
    samples: File


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement to be made.

    Attributes:
        unit: which of several equal devices, '' for the one that the worker says.
        cool_down_s: pause between two measurements on a device.
        odds: confidence, and the share of inputs that the statistical bound speaks about.
    """

    target: Target
    pruned: File
    seed: int
    latency: bool
    unit: str = ""
    cool_down_s: float = 0.0
    odds: tuple[float, float] = (0.95, 0.99)


@dataclass(frozen=True, slots=True)
class MeasuredTrial:
    """What a device did.

    Attributes:
        found: see `objectives.Found`; empty where the device was not reached.
        validation: JSON of the record.
        where: the worker, and the device.
        began: seconds since the epoch, when the device was ours.
    """

    found: dict[str, float]
    validation: dict[str, Any]
    reached: bool
    reason: str
    where: str
    began: float
    ended: float


def measure(job: Measurement, package: Package) -> MeasuredTrial:
    """Measure a pair of models on a device, alone on it.

    Raises:
        EdgepruneError: see `stages.validate`.
    """
    from edgeprune.bounds import statistical
    from edgeprune.stages.validate import validate

    unit = job.unit or os.environ.get(UNIT, "")
    device = dataclasses.replace(job.target, name=f"{job.target.name}-{unit}") if unit else job.target
    with tempfile.TemporaryDirectory(prefix="edgeprune-measure-") as name:
        work = Path(name)
        with np.load(package.samples.at(work, "samples.npz"), allow_pickle=False) as arrays:
            inputs = tuple(arrays[k] for k in sorted(arrays.files) if k.startswith("input"))
            reference = tuple(arrays[k] for k in sorted(arrays.files) if k.startswith("output"))
            labels = arrays["labels"] if "labels" in arrays.files else None
        original, pruned = package.original.at(work, "original.onnx"), job.pruned.at(work, MODEL)
        with measuring(device, job.cool_down_s):
            began = time.time()
            measured = validate(
                original, pruned, reference, inputs, job.target, labels=labels, latency=job.latency,
                seed=job.seed, work=work, progress=silent,
            )  # fmt: skip
            ended = time.time()
    found = _found(measured.validation, job.target.name)
    if measured.pruned_outputs:
        gaps = [
            np.abs(a.astype(np.float64) - b).reshape(len(b), -1).max(1)
            for a, b in zip(measured.pruned_outputs, reference, strict=True)
        ]
        said = statistical.quantile(np.max(gaps, axis=0), job.odds[1], 1 - job.odds[0])
        if said.bound is not None:
            found[f"statistical_error@{job.target.name}"] = said.bound
    record = to_json(measured.validation)
    reached, reason = measured.validation.reached, measured.validation.reason
    return MeasuredTrial(found, record, reached, reason, f"{here()} {device.name}", began, ended)


def _found(validation: Any, target: str) -> dict[str, float]:
    found: dict[str, float] = {}
    if validation.drift is not None:
        found[f"observed_error@{target}"] = validation.drift.linf_max
        if validation.drift.top1_agreement is not None:
            found[f"top1_agreement@{target}"] = validation.drift.top1_agreement
        if validation.drift.accuracy is not None:
            found[f"accuracy@{target}"] = validation.drift.accuracy[1]
    if validation.latency is not None:
        found[f"latency@{target}"] = validation.latency.ratio
        found[f"latency_low@{target}"] = validation.latency.ratio_low
        found[f"latency_high@{target}"] = validation.latency.ratio_high
        found[f"latency_ms@{target}"] = validation.latency.pruned_ms
        if validation.latency.p95_ms is not None:
            found[f"p95_ms@{target}"] = validation.latency.p95_ms
    if validation.memory_mb is not None:
        found[f"memory_mb@{target}"] = validation.memory_mb[1]
    return found
