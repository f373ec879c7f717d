"""Weights that are computed from parameters: weight norm, spectral norm, standardised kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import noise, seeded
from plans import coupled, distance, plan_of, random_keep
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from edgeprune.graph.groups import Coupling, Ints, flatten_outputs
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import restore, shrink
from edgeprune.stages.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm by input": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "weight norm of all": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "old weight norm": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": nn.utils.spectral_norm,
}


class Net(nn.Module):
    """Three convolutions, transposed and grouped too, and two linear layers under a norm of their weights."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.first = norm(nn.Conv1d(3, 8, 3))
        self.up = norm(nn.ConvTranspose1d(8, 10, 3))
        self.grouped = norm(nn.Conv1d(10, 12, 2, groups=2))
        self.hidden = norm(nn.Linear(12, 9))
        self.last = norm(nn.Linear(9, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.grouped(F.relu(self.up(torch.tanh(self.first(x)))))
        return self.last(torch.tanh(self.hidden(h.mean(-1))))


def made(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    model = seeded(lambda: Net(NORMS[name])).to(dtype)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith(("original0", "weight_g")):
                value.mul_(torch.rand(value.shape, generator=torch.Generator().manual_seed(3)) + 0.5)
        model(noise(2, 3, 9).to(dtype))
    return model


def effective(layer: nn.Module) -> Tensor:
    return layer.weight.detach().clone()


def silenced(model: nn.Module, keep: dict[str, Ints], x: Tensor) -> tuple[Tensor, ...]:
    """The net with plain layers that hold the weights as they were computed, and zeros for removed units.

    Nothing of the product is used: norms are taken off by torch, units are cut by hand.
    """
    plain = Net(lambda layer: layer).to(x.dtype)
    with torch.no_grad():
        for name, layer in plain.named_children():
            source = getattr(model, name)
            layer.weight.copy_(effective(source))
            layer.bias.copy_(source.bias)
        gone = {name: np.setdiff1d(np.arange(size), keep[name]) for name, size in WIDTHS.items()}
        plain.up.weight[gone["first"]] = 0.0
        half = np.concatenate([gone["up"], gone["up"] + 5])
        plain.grouped.weight[:, gone["up"]] = 0.0
        assert len(half) < 10
        plain.hidden.weight[:, np.concatenate([gone["grouped"], gone["grouped"] + 6])] = 0.0
        plain.last.weight[:, gone["hidden"]] = 0.0
        return flatten_outputs(plain.eval()(x))


WIDTHS = {"first": 8, "up": 5, "grouped": 6, "hidden": 9}
"""Units of each layer's group; the grouped convolution ties the i-th channels of its groups."""


@pytest.mark.parametrize("name", sorted(NORMS))
def test_every_unit_of_a_normed_net_can_go_and_the_weights_stay_what_they_were(name: str) -> None:
    model, x = made(name), noise(2, 3, 9)
    before = copy.deepcopy(model.state_dict())
    coupling = coupled(model, x)
    assert {group.name: group.size for group in coupling.groups} == WIDTHS
    keep = random_keep(coupling, 1)
    shrunk = shrink(model, coupling, plan_of(keep), [x])
    assert shrunk.kind == "module", shrunk.reason
    with torch.no_grad():
        found = flatten_outputs(shrunk.module(x))
    heard = silenced(model, keep, x)
    assert float(heard[0].std()) > 1e-3
    assert distance(found, heard) <= 1e-10
    assert shrunk.module.hidden.in_features == 2 * len(keep["grouped"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["weight norm", "spectral norm", "old weight norm"])
def test_a_shrunk_normed_net_is_rebuilt_and_trains(name: str) -> None:
    model, x = made(name, torch.float32), noise(2, 3, 9).float()
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 2)), [x])
    assert shrunk.kind == "module", shrunk.reason
    state = shrunk.module.state_dict()
    again = restore(made(name, torch.float32), coupling, shrunk.cuts, state)
    with torch.no_grad():
        assert distance(flatten_outputs(again.module(x)), flatten_outputs(shrunk.module(x))) == 0
    module = shrunk.module.train()
    module(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())


def test_rows_of_which_nothing_is_left_are_silent() -> None:
    model, x = made("weight norm"), noise(2, 3, 9)
    with torch.no_grad():
        original = model.hidden.parametrizations.weight.original1
        original[2, [0, 6]] = 0.0  # all that the second plan leaves of this row
    coupling = coupled(model, x)
    keep = {"grouped": np.array([0])}
    shrunk = shrink(model, coupling, plan_of(keep), [x])
    with torch.no_grad():
        assert bool(shrunk.module(x)[0].isfinite().all())
    assert float(effective(shrunk.module.hidden)[2].abs().max()) == 0


def test_another_singular_pair_is_found_where_the_old_one_says_nothing_of_what_is_left() -> None:
    model, x = made("spectral norm"), noise(2, 3, 9)
    layer = model.hidden.parametrizations.weight[0]
    with torch.no_grad():
        layer._u.zero_()[0] = 1.0
        model.hidden.parametrizations.weight.original[0, [0, 6]] = 0.0
    coupling = coupled(model, x)
    keep = {"grouped": np.array([0]), **{n: np.arange(s) for n, s in WIDTHS.items() if n != "grouped"}}
    shrunk = shrink(model, coupling, plan_of(keep), [x])
    assert shrunk.kind == "module", shrunk.reason
    with torch.no_grad():
        assert distance(flatten_outputs(shrunk.module(x)), silenced(model, keep, x)) <= 1e-9


class Standardised(nn.Conv2d):
    """A convolution whose kernels have mean zero and variance one (Qiao et al., 2019)."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.rand(self.out_channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        level = F.batch_norm(rows, None, None, weight=self.gain, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, level.reshape_as(self.weight), self.bias)


def test_a_standardised_kernel_hands_its_outputs_on_and_is_pinned_where_it_is_normalised() -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 7, 1), nn.ReLU(), Standardised(7, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)
        )
    )
    x = noise(2, 3, 6, 6)
    coupling = coupled(model, x)
    assert [(g.name, g.size) for g in coupling.groups] == [("2", 8)]
    reasons = {pinned.name: pinned.reason for pinned in coupling.pinned}
    assert reasons["0"] == "normalised over by 2 (batch_norm)"
    keep = random_keep(coupling, 4)
    shrunk = shrink(model, coupling, plan_of(keep), [x])
    assert shrunk.kind == "module", shrunk.reason
    assert shrunk.masking <= 1e-12 < shrunk.scale


def test_what_a_kernel_is_standardised_over_may_go_where_it_is_allowed() -> None:
    model = seeded(
        lambda: nn.Sequential(
            Standardised(3, 7, 1), nn.ReLU(), Standardised(7, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)
        )
    )
    x = noise(2, 3, 6, 6)
    coupling: Coupling = couple(trace(model, [x]), allow_norm_axes=True)
    near = {group.name: group.approximate for group in coupling.groups}
    assert near == {"0": "normalised over by 2 (batch_norm)", "2": ""}
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 4)), [x])
    assert shrunk.kind == "module", shrunk.reason
    assert shrunk.masking <= 1e-12 < shrunk.scale


def test_a_norm_of_a_weight_that_no_rule_knows_pins_what_it_is_taken_over() -> None:
    class Divided(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / torch.mv(weight, torch.ones(weight.shape[1], dtype=weight.dtype)).norm()

    def net() -> nn.Module:
        layers = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
        parametrize.register_parametrization(layers[2], "weight", Divided())
        return layers

    coupling = coupled(seeded(net), noise(2, 5))
    assert coupling.groups == ()
    assert any("normalised over by" in pinned.reason for pinned in coupling.pinned)
