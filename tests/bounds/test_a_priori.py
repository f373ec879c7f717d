from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edgeprune.bounds import a_priori
from edgeprune.bounds.attack import attack
from edgeprune.domains.sets import L2Ball
from edgeprune.errors import UsageError

torch.set_num_threads(1)


def layer(seed: int, n: int, d: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    p = torch.randn(n, d, generator=g, dtype=torch.float64) * torch.rand(
        n, 1, generator=g, dtype=torch.float64
    )
    return (
        p,
        torch.randn(n, generator=g, dtype=torch.float64),
        torch.randn(k, n, generator=g, dtype=torch.float64),
    )


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_coresets_keep_the_promise(activation: str) -> None:
    """Importance sampling of random layers, attacked over the ball: never beyond the bound."""
    phi, slope, zero = {"relu": (torch.relu, 1.0, 0.0), "sigmoid": (torch.sigmoid, 0.25, 0.5)}[activation]
    delta, beta, runs, worst, violations = 0.5, 1.5, 24, 0.0, 0
    for seed in range(runs):
        n, d, k, m = 30, 3 + seed % 4, 1 + seed % 3, (1, 4, 16, 200)[seed % 4]
        p, b, W = layer(seed, n, d, k)
        s = a_priori.unit_bounds(p, b, W, beta, lipschitz=slope, at_zero=zero)
        g = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(s / s.sum(), m, replacement=True, generator=g)
        counts = torch.bincount(drawn, minlength=n).to(torch.float64)
        U = W * counts / (m * s / s.sum())

        def difference(x: tuple[Tensor, ...], p: Tensor = p, b: Tensor = b, V: Tensor = W - U) -> Tensor:
            return phi(x[0] @ p.T + b) @ V.T

        found = attack(difference, [L2Ball(0.0, beta)], [(d,)], generator=g, samples=64, restarts=2)
        bound = a_priori.explicit(a_priori.spread(s), m, k, delta)
        worst = max(worst, found.value / bound)
        violations += found.value > bound
    assert violations <= delta * runs
    assert violations == 0  # far from tight
    assert worst > 0.02  # but of the right order


def test_the_unit_bounds_are_bounds_and_are_attained() -> None:
    p, b, W = layer(3, 20, 4, 2)
    s = a_priori.unit_bounds(p, b, W, 2.0)
    x = L2Ball(0.0, 2.0).sample(4000, (4,), torch.Generator().manual_seed(0))
    seen = (W[None].abs() * torch.relu(x @ p.T + b)[:, None]).amax((0, 1))
    assert (seen <= s).all()
    alone = a_priori.unit_bounds(torch.tensor([[3.0]]), torch.tensor([1.5]), torch.tensor([[2.0]]), 2.0)
    assert float(alone) == pytest.approx(2 * math.sqrt(5) * math.sqrt(11.25))  # = 2 · relu(3·2 + 1.5)
    taps = a_priori.unit_bounds(p, b, torch.stack([W, W], 2), 2.0)
    assert torch.allclose(taps, 2 * s)


def test_numbers_by_hand() -> None:
    assert a_priori.explicit(10.0, 100, 1, 2 * math.exp(-2)) == pytest.approx(1.0 * (2 + 2))
    assert a_priori.explicit(10.0, 100, 1, 2 * math.exp(-2), taps=4) == pytest.approx(4 + 2)
    assert a_priori.explicit(1.0, 9, 3, 0.1, any_time=True) > a_priori.explicit(1.0, 9, 3, 0.1)
    assert a_priori.paper_form(math.e, 4, 8, math.exp(-1)) == pytest.approx(math.e * 1.5)
    assert a_priori.paper_form(math.e, 4, 8, math.exp(-1), c=4) == pytest.approx(math.e * 3)


def test_any_time_spends_no_more_than_delta() -> None:
    assert sum(6 / (math.pi * m) ** 2 for m in range(1, 100_000)) <= 1


@pytest.mark.parametrize(
    ("epsilon", "t", "k", "delta"), [(0.1, 3.0, 10, 0.01), (7.0, 3.0, 1, 0.5), (1.0, 50, 99, 1e-6)]
)
def test_the_sample_size_is_the_least(epsilon: float, t: float, k: int, delta: float) -> None:
    m = a_priori.draws_for(epsilon, t, k, delta)
    assert a_priori.explicit(t, m, k, delta) <= epsilon
    assert m == 1 or a_priori.explicit(t, m - 1, k, delta) > epsilon


def test_other_probabilities_cost() -> None:
    s = torch.tensor([1.0, 2.0, 5.0, 0.0], dtype=torch.float64)
    assert a_priori.spread(s) == 8.0
    assert a_priori.spread(s, s / 8) == pytest.approx(8.0)
    assert a_priori.spread(s, torch.full((4,), 0.25)) == pytest.approx(20.0)
    with pytest.raises(UsageError, match="probability 0"):
        a_priori.spread(s, torch.tensor([0.5, 0.5, 0.0, 0.0]))
    with pytest.raises(UsageError, match="sum to 1"):
        a_priori.spread(s, torch.tensor([0.5, 0.4, 0.0, 0.0]))


def test_nonsense_is_refused() -> None:
    for call in (
        lambda: a_priori.explicit(1.0, 0, 1, 0.1),
        lambda: a_priori.explicit(1.0, 1, 1, 1.0),
        lambda: a_priori.draws_for(0.0, 1.0, 1, 0.1),
        lambda: a_priori.paper_form(1.0, 0, 1, 0.1),
        lambda: a_priori.spread(torch.tensor([-1.0])),
    ):
        with pytest.raises(UsageError):
            call()
