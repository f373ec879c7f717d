from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from edgeprune.cli import main
from edgeprune.commands.condense import condense
from edgeprune.commands.estimate import estimate
from edgeprune.errors import CalibrationError, UsageError
from edgeprune.inputs.query_nets import metric_of, outputs_of, perturbed
from edgeprune.profiles import find_calibration
from edgeprune.stages.calibrate import (
    WeightedSet,
    conformal,
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


def test_one_more_query_exceeds_the_stated_quantile_no_more_often_than_was_said() -> None:
    random, exceeded = np.random.default_rng(0), 0
    for _ in range(2000):
        errors = random.exponential(size=40)
        bound = conformal(errors[:39], 0.1)
        assert bound is not None
        exceeded += errors[39] > bound
    assert 0.07 * 2000 < exceeded < 0.13 * 2000, "and the bound is no larger than it must be"
    assert conformal(np.ones(8), 0.1) is None
    assert conformal(np.arange(9.0), 0.1) == 8.0


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set with labels that the small net gets mostly right."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    x = torch.randn(1200, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = small.build()(x)
    labels = (logits + 0.05 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))).argmax(1)
    np.savez(tmp_path / "task.npz", x=x.numpy(), labels=labels.numpy())
    return tmp_path / "task.npz"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def squared_logits(outputs: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    return (np.asarray(outputs) ** 2).sum(1)


@pytest.mark.parametrize("metric", ["cross-entropy", "test_calibrate:squared_logits"])
def test_a_weighted_set_estimates_the_metric_of_a_net_on_the_whole_set(
    task: Path, tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    out = str(tmp_path / "quick.toml")
    made = run(
        *("calibrate", str(task), "--model", "small:build", "--metric", metric, "--size", "60", "-o", out),
        *("--count", "120"),
    )
    assert made.exit_code == 0, made.output
    data, inside, apart = find_calibration(task).load(), 0, []
    labels = data.fit_labels
    for seed in range(40):
        net = perturbed(small.build(), 10**9 + seed)
        given = SimpleNamespace(module=net)
        monkeypatch.setattr("edgeprune.commands.estimate.load_model", lambda *_, given=given, **__: given)
        found = estimate("small:build", out, metric)
        each = metric_of(metric, True)(outputs_of(net, (torch.from_numpy(data.fit[0]),))[0], labels)
        whole = float(np.mean(each))
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= whole <= found.high
        apart.append(abs(found.value / whole - 1))
        plain = np.random.default_rng(seed).choice(len(each), 60)
        apart[-1] -= abs(float(np.mean(each[plain])) / whole - 1)
    assert inside >= 34, "95 % of 40 nets, and room for chance"
    assert np.mean(apart) < 0, "nearer than as many samples drawn at random"


def test_the_command_tells_the_estimate_and_judges_it(task: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "quick.toml")
    run("calibrate", str(task), "--model", "small:build", "--size", "40", "--count", "60", "-o", out)
    told = run("estimate", "small:build", "--calibration", out)
    assert told.exit_code == 0, told.output
    assert "on 600 samples, estimated from 40 weighted ones" in told.output
    found = json.loads(run("estimate", "small:build", "--calibration", out, "--json").output)
    assert found["low"] <= found["value"] <= found["high"]
    for limit, code in ((found["high"] * 1.01, 0), (found["high"] * 0.99, 1)):
        given = ["estimate", "small:build", "--calibration", out, "--at-most", str(limit)]
        assert CliRunner().invoke(main, given, standalone_mode=False).return_value == code
    unjudged = ["estimate", "small:build", "--calibration", out, "--metric", "error", "--at-most", "1"]
    other = CliRunner().invoke(main, unjudged, standalone_mode=False)
    assert other.return_value == 6
    assert "no error is stated: the set was learned for cross-entropy" in other.output
    plain = run("estimate", "small:build", "--calibration", str(task))
    assert isinstance(plain.exception, CalibrationError)


@pytest.mark.slow
def test_an_onnx_file_is_estimated_as_the_net_that_it_was_made_of(task: Path, tmp_path: Path) -> None:
    out, file = str(tmp_path / "quick.toml"), tmp_path / "net.onnx"
    run("calibrate", str(task), "--model", "small:build", "--size", "40", "--count", "60", "-o", out)
    torch.onnx.export(small.build(), (torch.randn(40, 8),), file, dynamo=True)
    onnx, net = (estimate(model, out, "cross-entropy") for model in (str(file), "small:build"))
    assert onnx.value == pytest.approx(net.value, rel=1e-4)


def test_several_inputs_are_weighed_together_and_ids_by_a_loss(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    fit = {f"fit.{name}": random.standard_normal((90, 3)).astype(np.float32) for name in "ab"}
    hold = {f"holdout.{name}": random.standard_normal((20, 3)).astype(np.float32) for name in "ab"}
    np.savez(tmp_path / "two.npz", **fit, **hold)
    (tmp_path / "two.toml").write_text('name = "two"\n[data]\nfile = "two.npz"\ninputs = ["a", "b"]\n')
    out = tmp_path / "less.toml"
    assert run("calibrate", str(tmp_path / "two.toml"), "--size", "45", "-o", str(out)).exit_code == 0
    made = find_calibration(str(out)).load()
    both = np.concatenate(made.fit, axis=1).astype(np.float64)
    every = np.concatenate([fit["fit.a"], fit["fit.b"]], axis=1).astype(np.float64)
    assert made.fit_weights is not None
    again = (both.T * made.fit_weights) @ both / 90
    np.testing.assert_allclose(again, every.T @ every / 90, atol=1e-4)
    moved = run("calibrate", str(tmp_path / "two.toml"), "--size", "9", "--move", "2", "-o", str(out))
    assert "only one input of real numbers can move" in str(moved.exception)

    np.savez(
        tmp_path / "ids.npz",
        fit=np.arange(120).reshape(60, 2) % 7,
        holdout=100 + np.arange(20).reshape(10, 2),
    )
    text = 'name = "ids"\n[data]\nfile = "ids.npz"\ndtype = "int64"\n'
    (tmp_path / "ids.toml").write_text(text)
    refused = run("calibrate", str(tmp_path / "ids.toml"), "--size", "9", "-o", str(out))
    assert "whole numbers" in str(refused.exception)
    condense(str(tmp_path / "ids.toml"), out, loss=counted, queries=sevens, size=20, count=30)
    ids = find_calibration(str(out)).load()
    assert ids.fit[0].dtype == np.int64
    assert ids.fit_weights is not None


def counted(query: Tensor, ids: Tensor, labels: Tensor | None) -> Tensor:
    """How heavy a sample's ids are."""
    return query[ids].sum(1)


def sevens(count: int, sample: Tensor, seed: int) -> Tensor:
    """Weights of seven ids."""
    return torch.rand(count, 7, generator=torch.Generator().manual_seed(seed)) + 0.1
