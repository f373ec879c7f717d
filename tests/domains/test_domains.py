from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.domains.sets import Box, Domain, L2Ball
from edgeprune.errors import UsageError

SHAPE = (3, 2, 2)


def domains(seed: int) -> list[Domain]:
    g = torch.Generator().manual_seed(seed)
    low = torch.randn(SHAPE, generator=g, dtype=torch.float64)
    channel = torch.rand(3, 1, 1, generator=g, dtype=torch.float64)
    x = torch.randn(SHAPE, generator=g, dtype=torch.float64)
    return [
        Box(-0.5, 1.25),
        Box(low, low + torch.rand(SHAPE, generator=g, dtype=torch.float64)),
        Box(-channel, 2 * channel),
        Box.around(x, 0.3),
        Box.around(x.clamp(0, 1), 0.3, 0.0, 1.0),
        L2Ball(0.0, 2.0),
        L2Ball(x, 0.7),
        L2Ball(1e6, 1e-3),
        L2Ball(x, 0.0),
    ]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_sampled_projected_or_climbed_to_lies_inside_every_enclosure(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for domain in domains(seed):
        far = 5 * torch.randn((16, *SHAPE), generator=g, dtype=torch.float64)
        rows = torch.randn((4, *SHAPE), generator=g, dtype=torch.float64)
        inside = torch.cat(
            [
                domain.sample(16, SHAPE, g),
                domain.project(far),
                domain.project(domain.extreme(rows)),
                domain.climb(domain.project(far), far, 0.3),
            ]
        )
        assert domain.contains(inside).all()
        assert domain.bounds(SHAPE).holds(inside)
        reached = (inside.flatten(1) @ rows.flatten(1).T).amax(0)
        assert (reached <= domain.support(rows)).all()
        assert float(inside.flatten(1).norm(dim=1).max()) <= domain.l2_radius(SHAPE)
        again = domain.project(inside)
        assert torch.allclose(again, inside, rtol=0, atol=1e-9)


def test_the_support_is_attained() -> None:
    g = torch.Generator().manual_seed(3)
    rows = torch.randn((5, *SHAPE), generator=g, dtype=torch.float64)
    for domain in domains(3):
        best = domain.project(domain.extreme(rows))
        attained = (best.flatten(1) * rows.flatten(1)).sum(1)
        size = 1 + domain.l2_radius(SHAPE) * rows.flatten(1).norm(dim=1)
        assert ((domain.support(rows) - attained) / size).abs().max() < 1e-12


def test_known_numbers() -> None:
    box = Box(-1.0, 2.0)
    a = torch.tensor([[1.0, -2.0, 0.0]], dtype=torch.float64)
    assert float(box.support(a)) == pytest.approx(2.0 + 2.0)
    assert box.l2_radius((4,)) == pytest.approx(4.0)
    ball = L2Ball(torch.tensor([3.0, 4.0], dtype=torch.float64), 1.0)
    assert ball.l2_radius((2,)) == pytest.approx(6.0)
    assert float(ball.support(torch.tensor([[3.0, 4.0]], dtype=torch.float64))) == pytest.approx(30.0)
    assert ball.contains(torch.tensor([[3.0, 5.0], [3.0, 5.1]], dtype=torch.float64)).tolist() == [
        True,
        False,
    ]


def test_projection_is_the_nearest_point() -> None:
    x = torch.tensor([[3.0, 4.0], [0.1, 0.1]], dtype=torch.float64)
    assert torch.allclose(
        L2Ball(0.0, 1.0).project(x), torch.tensor([[0.6, 0.8], [0.1, 0.1]], dtype=torch.float64)
    )
    assert Box(0.0, 1.0).project(x).tolist() == [[1.0, 1.0], [0.1, 0.1]]


def test_a_ball_in_a_box_is_cut() -> None:
    x = torch.tensor([0.0, 0.5], dtype=torch.float64)
    cut = Box.around(x, 0.25, 0.0, 1.0).bounds((2,))
    assert cut.low.tolist() == pytest.approx([0.0, 0.25])
    assert cut.high.tolist() == pytest.approx([0.25, 0.75])
    with pytest.raises(UsageError, match="low exceeds high"):
        Box.around(x, 0.1, 2.0, 3.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Box(1.0, 0.0),
        lambda: Box(-math.inf, 0.0),
        lambda: Box(torch.tensor([0.0, math.nan]), 1.0),
        lambda: L2Ball(0.0, -1.0),
        lambda: L2Ball(0.0, math.inf),
        lambda: Box.around(torch.zeros(2), -0.1),
        lambda: Box(torch.zeros(3), 1.0).bounds((4,)),
    ],
)
def test_what_makes_no_domain_is_refused(make: object) -> None:
    with pytest.raises(UsageError, match="domain:"):
        make()  # type: ignore[operator]


def test_words() -> None:
    assert Box(0.0, 1.0).describe() == "each coordinate between 0 and 1"
    assert Box(0.0, 1.0, words="an 8-bit image").describe() == "an 8-bit image"
    assert Box.around(torch.zeros(2), 0.1, 0.0, 1.0).describe() == (
        "each coordinate within ±0.1 of a given input, within [0, 1]"
    )
    assert L2Ball(0.0, 2.0).describe() == "every input of ℓ2 norm at most 2"
    assert "distance 2" in L2Ball(1.0, 2.0).describe()
