"""Nets that nobody thought of: built at random from layers, pruned at random, held against their masked selves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import noise, seeded
from plans import coupled, distance, masked, muted, plan_of, random_keep
from torch import Tensor, nn

from edgeprune.graph.groups import flatten_outputs
from edgeprune.stages.allocate import allocate
from edgeprune.stages.choose import choose
from edgeprune.stages.shrink import narrow_graph, restore, shrink
from edgeprune.widths.budget import Budget, Multiples, cost

SIDE = 6
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "relu6": F.relu6,
    "leaky": F.leaky_relu,
    "none": lambda x: x,
}

Layer = tuple[str, int, str]
"""Kind, width (in twos), and the activation behind it."""

KINDS = (
    "conv",
    "plain conv",
    "depthwise",
    "grouped",
    "residual",
    "dense",
    "gate",
    "pool",
    "halves",
    "positions",
)
LAYERS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(2, 5), st.sampled_from(sorted(ACTIVATIONS))),
    min_size=1,
    max_size=5,
)


class Block(nn.Module):
    """One layer of a random net, of even width."""

    def __init__(self, before: int, layer: Layer) -> None:
        super().__init__()
        self.kind, half, activation = layer
        self.act = ACTIVATIONS[activation]
        after = 2 * half
        self.after = after
        match self.kind:
            case "conv":
                self.conv, self.bn = nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)
            case "plain conv":
                self.conv = nn.Conv2d(before, after, 1)
            case "depthwise":
                self.conv, self.after = nn.Conv2d(before, before, 3, padding=1, groups=before), before
            case "grouped":
                self.conv = nn.Conv2d(before, after, 3, padding=1, groups=2)
            case "residual":
                self.conv, self.back = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, before, 1)
                self.after = before
            case "dense":
                self.conv, self.after = nn.Conv2d(before, after, 1), before + after
            case "gate":
                self.down, self.up, self.after = (
                    nn.Conv2d(before, half, 1),
                    nn.Conv2d(half, before, 1),
                    before,
                )
            case "halves":
                self.conv = nn.Conv2d(before, 2 * after, 1)
            case _:
                self.after = before

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "conv":
                x = self.bn(self.conv(x))
            case "residual":
                x = x + self.back(F.relu(self.conv(x)))
            case "dense":
                x = torch.cat([x, self.conv(x)], 1)
            case "gate":
                x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
            case "pool":
                x = F.avg_pool2d(x, 3, 1, 1)
            case "halves":
                left, right = self.conv(x).chunk(2, 1)
                x = left * torch.sigmoid(right)
            case "positions":
                x = torch.cat([x.flip(3), x], 2)[:, :, :SIDE]
            case _:
                x = self.conv(x)
        return self.act(x)


class Random(nn.Module):
    """A stem, random layers, and a head that flattens or averages."""

    def __init__(self, layers: list[Layer], flatten: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        blocks, width = [], 6
        for layer in layers:
            blocks.append(Block(width, layer))
            width = blocks[-1].after
        self.blocks = nn.Sequential(*blocks)
        self.flatten = flatten
        self.hidden = nn.Linear(width * SIDE * SIDE if flatten else width, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(self.stem(x))
        return self.out(torch.tanh(self.hidden(h.flatten(1) if self.flatten else h.mean((2, 3)))))


@pytest.mark.slow
@settings(max_examples=25)
@given(layers=LAYERS, flatten=st.booleans(), seed=st.integers(0, 1000))
def test_a_random_net_shrunk_is_the_net_masked(layers: list[Layer], flatten: bool, seed: int) -> None:
    model, x = seeded(lambda: Random(layers, flatten), seed), noise(2, 3, SIDE, SIDE, seed=seed)
    coupling = coupled(model, x)
    assert coupling.groups, "there is always something to prune here"
    keep = random_keep(coupling, seed)
    heard = masked(coupling, keep, x)
    shrunk = shrink(model, coupling, plan_of(keep), [x])
    assert shrunk.kind == "module", shrunk.reason
    with torch.no_grad():
        found = flatten_outputs(shrunk.module(x))
    scale = 1e-10 * max(1.0, float(heard[0].abs().max()))
    assert distance(found, heard) <= scale
    assert distance(muted(model, coupling, keep, x), heard) <= scale
    assert cost(coupling, keep).params == sum(p.numel() for p in shrunk.module.parameters())
    again = restore(model, coupling, shrunk.cuts, shrunk.module.state_dict())
    with torch.no_grad():
        assert distance(flatten_outputs(again.module(x)), found) == 0


@pytest.mark.slow
@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    kinds=st.lists(st.sampled_from(["plain", "norm", "skip"]), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
)
def test_a_random_fully_connected_net_shrunk_is_the_net_masked(
    sizes: list[int], kinds: list[str], seed: int
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pairs = list(zip([4, *sizes], [*sizes, 2], strict=True))
            self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairs])
            self.norms = nn.ModuleList([nn.BatchNorm1d(b) for _, b in pairs])
            self.skips = nn.ModuleList([nn.Linear(b, b) for _, b in pairs])

        def forward(self, x: Tensor) -> Tensor:
            for k, layer in enumerate(self.layers[:-1]):
                x = layer(x)
                kind = kinds[k % len(kinds)]
                x = self.norms[k](x) if kind == "norm" else x + self.skips[k](x) if kind == "skip" else x
                x = F.relu(x)
            return self.layers[-1](x)

    model, x = seeded(Net, seed), noise(3, 4, seed=seed)
    coupling = coupled(model, x)
    keep = random_keep(coupling, seed)
    heard = masked(coupling, keep, x)
    shrunk = shrink(model, coupling, plan_of(keep), [x])
    assert shrunk.kind == "module", shrunk.reason
    with torch.no_grad():
        assert distance(flatten_outputs(shrunk.module(x)), heard) <= 1e-10 * max(
            1.0, float(heard[0].abs().max())
        )
    assert distance(muted(model, coupling, keep, x), heard) <= 1e-10 * max(1.0, float(heard[0].abs().max()))


class Renamed(nn.Module):
    """The same layers, registered in another order, under other names."""

    def __init__(self, first: Random) -> None:
        super().__init__()
        self.out, self.hidden = first.out, first.hidden
        self.blocks, self.stem, self.flatten = first.blocks, first.stem, first.flatten

    def forward(self, x: Tensor) -> Tensor:
        return Random.forward(self, x)  # type: ignore[arg-type]


@pytest.mark.slow
@settings(max_examples=8)
@given(layers=LAYERS, flatten=st.booleans(), seed=st.integers(0, 1000))
def test_the_plan_is_the_same_each_time_and_in_whatever_order_modules_are_registered(
    layers: list[Layer], flatten: bool, seed: int
) -> None:
    model, x = seeded(lambda: Random(layers, flatten), seed), noise(2, 3, SIDE, SIDE, seed=seed)
    plans = []
    for net in (model, model, Renamed(model)):
        coupling = coupled(net, x)
        widths = allocate(coupling, Budget("keep", 0.5), Multiples())
        plan = choose(coupling, widths, "magnitude", None, seed=0)
        plans.append({name: kept.tolist() for name, kept in plan.keep.items()})
    assert plans[0] == plans[1] == plans[2]
    assert list(plans[0]) == list(plans[2])


@pytest.mark.slow
@settings(max_examples=10)
@given(layers=LAYERS, flatten=st.booleans(), seed=st.integers(0, 1000))
def test_units_that_contribute_nothing_go_without_a_change(
    layers: list[Layer], flatten: bool, seed: int
) -> None:
    model, x = seeded(lambda: Random(layers, flatten), seed), noise(2, 3, SIDE, SIDE, seed=seed)
    coupling = coupled(model, x)
    keep = random_keep(coupling, seed)
    silent = dict(coupling.graph.weights)
    alive = coupling.alive(keep)
    for group in coupling.groups:
        for reader in group.readers:
            if reader.weight is not None and keep.get(group.name) is not None:
                gone = np.setdiff1d(np.arange(group.size), keep[group.name])
                place = next(p for p in group.places if (p.weight, p.axis) == (reader.weight, reader.axis))
                index = torch.from_numpy(np.flatnonzero(np.isin(place.units, gone)))
                silent[reader.weight] = silent[reader.weight].index_fill(place.axis, index, 0.0)
    whole, _ = coupling.graph.run([x], silent)
    small = narrow_graph(coupling.graph, alive, silent)
    with torch.no_grad():
        found = flatten_outputs(small(x))
    assert distance(found, whole) <= 1e-10 * max(1.0, float(whole[0].abs().max()))
