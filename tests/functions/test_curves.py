from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.functions import curves
from edgeprune.functions.curves import Curve
from edgeprune.functions.intervals import Interval

CASES: dict[str, tuple[Curve, Callable[[Tensor], Tensor]]] = {
    "relu": (curves.clamp(0.0, math.inf), F.relu),
    "relu6": (curves.clamp(0.0, 6.0), F.relu6),
    "hardtanh": (curves.clamp(-1.5, 0.5), lambda z: F.hardtanh(z, -1.5, 0.5)),
    "leaky": (curves.leaky(0.1), lambda z: F.leaky_relu(z, 0.1)),
    "leaky down": (curves.leaky(-0.3), lambda z: F.leaky_relu(z, -0.3)),
    "prelu": (curves.leaky(torch.tensor(0.25, dtype=torch.float64)), lambda z: F.leaky_relu(z, 0.25)),
    "elu": (curves.elu(0.7, 1.0, 1.0), lambda z: F.elu(z, 0.7)),
    "selu": (curves.elu(1.6732632423543772848, 1.0507009873554804934, 1.0), F.selu),
    "celu": (curves.elu(2.0, 1.0, 0.5), lambda z: F.celu(z, 2.0)),
    "sigmoid": (curves.sigmoid(), torch.sigmoid),
    "tanh": (curves.tanh(), torch.tanh),
    "erf": (curves.erf(), torch.erf),
    "silu": (curves.silu(), F.silu),
    "gelu": (curves.gelu(), F.gelu),
    "gelu_tanh": (curves.gelu_tanh(), lambda z: F.gelu(z, approximate="tanh")),
    "mish": (curves.mish(), F.mish),
    "softplus": (curves.softplus(1.0, 20.0), F.softplus),
    "softplus steep": (curves.softplus(4.0, 2.0), lambda z: F.softplus(z, 4.0, 2.0)),
    "hardswish": (curves.hardswish(), F.hardswish),
    "hardsigmoid": (curves.hardsigmoid(), F.hardsigmoid),
    "abs": (curves.absolute(), torch.abs),
    "square": (curves.square(), torch.square),
    "exp": (curves.exp(), torch.exp),
    "log": (curves.log(), torch.log),
    "sqrt": (curves.sqrt(), torch.sqrt),
    "rsqrt": (curves.rsqrt(), torch.rsqrt),
    "reciprocal": (curves.reciprocal(), torch.reciprocal),
}
PLACES = [
    -30.0,
    -8.0,
    -4.0,
    -3.0,
    -2.5,
    -1.5,
    -1.3,
    -1.2,
    -0.75,
    -0.5,
    -1e-9,
    0.0,
    1e-3,
    0.5,
    1.49,
    2.4,
    3.0,
    6.0,
    9.0,
    30.0,
]


