"""A real Dask scheduler with worker processes: devices as resources, one worker killed on the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import emulated
import pytest
import searches

from edgeprune.errors import TargetUnavailable, UsageError
from edgeprune.records.search import SearchRecord

pytest.importorskip("distributed", reason="edgeprune[search] is not installed")

LOCAL = ("--host", "127.0.0.1")


@contextmanager
def _process(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    log = (folder / f"{words[0]}-{time.monotonic_ns()}.log").open("w")
    with log, subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]], stdout=log, stderr=log, text=True,
        env=searches.environment(folder), cwd=folder, start_new_session=True,
    ) as process:  # fmt: skip
        process.log = Path(log.name)  # type: ignore[attr-defined]
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def scheduler(folder: Path) -> Iterator[str]:
    with _process(folder, "scheduler", *LOCAL, "--port", "0", "--no-dashboard", "--no-show") as process:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            text = process.log.read_text()  # type: ignore[attr-defined]
            if found := re.search(r"Scheduler at:\s+(tcp://\S+)", text):
                yield found[1]
                return
            assert process.poll() is None, text
            time.sleep(0.1)
        pytest.fail("the scheduler did not start")


def _worker(folder: Path, address: str, *more: str):
    plain = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
    return _process(folder, "worker", address, *LOCAL, *plain, *more)


def _wait_for(address: str, count: int) -> None:
    from distributed import Client

    client = Client(address, timeout=30, set_as_default=False)
    client.wait_for_workers(count, timeout=90)
    client.close()


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_a_retry_and_not_the_search(tmp_path: Path):
    searches.samples(tmp_path)
    target, output = emulated.target(tmp_path, "phone", seconds=0.6), tmp_path / "out"
    with scheduler(tmp_path) as address:
        device = ("--resources", "phone=1")
        with (
            _worker(tmp_path, address, "--name", "maker"),
            _worker(tmp_path, address, "--name", "one", *device),
            _worker(tmp_path, address, "--name", "two", *device) as doomed,
        ):
            _wait_for(address, 3)
            words = searches.command(tmp_path, target, output, "--trials", "4", "--cluster", address)
            with subprocess.Popen(
                words, env=searches.environment(tmp_path), stderr=subprocess.PIPE, text=True, cwd=tmp_path
            ) as search:
                end = time.monotonic() + 150
                journal = output / "study.journal"
                while time.monotonic() < end and search.poll() is None:
                    if journal.is_file() and b'"op_code":4' in journal.read_bytes():
                        break
                    time.sleep(0.1)
                os.killpg(doomed.pid, signal.SIGKILL)
                _, told = search.communicate(timeout=240)
                assert search.returncode == 0, told
    record = SearchRecord.load(output)
    assert record.counts.get("failed", 0) == 0
    assert sum(record.counts.values()) == 4
    busy = sorted((a.began_s, a.ended_s) for a in record.activities if a.step == "phone" and not a.outcome)
    assert busy
    by_worker: dict[str, list[tuple[float, float]]] = {}
    for activity in record.activities:
        if activity.step == "phone" and not activity.outcome:
            by_worker.setdefault(activity.where, []).append((activity.began_s, activity.ended_s))
    for spans in by_worker.values():  # one device measures one thing at a time
        spans.sort()
        assert all(second[0] >= first[0] + 1 for first, second in pairwise(spans))


@pytest.mark.slow
def test_what_a_cluster_lacks_is_told(tmp_path: Path):
    from edgeprune.search.cluster import Cluster

    with scheduler(tmp_path) as address:
        with pytest.raises(TargetUnavailable, match="has no workers"):
            Cluster.reached(address, ["phone"])
        with _worker(tmp_path, address, "--resources", "board=1"):
            _wait_for(address, 1)
            with pytest.raises(TargetUnavailable, match=r"has the device 'phone' \(they offer board\)"):
                Cluster.reached(address, ["phone"])


def test_a_scheduler_that_does_not_answer_is_told():
    from edgeprune.search.cluster import Cluster

    with pytest.raises(TargetUnavailable, match="no scheduler answers"):
        Cluster.reached("tcp://127.0.0.1:9", ["phone"], timeout_s=1)
    with pytest.raises(UsageError, match="is no address"):
        Cluster.reached("farm", ["phone"])
