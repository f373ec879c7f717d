from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from nets import Flattened, Residual, mlp, noise, seeded
from plans import coupled

from edgeprune.domains.sets import Box
from edgeprune.errors import CalibrationError, UsageError
from edgeprune.graph.groups import Coupling
from edgeprune.observation.knowledge import Knowledge, know
from edgeprune.stages.allocate import allocate
from edgeprune.stages.distribute import Curve, answers, curves, distribute, front
from edgeprune.stages.radii import radii
from edgeprune.widths.budget import Budget, Multiples, cost
from edgeprune.widths.costs import Costs, Piece, counted


def small() -> Coupling:
    return coupled(seeded(lambda: mlp((6, 8, 7, 3))), noise(2, 6))


def made(coupling: Coupling) -> dict[str, Curve]:
    return curves(coupling, know(coupling, "samples", [noise(128, 6)], 0), 0)


def total(found: dict[str, Curve], widths: dict[str, int]) -> float:
    return sum(float(found[name].error[width]) for name, width in widths.items())


@pytest.mark.parametrize("kind", ["params", "macs", "keep"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_no_widths_within_the_budget_lose_much_less(kind: str, share: float) -> None:
    coupling = small()
    found, price = made(coupling), counted(coupling, kind).price  # type: ignore[arg-type]
    widths = distribute(coupling, Budget(kind, share), Multiples(), found)  # type: ignore[arg-type]
    limit = share * price({g.name: g.size for g in coupling.groups})
    assert price(widths) <= limit * (1 + 1e-9)
    names = [g.name for g in coupling.groups]
    best = min(
        total(found, dict(zip(names, pair, strict=True)))
        for pair in itertools.product(range(1, 9), range(1, 8))
        if price(dict(zip(names, pair, strict=True))) <= limit
    )
    assert total(found, widths) <= 1.2 * best + 1e-9


def test_it_loses_no_more_than_equal_shares_do() -> None:
    coupling = small()
    found = made(coupling)
    budget = Budget("params", 0.5)
    assert total(found, distribute(coupling, budget, Multiples(), found)) <= total(
        found, allocate(coupling, budget, Multiples())
    )


def test_widths_lie_on_the_grid_and_residual_streams_are_priced() -> None:
    coupling = coupled(seeded(Residual), noise(2, 3, 6, 6))
    found = curves(coupling, know(coupling, "samples", [noise(32, 3, 6, 6)], 0), 0)
    widths = distribute(coupling, Budget("macs", 0.5), Multiples(conv=2, units=2), found)
    sizes = {g.name: g.size for g in coupling.groups}
    assert all(w % 2 == 0 or w == sizes[n] for n, w in widths.items())
    assert counted(coupling, "macs").price(widths) <= 0.5 * counted(coupling, "macs").price(sizes)


def test_any_price_plugs_in() -> None:
    coupling = small()
    found = made(coupling)
    names = [g.name for g in coupling.groups]
    pieces = tuple(Piece((n,), lambda w, f=f: f * w[0]) for n, f in zip(names, (10.0, 1.0), strict=True))
    costs = Costs("latency", "ms", {g.name: g.size for g in coupling.groups}, 0.0, pieces)
    widths = distribute(coupling, Budget("latency", 0.5), Multiples(), found, costs)
    assert 10 * widths[names[0]] + widths[names[1]] <= 0.5 * (80 + 7)


@pytest.mark.parametrize("kind", ["params", "macs", "bytes"])
@pytest.mark.parametrize("make", [Flattened, Residual])
def test_pieces_add_up_to_what_is_counted_whole(kind: str, make: type) -> None:
    coupling = coupled(seeded(make), noise(2, 3, 6, 6))
    costs = counted(coupling, kind)  # type: ignore[arg-type]
    generator = np.random.default_rng(3)
    for _ in range(12):
        widths = {g.name: int(generator.integers(1, g.size + 1)) for g in coupling.groups}
        keep = {name: np.arange(width) for name, width in widths.items()}
        if kind == "bytes":
            alive, graph = coupling.alive(keep), coupling.graph
            shapes = {n.target: alive.shape(n.name) for n in graph.nodes.values() if n.operation == "weight"}
            expected = sum(math.prod(s) * graph.weights[t].element_size() for t, s in shapes.items())
        else:
            expected = getattr(cost(coupling, keep), kind)
        assert costs.price(widths) == expected
        for group in coupling.groups:
            grid = np.arange(1, group.size + 1)
            alone = [costs.price({**widths, group.name: int(w)}) for w in grid]
            np.testing.assert_allclose(costs.along(widths, group.name, grid), alone, rtol=1e-9)


def test_the_integer_programme_finds_what_trying_everything_finds() -> None:
    """Costs with a staircase, where going down one group at a time is caught."""
    coupling = small()
    names = [g.name for g in coupling.groups]
    steps = (lambda w: math.ceil(w / 4) * 4.0, lambda w: math.ceil(w / 3) * 3.0)
    pair = Piece((names[0], names[1]), lambda w: steps[0](w[0]) * steps[1](w[1]))
    costs = Costs("latency", "ms", {g.name: g.size for g in coupling.groups}, 5.0, (pair,), False)
    found = made(coupling)
    for share in (0.3, 0.5, 0.7):
        limit = share * costs.price({})
        every = itertools.product(range(1, 9), range(1, 8))
        best = min(
            total(found, dict(zip(names, widths, strict=True)))
            for widths in every
            if costs.price(dict(zip(names, widths, strict=True))) <= limit
        )
        tried = answers(coupling, Budget("latency", share), Multiples(), found, costs)
        assert tried[0].error == pytest.approx(best, rel=1e-6, abs=1e-9)
        assert all(costs.price(one.widths) <= limit * (1 + 1e-9) for one in tried)
        assert [one.error for one in tried] == sorted(one.error for one in tried)


def test_the_front_falls_with_the_price() -> None:
    coupling = small()
    points = front(coupling, Multiples(), made(coupling), counted(coupling, "macs"), (0.2, 0.4, 0.6, 1.0))
    assert [p[0] for p in points] == sorted(p[0] for p in points)
    assert [p[1] for p in points] == sorted((p[1] for p in points), reverse=True)
    assert points[-1] == (1.0, 0.0)


def test_what_cannot_be_met_or_known_is_said() -> None:
    coupling = small()
    with pytest.raises(UsageError, match="the smallest net"):
        distribute(coupling, Budget("params", 0.01), Multiples(), made(coupling))
    with pytest.raises(UsageError, match="above 0"):
        distribute(coupling, Budget("params", 0.0), Multiples(), made(coupling))
    with pytest.raises(CalibrationError, match="needs second moments"):
        curves(coupling, Knowledge("samples"), 0)
    assert distribute(coupling, Budget("params", 1.0), Multiples(), made(coupling)) == {"0": 8, "2": 7}


@pytest.mark.parametrize("make", [Flattened, Residual])
def test_radii_bound_what_layers_hear(make: type) -> None:
    x = np.clip(noise(64, 3, 6, 6).numpy(), -1, 1)
    coupling = coupled(seeded(make), noise(2, 3, 6, 6))
    found = radii(coupling, (Box(-1.0, 1.0),), (noise(1, 3, 6, 6),))
    import torch
    import torch.nn.functional as F

    assert found
    for name, beta in found.items():
        node = coupling.graph.nodes[name]
        source = node["input"].name
        value = coupling.graph.values((torch.from_numpy(x),), {}, frozenset({source}))[source]
        if node.operation == "linear":
            norms = value.norm(dim=-1)
        else:
            taps = coupling.graph.weights[coupling.graph.weight_of(node["weight"])].shape[2:]  # type: ignore[index]
            norms = F.unfold(value, tuple(taps), padding=1).norm(dim=1)
        assert float(norms.max()) <= beta
    assert radii(coupling, None, (noise(1, 3, 6, 6),)) == {}
