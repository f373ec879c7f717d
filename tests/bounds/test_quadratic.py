"""Quadratic certificates: above everything that search finds, near it, and refused where not proved."""

from __future__ import annotations

import pytest
import torch
from nets import seeded
from pruned import prune
from torch import Tensor, nn

from edgeprune.bounds import shor
from edgeprune.bounds.attack import attack
from edgeprune.bounds.crown import Effort, crown
from edgeprune.bounds.differential import enclose, fold, propagate
from edgeprune.bounds.patches import conv_layer_of, patch_delta, patch_of
from edgeprune.bounds.quadratic import Ascent, Region, Residual, layer_bounds
from edgeprune.bounds.watch import Watch
from edgeprune.domains.sets import Box, L2Ball
from edgeprune.errors import UsageError
from edgeprune.functions.forms import Affine, restrict

F64 = torch.float64


def layer(seed: int, inputs: int = 5, units: int = 12, outputs: int = 4) -> Residual:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=F64)

    return Residual(draw(units, inputs), 0.5 * draw(units), draw(outputs, units), draw(outputs))


def search(r: Residual, domain: Box | L2Ball, seed: int) -> tuple[Tensor, Tensor]:
    """Least and greatest value of every output that ascent finds."""
    inputs, k = r.incoming.shape[1], len(r.outgoing)
    goals = torch.arange(2 * k).repeat_interleave(6)
    x = domain.sample(len(goals), (inputs,), torch.Generator().manual_seed(seed))
    best = torch.full((2 * k,), -torch.inf, dtype=F64)
    for step in range(60):
        x = x.detach().requires_grad_()
        y = (x @ r.incoming.T + r.bias).clamp_min(0) @ r.outgoing.T + r.offset
        value = torch.cat([y, -y], 1)[torch.arange(len(goals)), goals]
        best = torch.maximum(best, value.detach().reshape(2 * k, 6).amax(1))
        gradient = torch.autograd.grad(value.sum(), x)[0]
        x = domain.climb(x.detach(), gradient, 0.4 * (1 - step / 60) ** 2 + 1e-3)
    return -best[k:], best[:k]


@pytest.mark.parametrize("kind", ["box", "ball", "both"])
def test_no_value_found_exceeds_the_certificate(kind: str) -> None:
    ratios = []
    for seed in range(10):
        r = layer(seed, inputs=3 + seed % 4, units=4 + 2 * seed)
        n = r.incoming.shape[1]
        center = 0.3 * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=F64)
        radius = torch.full((n,), (0.02, 0.5, 2.0)[seed % 3], dtype=F64)
        ball = (center, 1.2 * float(radius[0]))
        region = Region(center, None if kind == "ball" else radius, None if kind == "box" else ball)
        low, high = layer_bounds(r, region)
        domain = L2Ball(center, ball[1]) if kind != "box" else Box(center - radius, center + radius)
        least, most = search(r, domain, seed)
        if kind == "both":
            x = domain.sample(4000, (n,), torch.Generator().manual_seed(seed))
            x = x[((x - center).abs() <= radius).all(1)]
            y = (x @ r.incoming.T + r.bias).clamp_min(0) @ r.outgoing.T + r.offset
            least, most = y.amin(0), y.amax(0)
        assert bool((high >= most - 1e-12).all())
        assert bool((low <= least + 1e-12).all())
        middle = (center @ r.incoming.T + r.bias).clamp_min(0) @ r.outgoing.T + r.offset
        ratios.append((high - middle) / (most - middle).clamp_min(1e-9))
    if kind != "both":
        assert float(torch.cat(ratios).median()) < 1.6


def test_cancellation_is_seen() -> None:
    """Two equal units of opposite sign: the interval bound is far, the certificate is near zero."""
    p = torch.randn((1, 6), generator=torch.Generator().manual_seed(0), dtype=F64).repeat(2, 1)
    r = Residual(
        p, torch.zeros(2, dtype=F64), torch.tensor([[1.0, -1.0]], dtype=F64), torch.zeros(1, dtype=F64)
    )
    region = Region(torch.zeros(6, dtype=F64), None, (torch.zeros(6, dtype=F64), 1.0))
    _, high = layer_bounds(r, region, Ascent(steps=100))
    assert float(high) < 0.6 * float(p[0].norm())


