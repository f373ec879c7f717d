from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import Flattened, Residual, mlp, net, noise, seeded
from plans import coupled
from torch import Tensor, nn

from edgeprune.coresets import CORESETS
from edgeprune.errors import CalibrationError
from edgeprune.graph.groups import Coupling
from edgeprune.plan import Plan
from edgeprune.stages.choose import choose
from edgeprune.stages.shrink import shrink

METHODS = sorted(set(CORESETS) - {"bn-scale"})
"""All that a net without batch norms can be pruned by."""


def halves(coupling: Coupling) -> dict[str, int]:
    return {group.name: group.size // 2 for group in coupling.groups}


def error(model: nn.Module, coupling: Coupling, plan: Plan, x: Tensor) -> float:
    """Relative l2 error of the outputs of the net that the plan leaves."""
    with torch.no_grad():
        expected = model(x)
        found = shrink(model, coupling, plan, [x[:2]]).module(x)
    return float((found - expected).norm() / expected.norm())


def data(*shape: int, seed: int = 1) -> Tensor:
    """Inputs whose features hang together, as those of real data do."""
    flat = noise(shape[0], 4, seed=seed) @ noise(4, int(np.prod(shape[1:])), seed=77)
    return (flat + 0.1 * noise(*flat.shape, seed=seed + 1)).reshape(shape)


def wide() -> nn.Module:
    return mlp((12, 32, 24, 5))


@pytest.mark.parametrize(("make", "shape"), [(wide, (12,)), (Residual, (3, 6, 6)), (Flattened, (3, 6, 6))])
def test_gram_errs_less_than_magnitude_and_uniform_on_samples_it_has_not_seen(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, fit, fresh = seeded(make), data(256, *shape), data(64, *shape, seed=50)
    coupling = coupled(model, fit[:2])
    found = {
        method: error(model, coupling, choose(coupling, halves(coupling), method, [fit], seed=0), fresh)
        for method in ("gram", "magnitude", "uniform")
    }
    assert found["gram"] < 0.6 * min(found["magnitude"], found["uniform"])


class Reducible(nn.Module):
    """Units 4…7 say what units 0…3 say, louder."""

    def __init__(self, reader: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.maker = nn.Conv2d(3, 8, 2)
        self.reader = reader
        self.after = after
        with torch.no_grad():
            for k in range(4):
                self.maker.weight[4 + k] = (k + 2) * self.maker.weight[k]
                assert self.maker.bias is not None
                self.maker.bias[4 + k] = (k + 2) * self.maker.bias[k]

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.reader(F.relu(self.maker(x)))).mean((2, 3))


def test_units_that_say_the_same_are_removed_for_nothing() -> None:
    model = seeded(lambda: Reducible(nn.Conv2d(8, 5, 2), nn.Identity()))
    x = noise(64, 3, 5, 5)
    coupling = coupled(model, x[:2])
    plan = choose(coupling, {"maker": 4}, "gram", [x], seed=0)
    selection = plan.selections["maker"]
    assert {k % 4 for k in selection.keep.tolist()} == {0, 1, 2, 3}, "one of each kind stays"
    assert selection.error is not None
    assert selection.error < 1e-5
    fresh = noise(32, 3, 5, 5, seed=8)
    assert error(model, coupling, plan, fresh) < 1e-4
    naive = choose(coupling, {"maker": 4}, "magnitude", [x], seed=0)
    assert error(model, coupling, naive, fresh) > 1e-2, "the task is not trivial"


@pytest.fixture(params=[True, False], ids=["refitted", "only mixed"])
def _refits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the refit that would make up for a wrong mix, and without it."""
    monkeypatch.setattr(type(CORESETS["gram"]), "refits", request.param)


@pytest.mark.usefixtures("_refits")
def test_a_constant_unit_goes_into_the_running_mean_of_the_norm_behind_its_reader() -> None:
    model = seeded(lambda: Reducible(nn.Conv2d(8, 5, 2, bias=False), nn.BatchNorm2d(5)))
    with torch.no_grad():
        model.maker.weight[2] = 0.0
        model.maker.bias[2] = 1.7
    x = noise(64, 3, 5, 5)
    coupling = coupled(model, x[:2])
    plan = choose(coupling, {"maker": 7}, "gram", [x], seed=0)
    assert 2 not in plan.selections["maker"].keep or plan.selections["maker"].error < 1e-6
    fresh = noise(32, 3, 5, 5, seed=8)
    assert error(model, coupling, plan, fresh) < 1e-4
    only = choose(coupling, {"maker": 7}, "magnitude", [x], seed=0)
    assert set(plan.weights) >= {"reader.weight"}
    assert set(plan.weights) <= {"reader.weight", "after.running_mean"}
    assert set(only.weights) == {"reader.weight"}


@pytest.mark.usefixtures("_refits")
def test_a_constant_unit_alone_moves_the_bias() -> None:
    model = seeded(lambda: mlp((6, 8, 3)))
    with torch.no_grad():
        model[0].weight[5] = 0.0
        model[0].bias[5] = 2.5
    x = noise(200, 6)
    coupling = coupled(model, x[:2])
    plan = choose(coupling, {"0": 7}, "gram", [x], seed=0)
    assert 5 not in plan.selections["0"].keep
    torch.testing.assert_close(
        plan.weights["2.bias"], (model[2].bias + 2.5 * model[2].weight[:, 5]).detach(), rtol=1e-3, atol=1e-4
    )
    assert error(model, coupling, plan, noise(50, 6, seed=3)) < 1e-4


def test_the_refit_aims_at_the_original_net_and_not_at_the_pruned_one_below() -> None:
    model, x, fresh = seeded(wide), data(256, 12), data(64, 12, seed=50)
    coupling = coupled(model, x[:2])
    both = choose(coupling, {"0": 12, "2": 24}, "gram", [x], seed=0)
    reader = both.weights["2.weight"]
    keep = both.selections["0"].keep
    with torch.no_grad():
        heard = F.relu(model[0](x))
        affine = torch.cat([heard[:, keep], torch.ones(256, 1, dtype=x.dtype)], 1)
        best = (affine @ torch.linalg.pinv(affine) @ model[2](heard) - model[2](heard)).pow(2).sum()
        ours = heard[:, keep] @ reader[:, keep].T + both.weights.get("2.bias", model[2].bias)
        residual = (ours - model[2](heard)).pow(2).sum()
    assert best <= residual <= 1.1 * best
    assert torch.equal(reader[:, np.setdiff1d(np.arange(32), keep)], torch.zeros(24, 20, dtype=x.dtype))
    assert error(model, coupling, both, fresh) < 0.2


def test_recalibrated_statistics_are_those_of_the_pruned_net_on_the_samples() -> None:
    model, x = seeded(Residual), data(70, 3, 6, 6)
    coupling = coupled(model, x[:2])
    widths = halves(coupling)
    plan = choose(coupling, widths, "magnitude", [x], seed=0, recalibrate=True)
    shrunk = shrink(model, coupling, plan, [x[:2]]).module
    heard: dict[str, Tensor] = {}
    for name in ("bn", "abn"):
        shrunk.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: heard.update({name: args[0]})
        )
    with torch.no_grad():
        shrunk(x)
    for name, value in heard.items():
        rows = value.movedim(1, -1).flatten(0, -2)
        norm = shrunk.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, rows.mean(0), rtol=0, atol=1e-9)
        torch.testing.assert_close(norm.running_var, rows.var(0), rtol=0, atol=1e-9)
    plain = choose(coupling, widths, "magnitude", [x], seed=0)
    assert not any("running" in name for name in plain.weights)


def test_a_channel_that_never_varies_is_not_divided_by_zero() -> None:
    model, x = seeded(Flattened), noise(16, 3, 6, 6)
    with torch.no_grad():
        model.conv.weight[3] = 0.0
    coupling = coupled(model, x[:2])
    plan = choose(coupling, {"conv": 6, "hidden": 7}, "magnitude", [x], seed=0, recalibrate=True)
    assert plan.selections == {}
    assert all(torch.isfinite(weight).all() for weight in plan.weights.values())
    assert float(plan.weights["bn.running_var"][3]) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_plan(method: str) -> None:
    model, x = seeded(wide), data(100, 12)
    coupling = coupled(model, x[:2])
    first, second, other = (choose(coupling, halves(coupling), method, [x], seed=seed) for seed in (4, 4, 5))
    assert first.method == method
    assert {n: s.keep.tolist() for n, s in first.selections.items()} == {
        n: s.keep.tolist() for n, s in second.selections.items()
    }
    assert all(torch.equal(weight, second.weights[name]) for name, weight in first.weights.items())
    differs = any(s.keep.tolist() != other.selections[n].keep.tolist() for n, s in first.selections.items())
    assert differs == CORESETS[method].random


@pytest.mark.parametrize("method", METHODS)
def test_a_method_needs_data_or_runs_without(method: str) -> None:
    model, x = seeded(wide), data(20, 12)
    coupling = coupled(model, x[:2])
    if CORESETS[method].data:
        with pytest.raises(CalibrationError, match=f"--method {method} needs a calibration set"):
            choose(coupling, halves(coupling), method, None, seed=0)
        return
    plan = choose(coupling, halves(coupling), method, None, seed=0)
    assert set(plan.selections) == {"0", "2"}
    assert (
        plan.selections["0"].keep.tolist()
        == choose(coupling, halves(coupling), method, [x], seed=0).selections["0"].keep.tolist()
    ), "a data-independent choice does not look at the data"


def test_recalibration_needs_data_too() -> None:
    model, x = net("flattened")
    coupling = coupled(model, x)
    with pytest.raises(CalibrationError):
        choose(coupling, halves(coupling), "magnitude", None, seed=0, recalibrate=True)


def test_groups_at_their_full_width_are_left_alone() -> None:
    model, x = seeded(wide), data(20, 12)
    coupling = coupled(model, x[:2])
    plan = choose(coupling, {"0": 32, "2": 20}, "magnitude", [x], seed=0)
    assert list(plan.selections) == ["2"]
    assert set(plan.weights) == {"4.weight"}
    assert choose(coupling, {"0": 32, "2": 24}, "gram", [x], seed=0).weights == {}


def test_the_graphs_own_weights_are_never_written_to() -> None:
    model, x = seeded(Residual), data(20, 3, 6, 6)
    coupling = coupled(model, x[:2])
    before = {name: weight.clone() for name, weight in coupling.graph.weights.items()}
    choose(coupling, halves(coupling), "gram", [x], seed=0, recalibrate=True)
    assert all(torch.equal(weight, before[name]) for name, weight in coupling.graph.weights.items())


def test_removed_units_are_silent_in_the_weights_that_read_them() -> None:
    model, x = seeded(Residual), data(20, 3, 6, 6)
    coupling = coupled(model, x[:2])
    for method in ("gram", "uniform", "magnitude"):
        plan = choose(coupling, halves(coupling), method, [x], seed=0)
        for group in coupling.groups:
            gone = np.setdiff1d(np.arange(group.size), plan.selections[group.name].keep)
            for reader in group.readers:
                assert reader.weight is not None
                weight = plan.weights[reader.weight].movedim(reader.axis, 0)
                assert not weight[np.isin(reader.units, gone)].any()


def test_uniform_weights_are_scaled_up_for_those_that_went() -> None:
    model = seeded(wide)
    coupling = coupled(model, data(2, 12))
    plan = choose(coupling, {"0": 8, "2": 24}, "uniform", None, seed=0)
    keep = plan.selections["0"].keep
    torch.testing.assert_close(plan.weights["2.weight"][:, keep], model[2].weight.detach()[:, keep] * 4)


class Transposed(nn.Module):
    """A weight that is stored (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 16)
        self.w = nn.Parameter(torch.randn(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.a(x)), self.w.t())


def test_a_weight_that_is_stored_the_other_way_round_is_compensated() -> None:
    model, x = seeded(Transposed), data(100, 12)
    coupling = coupled(model, x[:2])
    found = {
        method: error(model, coupling, choose(coupling, {"a": 8}, method, [x], seed=0), data(50, 12, seed=9))
        for method in ("gram", "magnitude")
    }
    assert found["gram"] < 0.5 * found["magnitude"]


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (14, 4)])
def test_a_fixed_batch_size_is_kept_to(count: int, batch: int) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(12, 16)
            self.b = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x.reshape(batch, 12))))

    model, x = seeded(Fixed), data(count, 12)
    coupling = coupled(model, x[:batch])
    assert coupling.graph.batch == batch
    plan = choose(coupling, {"a": 8}, "gram", [x], seed=0)
    assert (
        plan.selections["a"].keep.tolist()
        == choose(coupling, {"a": 8}, "gram", [x[:12]], seed=0).selections["a"].keep.tolist()
    ), "what does not fill a batch is left out"
    with pytest.raises(
        CalibrationError, match=f"runs only at batch size {batch}, and the calibration set has 3"
    ):
        choose(coupling, {"a": 8}, "gram", [x[:3]], seed=0)


def test_each_group_is_handed_to_the_progress_once() -> None:
    seen = []

    def progress(iterable, description, total):  # type: ignore[no-untyped-def]
        items = list(iterable)
        seen.append((description, total, len(items)))
        return items

    model, x = seeded(wide), data(20, 12)
    coupling = coupled(model, x[:2])
    choose(coupling, halves(coupling), "magnitude", [x], seed=0, progress=progress)
    assert seen[0] == ("choosing (magnitude)", 2, 2)
