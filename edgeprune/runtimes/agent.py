"""Runs models where they are meant to run, and says what really happened.

A stand-alone program: python (>= 3.10), numpy and onnxruntime are all it needs, and it imports
nothing of edgeprune, so a transport can copy this one file to a device and start it with

    python agent.py JOB_DIR

JOB_DIR/job.json says what to do (see `edgeprune/runtimes/jobs.py`, which writes it), inputs.npz
holds the inputs, models/ the ONNX files. It writes JOB_DIR/result.json, for outputs also
JOB_DIR/outputs.npz. `status` in the result is `ok`, or `unavailable` with a reason; without a
result the process died.

Job kinds: `probe` (what is there), `outputs` (one model over all inputs, load and first run timed,
peak memory) and `pairs` (paired latencies of two models, and of the first against itself).
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import platform
import random
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CPU = "CPUExecutionProvider"
WARM_UP_WINDOWS = 40
"""Windows of warm-up runs after which measuring starts, settled or not."""
SETTLED = 0.1
"""Warm-up has settled when a window's median is this close to the window's before, relatively."""
PROBE = (
    b'\x08\x07\x12\x00:7\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01'
    b"\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""An ONNX model of a single node, y = Relu(x), x float32 of shape (1,)."""
MIN_TURNS = 16
"""Pairs of both arms together that are timed even when the time is over."""
TIMED_BATCHES = 16
"""Different batches that the timed runs take turns with."""

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class JobError(Exception):
    """What was asked cannot be done here; the text says why and what to do."""


def main(folder: Path) -> int:
    """Do the job of `folder` and write its result. Returns the exit status."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {"status": "ok", "reason": "", "kind": job["kind"]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result.update(_do(job, folder))
        except JobError as error:
            result.update(status="unavailable", reason=str(error))
        except MemoryError as error:
            result.update(status="unavailable", reason=f"memory ran out ({error}); use a smaller batch")
        except Exception as error:  # onnxruntime's errors have no common class but this
            result.update(status="unavailable", reason=f"{type(error).__name__}: {error}")
    result["warnings"] = sorted({" ".join(str(w.message).split()) for w in caught})
    result["files"] = {name: _sha256(folder / name) for name in job["files"]}
    temporary = folder / "result.json.part"
    temporary.write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
    temporary.replace(folder / "result.json")
    return 0


def _do(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise JobError(f"onnxruntime cannot be imported ({error}); install it on the target") from error
    environment = _environment(ort)
    provider = job["runtime"]["provider"]
    if provider not in environment["providers"]:
        raise JobError(
            f"onnxruntime {ort.__version__} has no {provider}, only {', '.join(environment['providers'])}; "
            "install the onnxruntime that brings it"
        )
    kinds = {"probe": _probe, "outputs": _outputs, "pairs": _pairs}
    return {"environment": environment, **kinds[job["kind"]](ort, job, folder)}


def _environment(ort: Any) -> dict[str, Any]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "onnxruntime": ort.__version__,
        "providers": ort.get_available_providers(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load": load,
    }


def _probe(ort: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Whether the asked provider runs anything at all: one Relu."""
    session = _session(ort, job, PROBE)
    session.run(None, {"x": np.zeros(1, np.float32)})
    return {"placement": _placement(session, job["runtime"])}


# ---------------------------------------------------------------------------------- sessions


def _session(ort: Any, job: dict[str, Any], model: Path | bytes) -> Any:
    """A session that runs on the asked provider or not at all."""
    asked = job["runtime"]
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = asked["intra"]
    options.inter_op_num_threads = asked["inter"]
    options.graph_optimization_level = {
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    }[asked["optimization"]]
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if asked["spinning"] else "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "1" if asked["spinning"] else "0")
    providers: list[Any] = [(asked["provider"], asked["options"])]
    if asked["provider"] != CPU:
        if asked["allow_fallback"]:
            providers.append(CPU)
        else:  # listing the CPU provider beside this entry is an error
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=providers, enable_fallback=0
    )
    session.disable_fallback()
    return session


