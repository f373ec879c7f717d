"""The ssh transport, to a real sshd on the loopback."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import sshd
from onnx_nets import expected, linear_relu, samples, target
from wanted import missing

from edgeprune.errors import ConfigError, TargetUnavailable
from edgeprune.profiles import Target, find_target
from edgeprune.runtimes import probe, ssh
from edgeprune.runtimes.inventory import Machine
from edgeprune.runtimes.jobs import read_outputs, read_pairs, write_job
from edgeprune.runtimes.places import cache, filled
from edgeprune.runtimes.ssh import Ssh, arguments

BOARD = dataclasses.replace(target(), name="board", transport="ssh", connection={"machine": "board"})
PYTHON = f'["{sys.executable}"]'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    server = sshd.start(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def inventory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "server" in request.fixturenames:
        server = request.getfixturevalue("server")
        monkeypatch.setenv("EDGEPRUNE_INVENTORY", str(server.inventory(python=PYTHON)))


def left(server: sshd.Server) -> list[Path]:
    return list((server.folder / "jobs").iterdir())


def until(true: object, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not (found := bool(true())) and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.05)
    return found


# ------------------------------------------------------------------------------------- it works


def test_outputs_come_back_and_nothing_is_left(tmp_path: Path, server: sshd.Server) -> None:
    job = write_job(
        tmp_path / "job", BOARD, "outputs", {"model": linear_relu(tmp_path / "m.onnx")}, (samples(10),)
    )
    answer = read_outputs(job, Ssh().run(job.folder, BOARD, 60), BOARD)
    np.testing.assert_allclose(answer.outputs[0], expected(samples(10)), rtol=1e-5, atol=1e-5)
    assert answer.ran.placement == {"CPUExecutionProvider": 3}
    assert answer.ran.version == onnxruntime.__version__
    assert left(server) == []


def test_pairs_are_timed_there(tmp_path: Path, server: sshd.Server) -> None:
    model = linear_relu(tmp_path / "m.onnx")
    models = {"original": model, "pruned": model}
    job = write_job(tmp_path / "job", BOARD, "pairs", models, (samples(4),), launch_s=5)
    answer = read_pairs(job, Ssh().run(job.folder, BOARD, 60), BOARD)
    assert len(answer.pairs) == len(answer.control) == BOARD.measure.pairs


def test_a_login_that_chatters_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = 'ForceCommand echo "Welcome to the board!"; exec sh -c "$SSH_ORIGINAL_COMMAND"'
    server = sshd.start(tmp_path / "sshd", noisy)
    try:
        monkeypatch.setenv("EDGEPRUNE_INVENTORY", str(server.inventory(python=PYTHON)))
        assert probe(BOARD, tmp_path / "job").placement == {"CPUExecutionProvider": 1}
    finally:
        server.stop()


def test_an_arm_board_is_reached(
    tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's Python is that of an emulated ARM board, with its own onnxruntime."""
    arm = find_target("arm64-emulated").connection["command"]
    if shutil.which(arm[0]) is None or not (cache() / "arm64" / "version").is_file():
        missing("the emulated ARM is not here; see scripts/system-packages.sh")
    python = [filled(word, {"agent": "", "job": ""}, "test") for word in arm]
    words = ", ".join(f'"{word}"' for word in python if word)
    monkeypatch.setenv("EDGEPRUNE_INVENTORY", str(server.inventory(python=f"[{words}]")))
    answer = probe(BOARD, tmp_path / "job")
    assert answer.environment["machine"] == "aarch64"
    assert left(server) == []


# ---------------------------------------------------------------------------- who is believed


def unavailable(work: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch, **changes: str) -> str:
    monkeypatch.setenv("EDGEPRUNE_INVENTORY", str(server.inventory(**{"python": PYTHON, **changes})))
    with pytest.raises(TargetUnavailable) as caught:
        probe(BOARD, work / "job")
    assert left(server) == []
    return str(caught.value)


