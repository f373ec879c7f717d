"""The command line as a user meets it: arguments in, exit code and texts out."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeprune.cli import entry

SMALL = Path(__file__).parent / "small.py"


def small_run(folder: Path, *given: object) -> Path:
    """The small net pruned by magnitude over a box, by a process of its own; the run's folder."""
    command = [
        sys.executable,
        "-m",
        "edgeprune",
        "run",
        f"{SMALL}:build",
        "--input",
        "1x8",
        "--domain",
        "-1,1",
    ]
    command += ["--method", "magnitude", "--multiple", "1", "--no-simplify", *map(str, given)]
    done = subprocess.run([*command, "-o", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class Terminal:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["edgeprune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            entry()
        said = self._capsys.readouterr()
        code = stopped.value.code
        return Ended(code if isinstance(code, int) else 0, said.out, said.err)
