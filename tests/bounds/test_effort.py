"""More effort never loosens a bound, and threads do not change it; passes are compared, never clocks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from nets import net
from pruned import prune

from edgeprune.bounds.crown import Effort, crown
from edgeprune.bounds.differential import Difference
from edgeprune.certificates import deterministic
from edgeprune.certificates.deterministic import PASSES, Method, Proof, bounded, near
from edgeprune.certificates.twins import Pair
from edgeprune.domains.sets import Box
from edgeprune.progress import silent

UNLIMITED_S = 1e6
SMALL = ("tied", "written")


def case(name: str) -> tuple[Pair, Box, torch.Tensor]:
    torch.set_num_threads(1)
    model, x = net(name)
    pair, _ = prune(model, x.double(), 3)
    return pair, Box.around(x[0].double(), 0.1), x.double()


def bounds_of(name: str, method: Method, jobs: int = 1) -> list[float]:
    """The bound after one pass, after two, and so on."""
    pair, domain, _ = case(name)
    found = []
    for passes in range(1, len(PASSES) + 1):
        made = bounded(
            pair, [domain], 1, method, Proof(budget_s=UNLIMITED_S, passes=passes, jobs=jobs), silent
        )
        assert made.bound is not None, made.reason
        assert made.passes == passes
        found.append(made.bound)
    return found


@pytest.mark.parametrize("method", ["crown", "quadratic"])
@pytest.mark.parametrize("name", SMALL)
def test_more_passes_never_loosen(name: str, method: Method) -> None:
    found = bounds_of(name, method)
    assert all(after <= before for before, after in pairwise(found))
    assert found[-1] < found[0]  # the passes were worth something


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ((1.0, 2.0, 0.5), (1.0, 1.0, 0.5)),  # a pass that finds worse does not count
        ((1.0, None, 0.5), (1.0, 1.0, 0.5)),  # nor one whose bounds grew beyond all numbers
        ((None, 3.0, 4.0), (None, 3.0, 3.0)),
    ],
)
def test_the_best_pass_counts(each, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, domain, _ = case("tied")
    for passes, bound in enumerate(expected, 1):
        scripted = iter(each)
        monkeypatch.setattr(deterministic, "crown", lambda *_, values=scripted: Difference(next(values), ()))
        proof = Proof(budget_s=UNLIMITED_S, passes=passes)
        assert bounded(pair, [domain], 1, "crown", proof, silent).bound == bound


@pytest.mark.parametrize("name", SMALL)
def test_more_steps_of_the_optimisation_never_loosen(name: str) -> None:
    pair, domain, _ = case(name)
    found = []
    for steps in (0, 2, 8, 24):
        effort = Effort(UNLIMITED_S, steps=steps, work=0.0)
        found.append(crown(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, effort).outputs)
    for before, after in pairwise(found):
        for b, a in zip(before, after, strict=True):
            assert bool((a <= b * (1 + 1e-12)).all())
    assert any(bool((a < b).any()) for b, a in zip(found[0], found[-1], strict=True))


@pytest.mark.parametrize("jobs", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_threads_do_not_change_linear_bounds(name: str, jobs: int) -> None:
    """Every output has its own rows, so only the last digits can know how they were shared out."""
    pair, domain, _ = case(name)
    found = []
    for count in (1, jobs):
        effort = Effort(UNLIMITED_S, steps=8, work=0.0, jobs=count)
        found.append(crown(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, effort))
    for one, other in zip(found[0].outputs, found[1].outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("name", SMALL)
def test_threads_do_not_change_any_bound(name: str) -> None:
    """The quadratic end of a walk starts its search at random, but every row in the same place."""
    assert bounds_of(name, "crown", 2) == pytest.approx(bounds_of(name, "crown"), rel=1e-9)


def test_threads_do_not_change_which_samples_are_bounded() -> None:
    pair, _, x = case("written")
    found = [
        near(
            pair,
            Box(-50.0, 50.0),
            list(x),
            Proof(budget_s=UNLIMITED_S, radius=0.05, jobs=jobs),
            silent,
        )
        for jobs in (1, 2)
    ]
    assert len(found[0]) == len(x)
    assert found[1] == pytest.approx(found[0], rel=5e-3)
