"""A job from its folder to its result."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.runtimes.agent import latency, machine, sessions, trace
from edgeprune.runtimes.agent.inputs import batches, feed, fixed_batch
from edgeprune.runtimes.agent.sessions import JobError

PROBE = (
    b'\x08\x07\x12\x00:7\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01'
    b"\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""An ONNX model of a single node, y = Relu(x), x float32 of shape (1,)."""


def command(arguments: list[str]) -> int:
    """The program: one argument, the job folder. Returns the exit status."""
    if len(arguments) != 2:
        print("usage: python agent.pyz JOB_DIR", file=sys.stderr)
        return 2
    return main(Path(arguments[1]))


def main(folder: Path) -> int:
    """Do the job of `folder` and write its result. Returns the exit status."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {"status": "ok", "reason": "", "kind": job["kind"]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result.update(_do(job, folder.resolve()))
        except JobError as error:
            result.update(status="unavailable", reason=str(error))
        except MemoryError as error:
            result.update(status="unavailable", reason=f"memory ran out ({error}); use a smaller batch")
        except Exception as error:  # onnxruntime's errors have no common class but this
            result.update(status="unavailable", reason=f"{type(error).__name__}: {error}")
    result["warnings"] = sorted({" ".join(str(w.message).split()) for w in caught})
    result["files"] = {name: _sha256(folder / name) for name in job["files"]}
    temporary = folder / "result.json.part"
    try:
        temporary.write_text(json.dumps(result, allow_nan=False), encoding="utf-8")
        temporary.replace(folder / "result.json")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        print(f"the result cannot be written: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _do(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    asked = _filled(job["runtime"], folder)
    job = {**job, "runtime": asked}
    os.environ.update(asked["environment"])  # before the runtime or a driver can look
    sessions.pin(asked["cpus"])
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise JobError(f"onnxruntime cannot be imported ({error}); install it on the target") from error
    environment = machine.describe(ort)
    if len(environment["builds"]) > 1:
        warnings.warn(
            "several builds of onnxruntime are installed over each other "
            f"({', '.join(environment['builds'])}); which of them ran is chance: uninstall all, then "
            "install one",
            stacklevel=2,
        )
    sessions.prepare(ort, asked)
    before = machine.state()
    kinds = {
        "probe": _probe,
        "outputs": _outputs,
        "pairs": latency.pairs,
        "times": latency.times,
        "trace": trace.operations,
        "layers": trace.layers,
    }
    done = kinds[job["kind"]](ort, job, folder)
    return {"environment": environment, "state": [before, machine.state()], **done}


def _filled(asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same, with `{job}` and `{cache}` in options and environment replaced; the cache is made if missing.

    The cache is this user's own on this machine: $XDG_CACHE_HOME/edgeprune, or ~/.cache/edgeprune.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprune"
    made = dict(asked)
    for table in ("options", "environment"):
        made[table] = {
            name: value.replace("{job}", str(folder)).replace("{cache}", str(cache))
            for name, value in asked[table].items()
        }
        for name, value in asked[table].items():
            if value.startswith("{cache}"):
                Path(made[table][name]).mkdir(mode=0o700, parents=True, exist_ok=True)
    return made


def _probe(ort: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Whether the asked provider runs anything at all: one Relu."""
    session = sessions.session(ort, job, PROBE)
    session.run(None, {"x": np.zeros(1, np.float32)})
    return {"placement": sessions.placement(session, job["runtime"])}


def _outputs(ort: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the one model over all inputs; time its load and first run."""
    path = folder / job["models"]["model"]
    before_mb = machine.peak_mb()
    started = time.perf_counter()
    session = sessions.session(ort, job, path)
    load_ms = (time.perf_counter() - started) * 1e3
    placement = sessions.placement(session, job["runtime"])
    batch, _ = next(batches(folder / "inputs.npz", fixed_batch(session, job["batch"])))
    fed = feed(session, batch)
    started = time.perf_counter()
    session.run(None, fed)
    first_ms = (time.perf_counter() - started) * 1e3
    peak_mb = machine.peak_mb()

    collected: list[list[np.ndarray]] = []
    size = fixed_batch(session, job["batch_outputs"])
    for batch, real in batches(folder / "inputs.npz", size):
        outputs = session.run(None, feed(session, batch))
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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
