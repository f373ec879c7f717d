"""Samples and the choice by them, told in sentences that a reader can hold against run.json."""

from __future__ import annotations

import dataclasses
import html
import io

import pytest
from report_runs import bare_run, full_run
from rich.console import Console

from edgeprune.records.run import Candidate, Choice, Run, Split
from edgeprune.report.html import render
from edgeprune.report.sampling import sentences
from edgeprune.report.terminal import overview

FIT = Split("fit", "the fitting samples of x.npz", 1256, "a" * 64, "1" * 64)
SELECT = Split("select", "the held-out samples of x.npz", 200, "b" * 64, "2" * 64)
CERTIFY = Split("certify", "the held-out samples of x.npz", 200, "c" * 64, "3" * 64)
TRIED = (Candidate(1.0, 0.0, 0.0), Candidate(0.5, 0.0712, 0.09), Candidate(0.25, 0.2, 0.3))
CHOICE = Choice("fresh-split", 0.08, 0.9, 0.95, 200, TRIED, 0.5, True)


def run(choice: Choice | None = CHOICE, splits: tuple[Split, ...] = (FIT, SELECT, CERTIFY)) -> Run:
    return dataclasses.replace(full_run(), splits=splits, choice=choice)


def shown(run: Run) -> str:
    console = Console(file=io.StringIO(), width=500, color_system=None)
    with console.capture() as captured:
        console.print(overview(run))
    return captured.get()


def test_a_fresh_split_is_told() -> None:
    chosen, used = sentences(run())
    assert chosen == (
        "Kept: 50 % of the units, the smallest of 3 shares whose bound on the error of 90 % of all inputs is at "
        "most 0.08 (200 samples chose, others certify)."
    )
    assert used == (
        "Samples: 1,256 to fit (the fitting samples of x.npz), 200 to choose how much is pruned (the held-out "
        "samples of x.npz), 200 to certify and measure (the held-out samples of x.npz); no sample is in two of "
        "these sets."
    )


def test_samples_that_chose_and_certify_are_one_set() -> None:
    same = dataclasses.replace(SELECT, content_sha256=CERTIFY.content_sha256)
    how = dataclasses.replace(CHOICE, method="learn-then-test")
    chosen, used = sentences(run(how, (same, CERTIFY)))
    assert "of 3 shares tested from the mildest on; 90 % of all inputs err by at most 0.08 (95 %" in chosen
    assert "others certify" not in chosen
    assert used.startswith("Samples: 200 to choose how much is pruned and to certify and measure (")
    assert "two of these sets" not in used


@pytest.mark.parametrize("method", ["fresh-split", "learn-then-test"])
def test_a_limit_that_no_share_keeps_is_never_claimed(method: str) -> None:
    bad = dataclasses.replace(CHOICE, method=method, share=1.0, good=False)
    assert (
        "Kept: 100 % of the units, the mildest of 3 shares tried; for none it was shown"
        in sentences(run(bad))[0]
    )


def test_rounding_does_not_flatter() -> None:
    near = dataclasses.replace(CHOICE, quantile=0.99999, limit=0.080001)
    assert "99.99 % of all inputs is at most 0.0801 (" in sentences(run(near))[0]


def test_terminal_and_report_tell_the_same() -> None:
    page, text = html.unescape(render(run())), shown(run())
    for words in sentences(run()):
        assert f"<p>{words}</p>" in page
        assert words in text


def test_nothing_known_is_nothing_said() -> None:
    assert sentences(bare_run()) == ()
    assert len(sentences(run(None))) == 1
    assert "Samples:" not in shown(bare_run())


def test_names_of_files_are_no_markup() -> None:
    odd = dataclasses.replace(FIT, source="<b>x</b>[red]")
    assert "<b>x</b>" not in render(run(None, (odd,)))
    assert "<b>x</b>[red]" in shown(run(None, (odd,)))