def test_what_is_not_proved_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no factorisation runs through the bound is the one by intervals."""
    r = layer(0)
    zero, one = torch.zeros(5, dtype=F64), torch.ones(5, dtype=F64)
    region = Region(zero, one)
    proved = layer_bounds(r, region)[1]
    monkeypatch.setattr(shor, "positive", lambda a, *_: torch.zeros(len(a), dtype=torch.bool))
    trivial = layer_bounds(r, region)[1]
    assert bool((proved <= trivial).all())
    z = torch.stack([r.bias + s * r.incoming.abs().sum(1) for s in (-1, 1)]).clamp_min(0)
    by_hand = r.outgoing.clamp_min(0) @ z[1] + r.outgoing.clamp_max(0) @ z[0] + r.offset
    assert torch.allclose(trivial, by_hand)


def test_a_wrong_matrix_is_not_called_positive() -> None:
    a = torch.eye(4, dtype=F64)[None].clone()
    u, one, none = torch.zeros((1, 4), dtype=F64), torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    assert bool(shor.positive(a, u, one, none, none))
    a[0, 0, 0] = -1e-12
    assert not bool(shor.positive(a, u, one, none, none))
    a[0, 0, 0] = 1.0
    u[0, 0] = 2.1  # κ must be above u²/4
    assert not bool(shor.positive(a, u, one, none, none))


def test_a_region_needs_a_bound() -> None:
    with pytest.raises(UsageError, match="needs a box or a ball"):
        Region(torch.zeros(2, dtype=F64), None)


def test_patches_of_convolutions_are_bounded_and_shared() -> None:
    """A certificate for each kind of position: the inside, edges and corners; composed through the net."""
    model = seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)),
            *(nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)),
        ),
        4,
    )
    x = torch.rand((2, 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=F64)
    pair, gap = prune(model, x, 1)
    twins = {twin.name: twin for twin in fold(pair.twins, frozenset(pair.outputs))}
    domain = Box(0.0, 1.0)
    reached = propagate(tuple(twins.values()), enclose([domain], pair.shapes, pair.inputs))
    layer = next(made for made in (conv_layer_of(t, twins) for t in twins.values() if t.sources) if made)
    places = torch.arange(36)
    patches = [patch_of(layer, place, reached) for place in places]
    assert all(patch is not None for patch in patches)
    assert len({patch.key() for patch in patches if patch is not None}) == 25, "5 kinds along each side"
    found = patch_delta(layer, reached, Ascent(), Watch())
    before = reached[layer.reader.name].delta
    assert float((found.high - found.low).mean()) < float((before.high - before.low).mean())
    tried = torch.cat(
        [
            domain.sample(200, (1, 6, 6), torch.Generator().manual_seed(1)),
            (torch.rand(200, 1, 6, 6) > 0.5) + 0.0,
        ]
    )
    first, reader = layer.first, layer.reader
    assert isinstance(first.f, Affine)
    assert isinstance(first.g, Affine)
    assert isinstance(reader.f, Affine)
    assert isinstance(reader.g, Affine)
    heard = reader.f.apply(first.f.apply(tried.double()).clamp_min(0))
    mine = reader.g.apply(first.g.apply(tried.double()).clamp_min(0))
    assert found.widen(torch.full_like(found.low, 1e-12)).holds(restrict(heard, reader.kept) - mine)
    nothing = patch_delta(layer, reached, Ascent(), Watch.of(-1.0))
    assert bool((nothing.high == torch.inf).all()), "a deadline that is over leaves no bound, not a wrong one"
    bound = crown(
        pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, Effort(steps=0, quadratic=True)
    )
    worst = attack(gap, [domain], pair.shapes, generator=torch.Generator().manual_seed(0), steps=20)
    assert bound.linf is not None
    assert worst.value <= bound.linf
