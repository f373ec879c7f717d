"""Compensation that minds the worst case lowers the certificate, pays with the mean, and never loses on both."""

from __future__ import annotations

import pytest
import torch
from nets import seeded
from plans import coupled
from torch import nn

from edgeprune.bounds.differential import difference, enclose
from edgeprune.bounds.minimax import Evidence, Worst, compensate
from edgeprune.certificates.twins import twins_of
from edgeprune.certificates.worst_case import weighed_again
from edgeprune.domains.sets import Box
from edgeprune.errors import UsageError
from edgeprune.plan import Plan
from edgeprune.stages.choose import choose
from edgeprune.stages.shrink import shrink


def case() -> tuple[Evidence, Worst, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    h = torch.randn((200, 12), generator=g, dtype=torch.float64).relu()
    w = torch.randn((4, 12), generator=g, dtype=torch.float64)
    u = torch.cat([h[:, :6], torch.ones(200, 1, dtype=torch.float64)], 1)
    target = h @ w.T
    evidence = Evidence(u.T @ u / 200, u.T @ target / 200, float(target.square().sum() / 200))
    radius = torch.full((6,), 3.0, dtype=torch.float64)
    rest = w[:, 6:].abs().sum(1) * 3
    worst = Worst(w[:, :6], radius, radius, w[:, 6:].sum(1) * 3, rest)
    return evidence, worst, torch.linalg.lstsq(u, target).solution.T.contiguous()


def test_the_certificate_falls_and_the_mean_rises_with_lambda() -> None:
    evidence, worst, start = case()
    solved = [compensate(evidence, worst, start, trade) for trade in (0.0, 1.0, 100.0)]
    bounds = [float(worst.bound(v).square().mean()) for v in solved]
    errors = [float(evidence.error(v)) for v in solved]
    assert torch.equal(solved[0], start)
    assert bounds[2] < bounds[1] < bounds[0]
    assert errors[0] <= errors[1] <= errors[2]


def test_the_certificate_holds_at_the_corners() -> None:
    _, worst, start = case()
    g = torch.Generator().manual_seed(1)
    h = 6 * (torch.rand((2000, 6), generator=g, dtype=torch.float64) > 0.5).double()
    zero = torch.zeros(4, dtype=torch.float64)
    alone = Worst(worst.weight, worst.center, worst.radius, zero, zero)
    gap = (h @ (worst.weight - start[:, :-1]).T - start[:, -1]).abs().amax(0)
    assert bool((gap <= alone.bound(start) * (1 + 1e-12)).all())


def test_lambda_is_not_negative() -> None:
    with pytest.raises(UsageError, match="lambda"):
        compensate(*case(), -1.0)


def test_a_net_is_weighed_for_its_certificate() -> None:
    """Through a plan: the difference intervals of the whole net fall, the mean error does not."""
    model = seeded(
        lambda: nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 3))
    )
    x = torch.rand(400, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * torch.tensor([1, 1, 1, 0.1, 0.1, 0.1])
    coupling = coupled(model, x)
    plan = choose(coupling, {g.name: g.size // 2 for g in coupling.groups}, "gram", (x,), seed=0)
    domains = (Box(0.0, 1.0),)

    def judged(one: Plan) -> tuple[float, float]:
        shrunk = shrink(model, coupling, one, (x[:4],))
        alive = coupling.alive({name: s.keep for name, s in one.selections.items()})
        pair = twins_of(coupling.graph, shrunk.graph, alive, (x[:1],))
        found = difference(pair.twins, enclose(domains, pair.shapes, pair.inputs), pair.outputs).linf
        assert found is not None
        with torch.no_grad():
            return found, float((model(x) - shrunk.module(x)).square().mean())

    bound, mean = judged(plan)
    minded, paid = judged(weighed_again(coupling, plan, (x,), domains, 30.0))
    assert minded < bound
    assert paid >= mean
    with pytest.raises(UsageError, match="needs a domain"):
        weighed_again(coupling, plan, (x,), None, 1.0)
