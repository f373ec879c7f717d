"""Studies in PostgreSQL, from Debian's package, and behind Optuna's storage proxy."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import emulated
import optuna
import pytest
import searches
from optuna.storages import RDBStorage
from terminal import Terminal
from wanted import missing

from edgeprune.errors import UsageError
from edgeprune.records.search import SearchRecord, TrialRecord
from edgeprune.search.place import JOURNAL
from edgeprune.search.space import Space
from edgeprune.search.study import Book, Desk

SPACE = Space(("linear-16", "linear-12"), ("gram", "magnitude"))
MINIMIZED = ["latency@cpu", "observed_error"]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL server of its own; it refuses to run as root, so there it runs as its own user."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        missing("PostgreSQL is not installed (Debian: apt install postgresql)")
    room = Path(tempfile.mkdtemp(prefix="edgeprune-pg-"))
    user: list[str] = []
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            missing("PostgreSQL cannot run as root, and there is no user postgres")
        user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        shutil.chown(room, "postgres", "postgres")
    programs_at, data, port = programs[-1].parent, room / "data", _free_port()
    quiet = {"cwd": room, "check": True, "capture_output": True}
    subprocess.run([*user, programs_at / "initdb", "-D", data, "-A", "trust", "-U", "search"], **quiet)
    options = f"-p {port} -h 127.0.0.1 -k {room} -c fsync=off"
    control = [*user, programs_at / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-o", options, "-l", room / "log", "start"], cwd=room, check=True, timeout=60)
    try:
        yield f"postgresql://search@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], cwd=room, check=False, timeout=60)
        shutil.rmtree(room, ignore_errors=True)


def _used(storage: str, name: str) -> None:
    """Trials are kept, read back by another, refused to another search, and fit a desk that goes on."""
    book = Book.open(storage, name, MINIMIZED, SPACE, "abc")
    desk = Desk(SPACE, 2, "tpe", 0, SPACE.first())
    for number in range(4):
        params = desk.ask(number)
        share = float(params["share"])
        record = TrialRecord(number, "measured", params, {"macs": share}, (share, 1 - share))
        desk.tell(record, {"latency<=1": -0.5})
        book.add(record, {"latency<=1": -0.5})
    out = TrialRecord(4, "ruled out", desk.ask(4), {}, reason="breaks it", feasible=False)
    book.add(out, {"latency<=1": 0.5})
    other = Book.open(storage, name, MINIMIZED, SPACE, "abc")
    found = list(other.records())
    assert [t.state for t in found] == ["measured"] * 4 + ["ruled out"]
    assert not list(other.records())
    book.add(TrialRecord(5, "failed", desk.ask(5), {}, reason="x", feasible=False), {})
    assert [t.state for t in other.records()] == ["failed"]  # what another search adds is seen
    fresh = Desk(SPACE, 2, "tpe", 0, [])
    fresh.resume(iter(found))
    assert len(fresh.best) == len(desk.best)
    with pytest.raises(UsageError, match="another search"):
        Book.open(storage, name, MINIMIZED, SPACE, "def")
    other.close()
    book.close()


def opened(server: str) -> RDBStorage:
    return RDBStorage(server.replace("postgresql://", "postgresql+psycopg://"))


def closed(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.slow
def test_a_study_in_postgresql(server: str):
    _used(server, "edgeprune")


@pytest.mark.slow
def test_a_whole_search_lives_in_postgresql(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    searches.samples(tmp_path)
    target, output = emulated.target(tmp_path), tmp_path / "out"
    terminal = Terminal(monkeypatch, capsys)
    kept = ("--workers", "0", "--storage", server, "--study", "whole")
    first = terminal(*searches.command(tmp_path, target, output, "--trials", "1", *kept)[3:])
    assert first.code == 0, first.err
    assert not (output / JOURNAL).exists()
    storage = opened(server)
    try:
        study = optuna.load_study(study_name="whole", storage=storage)
        assert [t.state.name for t in study.trials] == ["COMPLETE"]
    finally:
        closed(storage)
    again = terminal(*searches.command(tmp_path, target, output, "--trials", "2", *kept)[3:])
    assert again.code == 0, again.err
    record = SearchRecord.load(output)
    assert sum(record.counts.values()) == 2
    assert record.measurements == {"emulated": 1}  # the first was not measured again
    assert [t.number for t in record.trials] == [0, 1]
    other = terminal(*searches.command(tmp_path, target, output, "--minimize", "size,error", *kept)[3:])
    assert other.code == 2
    assert "another search" in other.err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_study_behind_the_storage_proxy(server: str):
    pytest.importorskip("grpc")
    from optuna.storages._grpc.server import make_server

    port = _free_port()
    storage = opened(server)
    proxy = make_server(storage, "127.0.0.1", port)
    proxy.start()
    try:
        _used(f"grpc://127.0.0.1:{port}", "behind-the-proxy")
    finally:
        proxy.stop(None).wait(10)
        closed(storage)