def test_another_host_key_is_refused(
    tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, key, *_ = sshd.keygen(tmp_path / "other").split()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    words = unavailable(tmp_path, server, monkeypatch, known_hosts=f'"{tmp_path / "known"}"')
    assert "board: no connection to board (127.0.0.1)" in words
    assert "Host key verification failed" in words


def test_an_unknown_host_is_refused(
    tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "known").write_text("")
    words = unavailable(tmp_path, server, monkeypatch, known_hosts=f'"{tmp_path / "known"}"')
    assert "Host key verification failed" in words
    assert (tmp_path / "known").read_text() == ""  # and is not learnt


def test_another_key_is_refused(tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    sshd.keygen(tmp_path / "stranger")
    assert "Permission denied" in unavailable(tmp_path, server, monkeypatch, key=f'"{tmp_path / "stranger"}"')


def test_a_port_where_nobody_listens(
    tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Connection refused" in unavailable(tmp_path, server, monkeypatch, port="1")


def test_a_python_that_is_not_there(
    tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = unavailable(tmp_path, server, monkeypatch, python='["/nowhere/python3"]')
    assert "its answer cannot be read (it does not begin)" in words
    assert "/nowhere/python3" in words


def test_what_stands_in_the_inventory_is_no_shell_code(
    tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bait = tmp_path / "bait"
    for changes in (
        {"python": f"['{sys.executable}; touch {bait}; ', '-S']"},
        {"folder": f"'$(touch {bait})'"},
        {"folder": f"\"'; touch {bait}; '\""},
    ):
        unavailable(tmp_path, server, monkeypatch, **changes)
    assert not bait.exists()


# ----------------------------------------------------------------------------- nothing is left


def sleeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that never ends."""

    def write(folder: Path) -> Path:
        path = folder / "agent.pyz"
        path.write_text("import time\nprint('sleeping', flush=True)\ntime.sleep(600)\n", encoding="utf-8")
        return path

    monkeypatch.setattr(ssh, "write_agent", write)


def processes_with(word: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in path.read_bytes().decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_an_endless_agent_is_stopped_there(
    tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper(monkeypatch)
    job = write_job(tmp_path / "job", BOARD, "probe", {})
    with pytest.raises(
        TargetUnavailable, match=r"did not finish within 1 s on board and was stopped.*sleeping"
    ):
        Ssh().run(job.folder, BOARD, 1)
    assert left(server) == []
    assert until(lambda: not processes_with(str(server.folder / "jobs" / "edgeprune-")))


def test_a_connection_that_breaks_leaves_nothing(
    tmp_path: Path, server: sshd.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper(monkeypatch)
    job = write_job(tmp_path / "job", BOARD, "probe", {})
    failures: list[BaseException] = []

    def run() -> None:
        try:
            Ssh().run(job.folder, BOARD, 120)
        except TargetUnavailable as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert until(lambda: left(server))
    clients = [
        pid for pid in processes_with(str(server.folder / "known_hosts")) if parent(pid) == os.getpid()
    ]
    assert len(clients) == 1
    os.kill(clients[0], signal.SIGKILL)
    thread.join(20)
    assert len(failures) == 1
    assert until(lambda: not left(server))
    assert until(lambda: not processes_with(str(server.folder / "jobs" / "edgeprune-")))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# ------------------------------------------------------------------- answers that are not sound


def impostor(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> sshd.Server:
    """A machine that answers with the output of `command`, whatever it is asked."""
    server = sshd.start(folder / "sshd", f"ForceCommand {command}")
    monkeypatch.setenv("EDGEPRUNE_INVENTORY", str(server.inventory(answer_mb="1")))
    monkeypatch.setattr(ssh.secrets, "token_hex", lambda _: "mark")
    return server


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo nothing of it", "it does not begin"),
        ("printf 'mark\\n{'", "its header is damaged"),
        ("""printf 'mark\\n{"status":0,"files":{"../../x":1}}\\nx'""", r"it brings \.\./\.\./x, expected"),
        ("""printf 'mark\\n{"status":0,"files":{"result.json":99}}\\n{}'""", "ended 97 bytes early"),
        ("""printf 'mark\\n{"status":"x","files":{}}\\n'""", "its status is 'x'"),
        ("""printf 'mark\\n{"status":0,"files":{}}\\n'""", "ended with status 0 and no result"),
        ("""printf 'mark\\n{"status":0,"files":{"result.json":2}}\\n{}'""", "does not answer a 'probe' job"),
        ("head -c 3000000 /dev/zero", "larger than 1 MiB"),
    ],
)
def test_an_impostor_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, message: str
) -> None:
    server = impostor(tmp_path, monkeypatch, command)
    try:
        with pytest.raises(TargetUnavailable, match=message):
            probe(BOARD, tmp_path / "job")
    finally:
        server.stop()
    assert not (tmp_path / "x").exists()


# ------------------------------------------------------------------------------- the inventory


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[bord]\nhost = 'h'\nuser = 'u'\nkey = 'k'\n", "no machine 'board'; did you mean 'bord'"),
        ("[board]\nhost = 'h'\nuser = 'u'\n", "the field 'key' is missing"),
        ("[board]\nhost = '-oProxyCommand=x'\nuser = 'u'\nkey = 'k'\n", "host must be a name or an address"),
        ("[board]\nhost = 'h'\nuser = '-x'\nkey = 'k'\n", "user must be a login name"),
        ("[board]\nhost = 'h'\nuser = 'u'\nkey = '%d/k'\n", "key must be a file's path without"),
        ("[board]\nhost = 'h'\nuser = 'u'\nkey = '/nowhere/k'\n", "key: there is no file /nowhere/k"),
        ("[board]\nhost = 'h'\nuser = 'u'\nkey = 'k'\nport = 0\n", "port must be in 1"),
    ],
)
def test_an_inventory_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    path = tmp_path / "inventory.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("EDGEPRUNE_INVENTORY", str(path))
    with pytest.raises(ConfigError, match=message):
        probe(BOARD, tmp_path / "job")


def test_without_an_inventory_it_is_said_how_to_write_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRUNE_INVENTORY", str(tmp_path / "none.toml"))
    with pytest.raises(
        ConfigError, match=r"there is no inventory .*none\.toml; write one with a table \[board\]"
    ):
        probe(BOARD, tmp_path / "job")


def test_an_address_does_not_belong_into_a_target(tmp_path: Path) -> None:
    where: Target = dataclasses.replace(BOARD, connection={"host": "192.168.1.20"})
    with pytest.raises(ConfigError, match="addresses and keys belong there"):
        probe(where, tmp_path / "job")


def test_no_configuration_of_ssh_is_read() -> None:
    argv = arguments(Machine(host="h", user="u", key="/k", known_hosts="/known hosts"), "m", 1)
    assert argv[:3] == ["ssh", "-F", "none"]
    assert 'UserKnownHostsFile="/known hosts"' in argv
    shown = subprocess.run([*argv[:1], "-G", *argv[1:]], capture_output=True, text=True, check=True).stdout
    assert "userknownhostsfile /known hosts" in shown.lower()
    assert "stricthostkeychecking true" in shown.lower()
    assert "batchmode yes" in shown.lower()
