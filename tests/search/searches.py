"""Searches as processes, for the tests: a small net, samples, and emulated devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
PLAIN = ("--samples", "64", "--no-simplify", "--methods", "magnitude")


def samples(folder: Path) -> Path:
    """A calibration set for the small net."""
    path = folder / "data.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((96, 8)).astype(np.float32))
    return path


def command(folder: Path, target: Path, output: Path, *more: str) -> list[str]:
    """The command line of a search over the small net."""
    return [
        sys.executable, "-m", "edgeprune", "search", f"{TESTS / 'small.py'}:build", "--calibration",
        str(folder / "data.npz"), "--target", str(target), "-o", str(output), *PLAIN, *more,
    ]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """A runtime folder of its own, so that leases of other tests do not matter."""
    return {
        **os.environ,
        "XDG_RUNTIME_DIR": str(folder),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(TESTS.parent),
    }


def run(words: list[str], folder: Path, limit_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
        env=environment(folder),
        cwd=folder,
    )
