"""Every domain keeps its promises: samples are inside, no sample is above the support, bounds hold."""

from __future__ import annotations

import pytest
import torch

from edgeprune.domains.regions import Ellipsoid, Frames, Meet, Points
from edgeprune.domains.sets import Box, Domain, L2Ball
from edgeprune.errors import UsageError

SHAPE = (2, 4)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DOMAINS: dict[str, Domain] = {
    "meet": Meet(Box(0.0, 1.0), L2Ball(0.0, 1.3)),
    "meet, ball aside": Meet(Box(-1.0, 1.0), L2Ball(0.5 * draw(*SHAPE), 1.0)),
    "ellipsoid": Ellipsoid.of_data(draw(40, *SHAPE, seed=1), 2.0, 5),
    "frames": Frames(2.0),
    "points": Points(draw(6, *SHAPE, seed=2)),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_keeps_its_promises(name: str) -> None:
    domain, g = DOMAINS[name], torch.Generator().manual_seed(3)
    a = draw(30, *SHAPE, seed=4)
    x = torch.cat(
        [domain.sample(200, SHAPE, g), domain.project(draw(50, *SHAPE, seed=5) * 3), domain.extreme(a)]
    )
    x = torch.cat([x, domain.climb(x, x, 0.3), domain.climb(x[:30], a, 0.5)])
    assert bool(domain.contains(x).all())
    assert domain.bounds(SHAPE).widen(torch.tensor(1e-12)).holds(x)
    assert float(x.flatten(1).norm(dim=1).max()) <= domain.l2_radius(SHAPE) * (1 + 1e-12)
    values = a.flatten(1) @ x.flatten(1).T
    support = domain.support(a)
    assert bool((values.amax(1) <= support + 1e-12).all())
    assert domain.describe()


@pytest.mark.parametrize("name", DOMAINS)
def test_the_support_is_tight(name: str) -> None:
    domain = DOMAINS[name]
    a = draw(10, *SHAPE, seed=6)
    x = domain.extreme(a)
    for step in range(60):
        x = domain.climb(x, a, 0.3 * (1 - step / 60) ** 2 + 1e-4)
    reached = (a * x).flatten(1).sum(1)
    assert bool((domain.support(a) <= reached + 0.02 * (1 + reached.abs())).all())


def test_zero_directions_have_a_support() -> None:
    zero = torch.zeros(1, *SHAPE, dtype=torch.float64)
    for domain in DOMAINS.values():
        assert abs(float(domain.support(zero))) < 1e-9


def test_what_is_no_domain_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one input"):
        Points(torch.zeros(0, 2))
    with pytest.raises(UsageError, match="no point in common"):
        Meet(Box(2.0, 3.0), L2Ball(0.0, 0.1)).bounds((2,))
