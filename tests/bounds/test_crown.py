"""Δ-CROWN: no error that random or gradient search finds exceeds it, on any net, domain or effort."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from chains import F64, both, chain, random_case
from nets import NETS, net, seeded
from pruned import FUNCTIONS, REFUSED, Of, prune
from torch import Tensor, nn

from edgeprune.bounds.attack import attack
from edgeprune.bounds.backward import Backward, unit_rows
from edgeprune.bounds.crown import Effort, Progression, crown
from edgeprune.bounds.differential import difference, enclose, fold
from edgeprune.domains.regions import Ellipsoid, Frames, Meet, Points
from edgeprune.domains.sets import Box, Domain, L2Ball
from edgeprune.functions.forms import Affine, Constant, Dense, Input, Sum, Twin
from edgeprune.graph.groups import flatten_outputs

EFFORTS = {
    "forms": Effort(refine=False, steps=0),
    "refined": Effort(steps=0, symbols=0),
    "optimised": Effort(steps=6),
    "quadratic": Effort(steps=0, quadratic=True),
    "branches": Effort(steps=2, branches=8),
}
Gap = Callable[[tuple[Tensor, ...]], Tensor]


def violations(seed: int, effort: Effort) -> list[str]:
    """Names of nodes that leave their bounds."""
    twins, domain, x = random_case(seed)
    walk = Progression(twins, {"x": domain}, enclose([domain], [(3,)], ["x"]), effort)
    walk.run()
    f, g = both(twins, x)
    bad = []
    for twin in twins:
        reach = walk.reached[twin.name]
        kept = twin.kept[-1]
        left = f[twin.name] if kept is None else f[twin.name][:, kept]
        slack = 1e-12 * (1 + f[twin.name].abs().max())
        triples = ((reach.f, f[twin.name]), (reach.g, g[twin.name]), (reach.delta, left - g[twin.name]))
        bad += [
            f"{seed}: {twin.name}" for interval, value in triples if not interval.widen(slack).holds(value)
        ]
    out = twins[-1].name
    bound = crown(twins, [domain], [(3,)], ["x"], [out], effort)
    worst = (f[out] - g[out]).abs().amax(0)
    if bool((worst > bound.outputs[0] + 1e-12 * (1 + f[out].abs().max())).any()):
        bad.append(f"{seed}: output")
    return bad


@pytest.mark.parametrize("name", EFFORTS)
def test_no_node_of_a_random_net_leaves_its_bounds(name: str) -> None:
    torch.set_num_threads(1)
    seeds = range(8) if name in ("quadratic", "branches") else range(16)
    assert [bad for seed in seeds for bad in violations(seed, EFFORTS[name])] == []


@pytest.mark.slow
def test_twelve_thousand_cases() -> None:
    """40 nets, plans and domains with 300 inputs each: 12 000 cases, every node of each."""
    torch.set_num_threads(1)
    assert [bad for seed in range(100, 140) for bad in violations(seed, EFFORTS["refined"])] == []


def attacked(gap: Gap, domain: Domain, shapes: list[tuple[int, ...]], seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    found = attack(gap, [domain], shapes, generator=generator, steps=8, samples=32, restarts=2)
    return found.value


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_operation_is_bounded(name: str) -> None:
    seed = sorted(FUNCTIONS).index(name)
    model = seeded(lambda: Of(FUNCTIONS[name]), seed)
    x = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=F64)
    pair, gap = prune(model, x, seed)
    for domain, factor in ((Box(0.0, 1.0), math.inf), (L2Ball(x[0], 1e-4), 1.01)):
        found = attacked(gap, domain, list(pair.shapes), seed)
        cheap = difference(pair.twins, enclose([domain], pair.shapes, pair.inputs), pair.outputs).linf
        bound = crown(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, EFFORTS["refined"]).linf
        assert bound is not None
        assert cheap is not None
        assert found <= bound * (1 + 1e-9) + 1e-9
        assert bound <= cheap * (1 + 1e-12)
        assert bound <= factor * (found + 1e-9)


@pytest.mark.parametrize("name", [name for name in NETS if name not in REFUSED])
def test_the_zoo_is_bounded(name: str) -> None:
    model, x = net(name)
    for seed, radius in enumerate((1.0, 1e-2)):
        domain = Box.around(x[0], radius)
        pair, gap = prune(model, x, seed)
        found = attacked(gap, domain, list(pair.shapes), seed)
        for effort in (EFFORTS["forms"], EFFORTS["optimised"]):
            bound = crown(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, effort).linf
            assert bound is not None
            assert found <= bound * (1 + 1e-9) + 1e-9


def test_small_domains_are_bounded_exactly_at_depth() -> None:
    model = seeded(
        lambda: nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(8, 8), nn.ReLU())][:-1]), 3
    )
    x = torch.rand(1, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    pair, gap = prune(model, x, 1)
    domain = Box.around(x[0], 1e-5)
    found = attacked(gap, domain, [(8,)], 0)
    bound = crown(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs).linf
    assert bound is not None
    assert found <= bound <= 1.001 * found + 1e-12


@pytest.mark.parametrize("kind", ["meet", "ellipsoid", "frames", "points"])
def test_other_domains_are_bounded(kind: str) -> None:
    generator = torch.Generator().manual_seed(5)
    points = torch.randn((30, 6), generator=generator, dtype=F64)
    domain: Domain = {
        "meet": Meet(Box(0.0, 1.0), L2Ball(0.0, 1.2)),
        "ellipsoid": Ellipsoid.of_data(points, 1.5, 4),
        "frames": Frames(2.0),
        "points": Points(points),
    }[kind]
    twins = chain([6, 9, 8, 3], [torch.arange(5), torch.arange(2, 8), None], generator, 0.1)
    x = torch.cat([domain.sample(300, (6,), generator), domain.extreme(torch.cat([points, -points]))])
    f, g = both(twins, x)
    bound = crown(twins, [domain], [(6,)], ["x"], ["z2"], EFFORTS["refined"]).linf
    boxed = crown(twins, [Box(*_ends(domain))], [(6,)], ["x"], ["z2"], EFFORTS["refined"]).linf
    assert bound is not None
    assert boxed is not None
    assert float((f["z2"] - g["z2"]).abs().max()) <= bound + 1e-12
    assert bound <= boxed * (1 + 1e-9)
    symbols = crown(twins, [domain], [(6,)], ["x"], ["z2"], Effort(refine=False, steps=0, work=0.0)).linf
    assert symbols is not None
    assert float((f["z2"] - g["z2"]).abs().max()) <= symbols + 1e-12


def _ends(domain: Domain) -> tuple[Tensor, Tensor]:
    box = domain.bounds((6,))
    return box.low, box.high


def test_pruning_nothing_costs_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    twins = chain([4, 9, 9, 3], [None, None, None], generator, 0.0)
    bound = crown(twins, [Box(-1.0, 1.0)], [(4,)], ["x"], ["z2"]).linf
    assert bound is not None
    assert bound < 1e-11


def test_no_budget_still_bounds() -> None:
    twins, domain, x = random_case(7)
    f, g = both(twins, x)
    out = twins[-1].name
    bound = crown(twins, [domain], [(3,)], ["x"], [out], Effort(budget_s=0.0)).linf
    assert bound is not None
    assert float((f[out] - g[out]).abs().max()) <= bound + 1e-12


def test_coefficients_add_up_at_nodes_with_several_readers_and_constants_count() -> None:
    """f = x·2 + (3 − x), bounded exactly although x is read twice."""
    two = Affine.given(Dense(), torch.tensor([[2.0]], dtype=F64))
    fixed = Constant(torch.tensor(3.0, dtype=F64))
    twins = [
        Twin("x", Input("x"), Input("x"), (), (None, None)),
        Twin("three", fixed, Constant(torch.tensor(2.5, dtype=F64)), (), ()),
        Twin("double", two, two, ("x",), (None, None)),
        Twin("sum", Sum((1.0, 1.0, -1.0)), Sum((1.0, 1.0, -1.0)), ("double", "three", "x"), (None, None)),
    ]
    domains = {"x": Box(-1.0, 1.0)}
    walk = Progression(
        twins, domains, enclose([domains["x"]], [(1,)], ["x"]), Effort(refine=False, symbols=0)
    )
    walk.run()
    backward = Backward(twins, walk.reached, domains)
    index = torch.tensor([0])
    for which, most in (("f", 4.0), ("g", 3.5), ("delta", 0.5)):
        rows = unit_rows(walk.reached["sum"], which, index, 1.0)
        assert backward.upper("sum", rows).item() == pytest.approx(most, abs=1e-12)
        assert backward.upper("sum", rows).item() >= most


def test_folding_keeps_the_bound_sound() -> None:
    model, x = net("residual")
    pair, _ = prune(model, x, 0)
    assert len(fold(pair.twins, frozenset(pair.outputs))) < len(pair.twins)
    with torch.no_grad():
        assert len(flatten_outputs(model(x))) == 1
