from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from edgeprune.errors import StorageError, UsageError
from edgeprune.records.search import TrialRecord
from edgeprune.search.space import Space
from edgeprune.search.study import SAMPLERS, Book, Desk

SPACE = Space(("linear-16", "linear-12"), ("gram", "magnitude"))
MINIMIZED = ["latency@cpu", "observed_error"]


def _record(number: int, params: dict[str, float | str]) -> TrialRecord:
    share = float(params["share"])
    return TrialRecord(number, "measured", params, {"macs": share}, (share, (1 - share) ** 2))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_asks_and_is_told(name: str):
    pytest.importorskip("scipy")
    desk = Desk(SPACE, 2, name, 0, SPACE.first()[:2])
    for number in range(6):
        params = desk.ask(number)
        assert SPACE.least_share <= float(params["share"]) <= 1
        desk.tell(_record(number, params), {"latency<=1": -0.5})
    assert 1 <= len(desk.best) <= 6


def test_what_was_ruled_out_and_what_failed_is_told_too():
    desk = Desk(SPACE, 2, "tpe", 0, [])
    for number in range(14):
        params = desk.ask(number)
        if number % 3 == 0:
            desk.tell(TrialRecord(number, "failed", params, {}, reason="x", feasible=False), {})
        elif number % 3 == 1:
            out = TrialRecord(number, "ruled out", params, {}, reason="breaks", feasible=False)
            desk.tell(out, {"latency<=1": 0.5}, [None, 0.2])
        else:
            desk.tell(_record(number, params), {"latency<=1": -0.5})
    assert all(number % 3 == 2 for number in desk.best)


def test_a_trial_that_breaks_a_constraint_is_not_on_the_front():
    desk = Desk(SPACE, 2, "random", 0, [])
    params = desk.ask(0)
    desk.tell(TrialRecord(0, "measured", params, {}, (0.0, 0.0), feasible=False), {"latency<=1": 0.5})
    assert desk.best == {}


def test_the_desk_stays_small_while_the_book_grows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edgeprune.search.study.WINDOW", 20)
    desk = Desk(SPACE, 2, "random", 0, [])
    for number in range(100):
        desk.tell(_record(number, desk.ask(number)), {})
    assert len(desk.latest) <= 40
    assert len(desk.study.get_trials(deepcopy=False)) <= 40 + len(desk.best)
    assert desk.renewed > 1


def test_a_book_is_read_back_and_opens_in_optuna(tmp_path: Path):
    journal = tmp_path / "study.journal"
    book = Book.open(journal, "edgeprune", MINIMIZED, SPACE, "abc")
    desk = Desk(SPACE, 2, "random", 0, [])
    for number in range(5):
        record = _record(number, desk.ask(number))
        book.add(record, {"latency<=1": -0.1})
    params = desk.ask(5)
    book.add(
        TrialRecord(5, "ruled out", params, {"macs": 0.1}, reason="breaks it", feasible=False), {"c": 1.0}
    )
    again = Book.open(journal, "edgeprune", MINIMIZED, SPACE, "abc")
    found = list(again.records())
    assert [t.state for t in found] == ["measured"] * 5 + ["ruled out"]
    assert found[5].reason == "breaks it"
    assert not found[5].feasible
    assert found[0].params["share"] == pytest.approx(float(_first_share(journal)))
    fresh = Desk(SPACE, 2, "tpe", 0, SPACE.first())
    counts = fresh.resume(iter(found))
    assert counts == {"measured": 5, "ruled out": 1}
    assert len(fresh.first) == len(SPACE.first()) - 6
    assert set(fresh.best) == {t.number for t in found if t.values}


def _first_share(journal: Path) -> float:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name="edgeprune", storage=storage)
    assert study.metric_names == MINIMIZED
    assert study.trials[0].constraints == {"latency<=1": -0.1}
    return float(study.trials[0].params["share"])


def test_a_study_of_another_search_is_refused(tmp_path: Path):
    Book.open(tmp_path / "j", "edgeprune", MINIMIZED, SPACE, "abc")
    with pytest.raises(UsageError, match="another search"):
        Book.open(tmp_path / "j", "edgeprune", MINIMIZED, SPACE, "def")


@pytest.mark.parametrize(
    ("storage", "error"),
    [("nowhere", UsageError), ("grpc://here", UsageError), ("postgresql://nobody:secret@127.0.0.1:9/x", StorageError)],
)  # fmt: skip
def test_a_storage_that_cannot_be_used_is_told_without_its_password(storage: str, error: type[Exception]):
    with pytest.raises(error) as told:
        Book.open(storage, "edgeprune", MINIMIZED, SPACE, "abc")
    assert "secret" not in str(told.value)


def test_a_half_written_line_is_cut_off(tmp_path: Path):
    journal = tmp_path / "study.journal"
    book = Book.open(journal, "edgeprune", MINIMIZED, SPACE, "abc")
    desk = Desk(SPACE, 2, "random", 0, [])
    book.add(_record(0, desk.ask(0)), {})
    whole = journal.read_bytes()
    book.add(_record(1, desk.ask(1)), {})
    journal.write_bytes(whole + journal.read_bytes()[len(whole) :][:40])
    again = Book.open(journal, "edgeprune", MINIMIZED, SPACE, "abc")
    assert len(list(again.records())) == 1
    again.add(_record(1, desk.ask(2)), {})
    assert len(list(Book.open(journal, "edgeprune", MINIMIZED, SPACE, "abc").records())) == 2


WRITER = """
import sys
from edgeprune.search.space import Space
from edgeprune.search.study import Book, Desk
from edgeprune.records.search import TrialRecord
from pathlib import Path
space = Space(("linear-16", "linear-12"), ("gram", "magnitude"))
book = Book.open(Path(sys.argv[1]), "edgeprune", ["latency@cpu", "observed_error"], space, "abc")
desk = Desk(space, 2, "random", 0, [])
for number in range(100000):
    params = desk.ask(number)
    book.add(TrialRecord(number, "measured", params, {}, (1.0, float(number))), {})
    print(number, flush=True)
"""


def test_the_journal_of_a_killed_writer_goes_on(tmp_path: Path):
    journal = tmp_path / "study.journal"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(journal)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            told = writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
    started = time.monotonic()
    book = Book.open(journal, "edgeprune", MINIMIZED, SPACE, "abc")
    found = list(book.records())
    assert len(found) > int(told)
    book.add(_record(len(found), {"share": 0.5, "mix": 0.5, "family:linear-12": 1.0, "method": "gram"}), {})
    assert time.monotonic() - started < 20  # the killed writer's lock is not waited for
