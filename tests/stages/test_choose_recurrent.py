"""Recurrent layers are readers too: they hear their own state, and are never refitted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace


class Gru(nn.Module):
    """A layer, a recurrent one that hears it, and one that hears its states."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.r, self.c = nn.Linear(6, 16), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.r(torch.relu(self.a(x)))[0])


def test_every_method_of_second_moments_beats_magnitude_on_a_recurrent_net() -> None:
    net, x, fresh = Gru().eval(), torch.randn(120, 7, 6), torch.randn(64, 7, 6)
    coupling = couple(trace(net, (x[:2],)))
    widths = {group.name: group.size // 2 for group in coupling.groups}
    errors = {}
    for method in ("magnitude", "gram-mix", "gram"):
        plan = choose(coupling, widths, method, (x,), seed=0)
        small = shrink(net, coupling, plan, (x[:4],)).module
        with torch.no_grad():
            errors[method] = float((small(fresh) - net(fresh)).norm() / net(fresh).norm())
    assert errors["gram"] < errors["gram-mix"] < 0.6 * errors["magnitude"]


def test_units_that_the_state_needs_are_chosen_by_what_the_state_is() -> None:
    net, x = Gru().eval(), torch.randn(120, 7, 6)
    with torch.no_grad():
        net.c.weight.zero_()  # the output hears nothing: only the state decides, through W_hh
        net.c.weight[:, 0] = 1e-6
        net.r.weight_hh_l0[:, 12:] *= 1e-3
    coupling = couple(trace(net, (x[:2],)))
    (group,) = (one for one in coupling.groups if one.size == 24)
    widths = {one.name: 13 if one is group else one.size for one in coupling.groups}
    keep = choose(coupling, widths, "gram-mix", (x,), seed=0).selections[group.name].keep
    assert len(set(keep.tolist()) & set(range(12))) >= 10


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_the_default_method_prunes_any_recurrent_net(kind: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.c = nn.Linear(5, 8), nn.Linear(12, 2)
            self.r = getattr(nn, kind)(8, 12, num_layers=2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.r(torch.relu(self.a(x)))[0])

    net, x = Net().eval(), torch.randn(40, 4, 5)
    coupling = couple(trace(net, (x[:2],)))
    plan = choose(coupling, {one.name: one.size // 2 for one in coupling.groups}, "gram", (x,), seed=0)
    assert shrink(net, coupling, plan, (x[:4],)).module(x).shape == (40, 4, 2)
