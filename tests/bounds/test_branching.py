"""Branch and bound: every part's bound holds on the part, whatever the multipliers, and cuts make it smaller."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from chains import F64, both, chain, random_case
from torch import Tensor

from edgeprune.bounds.attack import attack
from edgeprune.bounds.backward import Rows, Sides, Tuning, unit_rows
from edgeprune.bounds.branching import Branching
from edgeprune.bounds.crown import Effort, Progression, crown
from edgeprune.bounds.descent import descended, tunings_of
from edgeprune.bounds.differential import enclose
from edgeprune.bounds.watch import Watch
from edgeprune.certificates.deterministic import Proof, bounded
from edgeprune.certificates.twins import Pair
from edgeprune.domains.sets import Box, Domain
from edgeprune.functions.forms import Twin


def walked(twins: list[Twin], domain: Domain) -> Progression:
    torch.set_num_threads(1)
    walk = Progression(twins, {"x": domain}, enclose([domain], [(3,)], ["x"]), Effort(steps=0))
    walk.run()
    return walk


def sides_of(tuning: Tuning, pre: tuple[Tensor, Tensor], generator: torch.Generator) -> Sides:
    """Units of one input's own signs, some of them named, with random multipliers and sizes."""
    made = []
    for like, z in ((tuning.f, pre[0]), (tuning.g, pre[1])):
        named = torch.rand(like.shape, generator=generator, dtype=F64) < 0.5
        size = torch.rand(like.shape, generator=generator, dtype=F64) * 3
        made.append(torch.where(named, torch.where(z >= 0, size, -size), 0.0))
    betas = [torch.rand(t.shape, generator=generator, dtype=F64) * 5 for t in made]
    return Sides(made[0], made[1], betas[0], betas[1])


@pytest.mark.parametrize("seed", range(8))
def test_a_branch_is_bounded_whatever_the_multipliers(seed: int) -> None:
    """Each input is on a branch of its own units' signs: the branch's bound holds for the input."""
    twins, domain, x = random_case(seed)
    walk, out = walked(twins, domain), twins[-1].name
    f, g = both(twins, x)
    generator = torch.Generator().manual_seed(seed)
    rows = unit_rows(walk.reached[out], "delta", torch.tensor([0]), 1.0)
    start = tunings_of(walk.backward, out, 1)
    cut = 0
    for k in range(0, len(x), 20):
        tuning = {}
        for name, free in start.items():
            source = walk.backward.twins[walk.backward.place[name]].sources[0]
            sides = sides_of(free, (f[source][k : k + 1], g[source][k : k + 1]), generator)
            share = torch.rand(free.share.shape, generator=generator, dtype=F64)
            tuning[name] = Tuning(free.f, free.g, share, sides)
            cut += int((sides.f != 0).sum())
        value = (f[out] - g[out])[k, 0]
        slack = 1e-12 * (1 + f[out].abs().max())
        assert value <= walk.backward.upper(out, rows, tuning) + slack
        assert value <= descended(walk.backward, out, rows, tuning, 4)[0] + slack
    assert cut or not start


@pytest.mark.parametrize("seed", [1, 2, 6, 7, 11])
def test_no_error_exceeds_the_bound_of_parts(seed: int) -> None:
    twins, domain, x = random_case(seed)
    out = twins[-1].name
    bound = crown(twins, [domain], [(3,)], ["x"], [out], Effort(steps=4, branches=24)).outputs[0]

    def gap(inputs: tuple[Tensor, ...]) -> Tensor:
        f, g = both(twins, inputs[0])
        return f[out] - g[out]

    generator = torch.Generator().manual_seed(seed)
    found = attack(gap, [domain], [(3,)], generator=generator, seeds=(x,), steps=20, samples=64)
    slack = 1e-12 * (1 + both(twins, x)[0][out].abs().max())
    assert bool((gap((x,)).abs().amax(0) <= bound + slack).all())
    assert found.value <= bound.max() + slack


def test_cuts_make_bounds_smaller_down_to_the_error_itself() -> None:
    """A net of a few units is cut until nothing is relaxed: then the bound is the largest error."""
    generator = torch.Generator().manual_seed(5)
    twins = chain([3, 4, 3], [torch.tensor([0, 2]), None], generator, 0.3)
    domain = Box.around(torch.zeros(3, dtype=F64), 1.0)
    walk, out = walked(twins, domain), twins[-1].name
    index = torch.arange(3)
    up, down = (unit_rows(walk.reached[out], "delta", index, sign).delta for sign in (1.0, -1.0))
    assert up is not None
    assert down is not None
    rows = Rows(None, None, torch.cat([up, down]))
    start = walk.backward.upper(out, rows)
    found = [start]
    for most in (1, 16, 4000):
        branching = Branching(walk.backward, out, rows, lambda *_: None, Watch())
        found.append(branching.run(start.clone(), most))
    assert all(bool((after <= before).all()) for before, after in pairwise([start, *found[1:2]]))
    assert all(float(after.max()) <= float(before.max()) + 1e-9 for before, after in pairwise(found))
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 41, dtype=F64)] * 3)
    f, g = both(twins, grid)
    true = float((f[out] - g[out]).abs().max())
    assert float(start.max()) > 1.05 * true
    assert true - 1e-9 <= float(found[-1].max()) <= 1.02 * true


def test_the_method_branches_is_any_time_and_says_how_far_it_is() -> None:
    generator = torch.Generator().manual_seed(5)
    twins = chain([3, 6, 6, 3], [torch.tensor([0, 2, 4]), torch.tensor([1, 2, 5]), None], generator, 0.1)
    pair = Pair(tuple(twins), ("x",), ((3,),), (twins[-1].name,))
    domain = Box.around(torch.zeros(3, dtype=F64), 0.8)
    heard = Heard()
    found = [
        bounded(pair, [domain], 1, "branches", Proof(budget_s=1e6, passes=n), heard).bound for n in (1, 2, 3)
    ]
    assert all(before >= after for before, after in pairwise(found) if before and after)
    assert found[-1] < found[1]
    told = [said for said in heard.said if said.startswith("at most")]
    assert float(told[-1].split()[2]) == pytest.approx(found[-1], rel=1e-3)


class Heard:
    """A progress that keeps what is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, iterable, description, total):
        return iterable

    def tell(self, said: str) -> None:
        self.said.append(said)
