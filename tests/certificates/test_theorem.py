"""The coreset theorem's promise, and the attack that is printed beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import small
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.certificates.theorem import layer_promises
from edgeprune.certificates.twins import twins_of
from edgeprune.domains.sets import Box
from edgeprune.errors import UnsupportedModel, UnsupportedOperation
from edgeprune.plan import Cuts, Shrunk
from edgeprune.records.run import Certificate
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.radii import radii
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

DOMAIN = Box(-1.0, 1.0)
Sampled = tuple[object, Shrunk]


def sampled(
    net: nn.Module, x: Tensor, method: str = "sensitivity", seed: int = 0, keep: float = 0.5
) -> Sampled:
    net = net.eval()
    coupling = couple(trace(net, (x,)))
    widths = {group.name: max(1, round(keep * group.size)) for group in coupling.groups}
    plan = choose(coupling, widths, method, None, seed=seed, radii=radii(coupling, (DOMAIN,), (x,)))
    return coupling, shrink(net, coupling, plan, (x,))


def promised(coupling, shrunk, x: Tensor, domain: Box | None = DOMAIN) -> list[Certificate]:
    alive = coupling.alive({name: np.array(keep) for name, keep in shrunk.cuts.keep.items()})
    try:
        pair = twins_of(coupling.graph, shrunk.graph, alive, (x[:1],))
    except UnsupportedOperation:
        pair = None
    return [
        c for c in layer_promises(coupling, shrunk, pair, domain and (domain,), 0.95) if "explicit" in c.name
    ]


class Bent(nn.Module):
    """Two linear layers with any activation between."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.activation = nn.Linear(6, 20), nn.Linear(20, 4), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.activation(self.a(x)))


class Branch(nn.Module):
    """A residual stream that two convolutions write into and two read, behind norms and ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.an = nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.c, self.bn = (
            nn.Conv2d(8, 6, 1),
            nn.Conv2d(6, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
        )
        self.d = nn.Conv2d(8, 3, 3, padding=1)
        for norm in (self.an, self.bn):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        stream = F.relu(self.an(self.a(x)))
        stream = F.relu(stream + self.bn(self.c(F.relu(self.b(stream)))))
        return self.d(stream)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "clip": lambda z: z.clamp(0, 1),
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "softplus": F.softplus,
    "softplus, steeper": lambda z: F.softplus(z, beta=3.0),
    "step": lambda z: (z >= 0).to(z.dtype),
    "step, written otherwise": lambda z: torch.where(z > 0, 1.0, 0.0),
    "step by heaviside": lambda z: torch.heaviside(z, torch.ones((), dtype=z.dtype)),
    "soft clipping": lambda z: F.softplus(z, beta=4.0) - F.softplus(z - 1, beta=4.0),
}


@pytest.mark.parametrize("method", ["sensitivity", "sensitivity-draws"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_admissible_activation_is_recognised_promised_and_attacked(name: str, method: str) -> None:
    x = torch.randn(2, 6)
    for seed in range(3):
        (promise,) = promised(*sampled(Bent(ACTIVATIONS[name]), x, method, seed), x)
        assert promise.reason == ""
        assert promise.attacked is not None
        assert 0 < promise.attacked <= promise.bound
        assert promise.tightness is not None
        assert promise.tightness < 200


class Deep(nn.Module):
    """Three linear layers with the same activation behind the first two."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first, self.last = Bent(activation), nn.Linear(20, 3)
        self.first.b = nn.Linear(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first.activation(self.first(x)))


@pytest.mark.parametrize("name", ["step", "step, written otherwise", "step by heaviside", "sigmoid"])
def test_bounded_activations_bound_what_deeper_layers_hear(name: str) -> None:
    x = torch.randn(2, 6)
    net = Deep(ACTIVATIONS[name]).eval()
    coupling = couple(trace(net, (x,)))
    found = radii(coupling, (DOMAIN,), (x,))
    maker = next(node.name for node in coupling.graph.nodes.values() if node.target == "last.weight")
    reader = next(n.name for n in coupling.graph.nodes.values() if maker in n.sources())
    heard = net.first.activation(net.first(2 * torch.rand(4000, 6) - 1)).norm(dim=1).detach()
    assert float(heard.max()) <= found[reader] <= 20**0.5 * (1 + 1e-9)
    for promise in promised(*sampled(net, x), x):
        assert promise.reason == ""
        assert promise.attacked is not None
        assert 0 < promise.attacked <= promise.bound


