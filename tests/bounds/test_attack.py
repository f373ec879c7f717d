from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeprune.bounds.attack import attack
from edgeprune.domains.sets import Box, L2Ball
from edgeprune.errors import UsageError

torch.set_num_threads(1)
A = torch.tensor([[1.0, -2.0, 0.5, 0.0], [0.1, 0.2, 0.3, -4.0]], dtype=torch.float64)


def linear(inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0] @ A.T


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("domain", [Box(-1.0, 0.5), L2Ball(0.3, 2.0), Box(2.0, 2.0)])
def test_it_finds_the_exact_supremum_of_a_linear_difference(domain: Box | L2Ball) -> None:
    found = attack(linear, [domain], [(4,)], generator=generator())
    truth = float(torch.cat([domain.support(A), domain.support(-A)]).max())
    assert found.value == pytest.approx(truth, rel=1e-9)
    assert found.value <= truth
    assert domain.contains(found.inputs[0][None]).all()
    assert float(linear((found.inputs[0][None],))[0, found.output].abs()) == found.value


def test_it_climbs_to_a_peak_inside() -> None:
    def hill(inputs: tuple[Tensor, ...]) -> Tensor:
        return 3 - ((inputs[0] - 0.137) ** 2).sum(1, keepdim=True)

    found = attack(hill, [Box(-1.0, 1.0)], [(6,)], generator=generator(), steps=150)
    # the far corner (value 3 − 6 · 1.137² < −3) is worse in absolute value
    assert found.value == pytest.approx(6 * 1.137**2 - 3, rel=1e-6)
    near = attack(hill, [Box(0.0, 0.3)], [(6,)], generator=generator(), steps=150)
    assert near.value == pytest.approx(3.0, abs=1e-3)


def test_the_same_generator_gives_the_same_attack() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 20)).double()
    first, second = (
        attack(lambda x: net(x[0]), [L2Ball(0.0, 1.0)], [(4,)], generator=generator(7)) for _ in "ab"
    )
    assert first.value == second.value
    assert torch.equal(first.inputs[0], second.inputs[0])
    assert first.n_inputs == second.n_inputs > 512


def test_several_inputs_seeds_and_what_has_no_gradient() -> None:
    seed = torch.tensor([[9.0, 0.0], [0.0, 9.0]], dtype=torch.float64)

    def rounded(inputs: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            return (inputs[0].round() * inputs[1]).sum(1, keepdim=True)

    domains = (Box(0.0, 4.0), L2Ball(0.0, 1.0))
    found = attack(rounded, domains, [(2,), (2,)], seeds=(seed, seed), generator=generator(), batch=50)
    assert found.n_inputs == 2 * 256 + 2 + 8  # the climb stops after its first evaluation
    assert all(d.contains(x[None]).all() for d, x in zip(domains, found.inputs, strict=True))
    assert found.value >= 4.0
    with pytest.raises(UsageError, match="2 inputs but 1 domains"):
        attack(rounded, domains[:1], [(2,), (2,)], generator=generator())


def test_no_number_is_the_worst_error() -> None:
    found = attack(lambda x: torch.sqrt(x[0]), [Box(-1.0, 1.0)], [(2,)], generator=generator(), steps=3)
    assert found.value == torch.inf
