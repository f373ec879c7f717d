from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import (
    NETS,
    Depthwise,
    Flattened,
    Grouped,
    Remembered,
    Residual,
    Tied,
    Written,
    mlp,
    net,
    noise,
    seeded,
)
from plans import coupled, distance, known, masked, muted, plan_of, random_keep
from torch import Tensor, nn

from edgeprune.errors import BrokenPromise, ModelError
from edgeprune.graph.groups import Coupling, Node, flatten_outputs
from edgeprune.ops.conv import Convolution
from edgeprune.plan import Cuts, Plan, Shrunk
from edgeprune.stages.shrink import fill, narrow_module, restore, shrink


def outputs(module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return flatten_outputs(module(*inputs))


def shrunk_net(name: str, seed: int = 0) -> tuple[nn.Module, Tensor, Coupling, Plan, Shrunk]:
    model, x, coupling = known(name)
    plan = plan_of(random_keep(coupling, seed))
    return model, x, coupling, plan, shrink(model, coupling, plan, [x])


@pytest.mark.parametrize("name", sorted(NETS))
def test_module_graph_and_masked_net_agree_and_the_model_is_left_alone(name: str) -> None:
    model, x, coupling = known(name)
    before = copy.deepcopy(model.state_dict())
    plan = plan_of(random_keep(coupling, 3))
    shrunk = shrink(model, coupling, plan, [x])
    heard = masked(coupling, plan.keep, x)
    assert shrunk.masking <= 1e-12
    assert shrunk.scale == pytest.approx(float(heard[0].abs().max()))
    assert shrunk.n_inputs == len(x)
    assert distance(outputs(shrunk.module, x), heard) <= 1e-12
    assert distance(outputs(shrunk.graph, x), heard) <= 1e-12
    assert distance(muted(model, coupling, plan.keep, x), heard) <= 1e-12
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    smaller, whole = (sum(p.numel() for p in m.parameters()) for m in (shrunk.module, model))
    assert smaller < whole


@pytest.mark.parametrize("name", sorted(set(NETS) - {"written"}))
def test_a_shrunk_module_is_the_users_own_with_smaller_weights(name: str) -> None:
    model, _, _, plan, shrunk = shrunk_net(name)
    assert (shrunk.kind, shrunk.reason) == ("module", "")
    assert type(shrunk.module) is type(model)
    assert shrunk.cuts.shrunk == "module"
    assert shrunk.cuts.keep == {group: tuple(kept.tolist()) for group, kept in plan.keep.items()}
    state = model.state_dict()
    for key, value in shrunk.module.state_dict().items():
        expected = state[key]
        for axis, index in shrunk.cuts.weights.get(key, {}).items():
            expected = expected.index_select(axis, torch.tensor(index))
        if key in shrunk.cuts.weights or value.shape == state[key].shape:
            assert torch.equal(value, expected)


def test_attributes_follow_the_weights_so_that_a_printed_model_tells_the_truth() -> None:
    model, x, coupling = known("residual")
    keep = {"stem": np.array([0, 5, 7]), "a1": np.array([2]), "b1": np.arange(4)}
    module = shrink(model, coupling, plan_of(keep), [x]).module
    assert (module.stem.out_channels, module.stem.in_channels) == (3, 3)
    assert (module.bn.num_features, module.abn.num_features) == (3, 1)
    assert (module.a1.in_channels, module.a1.out_channels, module.a2.out_channels) == (3, 1, 3)
    assert (module.project.in_channels, module.project.out_channels) == (3, 12)
    assert (module.head.in_features, module.head.out_features) == (12, 5)
    assert "Conv2d(3, 1, kernel_size" in repr(module)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_layer_has_as_many_groups_as_channels_are_left(multiplier: int) -> None:
    model, x = seeded(lambda: Depthwise(multiplier)), noise(2, 3, 5, 5)
    coupling = coupled(model, x)
    module = shrink(model, coupling, plan_of({"expand": np.array([1, 2, 6])}), [x]).module
    depth = module.depth
    assert (depth.in_channels, depth.out_channels, depth.groups) == (3, 3 * multiplier, 3)


def test_a_grouped_convolution_keeps_its_groups() -> None:
    model, x = seeded(Grouped), noise(2, 3, 6, 6)
    coupling = coupled(model, x)
    module = shrink(
        model, coupling, plan_of({"before": np.array([3]), "grouped": np.array([0, 4])}), [x]
    ).module
    assert (module.grouped.in_channels, module.grouped.out_channels, module.grouped.groups) == (2, 4, 2)
    assert module.grouped.weight.shape == (4, 1, 3, 3)


def test_a_size_in_the_forward_leaves_the_graph_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model, x = seeded(Written), noise(2, 1, 6)
    coupling = coupled(model, x)
    plan = plan_of({"conv": np.array([0, 1, 6])})
    with caplog.at_level(logging.WARNING, logger="edgeprune"):
        shrunk = shrink(model, coupling, plan, [x])
    assert shrunk.kind == shrunk.cuts.shrunk == "graph"
    assert shrunk.module is shrunk.graph
    assert "[-1, 48]" in shrunk.reason
    assert "the shrunk graph is used" in caplog.text
    wider = noise(5, 1, 6)
    assert distance(outputs(shrunk.module, wider), masked(coupling, plan.keep, wider)) <= 1e-12
    assert shrunk.module.get_parameter("classifier.weight").shape == (4, 18)


def test_a_size_kept_as_an_attribute_follows_and_is_remembered(tmp_path: Path) -> None:
    model, x = seeded(Remembered), noise(2, 1, 6)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of({"conv": np.array([0, 1, 6])}), [x])
    assert shrunk.kind == "module"
    assert shrunk.module.in_features == 18
    assert model.in_features == 48
    shrunk.cuts.save(tmp_path / "plan.json")
    again = restore(model, coupling, Cuts.load(tmp_path / "plan.json"), shrunk.module.state_dict())
    assert again.module.in_features == 18
    assert torch.equal(again.module(x), shrunk.module(x))