def test_a_number_of_draws_that_was_fixed_in_advance_is_promised_more() -> None:
    x = torch.randn(2, 6)
    coupling, shrunk = sampled(Bent(torch.relu), x, "sensitivity-draws")
    (fixed,) = promised(coupling, shrunk, x)
    content = {**shrunk.cuts.sampling["a"].to_json(), "fixed": False}
    one = type(shrunk.cuts.sampling["a"]).from_json(content)
    other = Cuts({}, shrunk.cuts.keep, sampling={"a": one})
    (stopped,) = promised(coupling, Shrunk(shrunk.module, shrunk.graph, "module", "", other, 0.0, 0.0, 0), x)
    assert fixed.bound < stopped.bound


def test_every_sampled_layer_is_attacked_and_its_promise_holds() -> None:
    x = torch.randn(2, 8)
    promises = promised(*sampled(small.build(), x), x)
    assert [c.layer for c in promises] == ["0", "2"]
    for promise in promises:
        assert promise.attacked is not None
        assert 0 < promise.attacked <= promise.bound
        assert promise.tightness == pytest.approx(promise.bound / promise.attacked)


@pytest.mark.parametrize("method", ["sensitivity", "sensitivity-draws"])
def test_channels_and_residual_streams_are_promised_too(method: str) -> None:
    x = torch.randn(2, 2, 5, 5)
    for seed in range(2):
        promises = {c.layer: c for c in promised(*sampled(Branch(), x, method, seed), x)}
        assert set(promises) == {"a", "b"}, "the stream is one group, made by two layers and read by two"
        for promise in promises.values():
            assert promise.reason == ""
            assert promise.attacked is not None
            assert 0 < promise.attacked <= promise.bound


def test_channels_behind_a_pool_that_are_read_by_a_linear_layer_are_promised() -> None:
    torch.manual_seed(0)
    for pool in (nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(2)):
        width = 8 if isinstance(pool, nn.AdaptiveAvgPool2d) else 32
        net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(width, 3))
        x = torch.randn(2, 2, 4, 4)
        (promise,) = promised(*sampled(net, x), x)
        assert promise.attacked is not None
        assert 0 < promise.attacked <= promise.bound


def test_a_coreset_of_each_neuron_is_promised_what_it_lost_and_what_it_drew() -> None:
    x = torch.randn(2, 6)
    for seed in range(4):
        coupling, shrunk = sampled(Bent(torch.relu), x, "sensitivity-neuron", seed, keep=0.8)
        (promise,) = promised(coupling, shrunk, x)
        assert promise.attacked is not None
        assert 0 < promise.attacked <= promise.bound
    image = torch.randn(2, 2, 5, 5)
    reasons = [c.reason for c in promised(*sampled(Branch(), image, "sensitivity-neuron"), image)]
    assert all("a coreset of each neuron" in reason for reason in reasons)


def test_what_the_theorem_does_not_speak_about_is_said() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 2, 4, 4)
    pooled = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)
    )
    padded = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 3, 3, padding=1))
    for net, words in ((pooled, "stands between"), (padded, "pads with zeros, which sigmoid never says")):
        (promise,) = promised(*sampled(net, x), x)
        assert words in promise.reason
        assert promise.bound is None
    flat = torch.randn(2, 6)
    (promise,) = promised(*sampled(Bent(torch.relu), flat), flat, None)
    assert "needs a bounded domain" in promise.reason


@pytest.mark.parametrize("activation", [F.gelu, F.silu, torch.tanh, torch.sign, torch.abs])
def test_activations_outside_the_theorem_are_refused(activation: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedModel, match="non-negative, non-decreasing"):
        sampled(Bent(activation), torch.randn(2, 6))


def test_an_activation_outside_the_theorem_behind_a_sum_is_refused_too() -> None:
    class Summed(Branch):
        def forward(self, x: Tensor) -> Tensor:
            stream = F.gelu(self.an(self.a(x)) + self.bn(self.c(F.relu(self.b(self.a(x))))))
            return self.d(stream)

    with pytest.raises(UnsupportedModel, match="not gelu"):
        sampled(Summed(), torch.randn(2, 2, 5, 5))


def test_without_the_weights_of_the_draw_nothing_is_claimed_of_an_attack() -> None:
    x = torch.randn(2, 8)
    coupling, shrunk = sampled(small.build(), x)
    resumed = Shrunk(shrunk.module, shrunk.graph, "module", "", shrunk.cuts, 0.0, 0.0, 0)
    assert [c.attacked for c in promised(coupling, resumed, x)] == [None, None]
    other = {name: value * 2 for name, value in shrunk.full.items()}
    changed = Shrunk(shrunk.module, shrunk.graph, "module", "", shrunk.cuts, 0.0, 0.0, 0, other)
    assert promised(coupling, changed, x)[1].attacked is None
