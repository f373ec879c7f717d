from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import noise
from plans import coupled
from torch import nn

from edgeprune.coresets.coreset import powers
from edgeprune.graph.silenced import Weights, loud
from edgeprune.observation import Scene, gather


def test_zeros_are_written_when_a_weight_is_looked_at() -> None:
    original = {"a": torch.ones(3, 4), "b": torch.ones(2)}
    weights = Weights(original)
    weights.silence("a", 1, np.array([0, 2]))
    assert weights.loud("a") is original["a"]
    assert list(weights.changed()) == ["a"]
    assert loud(weights) == {}
    assert weights["a"].tolist() == [[0.0, 1.0, 0.0, 1.0]] * 3
    assert original["a"].min() == 1.0
    weights.silence("a", 0, np.array([1]))
    assert weights["a"][1].tolist() == [0.0] * 4
    assert weights["b"] is original["b"]
    weights["b"] = torch.zeros(2)
    assert sorted(weights.changed()) == ["a", "b"]
    assert dict(weights.changed())["b"] is weights["b"]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_powers_are_those_of_the_rows_to_the_last_bit(order: int, groups: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 600, 3, groups=groups), nn.ReLU(), nn.Conv2d(600, 4, 1)
    ).eval()
    coupling = coupled(net, noise(2, 3, 9, 9).float())
    graph, group = coupling.graph, next(g for g in coupling.groups if g.name.startswith("2"))
    weights = Weights(graph.weights)
    if groups == 1:
        weights.silence("2.weight", 1, np.arange(0, 40, 3))
    generator = torch.Generator()
    scene = Scene(graph, weights, coupling.alive({}), None, {}, generator)
    few = gather(scene, group, hears=False, rows=False)
    found = few.powers(order)
    assert few.rows == ()
    assert few.size == group.size
    whole = gather(scene, group, hears=False)
    assert weights["2.weight"][:, :1].abs().sum() == 0.0 or groups == 2
    for mine, rows in zip(found, whole.stored, strict=True):
        assert np.array_equal(mine, powers(rows, order))
