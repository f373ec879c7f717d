"""`--inventory`: the machines come from that file, and from no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from terminal import Terminal


@pytest.fixture
def terminal(monkeypatch, capsys):
    monkeypatch.setenv("EDGEPRUNE_INVENTORY", "/nowhere/other.toml")
    monkeypatch.setenv("COLUMNS", "400")
    return Terminal(monkeypatch, capsys)


def written(folder: Path, host: str = "127.0.0.1", port: int = 1) -> Path:
    for name in ("key", "hosts"):
        (folder / name).write_text("none")
        (folder / name).chmod(0o600)
    path = folder / "mine.toml"
    path.write_text(
        f'[board]\nhost = "{host}"\nuser = "pi"\nport = {port}\nconnect_s = 2\n'
        f'key = "{folder / "key"}"\nknown_hosts = "{folder / "hosts"}"\n'
    )
    return path


def test_the_named_file_is_read(terminal: Terminal, tmp_path: Path) -> None:
    path = written(tmp_path)
    ended = terminal("targets", "ssh-board", "--check", "--inventory", path)
    assert ended.code == 5  # the machine of that file was asked for, and nobody listens there
    said = ended.out + ended.err
    assert "ssh-board" in said
    assert "other.toml" not in said
    assert os.environ["EDGEPRUNE_INVENTORY"] == str(path)


def test_without_it_the_variable_counts(terminal: Terminal) -> None:
    ended = terminal("targets", "ssh-board", "--check")
    assert ended.code != 0
    assert "/nowhere/other.toml" in ended.out + ended.err


@pytest.mark.parametrize("command", ["targets", "profile", "compare", "validate", "run", "prune"])
def test_every_command_that_reaches_a_target_takes_it(terminal: Terminal, command: str) -> None:
    assert "--inventory FILE" in terminal(command, "--help").out


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=touch${IFS}pwned", "board;reboot", "board reboot", "$(reboot)", "`id`", ""]
)
def test_a_host_that_is_an_option_or_code_is_refused(
    terminal: Terminal, tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = terminal("targets", "ssh-board", "--check", "--inventory", written(tmp_path, host=host))
    assert ended.code == 5
    assert "host must be a name or an address" in ended.out + ended.err
    assert not (tmp_path / "pwned").exists()
