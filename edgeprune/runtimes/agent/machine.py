"""What a machine tells about itself: versions, load, heat and throttling."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

_SYS = Path("/sys")
_STAT = Path("/proc/stat")


def describe(ort: Any) -> dict[str, Any]:
    """Versions and platform."""
    return {
        "onnxruntime": ort.__version__,
        "providers": ort.get_available_providers(),
        "builds": builds(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Hardware", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.processor()


def builds() -> list[str]:
    """Every installed distribution that brings a module `onnxruntime`.

    More than one overwrite each other's files, and which of them answers is chance.
    """
    found = set()
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] or ""
        normal = name.lower().replace("_", "-")
        if normal != "onnxruntime" and not normal.startswith(("onnxruntime-", "ort-")):
            continue
        if any(str(f) == "onnxruntime/__init__.py" for f in distribution.files or ()):
            found.add(f"{name} {distribution.version}")
    return sorted(found)


def state() -> dict[str, float]:
    """What can change while something is measured, as far as this machine tells.

    Keys: `load` (processes that want to run), `celsius` (hottest zone), `mhz` (slowest core),
    `throttled` (times a core was slowed for heat since boot), `stolen` (share of time since boot
    that a hypervisor gave to others, in ticks) and `ticks`.
    """
    found: dict[str, float] = {}
    if hasattr(os, "getloadavg"):
        found["load"] = os.getloadavg()[0]
    heat = _numbers(_SYS.glob("class/thermal/thermal_zone*/temp"))
    if heat:
        found["celsius"] = max(heat) / 1e3
    clocks = _numbers(_SYS.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    if clocks:
        found["mhz"] = min(clocks) / 1e3
    slowed = _numbers(_SYS.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"))
    if slowed:
        found["throttled"] = sum(slowed)
    with contextlib.suppress(OSError, ValueError, IndexError):
        ticks = [float(word) for word in _STAT.read_text(encoding="ascii").splitlines()[0].split()[1:]]
        found["ticks"], found["stolen"] = sum(ticks[:8]), ticks[7]
    return found


def _numbers(paths: Any) -> list[float]:
    found = []
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            found.append(float(path.read_text(encoding="ascii")))
    return found


def peak_mb() -> float:
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
