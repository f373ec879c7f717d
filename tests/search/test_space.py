from __future__ import annotations

import numpy as np
import pytest
import small
import torch
from nets import NETS, net
from torch import nn

from edgeprune.config import Settings
from edgeprune.errors import UsageError
from edgeprune.graph.families import emphasised, families
from edgeprune.line.planning import spread
from edgeprune.search.space import Space
from edgeprune.stages.couple import couple
from edgeprune.stages.distribute import Curve, distribute
from edgeprune.stages.trace import trace
from edgeprune.widths.budget import Budget, Multiples, cost
from edgeprune.widths.pricing import Prices, Quadratic


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 20, 3, padding=1)
        self.second, self.head = nn.Conv2d(20, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        return self.head(x.mean((2, 3)))


def _coupled():
    return couple(trace(Residual().eval(), (torch.randn(1, 3, 8, 8),)), ())


def test_families_are_named_by_kind_and_width():
    assert families(_coupled()) == ("stream-12", "conv-20")


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_the_quadratic_form_is_the_count(kind: str):
    coupling = _coupled()
    price = getattr(Prices.of(coupling), kind)
    assert isinstance(price, Quadratic)
    whole = getattr(cost(coupling, {}), kind)
    random = np.random.default_rng(0)
    for _ in range(20):
        widths = {g.name: int(random.integers(1, g.size + 1)) for g in coupling.groups}
        keep = {name: np.arange(width) for name, width in widths.items()}
        assert price(widths) == pytest.approx(getattr(cost(coupling, keep), kind) / whole, abs=1e-12)


@pytest.mark.parametrize("name", sorted(NETS)[:12])
def test_prices_are_the_counts_on_every_kind_of_net(name: str):
    module, inputs = net(name)
    coupling = couple(trace(module, (inputs,)), ())
    if not coupling.groups:
        pytest.skip("nothing can be narrowed")
    prices, whole = Prices.of(coupling), cost(coupling, {})
    widths = {g.name: max(1, g.size // 2) for g in coupling.groups}
    left = cost(coupling, {n: np.arange(w) for n, w in widths.items()})
    mixed = 0.7 * left.macs / whole.macs + 0.3 * left.params / whole.params
    assert prices.mixed(0.3)(widths) == pytest.approx(mixed, abs=1e-9)


def test_the_price_is_kept_and_the_families_weights_count():
    coupling = _coupled()
    curves = {g.name: Curve(g.name, np.linspace(1, 0, g.size + 1)) for g in coupling.groups}
    prices = Prices.of(coupling)
    plain = Settings(allocation="global", macs=0.5, price_mix=0.5)
    widths = spread(coupling, plain, Multiples(1, 1), curves, prices)
    assert prices.mixed(0.5)(widths) <= 0.5
    heavy = Settings(allocation="global", macs=0.5, price_mix=0.5, emphasis=("stream-12=50",))
    assert spread(coupling, heavy, Multiples(1, 1), curves, prices)["stem"] > widths["stem"]


def test_without_a_mix_the_allocation_is_what_it_was():
    coupling = _coupled()
    curves = {g.name: Curve(g.name, np.linspace(1, 0, g.size + 1) ** 2) for g in coupling.groups}
    plain = Settings(allocation="global", macs=0.4)
    expected = distribute(coupling, Budget("macs", 0.4), Multiples(2, 2), curves)
    assert spread(coupling, plain, Multiples(2, 2), curves) == expected


def test_a_family_that_is_not_there_is_told():
    coupling = _coupled()
    errors = {g.name: np.zeros(g.size + 1) for g in coupling.groups}
    with pytest.raises(UsageError, match="conv-20"):
        emphasised(coupling, errors, ("conv-21=2",))
    assert emphasised(coupling, errors, ("conv-*=2", "stream-12=0.5"))


@pytest.mark.parametrize("text", ["conv-20", "conv-20=0", "conv-20=-1", "conv-20=inf", "=2", "conv-20=two"])
def test_weights_that_are_none_are_told(text: str):
    with pytest.raises(ValueError, match="FAMILY=WEIGHT"):
        Settings(allocation="global", macs=0.5, emphasis=(text,))


def test_a_mix_needs_a_budget_it_can_be_held_by():
    with pytest.raises(ValueError, match="price_mix"):
        Settings(allocation="global", params=0.5, price_mix=0.5)
    with pytest.raises(ValueError, match="allocation"):
        Settings(macs=0.5, price_mix=0.5)


def test_a_trials_settings_are_a_plain_runs():
    space = Space(("stream-12", "conv-20"), ("gram", "sensitivity"), ("sensitivity",))
    for params in space.first():
        made = space.settings(Settings(), params)
        assert made.method in ("gram", "sensitivity")
        assert (made.direction == "top-down") <= (made.method == "sensitivity")
        assert made.allocation == "global"
        assert made.emphasis == ("conv-20=1",)
    other = {"share": 0.3, "mix": 1.0, "family:conv-20": 2.0, "method": "sensitivity", "order": "top-down"}
    made = space.settings(Settings(), other)
    assert (made.macs, made.price_mix, made.direction) == (0.3, 1.0, "top-down")


def test_a_search_begins_evenly_wherever_it_is_cut_and_with_every_method():
    space = Space(("stream-12", "conv-20"), ("gram", "gram-forward"))
    assert [len(space.first(trials)) for trials in (0, 24, 1000)] == [8, 12, 32]
    for trials in (16, 24, 60):
        first = space.first(trials)
        shares = sorted(float(params["share"]) for params in first)
        gaps = np.diff([0.0, *shares, 1.0])
        assert gaps.max() < 4 / len(first)
        assert len(set(shares)) == len(shares)
        by_method = [params["method"] for params in first]
        assert abs(by_method.count("gram") - len(first) / 2) <= 2
    assert space.first(60)[:8] == space.first(0)


def test_the_small_net_of_the_command_line_has_families():
    assert families(couple(trace(small.build(), (torch.randn(1, 8),)), ())) == ("linear-16", "linear-12")
