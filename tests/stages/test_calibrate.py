from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from edgeprune.cli import main
from edgeprune.condense import condense
from edgeprune.errors import UsageError
from edgeprune.profiles import find_calibration
from edgeprune.stages.calibrate import (
    WeightedSet,
    directions,
    judge,
    learn_set,
    losses,
    pursue,
    second_moment,
    weigh,
)


def squared(query: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
    assert y is not None
    return (x @ query - y) ** 2


def problem(count: int = 300) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(0)
    x = random.standard_normal((count, 4)) * np.array([1, 2, 0.5, 3])
    y = x @ np.array([1.0, -1.0, 2.0, 0.3]) + random.standard_normal(count)
    return torch.from_numpy(x), torch.from_numpy(y)


def queries(seed: int, count: int = 200) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 4)))


def error(found: WeightedSet, seed: int = 99) -> float:
    x, y = problem()
    whole, kept = (
        losses(squared, queries(seed), x, y),
        losses(squared, queries(seed), found.samples, found.labels),
    )
    return judge(found, whole, kept, 0.05).mean


def uniform(size: int, seed: int) -> WeightedSet:
    x, y = problem()
    index = np.random.default_rng(seed).choice(len(x), size, replace=False)
    return WeightedSet(x[index], y[index], np.full(size, len(x) / size), index, len(x))


@pytest.mark.parametrize("size", [20, 40])
def test_a_learned_set_beats_uniform_samples_on_fresh_queries(size: int) -> None:
    x, y = problem()
    found = learn_set(x, y, squared, queries(0), size, seed=0)
    assert len(found.weights) == size
    assert found.index is not None
    assert torch.equal(found.samples, x[found.index])
    assert (found.weights >= 0).all()
    assert found.weights.sum() == pytest.approx(len(x), rel=0.1)
    assert error(found) < 0.3 * np.mean([error(uniform(size, seed)) for seed in range(10)])


def test_all_directions_of_a_quadratic_are_met_exactly_by_few_samples() -> None:
    """(q·[x; 1])² has 15 coefficients for 4 features: Carathéodory needs no more samples than that."""
    x, _ = problem()
    found = learn_set(x, None, second_moment, directions(200, x[0], 0), 60, seed=0)
    fresh = directions(100, x[0], 7)
    judged = judge(
        found, losses(second_moment, fresh, x, None), losses(second_moment, fresh, found.samples, None), 0.05
    )
    assert judged.mean < 1e-6
    assert judged.betting.bound is not None
    assert judged.mean <= judged.betting.bound <= judged.hoeffding <= 1.0


def test_moved_samples_are_no_worse_on_what_they_were_learned_on() -> None:
    x, y = problem()
    still = learn_set(x, y, squared, queries(0), 8, seed=0)
    moved = learn_set(x, y, squared, queries(0), 8, seed=0, moving=150)
    assert moved.index is None
    assert error(moved, 0) < error(still, 0)


def test_weights_are_the_best_there_are() -> None:
    relative = np.abs(np.random.default_rng(0).standard_normal((50, 6))) / 300
    best = weigh(relative, 300)

    def objective(u: np.ndarray) -> float:
        return float(((relative @ u - 1) ** 2).sum() + 50 * (u.sum() / 300 - 1) ** 2)

    for seed in range(50):
        other = np.maximum(best + np.random.default_rng(seed).standard_normal(6), 0)
        assert objective(best) <= objective(other) + 1e-9
    assert len(set(pursue(relative, 4).tolist())) == 4


def negative(query: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
    return -second_moment(query, x, y)


def lone(query: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
    return second_moment(query, x, y).sum()


def test_what_is_no_loss_is_refused() -> None:
    x, _ = problem()
    for loss, said in ((negative, "negative or not finite"), (lone, "the loss of each")):
        with pytest.raises(UsageError, match=said):
            learn_set(x, None, loss, directions(10, x[0], 0), 5, seed=0)
    for size in (0, 301):
        with pytest.raises(UsageError, match=f"--size {size}"):
            learn_set(x, None, second_moment, directions(10, x[0], 0), size, seed=0)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, labels=random.integers(0, 3, 400))
    return tmp_path / "data.npz"


def test_the_command_writes_a_set_that_can_be_used(big: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.toml"
    result = CliRunner().invoke(
        main, ["calibrate", str(big), "--size", "80", "-o", str(out), "--count", "200"]
    )
    assert result.exit_code == 0, result.output
    assert "80 weighted samples stand for 200" in result.output
    small = find_calibration(str(out)).load()
    assert small.fit_weights is not None
    assert len(small.fit[0]) == 80
    assert len(small.holdout[0]) == 200
    repeated = small.repeated(1000)
    assert len(repeated.fit[0]) == 1000 == len(repeated.fit_labels if repeated.fit_labels is not None else ())
    original = find_calibration(big).load().fit[0].astype(np.float64)
    again = repeated.fit[0].astype(np.float64)
    assert np.abs(again.T @ again / 1000 - original.T @ original / 200).max() < 0.05
    assert np.abs(again.mean(0) - original.mean(0)).max() < 0.05


def test_a_set_that_cannot_be_weighed_is_refused(big: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.toml"):
        condense(str(big), tmp_path / "small.npz")
    np.savez(tmp_path / "two.npz", **{"fit.a": np.ones((3, 2)), "fit.b": np.ones((3, 2))})
    result = CliRunner().invoke(
        main, ["calibrate", str(big), "--loss", "nowhere:fn", "-o", str(tmp_path / "s.toml")]
    )
    assert result.exit_code != 0
