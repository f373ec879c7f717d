from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeprune.bounds.attack import attack
from edgeprune.bounds.differential import Difference, difference, enclose, propagate
from edgeprune.bounds.interval import Step, image
from edgeprune.bounds.interval import propagate as propagate_one
from edgeprune.domains.sets import Box, Domain, L2Ball
from edgeprune.errors import BrokenPromise, UnsupportedOperation, UsageError
from edgeprune.functions import curves
from edgeprune.functions.forms import (
    Affine,
    Constant,
    Convolve,
    Dense,
    Elementwise,
    Form,
    Input,
    Kept,
    Maximum,
    Product,
    Scale,
    Softmax,
    Structural,
    Sum,
    Twin,
    restrict,
)
from edgeprune.functions.intervals import Interval

torch.set_num_threads(1)
F64 = torch.float64
RELU = Elementwise(curves.clamp(0.0, math.inf))


def tensor(*values: object) -> Tensor:
    return torch.tensor(values, dtype=F64)


def dense(weight: Tensor, bias: Tensor | None = None) -> Affine:
    return Affine.given(Dense(), weight, bias)


def run(form: Form, sources: list[Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """What a form computes: the oracle, on a batch."""
    match form:
        case Input(name):
            return inputs[name]
        case Affine():
            return form.apply(sources[0])
        case Sum(signs):
            return sum(s * h for s, h in zip(signs, sources, strict=True))  # type: ignore[return-value]
        case Structural():
            return form.apply(sources)
        case Elementwise(curve):
            return curve.function(sources[0])
        case Maximum():
            return -form.apply([-h for h in sources]) if form.least else form.apply(sources)
        case Product():
            return sources[0] * sources[1]
        case Softmax(axis, logarithm):
            return (torch.log_softmax if logarithm else torch.softmax)(sources[0], axis)
        case Constant(value):
            return value
    raise AssertionError


def values(twins: list[Twin], x: Tensor, which: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for twin in twins:
        form = twin.f if which == "f" else twin.g
        found[twin.name] = run(form, [found[s] for s in twin.sources], {"x": x})
    return found


def check(
    twins: list[Twin], domain: Domain, shape: tuple[int, ...], seed: int = 0
) -> tuple[Difference, float]:
    """Every node's intervals hold on samples; the output's bound holds under attack."""
    inputs = enclose([domain], [shape], ["x"])
    reached = propagate(twins, inputs)
    g = torch.Generator().manual_seed(seed)
    samples = domain.sample(64, shape, g)
    vertices = domain.project(domain.extreme(torch.randn((64, *shape), generator=g, dtype=F64)))
    x = torch.cat([samples, vertices])
    f, p = values(twins, x, "f"), values(twins, x, "g")
    for twin in twins:
        reach = reached[twin.name]
        slack = 1e-12 * (1 + f[twin.name].abs().max())  # the oracle rounds too
        for interval, value in (
            (reach.f, f[twin.name]),
            (reach.g, p[twin.name]),
            (reach.delta, restrict(f[twin.name], twin.kept) - p[twin.name]),
        ):
            assert interval.widen(slack).holds(value), twin.name
    output = twins[-1].name
    bound = difference(twins, inputs, [output])
    found = attack(
        lambda i: (values(twins, i[0], "f")[output] - values(twins, i[0], "g")[output]).flatten(1),
        [domain],
        [shape],
        generator=g,
        steps=15,
        restarts=2,
        samples=32,
        goals=4,
    )
    assert bound.linf is not None
    assert found.value <= bound.linf + 1e-12 * (1 + f[output].abs().max())
    return bound, found.value


def test_one_layer_by_hand() -> None:
    """W = (1, −2, 3), x in [0, 1] × [−1, 1] × [0, 2]; the third input is dead, the others reweighted."""
    kept: Kept = (None, torch.tensor([0, 1]))
    take = Structural.moving(lambda x: x)
    twins = [
        Twin("x", Input("x"), Input("x"), (), (None, None)),
        Twin("pick", take, Structural.moving(lambda x: x[:, :2]), ("x",), kept),
        Twin(
            "z",
            dense(tensor([1.0, -2.0, 3.0]), tensor(0.5)),
            dense(tensor([1.5, -2.0]), tensor(0.25)),
            ("pick",),
            (None, None),
        ),
    ]
    domain = Box(tensor(0.0, -1.0, 0.0), tensor(1.0, 1.0, 2.0))
    reached = propagate(twins, enclose([domain], [(3,)], ["x"]))["z"]
    # f = x₁ − 2x₂ + 3x₃ + ½ in [−1.5, 9.5]; g = 1.5x₁ − 2x₂ + ¼ in [−1.75, 3.75]
    assert reached.f.low.item() == pytest.approx(-1.5)
    assert reached.f.high.item() == pytest.approx(9.5)
    assert reached.g.low.item() == pytest.approx(-1.75)
    assert reached.g.high.item() == pytest.approx(3.75)
    # Δ = −½x₁ + 3x₃ + ¼ in [−¼, 6.25]
    assert reached.delta.low.item() == pytest.approx(-0.25)
    assert reached.delta.high.item() == pytest.approx(6.25)
    assert reached.delta.low.item() <= -0.25
    assert reached.delta.high.item() >= 6.25


def test_an_l2_ball_is_exact_on_the_first_layer() -> None:
    """Δ = (1, −1)·x on the unit ball: √2, where the box around the ball gives 2."""
    twins = [
        Twin("x", Input("x"), Input("x"), (), (None, None)),
        Twin(
            "flat",
            Structural.moving(lambda x: x.reshape(-1, 2)),
            Structural.moving(lambda x: x.reshape(-1, 2)),
            ("x",),
            (None, None),
        ),
        Twin("z", dense(tensor([2.0, 0.0])), dense(tensor([1.0, 1.0])), ("flat",), (None, None)),
    ]
    bound, found = check(twins, L2Ball(0.0, 1.0), (2,))
    assert bound.linf == pytest.approx(math.sqrt(2), rel=1e-9)
    assert found == pytest.approx(math.sqrt(2), rel=1e-9)


def test_relu_by_hand() -> None:
    """One unit whose weight changes from 1 to ½ on [−1, 1]: Δz in [−½, ½], Δrelu in [0, ½] truly."""
    twins = [
        Twin("x", Input("x"), Input("x"), (), (None, None)),
        Twin("z", dense(tensor([1.0])), dense(tensor([0.5])), ("x",), (None, None)),
        Twin("h", RELU, RELU, ("z",), (None, None)),
    ]
    reached = propagate(twins, enclose([Box(-1.0, 1.0)], [(1,)], ["x"]))
    assert reached["z"].delta.high.item() == pytest.approx(0.5)
    assert reached["h"].delta.high.item() == pytest.approx(0.5)
    positive = propagate(twins, enclose([Box(1.0, 2.0)], [(1,)], ["x"]))
    assert positive["h"].delta.low.item() == pytest.approx(0.5)
    assert positive["h"].delta.high.item() == pytest.approx(1.0)
    negative = propagate(twins, enclose([Box(-2.0, -1.0)], [(1,)], ["x"]))
    assert negative["h"].delta.magnitude.item() == 0.0


ACTIVATIONS: list[Callable[[], curves.Curve]] = [
    lambda: curves.clamp(0.0, math.inf),
    lambda: curves.clamp(0.0, 6.0),
    curves.tanh,
    curves.silu,
    curves.gelu,
    curves.hardswish,
    lambda: curves.leaky(0.2),
    lambda: curves.softplus(1.0, 2.0),
]


def mlp(seed: int, empty: bool = False) -> tuple[list[Twin], tuple[int, ...]]:
    """A random net, some units removed, the readers of what is left refitted or perturbed."""
    g = torch.Generator().manual_seed(seed)
    depth = 1 + seed % 3
    sizes = [4, *[6 + (seed + k) % 5 for k in range(depth)], 3]
    twins = [Twin("x", Input("x"), Input("x"), (), (None, None))]
    kept: Kept = (None, None)
    name = "x"
    for k, (n, m) in enumerate(pairwise(sizes)):
        W = torch.randn(m, n, generator=g, dtype=F64)
        b = torch.randn(m, generator=g, dtype=F64)
        last = k == depth
        left = None if last or empty else torch.randperm(m, generator=g)[: m // 2].sort().values
        out: Kept = (None, left)
        noise = 0.0 if empty else 10.0 ** -(seed % 5)
        V = restrict(W, (left, kept[1])) + noise * torch.randn(
            m if left is None else len(left), n if kept[1] is None else len(kept[1]), generator=g, dtype=F64
        )
        twins.append(Twin(f"z{k}", dense(W, b), dense(V, restrict(b, (left,)) + noise), (name,), out))
        name = f"z{k}"
        if not last:
            curve = ACTIVATIONS[(seed + k) % len(ACTIVATIONS)]()
            twins.append(Twin(f"h{k}", Elementwise(curve), Elementwise(curve), (name,), out))
            name = f"h{k}"
        kept = out
    return twins, (4,)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_no_error_of_a_random_mlp_exceeds_its_bound(seed: int) -> None:
    twins, shape = mlp(seed)
    radius = 10.0 ** -(seed % 4)
    domain: Domain = Box(-radius, radius / 2) if seed % 2 else L2Ball(0.1, radius)
    check(twins, domain, shape, seed)


def kept_of(n: int, left: Tensor | None) -> int:
    return n if left is None else len(left)


def convnet(seed: int, groups: int) -> tuple[list[Twin], tuple[int, ...]]:
    """conv – scale – φ – grouped conv – maximum pool – residual sum – gate – mean – linear."""
    g = torch.Generator().manual_seed(seed)
    c = 8
    rand = lambda *shape: torch.randn(shape, generator=g, dtype=F64)  # noqa: E731
    left = (
        torch.tensor([0, 2, 3, 4, 6, 7])
        if groups in (1, 2)
        else torch.randperm(c, generator=g)[:5].sort().values
    )
    channels: Kept = (None, left, None, None)
    whole: Kept = (None,) * 4
    n = len(left)
    noise = 10.0 ** -(seed % 4)
    first, second = Convolve((1, 1), (1, 1), (1, 1), 1), Convolve((1, 1), (1, 1), (1, 1), groups)
    W1, b1, s1 = rand(c, 2, 3, 3), rand(c, 1, 1), rand(1, c, 1, 1)
    W2 = rand(c, c // groups, 3, 3) / 3
    narrow_kernel, V2 = second.restrict(W2, channels, channels)
    V2 = V2 + noise * torch.randn(V2.shape, generator=g, dtype=F64)
    slope = rand(1, c, 1, 1) / 4
    W3 = rand(3, c)
    pool = lambda s: torch.max_pool2d(s[0], 3, 2, 1)  # noqa: E731
    down = lambda s: torch.nn.functional.avg_pool2d(s[0], 2, 2, 0, True)  # noqa: E731
    mean = lambda s: s[0].mean((2, 3))  # noqa: E731
    ramp = Elementwise(curves.sigmoid())
    twins = [
        Twin("x", Input("x"), Input("x"), (), whole),
        Twin(
            "c1",
            Affine.given(first, W1, b1),
            Affine.given(first, W1[left] * (1 + noise), b1[left]),
            ("x",),
            channels,
        ),
        Twin("s1", Affine.given(Scale(), s1), Affine.given(Scale(), s1[:, left] - noise), ("c1",), channels),
        Twin(
            "p1",
            Elementwise(curves.leaky(slope)),
            Elementwise(curves.leaky(slope[:, left])),
            ("s1",),
            channels,
        ),
        Twin("c2", Affine.given(second, W2), Affine.given(narrow_kernel, V2), ("p1",), channels),
        Twin("m2", Maximum(pool), Maximum(pool), ("c2",), channels),
        Twin("a1", Structural(down, down, 4), Structural(down, down, 4), ("p1",), channels),
        Twin("r", Sum((1.0, -0.5)), Sum((1.0, -0.5)), ("m2", "a1"), channels),
        Twin("g", ramp, ramp, ("a1",), channels),
        Twin("q", Product(), Product(), ("r", "g"), channels),
        Twin(
            "least",
            Maximum(lambda s: torch.maximum(*s), True),
            Maximum(lambda s: torch.maximum(*s), True),
            ("q", "r"),
            channels,
        ),
        Twin("v", Structural(mean, mean, 9), Structural(mean, mean, 9), ("least",), (None, left)),
        Twin("z", dense(W3), dense(W3[:, left] + noise * rand(3, n)), ("v",), (None, None)),
        Twin("p", Softmax(1, seed % 2 == 0), Softmax(1, seed % 2 == 0), ("z",), (None, None)),
    ]
    return twins, (2, 6, 6)


@settings(max_examples=16, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from([1, 2, 8]))
def test_no_error_of_a_random_convnet_exceeds_its_bound(seed: int, groups: int) -> None:
    twins, shape = convnet(seed, groups)
    domain: Domain = Box(-0.2, 10.0 ** -(seed % 4)) if seed % 2 else L2Ball(0.1, 10.0 ** -(seed % 4))
    check(twins, domain, shape, seed)


@pytest.mark.parametrize("seed", range(6))
def test_an_empty_plan_has_no_error(seed: int) -> None:
    twins, shape = mlp(seed, empty=True)
    bound, found = check(twins, Box(-1.0, 1.0), shape)
    assert found == 0.0
    assert bound.linf is not None
    # torch's softplus jumps, so there (seeds 4 and 5) two nets that are a rounding apart can differ
    assert bound.linf < (1e-12 if seed < 4 else 5)


@pytest.mark.parametrize("seed", range(6))
def test_bounds_shrink_with_the_domain(seed: int) -> None:
    twins, shape = mlp(seed)
    bounds = [
        difference(twins, enclose([d], [shape], ["x"]), [twins[-1].name]).linf
        for radius in (1.0, 0.3, 0.01, 0.0)
        for d in (Box(0.2 - radius, 0.2 + radius),)
    ]
    assert bounds == sorted(bounds, reverse=True)  # type: ignore[type-var]
    at_point = max(
        float((values(twins, torch.full((1, 4), 0.2, dtype=F64), w)[twins[-1].name]).abs().max())
        for w in "fg"
    )
    assert bounds[-1] <= 2 * at_point + 1e-9


def test_on_a_single_input_the_bound_is_the_error() -> None:
    for seed in range(4):
        twins, shape = mlp(seed)
        x = torch.linspace(-1, 1, 4, dtype=F64)
        bound, found = check(twins, Box(x, x), shape)
        assert bound.linf == pytest.approx(found, rel=1e-9, abs=1e-9)


def test_one_net_alone() -> None:
    twins, _ = mlp(4)
    steps = [Step(t.name, t.f, t.sources) for t in twins]
    inputs = enclose([Box(-1.0, 1.0)], [(4,)], ["x"])
    alone, both = propagate_one(steps, inputs), propagate(twins, inputs)
    for name, interval in alone.items():
        assert torch.equal(interval.low, both[name].f.low)
    x = Box(-1.0, 1.0).sample(256, (4,), torch.Generator().manual_seed(0))
    h = values(twins, x, "f")["h0"]
    assert float(h.norm(dim=1).max()) <= alone["h0"].l2_norm


def test_what_has_no_rule_is_refused_by_name() -> None:
    x = Twin("x", Input("x"), Input("x"), (), (None, None))
    inputs = enclose([Box(0.0, 1.0)], [(2,)], ["x"])
    mixed = Twin("odd", RELU, Sum((1.0,)), ("x",), (None, None))
    with pytest.raises(UnsupportedOperation, match="odd: no rule for the pair of forms Elementwise and Sum"):
        propagate([x, mixed], inputs)
    with pytest.raises(UnsupportedOperation, match="no rule for the form object"):
        image(object(), [], {})  # type: ignore[arg-type]
    narrowed = Twin(
        "z",
        dense(torch.ones(2, 2, dtype=F64)),
        dense(torch.ones(1, 2, dtype=F64)),
        ("x",),
        (None, torch.tensor([1])),
    )
    with pytest.raises(UnsupportedOperation, match="z: an output of the model was narrowed"):
        difference([x, narrowed], inputs, ["z"])
    with pytest.raises(UnsupportedOperation, match="is not what is left"):
        propagate(
            [
                x,
                Twin(
                    "z",
                    dense(torch.ones(2, 2, dtype=F64)),
                    dense(torch.ones(1, 2, dtype=F64)),
                    ("x",),
                    (None, None),
                ),
            ],
            inputs,
        )
    with pytest.raises(UsageError, match="1 inputs but 2 domains"):
        enclose([Box(0.0, 1.0)] * 2, [(2,)] * 2, ["x"])


def test_kept_indices_that_are_not_the_pruned_nets_are_found_out() -> None:
    twins = [
        Twin("x", Input("x"), Input("x"), (), (None, None)),
        Twin(
            "z",
            dense(torch.eye(4, dtype=F64)),
            dense(torch.eye(4, dtype=F64)[:2]),
            ("x",),
            (None, torch.tensor([0, 1])),
        ),
        Twin(
            "y",
            Structural.moving(lambda x: x),
            Structural.moving(lambda x: x),
            ("z",),
            (None, torch.tensor([0, 2])),
        ),
    ]
    with pytest.raises(BrokenPromise, match="y: what is left"):
        propagate(twins, enclose([Box(0.0, 1.0)], [(4,)], ["x"]))


def test_shares_that_groups_cannot_have_are_refused() -> None:
    grouped, depthwise = (Convolve((1,), (1,), (1,), g) for g in (2, 8))
    W, D = torch.ones(8, 4, 3, dtype=F64), torch.ones(16, 1, 3, dtype=F64)
    whole: Kept = (None, None, None)
    with pytest.raises(UnsupportedOperation, match="unequal shares"):
        grouped.restrict(W, whole, (None, torch.tensor([0, 1, 2, 7]), None))
    with pytest.raises(UnsupportedOperation, match="unequal shares"):
        grouped.restrict(W, (None, torch.tensor([0, 1, 2, 7]), None), whole)
    with pytest.raises(UnsupportedOperation, match="lost other channels"):
        depthwise.restrict(D, (None, torch.tensor([0, 1, 2, 3]), None), (None, torch.tensor([0, 2]), None))
    kernel, narrowed = depthwise.restrict(
        D, (None, torch.tensor([0, 1, 4, 5]), None), (None, torch.tensor([0, 2]), None)
    )
    assert kernel == Convolve((1,), (1,), (1,), 2)
    assert narrowed.shape == (4, 1, 3)
    with pytest.raises(UnsupportedOperation, match="batch or its positions"):
        Convolve((1,), (1,), (1,), 1).restrict(
            W, (None, None, torch.tensor([0])), (None, None, torch.tensor([0]))
        )
    with pytest.raises(UnsupportedOperation, match="does not mix"):
        Dense().restrict(torch.ones(2, 2), (None, None), (torch.tensor([0]), None))


def test_what_overflows_is_not_certified() -> None:
    twins = [
        Twin("x", Input("x"), Input("x"), (), (None, None)),
        Twin("z", dense(tensor([1e200])), dense(tensor([-1e200])), ("x",), (None, None)),
        Twin("y", Product(), Product(), ("z", "z"), (None, None)),
    ]
    assert difference(twins, enclose([Box(-1.0, 1.0)], [(1,)], ["x"]), ["y"]).linf is None
    log = Elementwise(curves.log())
    twins = [twins[0], Twin("y", log, log, ("x",), (None, None)), Twin("z", RELU, RELU, ("y",), (None, None))]
    assert difference(twins, enclose([Box(-1.0, 1.0)], [(1,)], ["x"]), ["y", "z"]).linf is None


def test_constants_and_padding() -> None:
    pad = lambda value: lambda s: torch.nn.functional.pad(s[0], (0, 1), value=value)  # noqa: E731
    left = torch.tensor([1, 2])
    join = lambda s: torch.cat([h.expand(len(s[0]), -1) for h in s], 1)  # noqa: E731
    twins = [
        Twin("x", Input("x"), Input("x"), (), (None, None)),
        Twin(
            "z",
            dense(torch.eye(3, dtype=F64)),
            dense(torch.eye(3, dtype=F64)[1:] * 0.9),
            ("x",),
            (None, left),
        ),
        Twin(
            "pad",
            Structural(pad(7.0), pad(0.0)),
            Structural(pad(7.0), pad(0.0)),
            ("z",),
            (None, torch.tensor([1, 2, 3])),
        ),
        Twin("c", Constant(tensor([4.0, 5.0])), Constant(tensor([4.5])), (), (None, torch.tensor([0]))),
        Twin(
            "cat",
            Structural(join, join),
            Structural(join, join),
            ("pad", "c"),
            (None, torch.tensor([1, 2, 3, 4])),
        ),
        Twin(
            "y",
            dense(torch.ones(1, 6, dtype=F64)),
            dense(torch.ones(1, 4, dtype=F64)),
            ("cat",),
            (None, None),
        ),
    ]
    bound, found = check(twins, Box(0.0, 1.0), (3,))
    # Δ = x₁ + 0.1(x₂ + x₃) + (4 − 4.5) + 5
    assert bound.linf == pytest.approx(5.7, rel=1e-9)
    assert found == pytest.approx(5.7, rel=1e-9)


def test_rounding_of_the_bound_itself_is_covered() -> None:
    """0.1 summed ten times is not 1: exact rationals must lie in the interval."""
    from fractions import Fraction

    g = torch.Generator().manual_seed(1)
    for n in (1, 10, 300):
        W = torch.randn(1, n, generator=g, dtype=F64) * 1e3
        V = W * (1 + 1e-15)
        x = torch.randn(n, generator=g, dtype=F64)
        twins = [
            Twin("x", Input("x"), Input("x"), (), (None, None)),
            Twin("z", dense(W), dense(V), ("x",), (None, None)),
        ]
        reached = propagate(twins, enclose([Box(x, x)], [(n,)], ["x"]))["z"]
        exact = lambda M, x=x: sum(  # noqa: E731
            Fraction(a) * Fraction(b) for a, b in zip(M[0].tolist(), x.tolist(), strict=True)
        )
        for interval, value in (
            (reached.f, exact(W)),
            (reached.g, exact(V)),
            (reached.delta, exact(W) - exact(V)),
        ):
            assert Fraction(interval.low.item()) <= value <= Fraction(interval.high.item())


def test_folding_a_scaling_changes_nothing_but_the_tightness() -> None:
    g = torch.Generator().manual_seed(2)
    W = torch.randn(5, 2, 3, generator=g, dtype=F64)
    conv = Affine.given(Convolve((1,), (1,), (1,), 1), W, torch.randn(5, 1, generator=g, dtype=F64))
    scale = Affine.given(
        Scale(), torch.randn(1, 5, 1, generator=g, dtype=F64), torch.randn(1, 5, 1, generator=g, dtype=F64)
    )
    both = conv.followed_by(scale)
    assert both is not None
    x = torch.randn(7, 2, 4, generator=g, dtype=F64)
    assert torch.allclose(both.apply(x), scale.apply(conv.apply(x)), rtol=1e-13)
    assert conv.followed_by(Affine.given(Scale(), torch.randn(1, 1, 4, dtype=F64))) is None
    assert conv.followed_by(conv) is None
    held = image(both, [Interval.point(x[:1])], {})
    assert held.holds(scale.apply(conv.apply(x[:1])))
