"""A ratio chosen by samples, and then certified by samples that did not choose it; no sample serves twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from terminal import SMALL, Ended, Terminal

from edgeprune.errors import CalibrationError
from edgeprune.inputs.splits import halves, refuse_overlap, split_of
from edgeprune.records.run import Run

FIT, HELD = 256, 400


@pytest.fixture
def terminal(monkeypatch, capsys):
    return Terminal(monkeypatch, capsys)


def data(path: Path, seed: int = 0) -> Path:
    x = np.random.default_rng(seed).uniform(-1, 1, (FIT + HELD, 8)).astype(np.float32)
    np.savez(path, fit=x[:FIT], holdout=x[FIT:])
    return path


def run(terminal: Terminal, folder: Path, samples: Path, *more: object) -> Ended:
    return terminal(
        *("run", f"{SMALL}:build", "--calibration", samples, "--multiple", "1", "--quantile", "0.9"),
        *("--no-latency", "--no-simplify", "--bound", "intervals", "-o", folder, *more),
    )


RATIOS = ("--ratios", "0.25,0.5,0.75,1")


def test_a_fresh_split_chooses_by_one_half_and_certifies_by_the_other(terminal: Terminal, tmp_path: Path):
    samples = data(tmp_path / "x.npz")
    ended = run(terminal, tmp_path / "r", samples, *RATIOS, "--limit", "statistical_error=0.08")
    found = Run.load(tmp_path / "r")
    assert found.choice is not None, ended.err
    bounds = {c.share: c.bound for c in found.choice.candidates}
    assert found.choice.good
    assert found.choice.share == min(s for s, b in bounds.items() if b is not None and b <= 0.08)
    assert 0.25 < found.choice.share < 1  # the limit decided something
    assert found.plan is not None
    assert found.plan.groups[0].after == round(16 * found.choice.share)
    by_use = {s.use: s for s in found.splits}
    assert [by_use[use].n for use in ("fit", "select", "certify")] == [FIT, HELD // 2, HELD // 2]
    assert by_use["select"].indices_sha256 != by_use["certify"].indices_sha256
    select, certify = halves(HELD, 0)
    assert set(select).isdisjoint(certify)
    with np.load(samples) as stored:
        held = stored["holdout"]
    again = split_of("certify", "", certify, [held[certify]])
    assert (again.indices_sha256, again.content_sha256) == (
        by_use["certify"].indices_sha256,
        by_use["certify"].content_sha256,
    )
    quantile = next(c for c in found.certificates if c.name == "quantile 0.9")
    assert quantile.n_inputs == HELD // 2
    assert quantile.confidence == pytest.approx(0.95)


def test_learn_then_test_uses_all_samples_and_shares_its_delta(terminal: Terminal, tmp_path: Path):
    more = ("--selection", "learn-then-test", "--limit", "statistical_error=0.08")
    ended = run(terminal, tmp_path / "r", data(tmp_path / "x.npz"), *RATIOS, *more)
    found = Run.load(tmp_path / "r")
    assert found.choice is not None, ended.err
    assert found.choice.n == HELD
    said = next(c for c in found.certificates if c.name == "chosen ratio, quantile 0.9")
    assert said.bound == 0.08
    assert said.confidence == pytest.approx(0.95)
    other = next(c for c in found.certificates if c.name == "quantile 0.9")
    assert other.confidence == pytest.approx(1 - 0.05 / 4)
    assert other.n_inputs == HELD


def test_nothing_good_enough_takes_the_mildest_and_fails_the_gate(terminal: Terminal, tmp_path: Path):
    more = ("--ratios", "0.25,0.5", "--limit", "statistical_error=0.0001")
    ended = run(terminal, tmp_path / "r", data(tmp_path / "x.npz"), *more)
    assert ended.code == 1
    choice = Run.load(tmp_path / "r").choice
    assert choice is not None
    assert (choice.good, choice.share) == (False, 0.5)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (RATIOS, "--limit statistical_error"),
        ((*RATIOS, "--keep", "0.5"), "different budgets"),
        (("--ratios", "0.5,0.5"), "different shares"),
        (("--ratios", "half"), "is no list of shares"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    more: tuple[str, ...], words: str, terminal: Terminal, tmp_path: Path
):
    ended = run(terminal, tmp_path / "r", data(tmp_path / "x.npz"), *more)
    assert ended.code == 2
    assert words in ended.err


def test_a_sample_that_was_fitted_to_certifies_nothing_later(terminal: Terminal, tmp_path: Path):
    """The set is edited behind the run: one sample moves from fit to holdout."""
    samples = data(tmp_path / "x.npz")
    assert run(terminal, tmp_path / "r", samples, "--keep", "0.5").code == 0
    assert terminal("certify", tmp_path / "r").code == 0
    with np.load(samples) as stored:
        fit, held = stored["fit"], stored["holdout"]
    np.savez(samples, fit=fit[1:], holdout=np.concatenate([held[1:], fit[:1]]))
    ended = terminal("certify", tmp_path / "r")
    assert ended.code == 2
    assert "were also used to fit" in ended.err


def test_a_sample_in_both_halves_is_refused_by_content() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    refuse_overlap({"select": [x[:10]]}, [x[10:]])
    doubled = np.concatenate([x[10:], -0.0 + x[3:4]])
    with pytest.raises(
        CalibrationError, match=r"1 of 11 samples .* used to select \(the first is number 10\)"
    ):
        refuse_overlap({"select": [x[:10]]}, [doubled])
