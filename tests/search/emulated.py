"""An emulated device: answers measuring jobs after a fixed time, and computes nothing.

    python emulated.py JOB SECONDS OUTPUTS [FILE]

Latency is in proportion to the size of the file. If FILE is there, the process dies; if `once` stands in it,
then only the first that finds it.
Standard library and numpy only, so that a job costs little.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main(folder: str, seconds: str, outputs: str, order: str = "") -> None:
    job = json.loads(Path(folder, "job.json").read_text(encoding="utf-8"))
    if order and Path(order).is_file():
        if Path(order).read_text(encoding="utf-8") == "once":
            Path(order).unlink()
        os._exit(9)
    time.sleep(float(seconds))
    sizes = {name: Path(folder, path).stat().st_size / 1e5 for name, path in job["models"].items()}
    answer = {
        "kind": job["kind"], "status": "ok", "files": job["files"], "environment": {"onnxruntime": "emulated"},
        "placement": {}, "load_ms": 1.0, "first_ms": 1.0, "peak_mb": 10.0, "settled": True,
    }  # fmt: skip
    if job["kind"] == "outputs":
        np.savez(Path(folder, "outputs.npz"), output_0=np.zeros((job["samples"], int(outputs)), np.float32))
    elif job["kind"] == "pairs":
        answer["pairs"] = [[sizes["original"], sizes["pruned"]]] * 3
        answer["control"] = [[sizes["original"], sizes["original"]]] * 3
    Path(folder, "result.json").write_text(json.dumps(answer), encoding="utf-8")


TARGET = """
name = "{name}"
description = "an emulated device"
device_class = "emulator"
transport = "command"
[connection]
command = ["{python}", "{program}", "{{job}}", "{seconds}", "{outputs}", "{order}"]
[grid]
conv = 4
[measure]
launches_min = 2
launches_max = 2
budget_s = 60
limit_s = 60
"""


def target(folder: Path, name: str = "emulated", seconds: float = 0.0, outputs: int = 3) -> Path:
    """Write a target's file; a file `NAME.dead` beside it makes the device die."""
    path = folder / f"{name}.toml"
    text = TARGET.format(
        name=name, python=sys.executable, program=Path(__file__).resolve(), seconds=seconds, outputs=outputs,
        order=folder / f"{name}.dead",
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    main(*sys.argv[1:])
