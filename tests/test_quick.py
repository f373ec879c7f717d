"""`--quick`: a first impression that says so, and never overrules what was asked for; every time is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from terminal import small_run

from edgeprune.config import QUICK
from edgeprune.inputs.preparation import HURRIED
from edgeprune.records.run import Run
from edgeprune.target import Measure

BOARD = """
extends = "cpu-1t"
name = "bench"

[measure]
pairs = 6
warm_up = 2
budget_s = 6
half_width = 1e-9
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    (folder / "bench.toml").write_text(BOARD)
    given = ("--quick", "--samples", "100", "--target", folder / "bench.toml")
    return small_run(folder / "r", *given)


def test_a_quick_run_says_so_and_keeps_to_what_was_asked(finished: Path) -> None:
    run = Run.load(finished)
    assert HURRIED in run.warnings
    settings = {item.name: item for item in run.settings}
    assert settings["samples"].value == 100  # asked for
    assert settings["samples"].origin == "flag"
    for name in set(QUICK) - {"samples"}:
        assert settings[name].value == QUICK[name]
        assert settings[name].origin == "quick"
    latency = run.validations[0].latency
    assert latency is not None
    assert latency.launches == 3
    assert "first impression" in (finished / "report.html").read_text(encoding="utf-8")


def test_a_hurried_measure_is_never_longer() -> None:
    plain, hurried = Measure(), Measure().hurried()
    assert (hurried.launches_min, hurried.launches_max) == (3, 3)
    for name in ("pairs", "warm_up", "budget_s"):
        assert getattr(hurried, name) < getattr(plain, name)
    short = Measure(launches_min=2, launches_max=2, pairs=5, warm_up=1, budget_s=1.0)
    assert short.hurried() == short


def test_every_time_stays_in_the_run_folder(finished: Path) -> None:
    latency = Run.load(finished).validations[0].latency
    assert latency is not None
    with np.load(finished / "logs" / "latency" / "bench.npz") as kept:
        assert sorted(kept.files) == sorted(
            f"{arm}_{n:02d}" for arm in ("pairs", "control") for n in range(latency.launches)
        )
        pairs = [kept[f"pairs_{n:02d}"] for n in range(latency.launches)]
    assert all(p.dtype == np.float64 and p.shape[1] == 2 and (p > 0).all() for p in pairs)
    found = [float(np.exp(np.median(np.log(p[:, 1] / p[:, 0])))) for p in pairs]
    assert found == pytest.approx(list(latency.raw))  # run.json's figures are made of these
    assert "logs/latency/bench.npz" in (finished / "SHA256SUMS").read_text()
