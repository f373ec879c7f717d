"""Bounds of traced nets: what the operations say they are is what torch computes, and no error exceeds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nets import NETS, net, seeded
from plans import coupled
from pruned import FUNCTIONS, REFUSED, Of, prune
from torch import Tensor, nn

from edgeprune.bounds.attack import attack
from edgeprune.bounds.differential import difference, enclose, propagate
from edgeprune.certificates.twins import twins_of
from edgeprune.domains.sets import Box, Domain, L2Ball
from edgeprune.errors import UnsupportedOperation
from edgeprune.graph.groups import flatten_outputs
from edgeprune.stages.shrink import narrow_graph


def hold(model: nn.Module, x: Tensor, domain: Domain, seed: int) -> float:
    """At a single input every output is enclosed tightly; on the domain no error found exceeds the bound."""
    pair, gap = prune(model, x, seed)
    shapes = list(pair.shapes)
    there = propagate(pair.twins, enclose([Box(x[0], x[0])], shapes, pair.inputs))
    with torch.no_grad():
        outputs = flatten_outputs(model(x[:1]))
    for name, value in zip(pair.outputs, outputs, strict=True):
        slack = 1e-10 * (1 + value.abs().max())
        assert there[name].f.widen(slack).holds(value)
        assert float((there[name].f.high - there[name].f.low).max()) <= 1e-6 * (1 + float(value.abs().max()))
    bound = difference(pair.twins, enclose([domain], shapes, pair.inputs), pair.outputs).linf
    assert bound is not None
    found = attack(
        gap, [domain], shapes, generator=torch.Generator().manual_seed(seed), steps=10, samples=48, restarts=2
    )
    assert found.value <= bound * (1 + 1e-9) + 1e-9
    return bound / max(found.value, 1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_are_the_forms_that_they_say(name: str) -> None:
    seed = sorted(FUNCTIONS).index(name)
    model = seeded(lambda: Of(FUNCTIONS[name]), seed)
    x = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    hold(model, x, Box(0.0, 1.0), seed)
    hold(model, x, L2Ball(x[0], 0.01), seed + 1)


@pytest.mark.parametrize("name", NETS)
def test_no_error_of_the_zoo_exceeds_its_bound(name: str) -> None:
    model, x = net(name)
    if name in REFUSED:
        with pytest.raises(UnsupportedOperation, match=REFUSED[name]):
            prune(model, x, 0)
        return
    for seed, radius in enumerate((1.0, 1e-2, 1e-4)):
        hold(model, x, Box.around(x[0], radius), seed)


def test_the_bound_is_tight_around_an_input() -> None:
    model = seeded(lambda: Of(F.silu))
    x = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert hold(model, x, Box.around(x[0], 1e-6), 3) <= 1.01


def test_pruning_nothing_costs_nothing() -> None:
    model = seeded(lambda: Of(F.gelu))
    x = torch.rand(1, 2, 4, 4, dtype=torch.float64)
    coupling = coupled(model, x)
    alive = coupling.alive({})
    pair = twins_of(coupling.graph, narrow_graph(coupling.graph, alive, {}), alive, (x,))
    bound = difference(pair.twins, enclose([Box(0.0, 1.0)], pair.shapes, pair.inputs), pair.outputs).linf
    assert bound is not None
    assert bound < 1e-10
