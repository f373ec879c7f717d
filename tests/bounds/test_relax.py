"""The lines around activations hold on a dense grid, also where intervals are tiny, huge or one-sided."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from edgeprune.bounds.relax import difference_lines, is_relu, lines
from edgeprune.functions import curves
from edgeprune.functions.curves import Curve
from edgeprune.functions.intervals import Interval

CURVES: dict[str, Callable[[], Curve]] = {
    "relu": lambda: curves.clamp(0.0, math.inf),
    "relu6": lambda: curves.clamp(0.0, 6.0),
    "leaky": lambda: curves.leaky(0.1),
    "elu": lambda: curves.elu(1.0, 1.0, 1.0),
    "sigmoid": curves.sigmoid,
    "tanh": curves.tanh,
    "erf": curves.erf,
    "silu": curves.silu,
    "gelu": curves.gelu,
    "gelu_tanh": curves.gelu_tanh,
    "mish": curves.mish,
    "softplus": lambda: curves.softplus(1.0, 20.0),
    "hardswish": curves.hardswish,
    "hardsigmoid": curves.hardsigmoid,
    "absolute": curves.absolute,
    "square": curves.square,
    "exp": curves.exp,
}


def intervals(seed: int, n: int = 400) -> Interval:
    g = torch.Generator().manual_seed(seed)
    middle = 6 * torch.randn(1, n, generator=g, dtype=torch.float64)
    width = 10 ** (5 * torch.rand(1, n, generator=g, dtype=torch.float64) - 4)
    middle[0, :20] = 0.0
    width[0, 10:30] = 0.0
    return Interval(middle - width, middle + width)


def grid(z: Interval) -> torch.Tensor:
    return z.low + (z.high - z.low) * torch.linspace(0, 1, 201, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("name", CURVES)
def test_lines_hold_everywhere(name: str) -> None:
    curve, z = CURVES[name](), intervals(1)
    around = lines(curve, z)
    places = grid(z)
    places = torch.minimum(torch.maximum(places, z.low), z.high)
    value = curve.function(places)
    slack = 1e-14 * (1 + value.abs() + places.abs())
    assert bool((value <= around.high_slope * places + around.high + slack).all())
    assert bool((value >= around.low_slope * places + around.low - slack).all())


@pytest.mark.parametrize("name", CURVES)
def test_lines_are_no_wider_than_the_image(name: str) -> None:
    curve, z = CURVES[name](), intervals(2)
    around = lines(curve, z)
    width = curve.image(z).high - curve.image(z).low
    if not is_relu(curve):
        assert bool((around.high - around.low <= 1.3 * width + 1e-9 * (1 + z.magnitude)).all())


@pytest.mark.parametrize("name", CURVES)
def test_lines_of_a_difference_hold_everywhere(name: str) -> None:
    curve, f, g = CURVES[name](), intervals(3), intervals(4)
    g = Interval(f.low + 0.3 * (g.low - f.low) * (torch.rand(1, 400, dtype=torch.float64) < 0.7), f.high)
    g = Interval(torch.minimum(g.low, g.high), g.high)
    generator = torch.Generator().manual_seed(5)
    apart = f - g
    share = torch.rand((2, 1, 400), generator=generator, dtype=torch.float64)
    low = apart.low + share.amin(0) * (apart.high - apart.low)
    delta = Interval(low, torch.maximum(low, apart.low + share.amax(0) * (apart.high - apart.low)))
    around = difference_lines(curve, f, g, delta)
    a, b = (x.low + (x.high - x.low) * torch.rand((3000, 400), dtype=torch.float64) for x in (f, g))
    d = a - b
    inside = (d >= delta.low) & (d <= delta.high)
    value = curve.function(a) - curve.function(b)
    slack = 1e-13 * (1 + value.abs() + a.abs() + b.abs())
    assert bool(((value <= around.high_slope * d + around.high + slack) | ~inside).all())
    assert bool(((value >= around.low_slope * d + around.low - slack) | ~inside).all())
    assert int(inside.sum()) > 1000


def test_relu_lines_know_the_signs() -> None:
    def interval(low: float, high: float) -> Interval:
        return Interval(*(torch.full((1, 1), v, dtype=torch.float64) for v in (low, high)))

    relu = curves.clamp(0.0, math.inf)
    delta = interval(-1.0, 1.0)
    both = difference_lines(relu, interval(1, 2), interval(1, 2), delta)
    assert (both.low_slope.item(), both.high_slope.item(), both.low.item(), both.high.item()) == (1, 1, 0, 0)
    split = difference_lines(relu, interval(-1, 1), interval(-1, 1), delta)
    assert split.high_slope.item() == split.low_slope.item() == 0.5
    assert split.high.item() == pytest.approx(0.5)
