"""The agent's own logic, with sessions that only count."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeprune.runtimes import agent


class Counting:
    """Stands in for a session and writes down each run."""

    def __init__(self, log: list[int], number: int) -> None:
        self.log, self.number = log, number

    def run(self, _: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.log.append(self.number)
        return [feed["x"]]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", type="tensor(float)", shape=["n", 2])]


def run_pairs(
    monkeypatch: pytest.MonkeyPatch, folder: Path, seed: int
) -> tuple[dict[str, Any], list[int], list[Path]]:
    log: list[int] = []
    built: list[Path] = []

    def session(_: Any, __: Any, model: Path) -> Counting:
        built.append(model)
        return Counting(log, len(built) - 1)

    monkeypatch.setattr(agent, "_session", session)
    monkeypatch.setattr(agent, "_placement", lambda *_: {agent.CPU: 1})
    np.savez(folder / "inputs.npz", input_0=np.zeros((4, 2), np.float32))
    job = {
        "models": {"original": "o", "pruned": "p"},
        "runtime": {},
        "batch": 1,
        "pairs": 40,
        "warm_up": 3,
        "seed": seed,
        "launch_s": 1e9,
    }
    return agent._pairs(None, job, folder), log, built


@pytest.mark.parametrize("seed", range(4))
def test_every_session_runs_equally_often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int) -> None:
    """A session that ran more than its rival would have the warmer caches, and win by it."""
    result, log, built = run_pairs(monkeypatch, tmp_path, seed)
    assert Counter(path.name for path in built) == {"o": 3, "p": 1}
    assert len(result["pairs"]) == len(result["control"]) == 40
    assert len(set(Counter(log).values())) == 1


def test_each_timed_run_follows_one_of_the_same_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, log, _ = run_pairs(monkeypatch, tmp_path, 0)
    assert log[::2] == log[1::2]


def test_both_orders_come_equally_often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every pair is followed by its mirror image, so a steady drift cancels."""
    result, log, _ = run_pairs(monkeypatch, tmp_path, 0)
    timed = log[-2 * 2 * 80 :: 2]  # two arms of 40 pairs, each run doubled
    pairs = [tuple(timed[i : i + 2]) for i in range(0, len(timed), 2)]
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert one == other[::-1]
    firsts = Counter(one for one in pairs[::2])
    assert len(firsts) == 4  # each arm begins with either of its models
    assert len(result["order"]) == 4


def test_the_seed_decides_the_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logs = [run_pairs(monkeypatch, tmp_path, seed)[1][-320:] for seed in (0, 0, 1)]  # without warm-up
    assert logs[0] == logs[1] != logs[2]


def test_warm_up_goes_on_until_it_rests() -> None:
    times = iter([8.0, 4.0, 2.0, 1.0, 1.05])
    assert agent._warm_up(lambda *_: next(times), [("pairs", 0)], 1, float("inf")) == (5, True)
    restless = iter(2.0**i for i in range(agent.WARM_UP_WINDOWS))
    assert agent._warm_up(lambda *_: next(restless), [("pairs", 0)], 1, float("inf")) == (
        agent.WARM_UP_WINDOWS,
        False,
    )


def test_batches_are_filled_up(tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.savez(tmp_path / "inputs.npz", input_0=values, input_1=np.arange(5))
    batches = list(agent._batches(tmp_path / "inputs.npz", 3))
    assert [real for _, real in batches] == [3, 2]
    (first, second), _ = batches[1]
    assert first.tolist() == [[6, 7], [8, 9], [8, 9]]
    assert second.tolist() == [3, 4, 4]


def test_the_agent_stands_alone() -> None:
    """It is copied to devices: the standard library, numpy and onnxruntime must do."""
    tree = ast.parse(Path(agent.__file__).read_text(encoding="utf-8"))
    roots = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    roots |= {str(n.module).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}