def test_numbers_of_heads_follow(tmp_path: Path) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 4
            self.qkv = nn.Linear(8, 24)
            self.proj = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).reshape(x.shape[0], 5, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
            heard = (q @ k.transpose(-2, -1)).softmax(-1) @ v
            return self.proj(heard.transpose(1, 2).reshape(x.shape[0], 5, -1))

    model, x = seeded(Heads), noise(2, 5, 8)
    coupling = coupled(model, x)
    (group,) = coupling.groups
    assert group.size == 4
    shrunk = shrink(model, coupling, plan_of({group.name: np.array([0, 3])}), [x])
    assert (shrunk.kind, shrunk.module.num_heads) == ("module", 2)
    wider = noise(5, 5, 8)
    assert (
        distance(outputs(shrunk.module, wider), masked(coupling, {group.name: np.array([0, 3])}, wider))
        <= 1e-12
    )


@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_a_cache_of_earlier_runs_is_emptied() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cache: dict[str, Tensor] = {}
            self.table = nn.Parameter(torch.arange(12.0).reshape(6, 2))
            self.a = nn.Linear(3, 6)
            self.b = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            if "bias" not in self.cache:
                self.cache["bias"] = self.table[:, 0]
            return self.b(torch.relu(self.a(x)) + self.cache["bias"])

    model, x = seeded(Keeps), noise(2, 3)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of({coupling.groups[0].name: np.array([1, 4])}), [x])
    assert shrunk.kind == "module"
    assert shrunk.module.table.shape == (2, 2)


def test_a_forward_that_runs_narrowed_but_computes_something_else_is_not_used() -> None:
    class Averages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 8)
            self.b = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(h / h.shape[1])

    model, x = seeded(Averages), noise(2, 6)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of({"a": np.arange(4)}), [x])
    assert shrunk.kind == "graph"
    assert "its outputs differ from the graph's" in shrunk.reason


