"""Evidence of groups that no plain layer makes."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.groups import Graph
from edgeprune.observation import Originals, refit
from edgeprune.observation.moments import listen
from edgeprune.stages.allocate import allocate
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace
from edgeprune.widths.budget import Budget, Multiples


class Transposed(nn.Module):
    """Weights stored (in, out), as GPT-2's are: addmm makes the units, and has no argument `weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 10))
        self.bias = nn.Parameter(torch.randn(10))
        self.last = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(torch.addmm(self.bias, x, self.first)))


def test_units_made_by_addmm_are_scored_by_their_own_weights():
    torch.manual_seed(0)
    net = Transposed().eval()
    with torch.no_grad():
        net.first[:, :5] *= 100.0
    coupling = couple(trace(net, (torch.randn(2, 6),)))
    (group,) = coupling.groups
    widths = allocate(coupling, Budget("keep", 0.5), Multiples())
    plan = choose(coupling, widths, "magnitude", None, seed=0)
    np.testing.assert_array_equal(plan.keep[group.name], np.arange(5))
    assert shrink(net, coupling, plan, (torch.randn(2, 6),)).masking < 1e-9


@pytest.mark.parametrize("what", ["listening", "refitting"])
def test_memory_does_not_grow_with_the_number_of_samples(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of all values that the net gave and that are still held when the next batch is run."""
    held: dict[int, int] = {}
    plain = Graph.values

    def watched(self: Graph, *arguments: Any) -> dict[str, Tensor]:
        alive[:] = [ref for ref in alive if ref() is not None]
        most.append(sum(value.nbytes for ref in alive if (value := ref()) is not None))
        found = plain(self, *arguments)
        alive.extend(weakref.ref(value) for value in found.values())
        return found

    monkeypatch.setattr(Graph, "values", watched)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    for count in (128, 1024):
        alive: list[weakref.ref[Tensor]] = []
        most: list[int] = []
        x = torch.randn(count, 3, 8, 8)
        coupling = couple(trace(net, (x[:2],)))
        (group,) = coupling.groups
        random = torch.Generator().manual_seed(0)
        if what == "listening":
            (sums,) = listen(coupling.graph, group, group.readers, {}, (x,), random)
            assert sums.second.nbytes + sums.first.nbytes == 8 * (64 + 8), "n × n + n numbers, however many"
        else:
            room = Originals(coupling.graph, frozenset({group.readers[0].node}), room_bytes=10_000)
            weights = dict(coupling.graph.weights)
            refit(coupling.graph, group.readers[0], np.arange(8), np.arange(4), weights, (x,), random, room)
        assert len(most) >= count // 64
        held[count] = max(most)
    assert held[1024] == held[128]
