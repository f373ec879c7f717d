from __future__ import annotations

import pytest
import torch
from nets import noise, seeded
from torch import nn

from edgeprune.observation import patches
from edgeprune.observation.kernel_ridge import RIDGES, RowEquations, best, gram, rows_for
from edgeprune.stages.allocate import allocate
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace
from edgeprune.widths.budget import Budget, Multiples


def halves(heard: torch.Tensor, rest: torch.Tensor) -> list[RowEquations]:
    made = [RowEquations(), RowEquations()]
    middle = len(heard) // 2
    made[0].add(heard[:middle], rest[:middle])
    made[1].add(heard[middle:], rest[middle:])
    return made


def test_it_is_the_ridge_solution_of_the_normal_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    heard = torch.randn(60, 90, generator=generator)
    truth = torch.randn(90, 4, generator=generator).double()
    rest = heard.double() @ truth
    found = best(halves(heard, rest))
    assert found is not None
    u = heard.double()
    scale = (u**2).sum(1).mean()
    direct = [
        torch.linalg.solve(u.T @ u + ridge * scale * torch.eye(90, dtype=torch.float64), u.T @ rest)
        for ridge in RIDGES
    ]
    assert min(float((found - one).abs().max()) for one in direct) < 1e-8


def test_the_moments_do_not_depend_on_the_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = noise(20, 50, seed=1)
    whole = gram(heard)
    monkeypatch.setattr("edgeprune.observation.kernel_ridge.STRIPE", 7)
    torch.testing.assert_close(gram(heard), whole)


def test_what_cannot_be_explained_is_left_alone() -> None:
    assert best(halves(noise(40, 60, seed=1), noise(40, 3, seed=2).double())) is None
    assert best([RowEquations(), RowEquations()]) is None


def test_few_rows_for_many_unknowns() -> None:
    assert rows_for(5_000) > rows_for(1_000_000) >= 2
    assert rows_for(1_000_000) * 1_000_000 <= 2**27


def test_a_wide_reader_is_refitted_nearly_as_well_as_by_its_normal_equations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(2, 12, 5), nn.ReLU(), nn.Conv1d(12, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 24, 4)
        )

    net, samples = seeded(make).eval(), noise(128, 2, 32, seed=0)
    coupling = couple(trace(net, (samples[:1],)))
    widths = allocate(coupling, Budget("keep", 0.5), Multiples())

    def error(largest: int) -> float:
        monkeypatch.setattr(patches, "LARGEST", largest)
        plan = choose(coupling, widths, "gram", (samples,), seed=0)
        small = shrink(net, coupling, plan, (samples[:4],)).module
        fresh = noise(256, 2, 32, seed=7)
        with torch.no_grad():
            return float((small(fresh) - net(fresh)).norm() / net(fresh).norm())

    normal, rows = error(4608), error(8)
    assert rows < 1.3 * normal
