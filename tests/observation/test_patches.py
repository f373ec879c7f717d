"""Where a reader's output lands, and refits that are measured there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.groups import Coupling, Reader
from edgeprune.observation import NormalEquations, Originals, landing, refit, shift_site
from edgeprune.stages.couple import couple
from edgeprune.stages.trace import trace


class Branches(nn.Module):
    """x → relu(bn(b(relu(a(x)))) + c(x)) → d: two branches that meet in a sum, behind a norm and bare."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1, bias=False), nn.Conv2d(3, 6, 3)
        self.bn, self.d = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.b(torch.relu(self.a(x))))
        return self.d(torch.relu(y + self.c(x)))


def branches() -> tuple[Branches, Coupling, Tensor]:
    torch.manual_seed(0)
    net = Branches().eval()
    with torch.no_grad():
        net.bn.weight.uniform_(0.5, 2.0)
        net.bn.bias.normal_()
        net.bn.running_mean.normal_()
        net.bn.running_var.uniform_(0.5, 2.0)
    x = torch.randn(40, 3, 6, 6)
    return net, couple(trace(net, (x[:2],))), x


def reader_of(coupling: Coupling, weight: str) -> Reader:
    return next(r for group in coupling.groups for r in group.readers if r.weight == weight)


def test_an_output_lands_behind_its_norm_in_the_sum() -> None:
    net, coupling, _ = branches()
    found = landing(coupling.graph, reader_of(coupling, "b.weight"), coupling.graph.weights)
    assert coupling.graph.nodes[found.node].operation == "add"
    expected = net.bn.weight.double() / torch.sqrt(net.bn.running_var.double() + net.bn.eps)
    torch.testing.assert_close(found.scale, expected.detach())


def test_an_output_that_is_bent_at_once_lands_where_it_is() -> None:
    _, coupling, _ = branches()
    reader = reader_of(coupling, "d.weight")
    found = landing(coupling.graph, reader, coupling.graph.weights)
    assert found.node == reader.node
    assert torch.equal(found.scale, torch.ones(4, dtype=torch.float64))


def test_an_output_lands_behind_dropout_in_the_sum() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.drop = nn.Linear(5, 8), nn.Linear(8, 5), nn.Dropout(0.3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.drop(self.b(torch.relu(self.a(x)))))

    coupling = couple(trace(Dropped().eval(), (torch.randn(2, 5),)))
    found = landing(coupling.graph, reader_of(coupling, "b.weight"), coupling.graph.weights)
    assert coupling.graph.nodes[found.node].operation == "add"


def test_a_scaled_sum_is_not_followed() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.add(x, self.b(torch.relu(self.a(x))), alpha=2)

    graph = trace(Scaled().eval(), (torch.randn(2, 5),))
    reader = reader_of(couple(graph), "b.weight")
    assert landing(graph, reader, graph.weights).node == reader.node


def test_a_norm_over_another_axis_takes_no_shift() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 7, bias=False), nn.BatchNorm1d(7)).eval()
    graph = trace(net, (torch.randn(2, 7, 5),))  # the norm's channels are the 7 positions
    reader = reader_of(couple(graph), "2.weight")
    assert shift_site(graph, reader) is None
    assert landing(graph, reader, graph.weights).node == reader.node


def test_one_branch_makes_up_for_what_the_other_lost() -> None:
    net, coupling, x = branches()
    weights = dict(coupling.graph.weights)
    weights["c.bias"] = weights["c.bias"] + torch.linspace(-1, 1, 6)  # damage that a shift can undo
    reader = reader_of(coupling, "b.weight")
    random = torch.Generator().manual_seed(0)
    new = refit(coupling.graph, reader, np.arange(8), np.arange(6), weights, (x,), random)
    (output,), _ = coupling.graph.run((x,), {**weights, **new})
    with torch.no_grad():
        torch.testing.assert_close(output, net(x), atol=1e-4, rtol=1e-4)


def test_outputs_that_are_gone_or_not_heard_stay_as_they_are() -> None:
    net, coupling, x = branches()
    with torch.no_grad():
        net.bn.weight[2] = 0.0
    coupling = couple(trace(net, (x[:2],)))
    weights = dict(coupling.graph.weights)
    weights["c.bias"] = weights["c.bias"] + 1.0
    reader = reader_of(coupling, "b.weight")
    random = torch.Generator().manual_seed(0)
    new = refit(coupling.graph, reader, np.arange(8), np.array([0, 1, 2, 4]), weights, (x,), random)
    moved = (new["bn.running_mean"] != weights["bn.running_mean"]).tolist()
    assert moved == [True, True, False, False, True, False]
    assert all(torch.isfinite(value).all() for value in new.values())


def test_the_original_is_run_once_for_all_refits_as_long_as_there_is_room() -> None:
    _, coupling, x = branches()
    weights = dict(coupling.graph.weights)
    weights["c.bias"] = weights["c.bias"] + 1.0
    readers = [reader_of(coupling, name) for name in ("b.weight", "d.weight")]
    nodes = frozenset(landing(coupling.graph, reader, coupling.graph.weights).node for reader in readers)
    found = []
    for room in (2**20, 0):
        originals = Originals(coupling.graph, nodes, room)
        for reader in readers:
            size = len(coupling.graph.weights[str(reader.weight)])
            channels = np.arange(coupling.graph.weights[str(reader.weight)].shape[1])
            random = torch.Generator().manual_seed(0)
            new = refit(coupling.graph, reader, channels, np.arange(size), weights, (x,), random, originals)
            found.append(new)
        assert originals.runs == (2 if room else 4), "two halves of one batch, for one reader or for both"
    for kept, again in zip(found[:2], found[2:], strict=True):
        assert all(torch.equal(value, again[name]) for name, value in kept.items())


def test_no_more_rows_are_summed_than_were_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    _, coupling, x = branches()
    rows: list[int] = []
    plain = NormalEquations.add

    def counted(self: NormalEquations, picked: torch.Tensor, rest: torch.Tensor) -> None:
        rows.append(len(picked))
        plain(self, picked, rest)

    monkeypatch.setattr(NormalEquations, "add", counted)
    monkeypatch.setattr("edgeprune.observation.patches.ROWS", 100)
    reader = reader_of(coupling, "b.weight")
    random = torch.Generator().manual_seed(0)
    refit(coupling.graph, reader, np.arange(8), np.arange(6), dict(coupling.graph.weights), (x,), random)
    assert sum(rows) == 100
