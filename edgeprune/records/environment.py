"""Where a run is made: versions of the tools, and the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeprune.records.run import Environment

WORTH_TELLING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "fma", "neon", "asimd", "bf16")


def installed(package: str) -> str:
    """The version of a distribution, '' if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def describe(seed: int) -> Environment:
    """This machine, and the tools on it."""
    model, flags = _processor()
    return Environment(
        edgeprune=installed("edgeprune"),
        python=platform.python_version(),
        torch=installed("torch"),
        onnx=installed("onnx"),
        onnxruntime=installed("onnxruntime"),
        onnxsim=installed("onnxsim"),
        platform=f"{platform.system()} {platform.machine()}",
        cpu=model,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        flags=flags,
        seed=seed,
    )


def _processor() -> tuple[str, tuple[str, ...]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), ()
    lines: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        lines.setdefault(name.strip(), value.strip())
    found = set((lines.get("flags") or lines.get("Features") or "").split())
    return lines.get("model name") or platform.machine(), tuple(f for f in WORTH_TELLING if f in found)