def test_weights_under_two_names_stay_one_tensor() -> None:
    model, x = seeded(Tied), noise(2, 6)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of({coupling.groups[0].name: np.array([1, 4, 6])}), [x])
    assert shrunk.kind == "module"
    assert shrunk.module.first.weight is shrunk.module.second.weight
    assert shrunk.module.first.weight.shape == (3, 3)
    assert shrunk.module.first.out_features == shrunk.module.second.in_features == 3


def test_parameters_that_nothing_uses_stay_as_they_are() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 8)
            self.spare = nn.Linear(8, 8)
            self.free = nn.Parameter(torch.ones(8))
            self.b = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)))

    model, x = seeded(Spare), noise(2, 6)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of({"a": np.arange(3)}), [x])
    assert shrunk.kind == "module"
    assert shrunk.module.spare.weight.shape == (8, 8)
    assert shrunk.module.free.shape == (8,)
    again = restore(model, coupling, shrunk.cuts, shrunk.module.state_dict())
    assert distance(outputs(again.module, x), outputs(shrunk.module, x)) == 0


def test_a_shrunk_net_can_be_trained_on() -> None:
    model, x = seeded(Flattened), noise(8, 3, 6, 6)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 1)), [x])
    module = shrunk.module.train()
    assert all(p.requires_grad for p in module.parameters())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    target = noise(8, 3, seed=9)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.mse_loss(module(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert module.bn.running_mean.shape == (module.bn.num_features,)
    assert not torch.equal(module.bn.running_mean, module.bn.running_mean * 0)
    assert all(torch.isfinite(p).all() for p in module.eval().parameters())


def test_frozen_parameters_stay_frozen_and_buffers_stay_buffers() -> None:
    model, x = net("flattened")
    model.conv.weight.requires_grad_(False)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 1)), [x])
    for module in (shrunk.module, shrunk.graph):
        assert not module.get_parameter("conv.weight").requires_grad
        assert module.get_parameter("conv.bias").requires_grad
        assert module.get_buffer("bn.running_mean").shape == module.get_parameter("bn.weight").shape
    assert "bn.num_batches_tracked" in shrunk.module.state_dict()


def test_weights_of_the_plan_are_filled_in() -> None:
    model, x = seeded(mlp), noise(2, 6)
    coupling = coupled(model, x)
    weights = {"2.weight": noise(7, 8, seed=5), "2.bias": noise(7, seed=6)}
    keep = {"0": np.array([1, 3, 4])}
    shrunk = shrink(model, coupling, plan_of(keep, weights), [x])
    assert torch.equal(shrunk.module[2].weight, weights["2.weight"][:, [1, 3, 4]])
    assert torch.equal(shrunk.graph.get_parameter("2.bias"), weights["2.bias"])
    changed = copy.deepcopy(model)
    fill(changed, weights)
    assert distance(outputs(shrunk.module, x), muted(changed, coupling, keep, x)) <= 1e-12
    assert not torch.equal(model[2].bias, weights["2.bias"])


def test_a_net_in_float32_is_compared_in_float64() -> None:
    model, x = seeded(Residual).float(), noise(2, 3, 6, 6).float()
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 0)), [x])
    assert 0 <= shrunk.masking < 1e-12, "float32 would leave about 1e-7"
    assert next(shrunk.module.parameters()).dtype == torch.float32
    assert shrunk.kind == "module"


def test_an_empty_plan_changes_nothing() -> None:
    model, x = net("residual")
    shrunk = shrink(model, coupled(model, x), plan_of({}), [x])
    assert shrunk.cuts.weights == {}
    assert distance(outputs(shrunk.module, x), outputs(model, x)) == 0


