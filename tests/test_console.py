"""What long work shows between two items: words behind those of its bar."""

from __future__ import annotations

import pytest

from edgeprune.cli import console
from edgeprune.progress import silent, teller, unheard


def test_what_is_told_stands_behind_the_words_of_the_bar() -> None:
    bars = console.Bars()
    for item in bars._drawn([7], "certifying", 1):
        assert bars._shown is not None
        drawn, task, _ = bars._shown
        bars.tell("at most 0.5")
        assert (item, drawn.tasks[task].description) == (7, "certifying: at most 0.5")
    bars.tell("nobody is shown this")


def test_where_there_is_no_terminal_a_line_is_written_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = console.Bars()
    for _ in bars([1], "certifying", 1):
        bars.tell("too early")
        monkeypatch.setattr(console, "EVERY_S", -1.0)
        bars.tell("at most 0.5")
    bars.tell("too late")
    assert capsys.readouterr().err.splitlines() == ["certifying …", "certifying: at most 0.5"]


def test_a_progress_that_shows_no_words_is_told_none() -> None:
    assert teller(silent) is unheard
    bars = console.Bars()
    assert teller(bars) == bars.tell
