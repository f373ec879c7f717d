"""Latency: of two models in pairs, or of one from its load to its steady state."""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.runtimes.agent import machine, sessions
from edgeprune.runtimes.agent.inputs import batches, feed, fixed_batch

WARM_UP_WINDOWS = 40
"""Windows of warm-up runs after which measuring starts, settled or not."""
SETTLED = 0.1
"""Warm-up has settled when a window's median is this close to the window's before, relatively."""
MIN_TURNS = 16
"""Pairs of both arms together that are timed even when the time is over."""
TIMED_BATCHES = 16
"""Different batches that the timed runs take turns with."""

Run = Callable[[int], None]


def pairs(ort: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
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
    made = {
        (arm, side): sessions.session(ort, job, folder / job["models"][arms[arm][side]])
        for arm, side in seats
    }
    placement = {seat: sessions.placement(session, job["runtime"]) for seat, session in made.items()}
    size = fixed_batch(made[seats[0]], job["batch"])
    runs = {seat: _runs(ort, job, session, folder, size) for seat, session in made.items()}

    def run_ms(seat: tuple[str, int], turn: int) -> float:
        run = runs[seat][turn % len(runs[seat])]
        run(turn)
        started = time.perf_counter_ns()
        run(turn)
        return (time.perf_counter_ns() - started) / 1e6

    gc.collect()
    gc.disable()
    deadline = time.monotonic() + job["launch_s"]
    warm, settled = warm_up(run_ms, seats, job["warm_up"], time.monotonic() + job["launch_s"] / 2)
    taken: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
    turn = 0
    while len(taken["pairs"]) < job["pairs"] and (turn < MIN_TURNS or time.monotonic() < deadline):
        for arm in order.sample(list(arms), len(arms)):
            first = order.randrange(2)
            for side in (first, 1 - first):
                took = {side: run_ms((arm, side), turn), 1 - side: run_ms((arm, 1 - side), turn)}
                taken[arm].append((took[0], took[1]))
                turn += 1
    return {
        "placement": placement["pairs", 1],
        "order": ["-".join((arm, arms[arm][side])) for arm, side in seats],
        "batch": size,
        "warm_up": warm,
        "settled": settled,
        **taken,
    }


def times(ort: Any, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One model: load, first run, warm-up and then `pairs` timed runs, every time kept."""
    started = time.perf_counter()
    session = sessions.session(ort, job, folder / job["models"]["model"])
    load_ms = (time.perf_counter() - started) * 1e3
    placement = sessions.placement(session, job["runtime"])
    size = fixed_batch(session, job["batch"])
    runs = _runs(ort, job, session, folder, size)

    def run_ms(_: Any, turn: int) -> float:
        run = runs[turn % len(runs)]
        begun = time.perf_counter_ns()
        run(turn)
        return (time.perf_counter_ns() - begun) / 1e6

    first_ms = run_ms(None, 0)
    deadline = time.monotonic() + job["launch_s"]
    warm, settled = warm_up(run_ms, [("model", 0)], job["warm_up"], time.monotonic() + job["launch_s"] / 2)
    gc.collect()
    gc.disable()
    taken: list[float] = []
    while len(taken) < job["pairs"] and (len(taken) < MIN_TURNS or time.monotonic() < deadline):
        taken.append(run_ms(None, len(taken)))
    return {
        "placement": placement,
        "load_ms": load_ms,
        "first_ms": first_ms,
        "warm_up": warm,
        "settled": settled,
        "batch": size,
        "steady": taken,
        "peak_mb": machine.peak_mb(),
    }


def _runs(ort: Any, job: dict[str, Any], session: Any, folder: Path, size: int) -> list[Run]:
    """One call for each of the batches that the timed runs take turns with."""
    source = batches(folder / "inputs.npz", size)
    feeds = [feed(session, batch) for batch, _ in itertools.islice(source, TIMED_BATCHES)]
    bind = job["bind"]
    return [_bound(ort, session, fed, bind) if bind else _plain(session, fed) for fed in feeds]


def _plain(session: Any, fed: dict[str, np.ndarray]) -> Run:
    return lambda _: session.run(None, fed)


def _bound(ort: Any, session: Any, fed: dict[str, np.ndarray], device: str) -> Run:
    """Inputs lie on the device before the clock starts, outputs stay there."""
    binding = session.io_binding()
    for name, array in fed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
    for described in session.get_outputs():
        binding.bind_output(described.name, device)
    binding.synchronize_inputs()

    def run(_: int) -> None:  # ends when the device's stream has, which onnxruntime waits for
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def warm_up(run_ms: Any, names: list[tuple[str, int]], window: int, deadline: float) -> tuple[int, bool]:
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
