"""The command line as a user meets it: arguments in, exit code and texts out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeprune.cli import entry

SMALL = Path(__file__).parent / "small.py"


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
