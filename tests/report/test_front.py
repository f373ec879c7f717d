"""The picture of error against size, and the reasons why groups stay whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from report_runs import bare_run, full_run
from terminal import SMALL, Terminal

from edgeprune.records.allocation import AllocationRecord, WidthsTried
from edgeprune.records.run import Run
from edgeprune.report.front import front
from edgeprune.report.html import render
from edgeprune.report.tables import left_alone

FRONT = ((0.25, 0.08), (0.5, 0.004), (0.75, 0.0003), (1.0, 0.0))


def allocated(**changes: object) -> Run:
    run = full_run()
    assert run.plan is not None
    tried = (WidthsTried("greedy", 0.5, 0.006, chosen=True), WidthsTried("programme", 0.49, 0.007))
    record = AllocationRecord("--macs 0.5", "MACs", 0.5, 0.5, 1e6, None, tried, FRONT)
    record = dataclasses.replace(record, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(run, plan=dataclasses.replace(run.plan, allocation=record))


def test_the_front_is_drawn_with_the_chosen_point() -> None:
    chart = front(allocated())
    assert chart is not None
    assert "25 % left: 0.08; 50 % left: 0.004; 75 % left: 0.0003; chosen: 50 % left, 0.006." in chart.image
    assert "Ringed: this run, 50 % of the MACs left (asked: --macs 0.5)." in chart.caption
    assert "Squares: other widths" in chart.caption
    text = render(allocated())
    assert text.count("Error against size") == 1
    assert "this run" in text


def test_where_no_error_is_known_there_is_no_front() -> None:
    assert front(bare_run()) is None
    assert front(allocated(front=())) is None
    alone = front(allocated(candidates=(WidthsTried("uniform", 0.5, chosen=True),)))
    assert alone is not None
    assert "Ringed" not in alone.caption


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.savez("d.npz", x=random.standard_normal((256, 8)).astype(np.float32))
    return Terminal(monkeypatch, capsys)


def test_a_run_with_equal_shares_has_a_front_and_lies_on_its_wrong_side(terminal: Terminal) -> None:
    """Nothing on the front of that size errs more than equal shares do, by the same curves."""
    asked = (
        "prune",
        f"{SMALL}:build",
        "--calibration",
        "d.npz",
        "--keep",
        "0.5",
        "--multiple",
        "1",
        "-o",
        "r",
    )
    assert terminal(*asked).code == 0
    run = Run.load(Path("r"))
    assert run.plan is not None
    found = run.plan.allocation
    assert found is not None
    shares, errors = zip(*found.front, strict=True)
    assert list(errors) == sorted(errors, reverse=True)
    assert list(shares) == sorted(shares)
    assert errors[-1] == 0
    (chosen,) = found.candidates
    assert chosen.error is not None
    at_most = [error for share, error in found.front if share <= chosen.predicted]
    assert chosen.error >= at_most[-1] - 1e-12
    assert front(run) is not None


def test_the_terminal_says_why_groups_stay_whole(terminal: Terminal) -> None:
    asked = (
        "prune",
        f"{SMALL}:build",
        "--calibration",
        "d.npz",
        "--keep",
        "0.5",
        "--multiple",
        "16",
        "-o",
        "r",
    )
    told = " ".join(terminal(*asked).out.split())
    assert "left whole: 0, 2 (no wider than one multiple of 16, as --multiple says); 4 (an output" in told
    every = terminal("-v", *asked, "--overwrite").out
    assert "4 left whole: an output of the model" in every
    grid = json.loads(Path("r/run.json").read_text())["plan"]["allocation"]["dense"]
    assert [name for name, _ in grid] == ["0", "2"]
    assert [reason for _, reason in left_alone(Run.load(Path("r")))][-1] == "an output of the model"


def test_the_grid_of_the_target_is_a_reason(terminal: Terminal) -> None:
    Path("wide.toml").write_text('extends = "cpu"\nname = "wide"\n[grid]\nunits = 8\n')
    asked = ("prune", f"{SMALL}:build", "--calibration", "d.npz", "--target", "./wide.toml", "-o", "r")
    told = " ".join(terminal(*asked, "--keep", "0.8").out.split())
    assert "left whole: 0 (0.8 of 16 units, in multiples of 8, are all of them)" in told
    cheap = " ".join(terminal(*asked, "--params", "1.0", "--overwrite").out.split())
    assert "left whole: 0, 2 (the budget is met without narrowing it)" in cheap
