"""Where a model's time goes, by operation, from the runtime's own trace."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.runtimes.agent import sessions
from edgeprune.runtimes.agent.inputs import batches, feed, fixed_batch

MIN_RUNS = 3
"""Traced runs at least; the first is left out, since it holds what is done once."""
LAYOUT = ("ReorderInput", "ReorderOutput", "MemcpyToHost", "MemcpyFromHost")
"""Operations that a layer alone needs and a layer within a net shares with its neighbours."""
ROUNDS = 3
ROUND_S = 0.008
"""Seconds a round spends on one layer, after at least `MIN_RUNS` runs."""


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


def layers(ort: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Milliseconds of each of many tiny models, on random inputs of their fixed shapes.

    On the CPU the time is that of the operations themselves: what only changes the layout at the
    ends of a net is left out. Elsewhere the trace of an asynchronous device would tell nothing, so
    there it is the time a caller waits. The models are gone through `ROUNDS` times, each time in
    another order, and the least of a model's medians counts: a disturbance only ever adds.
    """
    order = random.Random(job["seed"])
    names, best = list(job["models"]), dict[str, float]()
    traced = job["runtime"]["provider"] == sessions.CPU
    placement: dict[str, int] = {}
    for _ in range(ROUNDS):
        for name in order.sample(names, len(names)):
            model = folder / job["models"][name]
            session = sessions.session(ort, job, model, trace=folder / "trace" if traced else None)
            placement = sessions.placement(session, job["runtime"])
            took = _traced_ms(session) if traced else _waited_ms(session)
            best[name] = min(took, best.get(name, took))
    return {"placement": placement, "ms": best}


def _run_for(session: Any) -> list[float]:
    """Milliseconds of each run of a round but the first."""
    random_ = np.random.default_rng(0)
    fed = {i.name: random_.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
    session.run(None, fed)
    taken: list[float] = []
    deadline = time.perf_counter() + ROUND_S
    while len(taken) < MIN_RUNS or time.perf_counter() < deadline:
        started = time.perf_counter()
        session.run(None, fed)
        taken.append((time.perf_counter() - started) * 1e3)
    return taken


def _waited_ms(session: Any) -> float:
    return float(np.median(_run_for(session)))


def _traced_ms(session: Any) -> float:
    _run_for(session)
    path = Path(session.end_profiling())
    events = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    kernels: dict[str, list[float]] = {}
    for event in events:
        kernel = event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")
        if kernel and event.get("args", {}).get("op_name") not in LAYOUT:
            kernels.setdefault(event["name"], []).append(float(event["dur"]))
    # whole microseconds are coarse for a small layer: the mean of the quicker half is finer
    return sum(float(np.mean(np.sort(us)[: (len(us) + 1) // 2])) for us in kernels.values()) / 1e3
