"""Layer norm, attention, products and max-pools: their forms are what torch computes, their bounds hold."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nets import seeded
from pruned import prune
from torch import Tensor, nn

from edgeprune.bounds.attack import attack
from edgeprune.bounds.crown import Effort, crown
from edgeprune.bounds.differential import difference, enclose, propagate
from edgeprune.domains.sets import Box
from edgeprune.graph.groups import flatten_outputs

F64 = torch.float64


class Block(nn.Module):
    """A transformer's layer over (batch, positions, width): attention, feed-forward, layer norms."""

    def __init__(self, width: int = 8, heads: int = 2, fused: bool = True) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.back, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 12), nn.Linear(12, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places = nn.Embedding(4, width)

    def forward(self, x: Tensor) -> Tensor:
        # depends on the size of x, not on x
        x = x + self.places(torch.arange(x.shape[1]).expand(x.shape[:2]))
        parts = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        if self.fused:
            mixed = F.scaled_dot_product_attention(*parts)
        else:
            scores = parts[0] @ parts[1].transpose(-1, -2) * 0.5
            mixed = scores.softmax(-1) @ parts[2]
        x = self.first(x + self.back(mixed.transpose(1, 2).flatten(2)))
        return self.second(x + self.down(F.gelu(self.up(x)))).mean(1)


class Pooled(nn.Module):
    """Convolutions with max-pools of overlapping windows, padded."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(1, 4, 3),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Linear(12, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(x), 3, 2, 1)
        x = F.max_pool2d(F.relu(self.second(x)), (2, 1), (2, 1))
        return self.head(F.max_pool2d(x, 1, (1, 2)).flatten(1))


class Signal(nn.Module):
    """The same along one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(torch.tanh(self.first(x)), 2)
        return self.head(F.relu(self.second(x)).flatten(1))


def case(name: str) -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if name in ("fused", "spelled out"):
        x = torch.randn((2, 2, 8), generator=generator, dtype=F64)
        return seeded(lambda: Block(fused=name == "fused"), 2), x
    if name == "pooled":
        return seeded(Pooled, 2), torch.rand((2, 1, 8, 8), generator=generator, dtype=F64)
    return seeded(Signal, 2), torch.rand((2, 1, 12), generator=generator, dtype=F64)


@pytest.mark.parametrize(
    "name", [pytest.param("fused", marks=pytest.mark.slow), "spelled out", "pooled", "signal"]
)
def test_no_error_exceeds_the_bounds(name: str) -> None:
    torch.set_num_threads(1)
    model, x = case(name)
    pair, gap = prune(model, x, 3)
    point = propagate(pair.twins, enclose([Box(x[0], x[0])], pair.shapes, pair.inputs))
    with torch.no_grad():
        value = flatten_outputs(model(x[:1]))[0]
    assert point[pair.outputs[0]].f.widen(torch.full_like(value, 1e-9)).holds(value)
    ratios = []
    for radius in (0.1, 1e-2, 1e-6):
        domain = Box.around(x[0], radius)
        generator = torch.Generator().manual_seed(0)
        found = attack(gap, [domain], pair.shapes, generator=generator, steps=15, samples=64, restarts=3)
        cheap = difference(pair.twins, enclose([domain], pair.shapes, pair.inputs), pair.outputs).linf
        for effort in (Effort(steps=0, symbols=0), Effort(steps=2)):
            bound = crown(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, effort).linf
            assert found.value <= (bound or torch.inf) * (1 + 1e-9) + 1e-9
            assert (bound or 0.0) <= (torch.inf if cheap is None else cheap) * (1 + 1e-9)
        ratios.append((bound or torch.inf) / found.value)
    assert ratios[-1] <= 1.01
    assert ratios[1] <= 3.0


@pytest.mark.parametrize("name", ["fused", "pooled", "signal"])
def test_no_node_leaves_its_bounds(name: str) -> None:
    """Every node of both nets and their difference, on random inputs and corners."""
    from edgeprune.bounds.crown import Progression

    model, x = case(name)
    pair, _ = prune(model, x, 5)
    for radius in (0.2, 1e-3):
        domain = Box.around(x[0], radius)
        inputs = enclose([domain], pair.shapes, pair.inputs)
        walk = Progression(pair.twins, {pair.inputs[0]: domain}, inputs, Effort(steps=0))
        walk.run()
        generator = torch.Generator().manual_seed(0)
        tried = domain.sample(6, pair.shapes[0], generator)
        corner = domain.extreme(torch.randn((6, *pair.shapes[0]), generator=generator, dtype=F64))
        for one in torch.cat([tried, corner]):
            there = propagate(pair.twins, enclose([Box(one, one)], pair.shapes, pair.inputs))
            for twin in pair.twins:
                exact, reach = there[twin.name], walk.reached[twin.name]
                for point, interval in ((exact.f, reach.f), (exact.g, reach.g), (exact.delta, reach.delta)):
                    slack = 1e-11 * (1 + point.magnitude) + (point.high - point.low)
                    assert interval.widen(slack).holds(point.center), twin.name
