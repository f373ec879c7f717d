"""The agent's own logic, with sessions that only count."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgeprune.cli.look import doctor
from edgeprune.runtimes.agent import inputs, latency, machine, sessions
from edgeprune.runtimes.shipping import write_agent


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

    monkeypatch.setattr(sessions, "session", session)
    monkeypatch.setattr(sessions, "placement", lambda *_: {sessions.CPU: 1})
    np.savez(folder / "inputs.npz", input_0=np.zeros((4, 2), np.float32))
    job = {
        "models": {"original": "o", "pruned": "p"},
        "runtime": {},
        "bind": "",
        "batch": 1,
        "pairs": 40,
        "warm_up": 3,
        "seed": seed,
        "launch_s": 1e9,
    }
    return latency.pairs(None, job, folder), log, built


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
    assert latency.warm_up(lambda *_: next(times), [("pairs", 0)], 1, float("inf")) == (5, True)
    restless = iter(2.0**i for i in range(latency.WARM_UP_WINDOWS))
    assert latency.warm_up(lambda *_: next(restless), [("pairs", 0)], 1, float("inf")) == (
        latency.WARM_UP_WINDOWS,
        False,
    )


def test_batches_are_filled_up(tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.savez(tmp_path / "inputs.npz", input_0=values, input_1=np.arange(5))
    batches = list(inputs.batches(tmp_path / "inputs.npz", 3))
    assert [real for _, real in batches] == [3, 2]
    (first, second), _ = batches[1]
    assert first.tolist() == [[6, 7], [8, 9], [8, 9]]
    assert second.tolist() == [3, 4, 4]


@pytest.mark.parametrize(
    "path", sorted(Path(str(latency.__file__)).parent.glob("*.py")), ids=lambda p: p.stem
)
def test_the_agent_stands_alone(path: Path) -> None:
    """It is copied to devices: the standard library, numpy, onnxruntime and itself must do."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    } | {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    others = {n for n in names if n.split(".")[0] not in sys.stdlib_module_names}
    assert all(n in ("numpy", "onnxruntime") or n.startswith("edgeprune.runtimes.agent") for n in others)


def test_the_packed_agent_is_always_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = write_agent(tmp_path / "a"), write_agent(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    done = subprocess.run(
        [sys.executable, "-I", str(first)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "usage: python agent.pyz JOB_DIR" in done.stderr


def test_builds_that_overwrite_each_other_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu", "onnxruntime_extensions"):
        folder = tmp_path / f"{name}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        module = "onnxruntime_extensions" if "extensions" in name else "onnxruntime"
        (folder / "RECORD").write_text(f"{module}/__init__.py,,\n")
        # some readers of such folders leave out files that are not there
        (tmp_path / module).mkdir(exist_ok=True)
        (tmp_path / module / "__init__.py").touch()
    found = list(metadata.distributions(path=[str(tmp_path)]))
    monkeypatch.setattr(machine.metadata, "distributions", lambda: found)
    assert machine.builds() == ["onnxruntime 1.2", "onnxruntime_gpu 1.2"]


def test_heat_and_throttling_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "class/thermal/thermal_zone0/temp": "41000",
        "class/thermal/thermal_zone1/temp": "63500",
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000",
        "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "600000",
        "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
    }
    for name, text in values.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "stat").write_text("cpu  10 0 5 80 0 0 0 5 0 0\ncpu0 1 2 3\n")
    monkeypatch.setattr(machine, "_SYS", tmp_path)
    monkeypatch.setattr(machine, "_STAT", tmp_path / "stat")
    state = machine.state()
    assert (state["celsius"], state["mhz"], state["throttled"]) == (63.5, 600.0, 3.0)
    assert (state["ticks"], state["stolen"]) == (100.0, 5.0)


def test_doctor_tells_of_several_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "builds", lambda: ["onnxruntime 1.2", "onnxruntime-gpu 1.3"])
    told = CliRunner().invoke(doctor, catch_exceptions=False).output
    assert "onnxruntime 1.2, onnxruntime-gpu 1.3 overwrite each other's files" in told
