"""A real full disk and a real read-only one: a file system of its own, mounted for the test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_runs import full_run
from terminal import SMALL, Terminal

from edgeprune.records.provenance import verify

pytestmark = pytest.mark.slow
ARGUMENTS = [
    f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "--multiple", "1", "--domain", "-1,1", "--no-latency",
    "--no-simplify", "--bound", "intervals",
]  # fmt: skip


def _mount(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 KiB; skipped, with the reason, where nobody may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    done = _mount("-t", "tmpfs", "-o", "size=8k", "edgeprune-test", place)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch, capsys)


def test_a_run_ends_with_one_error_and_goes_on_when_there_is_room(disk: Path, terminal: Terminal) -> None:
    run, refused = disk / "r", 0
    for size in ("8k", "20k", "40k", "80k"):
        assert _mount("-o", f"remount,size={size}", disk).returncode == 0
        ended = terminal("run", *ARGUMENTS, "-o", run)
        assert "Traceback" not in ended.err
        assert not list(disk.rglob("*.part"))
        if ended.code == 2:
            refused += 1
            (line,) = [text for text in ended.err.splitlines() if text.startswith("error: ")]
            assert "No space left on device" in line
            assert "Free some space" in line
        else:
            assert ended.code in (0, 5), ended.err
    assert refused >= 2
    assert _mount("-o", "remount,size=8m", disk).returncode == 0
    ended = terminal("run", *ARGUMENTS, "-o", run)
    assert ended.code == 0, ended.err
    assert [x for x in verify(run) if x.outcome != "ok"] == []


def test_what_ci_reads_is_whole_or_not_there(disk: Path, terminal: Terminal, tmp_path: Path) -> None:
    full_run().save(tmp_path)
    (disk / "filler").write_bytes(b"x" * 4096)
    (disk / "old.md").write_text("mine")
    for flag, name in (("--sarif", "x.sarif"), ("--summary", "old.md")):
        ended = terminal("gate", tmp_path, "--limit", "params_ratio=1", flag, disk / name)
        assert ended.code == 2, ended.err
        assert "No space left on device" in ended.err
    assert (disk / "old.md").read_text() == "mine"
    assert terminal("report", tmp_path, "-o", disk / "page.html").code == 2
    assert {path.name for path in disk.iterdir()} == {"filler", "old.md"}


def test_a_read_only_disk_is_one_error(disk: Path, terminal: Terminal, tmp_path: Path) -> None:
    full_run().save(tmp_path)
    assert _mount("-o", "remount,ro", disk).returncode == 0
    for arguments in (["run", *ARGUMENTS, "-o", disk / "r"], ["report", tmp_path, "-o", disk / "page.html"]):
        ended = terminal(*arguments)
        assert ended.code == 2, ended.err
        (line,) = [text for text in ended.err.splitlines() if text.startswith("error: ")]
        assert "Read-only file system" in line
    assert not list(disk.iterdir())
