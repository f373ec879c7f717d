"""The command line of searches, with a real small net and an emulated device."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulated
import pytest
import searches
from terminal import Ended, Terminal

from edgeprune.records.run import Run
from edgeprune.records.search import SearchRecord


@pytest.fixture
def ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs a command in this process, with leases and a working folder of its own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(monkeypatch, capsys)
    return lambda words: terminal(*words[3:])


@pytest.mark.slow
def test_a_killed_search_goes_on_and_a_point_of_it_becomes_a_run(tmp_path: Path, ended: Callable[..., Ended]):
    searches.samples(tmp_path)
    target, output = emulated.target(tmp_path, seconds=0.1), tmp_path / "out"
    words = searches.command(tmp_path, target, output, "--trials", "3", "--workers", "0")
    journal = output / "study.journal"
    with subprocess.Popen(
        words, env=searches.environment(tmp_path), stderr=subprocess.DEVNULL, cwd=tmp_path
    ) as first:
        end = time.monotonic() + 900
        while time.monotonic() < end and first.poll() is None:
            if journal.is_file() and journal.read_bytes().count(b'"op_code":4') >= 1:
                break
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGKILL)
    before = journal.read_bytes()
    again = ended([*words, "--pick", "latency<=0.9x least error"])
    assert again.code == 0, again.err
    assert journal.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    record = SearchRecord.load(output)
    assert sum(record.counts.values()) == 3
    # what was measured before the kill was not measured again
    assert record.measurements.get("emulated", 0) < 3
    assert record.chosen is not None
    trial = next(t for t in record.trials if t.number == record.chosen.number)
    assert trial.found["latency_high@emulated"] <= 0.9
    run = Run.load(output / "chosen")
    assert run.plan is not None
    assert run.plan.macs[1] == trial.found["macs_count"]
    report = (output / "chosen" / "report.html").read_text(encoding="utf-8")
    assert f"Trial {trial.number} of a search" in report
    assert '"kind": "chosen"' in report  # the front as an interactive picture, with this point marked
    written = ended(["", "", "", "report", output / "chosen", "-o", tmp_path / "again.html"])
    assert written.code == 0, written.err
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == report
    page = (output / "search.html").read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    _open_in_the_dashboard(journal)
    nothing = ended([*words, "--pick", "latency<=0.0001"])
    assert nothing.code == 2
    assert "none of the" in nothing.err


def _open_in_the_dashboard(journal: Path) -> None:
    """A real optuna-dashboard serves the study, with its trials and what they gave."""
    pytest.importorskip("optuna_dashboard")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    program = Path(sys.executable).with_name("optuna-dashboard")
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [program, journal, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as dashboard:
        try:
            studies = _answer(f"{address}/api/studies", dashboard)["study_summaries"]
            assert [study["study_name"] for study in studies] == ["edgeprune"]
            study = _answer(f"{address}/api/studies/{studies[0]['study_id']}?after=0", dashboard)
            assert study["objective_names"] == ["latency@emulated", "observed_error"]
            assert sum(1 for trial in study["trials"] if trial["state"] == "Complete") >= 1
        finally:
            dashboard.kill()


def _answer(address: str, server: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a server says, as soon as it answers."""
    end = time.monotonic() + 600
    while True:
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.slow
def test_two_shards_make_one_whole(tmp_path: Path, ended: Callable[..., Ended]):
    searches.samples(tmp_path)
    target = emulated.target(tmp_path)
    for part in (1, 2):
        more = ("--trials", "2", "--workers", "0", "--shard", f"{part}/2")
        done = ended(searches.command(tmp_path, target, tmp_path / f"part{part}", *more))
        assert done.code == 0, done.err
    merge = [sys.executable, "-m", "edgeprune", "merge", "part1", "part2", "-o"]
    done = ended([*merge, "whole"])
    assert done.code == 0, done.err
    whole = SearchRecord.load(tmp_path / "whole")
    parts = [SearchRecord.load(tmp_path / f"part{part}") for part in (1, 2)]
    assert sum(whole.counts.values()) == 2
    points = {t.values for part in parts for t in part.trials if t.number in part.front}
    assert {t.values for t in whole.trials if t.number in whole.front} <= points
    assert ended([*merge, "whole"]).code == 2  # holds a search already
    more = ("--trials", "2", "--workers", "0")
    again = ended(searches.command(tmp_path, target, tmp_path / "whole", *more))
    assert again.code == 0, again.err  # the same search goes on in the whole


@pytest.mark.slow
def test_an_empty_front_is_one_clear_error_and_stays_on_disk(tmp_path: Path, ended: Callable[..., Ended]):
    searches.samples(tmp_path)
    limits = ("--constraint", "expected_error<=1e-9", "--constraint", "macs<=0.3")
    more = ("--trials", "2", "--workers", "0", *limits)
    done = ended(searches.command(tmp_path, emulated.target(tmp_path), tmp_path / "out", *more))
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert "the front is empty" in done.err
    assert "came closest" in done.err
    assert SearchRecord.load(tmp_path / "out").counts == {"ruled out": 2}


MISSING = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "optuna" else real(name, *more)
from edgeprune.cli import entry
sys.argv = ["edgeprune", "search", "edgeprune.demo.lenet:build", "-o", "x"]
entry()
"""


def test_a_missing_extra_is_told_with_the_command_that_brings_it(tmp_path: Path):
    done = searches.run([sys.executable, "-c", MISSING], tmp_path)
    assert done.returncode == 2
    assert "pip install 'edgeprune[search]'" in done.stderr


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--constraint", "certified_error<=0.1", "--constraint", "observed_error>=0.2"), "contradict"),
        (("--pick", "import os"), "--pick"),
        (("--keep", "0.5"), "what a search varies"),
        (("--time", "soon"), "is no time"),
        (("--shard", "3/2"), "--shard"),
        (("--units", "moon=2"), "--units"),
        (("--minimize", "speed"), "no such quantity"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, ended: Callable[..., Ended], more: tuple[str, ...], told: str
):
    searches.samples(tmp_path)
    words = searches.command(tmp_path, emulated.target(tmp_path), tmp_path / "out", *more)
    done = ended(words)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("error:") == 1
    assert not (tmp_path / "out").exists()
