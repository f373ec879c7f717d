"""ONNX → simpler ONNX, by onnxsim in a process of its own that may crash or hang."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeprune.files import atomic

logger = logging.getLogger(__name__)

CHILD = """
import sys
import onnx, onnxsim
model, _ = onnxsim.simplify(onnx.load(sys.argv[1]))
onnx.checker.check_model(model)
with open(sys.argv[2], "wb") as stream:
    stream.write(model.SerializeToString(deterministic=True))
"""
LARGEST_BYTES = 1_500_000_000


@dataclass(frozen=True, slots=True)
class Simplified:
    """What came of it. `warning` says in a sentence why the file is as it was; '' if it is simpler."""

    path: Path
    warning: str


def simplify(source: Path, target: Path, limit_s: float, unchanged: str = "") -> Simplified:
    """Write a simplified copy of `source` to `target`, or a plain copy if the simplifier fails.

    Whether the two compute the same is checked by whoever runs them next; this stage only
    keeps a crash, an endless loop or an invalid file from doing harm.

    Args:
        limit_s: seconds after which the simplifier is stopped.
        unchanged: a reason to copy only, '' to simplify.

    Raises:
        StorageError: the result cannot be written.
    """
    if unchanged:
        return _unchanged(source, target, unchanged)
    if source.with_name(source.name + ".data").exists() or source.stat().st_size > LARGEST_BYTES:
        return _unchanged(
            source, target, "its weights lie in a second file, which the simplifier does not take"
        )
    with atomic(target) as temporary:
        reason = _run(source, temporary, limit_s)
        if reason:
            shutil.copyfile(source, temporary)
    if reason:
        logger.warning("onnxsim %s; the exported graph is used as it is", reason)
        return Simplified(target, f"The ONNX file was not simplified: onnxsim {reason}.")
    return Simplified(target, "")


def _run(source: Path, temporary: Path, limit_s: float) -> str:
    """Run onnxsim; returns why it failed, '' if it did not."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(source), str(temporary)],
            capture_output=True,
            timeout=limit_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"did not finish within {limit_s:g} s and was stopped"
    if done.returncode < 0:
        return f"crashed with signal {-done.returncode}"
    if done.returncode > 0 or temporary.stat().st_size == 0:
        words = " ".join(done.stderr.decode(errors="replace").split())[-300:]
        return f"failed: …{words}"
    return ""


def _unchanged(source: Path, target: Path, reason: str) -> Simplified:
    if source != target:
        with atomic(target) as temporary:
            _copy(source, temporary, target)
    return Simplified(target, f"The ONNX file was not simplified: {reason}.")


def _copy(source: Path, temporary: Path, target: Path) -> None:
    """Copy a file to `temporary`; weights in a second file go beside `target`, under its name."""
    beside = source.with_name(source.name + ".data")
    if not beside.exists():
        shutil.copyfile(source, temporary)
        return
    model = onnx.load(source, load_external_data=False)
    moved = target.with_name(target.name + ".data")
    for entry in (entry for tensor in model.graph.initializer for entry in tensor.external_data):
        if entry.key == "location":
            entry.value = moved.name
    with atomic(moved) as weights:
        shutil.copyfile(beside, weights)
    temporary.write_bytes(model.SerializeToString(deterministic=True))