def test_a_rule_that_narrows_wrongly_breaks_its_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Convolution, node: Node, alive: object) -> dict[str, object]:
        return {"dilation": [2, 2], "padding": [2, 2]} if node.scope == "b2" else {}

    model, x, coupling = known("residual")
    monkeypatch.setattr(Convolution, "narrow", wrong)
    with pytest.raises(
        BrokenPromise, match="the narrowed graph differs from the masked original by"
    ) as caught:
        shrink(model, coupling, plan_of(random_keep(coupling, 0)), [x])
    assert caught.value.exit_code == 4


class Constants(nn.Module):
    """A buffer that is not saved, another that is, and a tensor written into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 3)
        self.register_buffer("offset", torch.arange(8.0), persistent=False)
        self.register_buffer("saved", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x) + self.offset * self.saved)) * torch.tensor([1.0, 2.0, 3.0])


RESTORED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **NETS,
    "constants": (Constants, (2, 6)),
}


@pytest.mark.parametrize("name", sorted(RESTORED))
def test_what_was_shrunk_is_restored_from_its_cuts_and_weights(name: str, tmp_path: Path) -> None:
    make, shape = RESTORED[name]
    model, x = seeded(make), noise(*shape)
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 2)), [x])
    shrunk.cuts.save(tmp_path / "plan.json")
    cuts = Cuts.load(tmp_path / "plan.json")
    assert cuts == shrunk.cuts
    # the same code with other weights: all that matters is in the file
    other = seeded(make, seed=99)
    weights = {key: value.clone() for key, value in shrunk.module.state_dict().items()}
    again = restore(other, coupled(other, x), cuts, weights)
    assert again.kind == shrunk.kind
    assert type(again.module).__name__ == type(shrunk.module).__name__
    assert distance(outputs(again.module, x), outputs(shrunk.module, x)) == 0
    assert distance(outputs(again.graph, x), outputs(shrunk.graph, x)) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("stem.weight"), "stem.weight is missing"),
        (
            lambda weights: weights.update({"stem.weight": torch.zeros(1, 3, 3, 3)}),
            r"stem.weight has shape \(1, 3, 3, 3\)",
        ),
    ],
)
def test_weights_that_do_not_belong_to_the_cuts_are_refused(
    change: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    model, _, coupling, _, shrunk = shrunk_net("residual")
    weights = dict(shrunk.module.state_dict())
    change(weights)
    with pytest.raises(ModelError, match=f"do not belong to this model: {said}"):
        restore(model, coupling, shrunk.cuts, weights)


def test_cuts_of_another_model_are_refused() -> None:
    _, _, _, _, shrunk = shrunk_net("residual")
    with pytest.raises(ModelError, match="which the model does not have"):
        narrow_module(seeded(mlp), shrunk.cuts)
    small = nn.Linear(4, 3)
    with pytest.raises(ModelError, match=r"keeps index 7 of axis 0 of weight, which has shape \(3, 4\)"):
        narrow_module(small, Cuts({"weight": {0: (0, 7)}}, {}))
    with pytest.raises(ModelError, match="axis 2 of weight"):
        narrow_module(small, Cuts({"weight": {2: (0, 1)}}, {}))


def test_a_plan_that_keeps_one_unit_of_each_group_still_runs() -> None:
    for name in ("residual", "grouped", "gate", "dense"):
        model, x, coupling = known(name)
        keep = {group.name: np.array([group.size - 1]) for group in coupling.groups}
        shrunk = shrink(model, coupling, plan_of(keep), [x])
        assert distance(outputs(shrunk.module, x), masked(coupling, keep, x)) <= 1e-12


def test_two_shrinkings_of_one_plan_are_equal() -> None:
    model, x, coupling, plan, first = shrunk_net("dense")
    second = shrink(model, coupling, plan, [x])
    assert dataclasses.replace(first, module=second.module, graph=second.graph) == second
    assert all(torch.equal(v, second.module.state_dict()[k]) for k, v in first.module.state_dict().items())
