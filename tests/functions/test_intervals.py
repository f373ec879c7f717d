from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import BrokenPromise
from edgeprune.functions.intervals import Interval, dot_error

numbers = st.floats(-1e6, 1e6)


def interval(a: float, b: float) -> Interval:
    low, high = sorted((a, b))
    return Interval(torch.tensor([low], dtype=torch.float64), torch.tensor([high], dtype=torch.float64))


@settings(max_examples=300, deadline=None)
@given(numbers, numbers, numbers, numbers, st.floats(0, 1), st.floats(0, 1))
def test_arithmetic_holds_the_exact_result(
    a: float, b: float, c: float, d: float, s: float, t: float
) -> None:
    x, y = interval(a, b), interval(c, d)
    p = min(max(float(x.low) + s * (float(x.high) - float(x.low)), float(x.low)), float(x.high))
    q = min(max(float(y.low) + t * (float(y.high) - float(y.low)), float(y.low)), float(y.high))
    u, v = Fraction(p), Fraction(q)
    for result, exact in ((x + y, u + v), (x - y, u - v), (x * y, u * v), (-x, -u)):
        assert Fraction(float(result.low)) <= exact <= Fraction(float(result.high))
    assert abs(u - Fraction(float(x.center))) <= Fraction(float(x.radius))
    assert abs(u) <= Fraction(float(x.magnitude))


def test_tiny_numbers_are_held_too() -> None:
    x = interval(1e-200, 1e-200)
    assert float((x * x).low) <= 0 < float((x * x).high)
    y = interval(5e-324, 5e-324)
    assert float((y * interval(0.5, 0.5)).high) > 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(1, 1e8))
def test_dot_products_stay_within_their_error(seed: int, n: int, spread: float) -> None:
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, generator=g, dtype=torch.float64)
    b = torch.randn(n, generator=g, dtype=torch.float64) * spread ** torch.rand(
        n, generator=g, dtype=torch.float64
    )
    exact = sum(Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True))
    error = abs(Fraction(float(a @ b)) - exact)
    assert error <= Fraction(float(dot_error(n, a.abs() @ b.abs())))


def test_meet_hull_and_emptiness() -> None:
    assert interval(0, 2).meet(interval(1, 3)).low.item() == 1
    assert interval(0, 1).hull(interval(3, 4)).high.item() == 4
    with pytest.raises(BrokenPromise, match="unsound"):
        interval(0, 1).meet(interval(2, 3))


def test_norms() -> None:
    box = Interval(
        torch.tensor([-3.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 4.0], dtype=torch.float64)
    )
    assert 5.0 <= box.l2_norm <= 5.0 + 1e-12
    ball = Interval(box.low, box.high, 0.5)
    assert ball.l2_norm == pytest.approx(5**0.5 + 0.5)
    assert box.holds(torch.tensor([[0.0, 1.0], [1.0, 4.0]]))
    assert not box.holds(torch.tensor([[0.0, 4.5]]))
    assert not box.holds(torch.tensor([[0.0, torch.nan]]))
