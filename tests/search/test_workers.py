"""Workers and devices of this machine: real processes that are killed, real leases that are waited for."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import emulated
import pytest
import searches
from terminal import Terminal

from edgeprune.records.search import SearchRecord
from edgeprune.search import lease
from edgeprune.search.work import Draft
from edgeprune.search.workers import Local, Task

COOL_DOWN_S = 0.5


class Killed:
    """Kills the first process that makes a net, as soon as it has its task."""

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        self.pids: list[int] = []

    def __call__(self, crew: Local, task: Task) -> None:
        self.plain(crew, task)
        if isinstance(task.job, Draft) and not self.pids:
            executor: Any = crew.seats[""][0].executor
            self.pids = list(executor._processes)
            os.kill(self.pids[0], signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_and_a_dead_device_cost_a_retry_and_devices_cool_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    killed = Killed(Local.submit)
    monkeypatch.setattr(Local, "submit", lambda crew, task: killed(crew, task))
    searches.samples(tmp_path)
    target, output = emulated.target(tmp_path, "phone"), tmp_path / "out"
    (tmp_path / "phone.dead").write_text("once", encoding="utf-8")
    more = ("--trials", "3", "--workers", "1", "--units", "phone=2", "--cool-down", str(COOL_DOWN_S))
    done = Terminal(monkeypatch, capsys)(*searches.command(tmp_path, target, output, *more)[3:])
    assert done.code == 0, done.err
    assert len(killed.pids) == 1
    record = SearchRecord.load(output)
    assert record.counts == {"measured": 3}
    outcomes = [(a.step, a.outcome) for a in record.activities if a.outcome]
    assert sorted(outcomes) == [("make", "lost"), ("phone", "failed")]
    spans: dict[str, list[tuple[float, float]]] = {}
    for activity in record.activities:
        if activity.step == "phone" and activity.where.startswith("phone-"):
            spans.setdefault(activity.where, []).append((activity.began_s, activity.ended_s))
    assert sum(map(len, spans.values())) == 4
    for times in spans.values():
        assert all(second[0] - first[1] >= COOL_DOWN_S - 0.1 for first, second in pairwise(sorted(times)))


def test_a_device_is_waited_for_until_it_has_cooled_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    slept: list[float] = []
    monkeypatch.setattr(lease.time, "sleep", slept.append)
    with lease.lease("phone", 5.0):
        assert not any(slept)  # it was never used
    ended = time.time()
    with lease.lease("phone", 5.0):
        pass
    assert 5.0 - (time.time() - ended) - 0.5 <= slept[-1] <= 5.0
    with lease.lease("board", 5.0):
        assert len([s for s in slept if s > 0]) == 1  # another device is as cool as ever
    with lease.lease("phone"):
        assert slept[-1] == 0.0  # who asks for no pause has none