@pytest.mark.parametrize("name", CASES)
def test_images_and_slopes_hold_on_a_dense_grid_and_are_tight(name: str) -> None:
    curve, function = CASES[name]
    g = torch.Generator().manual_seed(0)
    ends = [(a, b) for i, a in enumerate(PLACES) for b in PLACES[i:] if a > curve.start]
    low, high = (torch.tensor(t, dtype=torch.float64) for t in zip(*ends, strict=True))
    z = Interval(low, high)
    image, slopes = curve.image(z), curve.slopes(z)
    share = torch.cat(
        [torch.linspace(0, 1, 801, dtype=torch.float64), torch.rand(200, generator=g).double()]
    ).sort()[0]
    points = torch.minimum(low + (high - low) * share[:, None], high)
    values = function(points)
    assert image.holds(values)
    fine = torch.isfinite(image.low) & torch.isfinite(image.high)
    width = (image.high - image.low) - (values.amax(0) - values.amin(0))
    assert (
        width[fine] <= 1e-11 + 3 * curve.jump(z)[fine] + 2e-3 * (high - low + values.abs().amax(0))[fine]
    ).all()
    # difference quotients of neighbours, times their distance, with the rounding of the values
    step, rise = points.diff(dim=0), values.diff(dim=0)
    slack = 1e-14 * (1 + points.abs()[1:] + values.abs()[1:]) + curve.jump(z)
    assert (rise <= slopes.high * step + slack).all()
    assert (rise >= slopes.low * step - slack).all()


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "mish", "tanh", "sigmoid", "erf", "hardswish"])
def test_the_steepest_places_are_right(name: str) -> None:
    """Global slope ranges, which the method's literature quotes."""
    curve, _ = CASES[name]
    z = Interval(torch.tensor([-50.0], dtype=torch.float64), torch.tensor([50.0], dtype=torch.float64))
    known = {
        "silu": (-0.0998393, 1.0998393),
        "gelu": (-0.1289041, 1.1289041),
        "gelu_tanh": (-0.1289931, 1.1289931),
        "mish": (-0.1125261, 1.0884982),
        "tanh": (0.0, 1.0),
        "sigmoid": (0.0, 0.25),
        "erf": (0.0, 2 / math.sqrt(math.pi)),
        "hardswish": (-0.5, 1.5),
    }[name]
    assert float(curve.slopes(z).low) == pytest.approx(known[0], abs=1e-7)
    assert float(curve.slopes(z).high) == pytest.approx(known[1], abs=1e-7)


def test_torch_computes_the_functions_within_the_error_claimed() -> None:
    """Against 40 digits: a margin of a factor four is left."""
    mpmath.mp.dps = 40
    sigma = lambda x: 1 / (1 + mpmath.exp(-x))  # noqa: E731
    exact = {
        "sigmoid": sigma,
        "tanh": mpmath.tanh,
        "erf": mpmath.erf,
        "exp": mpmath.exp,
        "silu": lambda x: x * sigma(x),
        "gelu": lambda x: x * mpmath.ncdf(x),
        "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
        "gelu_tanh": lambda x: (
            x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(0.044715) * x**3)))
        ),
        "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
        "elu": lambda x: x if x > 0 else mpmath.mpf(0.7) * mpmath.expm1(x),
    }
    z = torch.cat(
        [torch.linspace(-40, 40, 641, dtype=torch.float64), torch.logspace(-12, 1, 60, dtype=torch.float64)]
    )
    for name, truth in exact.items():
        curve, function = CASES[name]
        for point, value in zip(z.tolist(), function(z).tolist(), strict=True):
            right = truth(mpmath.mpf(point))
            allowed = curve.ulps * 2.0**-53 * (1 + abs(point) + abs(right)) / 4 + sum(
                size for _, size in curve.jumps
            )
            assert abs(mpmath.mpf(value) - right) <= allowed, (name, point)


def test_parameters_and_settings_tell_curves_apart() -> None:
    a, b = torch.tensor([[0.1], [0.2]]), torch.tensor([[0.1], [0.3]])
    assert curves.leaky(a).same_as(curves.leaky(a.clone()))
    assert not curves.leaky(a).same_as(curves.leaky(b))
    assert not curves.leaky(0.1).same_as(curves.leaky(0.2))
    assert not curves.clamp(0, 6).same_as(curves.clamp(0, math.inf))
    assert curves.leaky(a).restricted(lambda t: t[:1]).same_as(curves.leaky(a[:1]))
    assert curves.silu().restricted(lambda t: t[:1]).same_as(curves.silu())


def test_outside_its_domain_a_function_has_no_image() -> None:
    z = Interval(
        torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 4.0], dtype=torch.float64)
    )
    for curve in (curves.log(), curves.sqrt(), curves.rsqrt(), curves.reciprocal()):
        image = curve.image(z)
        assert image.low[0] == -torch.inf
        assert image.high[0] == torch.inf
        assert torch.isfinite(image.low[1])