def _placement(session: Any, asked: dict[str, Any]) -> dict[str, int]:
    """Nodes by provider, proved to be where they were asked to be.

    Raises:
        JobError: fewer nodes than asked run on the provider, or it cannot be told.
    """
    provider = asked["provider"]
    if provider not in session.get_providers():
        raise JobError(f"the session runs on {', '.join(session.get_providers())}, not on {provider}")
    if not hasattr(session, "get_provider_graph_assignment_info"):
        if provider == CPU:
            warnings.warn(
                "this onnxruntime does not tell where nodes run; only the CPU was listed", stacklevel=2
            )
            return {}
        raise JobError("this onnxruntime cannot tell where nodes run; install 1.24 or newer")
    placement: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        placement[part.ep_name] = placement.get(part.ep_name, 0) + len(part.get_nodes())
    there, total = placement.get(provider, 0), sum(placement.values())
    if there < total and not asked["allow_fallback"]:
        raise JobError(f"only {there} of {total} nodes run on {provider}: {placement}")
    if total and not there:
        raise JobError(f"none of {total} nodes runs on {provider}: {placement}")
    if there < total:
        warnings.warn(f"{total - there} of {total} nodes fell back: {placement}", stacklevel=2)
    return placement


def _feed(session: Any, batch: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The batch under the model's input names and dtypes."""
    inputs = session.get_inputs()
    if len(inputs) != len(batch):
        names = ", ".join(i.name for i in inputs)
        raise JobError(f"the model takes {len(inputs)} inputs ({names}), {len(batch)} were given")
    result = {}
    for described, given in zip(inputs, batch, strict=True):
        kind = _DTYPES.get(described.type)
        if kind is None:
            raise JobError(f"input '{described.name}' is {described.type}, which is not supported")
        array: np.ndarray[Any, Any] = given.astype(kind)
        if np.issubdtype(kind, np.integer) and not np.array_equal(array, given):
            raise JobError(f"input '{described.name}' is {described.type}, the values given are no integers")
        result[described.name] = array
    return result


def _fixed_batch(session: Any, asked: int) -> int:
    """The model's own batch where it is a number, else the asked one."""
    shape = session.get_inputs()[0].shape
    return shape[0] if shape and isinstance(shape[0], int) else asked


# ------------------------------------------------------------------------------------- inputs


def _batches(path: Path, size: int) -> Iterator[tuple[list[np.ndarray], int]]:
    """Batches of all inputs, read piece by piece so that inputs do not count as the model's memory.

    Yields the arrays and how many of their samples are real: the last batch is filled up by
    repeating its last sample.
    """
    with zipfile.ZipFile(path) as archive:
        streams = [archive.open(f"input_{i}.npy") for i in range(len(archive.namelist()))]
        headers = []
        for stream in streams:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            headers.append((shape, dtype))
        for start in range(0, headers[0][0][0], size):
            real = min(size, headers[0][0][0] - start)
            batch: list[np.ndarray] = []
            for stream, (shape, dtype) in zip(streams, headers, strict=True):
                block = stream.read(real * int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize)
                array: np.ndarray[Any, Any] = np.frombuffer(block, dtype).reshape(real, *shape[1:])
                batch.append(
                    array if real == size else np.concatenate([array, array[-1:].repeat(size - real, 0)])
                )
            yield batch, real


# ------------------------------------------------------------------------------------ outputs


def _outputs(ort: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the one model over all inputs; time its load and first run."""
    path = folder / job["models"]["model"]
    before_mb = _peak_mb()
    started = time.perf_counter()
    session = _session(ort, job, path)
    load_ms = (time.perf_counter() - started) * 1e3
    placement = _placement(session, job["runtime"])
    batch, _ = next(_batches(folder / "inputs.npz", _fixed_batch(session, job["batch"])))
    feed = _feed(session, batch)
    started = time.perf_counter()
    session.run(None, feed)
    first_ms = (time.perf_counter() - started) * 1e3
    peak_mb = _peak_mb()

    collected: list[list[np.ndarray]] = []
    size = _fixed_batch(session, job["batch_outputs"])
    for batch, real in _batches(folder / "inputs.npz", size):
        outputs = session.run(None, _feed(session, batch))
        for described, output in zip(session.get_outputs(), outputs, strict=True):
            if not isinstance(output, np.ndarray) or output.shape[:1] != (size,):
                found = getattr(output, "shape", type(output).__name__)
                raise JobError(
                    f"output '{described.name}' is {found}; its first axis must be the batch ({size})"
                )
        collected.append([output[:real] for output in outputs])
    joined: dict[str, Any] = {
        f"output_{i}": np.concatenate(parts) for i, parts in enumerate(zip(*collected, strict=True))
    }
    np.savez(folder / "outputs.npz", **joined)
    return {
        "placement": placement,
        "provider_options": session.get_provider_options(),
        "load_ms": load_ms,
        "first_ms": first_ms,
        "before_mb": before_mb,
        "peak_mb": peak_mb,
        "outputs": [o.name for o in session.get_outputs()],
    }


def _peak_mb() -> float:
    """Peak resident memory of this process, MiB.

    Linux's VmHWM where there is one: getrusage there also counts the peak of the process that
    started this one, up to the moment this program replaced it.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


# -------------------------------------------------------------------------------------- pairs


def _pairs(ort: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paired latencies: (original, pruned), and the control (original, original).

    Each arm has two sessions of its own, and each timed run follows an untimed one of the same
    session. Sharing the original between the arms would run it twice as often as its rivals and
    keep its weights warmer in the caches: a net of a million bytes then came out 36 % faster than
    itself. Sessions are built in random order, because that order alone can shift a latency. A
    round holds two pairs of each arm, in both orders (ABBA), so that a steady drift cancels; rounds
    go on until there are enough pairs or the time is over.
    """
    order = random.Random(job["seed"])
    arms = {"pairs": ("original", "pruned"), "control": ("original", "original")}
    seats = [(arm, side) for arm in arms for side in (0, 1)]
    order.shuffle(seats)
    sessions = {
        (arm, side): _session(ort, job, folder / job["models"][arms[arm][side]]) for arm, side in seats
    }
    placement = {seat: _placement(session, job["runtime"]) for seat, session in sessions.items()}
    feeds: dict[tuple[str, int], list[dict[str, Any]]] = {seat: [] for seat in seats}
    size = _fixed_batch(sessions[seats[0]], job["batch"])
    for batch, _ in itertools.islice(_batches(folder / "inputs.npz", size), TIMED_BATCHES):
        for seat, session in sessions.items():
            feeds[seat].append(_feed(session, batch))

    def run_ms(seat: tuple[str, int], turn: int) -> float:
        session, feed = sessions[seat], feeds[seat][turn % len(feeds[seat])]
        session.run(None, feed)
        started = time.perf_counter_ns()
        session.run(None, feed)
        return (time.perf_counter_ns() - started) / 1e6

    gc.collect()
    gc.disable()
    deadline = time.monotonic() + job["launch_s"]
    warm_up, settled = _warm_up(run_ms, seats, job["warm_up"], time.monotonic() + job["launch_s"] / 2)
    times: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
    turn = 0
    while len(times["pairs"]) < job["pairs"] and (turn < MIN_TURNS or time.monotonic() < deadline):
        for arm in order.sample(list(arms), len(arms)):
            first = order.randrange(2)
            for side in (first, 1 - first):
                took = {side: run_ms((arm, side), turn), 1 - side: run_ms((arm, 1 - side), turn)}
                times[arm].append((took[0], took[1]))
                turn += 1
    return {
        "placement": placement["pairs", 1],
        "order": ["-".join((arm, arms[arm][side])) for arm, side in seats],
        "batch": size,
        "warm_up": warm_up,
        "settled": settled,
        **times,
    }


def _warm_up(run_ms: Any, names: list[tuple[str, int]], window: int, deadline: float) -> tuple[int, bool]:
    """Run each model until two windows agree; at least two windows each. (runs, settled)."""
    before: dict[tuple[str, int], float] = {}
    for done in range(1, WARM_UP_WINDOWS + 1):
        medians = {name: float(np.median([run_ms(name, turn) for turn in range(window)])) for name in names}
        if before and all(abs(medians[n] / before[n] - 1) <= SETTLED for n in names):
            return done * window, True
        before = medians
        if time.monotonic() > deadline:
            break
    return done * window, False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python agent.py JOB_DIR", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1])))
