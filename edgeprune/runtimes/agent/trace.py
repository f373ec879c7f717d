"""Where a model's time goes, by operation, from the runtime's own trace."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from edgeprune.runtimes.agent import sessions
from edgeprune.runtimes.agent.inputs import batches, feed, fixed_batch

MIN_RUNS = 3
"""Traced runs at least; the first is left out, since it holds what is done once."""


def operations(ort: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Mean microseconds of each operation over the runs but the first.

    Tracing slows a session, so this is a job of its own: its times tell shares, not latencies.
    """
    session = sessions.session(ort, job, folder / job["models"]["model"], trace=folder / "trace")
    placement = sessions.placement(session, job["runtime"])
    batch, _ = next(batches(folder / "inputs.npz", fixed_batch(session, job["batch"])))
    fed = feed(session, batch)
    deadline, runs = time.monotonic() + job["launch_s"], 0
    while runs < MIN_RUNS or (runs < job["pairs"] and time.monotonic() < deadline):
        session.run(None, fed)
        runs += 1
    path = Path(session.end_profiling())
    events = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return {"placement": placement, "runs": runs, "operations": _summed(events, runs)}


def _summed(events: list[dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """One row a node: its name, operation, provider and mean time over the later runs."""
    kernels: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            kernels.setdefault(event["name"][: -len("_kernel_time")], []).append(event)
    rows = []
    for name, seen in kernels.items():
        each = len(seen) // runs if len(seen) >= runs else 0  # more than one a run within a loop
        later = sorted(seen, key=lambda event: event["ts"])[each:]
        rows.append(
            {
                "name": name,
                "operation": str(seen[0].get("args", {}).get("op_name", "")),
                "provider": str(seen[0].get("args", {}).get("provider", "")),
                "us": sum(event["dur"] for event in later) / max(runs - 1, 1),
            }
        )
    return sorted(rows, key=lambda row: -float(row["us"]))
