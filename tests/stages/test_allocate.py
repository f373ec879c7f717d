from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import NETS, noise, seeded
from plans import coupled, known, plan_of
from torch import nn

from edgeprune.errors import UsageError
from edgeprune.graph.groups import Coupling
from edgeprune.stages.allocate import allocate, rounded
from edgeprune.stages.shrink import shrink
from edgeprune.widths.budget import Budget, Multiples, cost

NO_GRID = Multiples()


def kept(coupling: Coupling, widths: dict[str, int]) -> dict[str, np.ndarray]:
    return {name: np.arange(width) for name, width in widths.items()}


@given(st.integers(1, 600), st.floats(0.001, 1.0), st.sampled_from([1, 2, 4, 8, 16]))
def test_widths_lie_on_the_grid_near_the_share(size: int, share: float, multiple: int) -> None:
    width = rounded(size, share, multiple)
    assert 1 <= width <= size
    assert width % multiple == 0 or width == size
    if multiple < width < size:
        assert abs(width - share * size) <= multiple / 2
    if size <= multiple > 1:
        assert width == size, "a group no wider than one multiple stays whole"


@given(st.integers(1, 600), st.sampled_from([1, 2, 3, 8, 16]))
def test_all_of_it_is_all_of_it(size: int, multiple: int) -> None:
    assert rounded(size, 1.0, multiple) == size


@given(st.integers(1, 300), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.sampled_from([1, 4, 16]))
def test_more_share_is_never_less_width(size: int, first: float, second: float, multiple: int) -> None:
    low, high = sorted((first, second))
    assert rounded(size, low, multiple) <= rounded(size, high, multiple)


def test_convolutional_groups_and_others_have_grids_of_their_own() -> None:
    coupling = known("flattened")[2]
    widths = allocate(coupling, Budget("keep", 0.5), Multiples(conv=4, units=3))
    assert widths == {"conv": 4, "hidden": 3}
    assert allocate(coupling, Budget("keep", 0.5), NO_GRID) == {"conv": 3, "hidden": round(3.5)}


def test_costs_are_those_that_can_be_counted_by_hand() -> None:
    coupling = known("mlp")[2]
    whole = cost(coupling, {})
    assert whole.params == 6 * 8 + 8 + 8 * 7 + 7 + 7 * 3 + 3
    assert whole.macs == 6 * 8 + 8 * 7 + 7 * 3, "for one sample, whatever batch was traced"
    less = cost(coupling, {"0": np.array([0, 3, 4])})
    assert less.params == 6 * 3 + 3 + 3 * 7 + 7 + 7 * 3 + 3
    assert less.macs == 6 * 3 + 3 * 7 + 7 * 3


@pytest.mark.parametrize("name", sorted(NETS))
def test_parameters_are_counted_as_torch_counts_them(name: str) -> None:
    model, x, coupling = known(name)
    used = {id(p): p.numel() for p in model.parameters()}
    assert cost(coupling, {}).params == sum(used.values())
    keep = kept(coupling, allocate(coupling, Budget("keep", 0.5), NO_GRID))
    shrunk = shrink(model, coupling, plan_of(keep), [x])
    assert cost(coupling, keep).params == sum(p.numel() for p in shrunk.module.parameters())


def test_macs_of_a_model_with_a_fixed_batch_are_for_one_sample_too() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 8)
            self.b = nn.Linear(8, 3)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.b(self.a(x.reshape(4, 6)))

    coupling = coupled(seeded(Fixed), noise(4, 6))
    assert coupling.graph.batch == 4
    assert cost(coupling, {}).macs == 6 * 8 + 8 * 3


@pytest.mark.parametrize("kind", ["params", "macs"])
@pytest.mark.parametrize("share", [0.15, 0.3, 0.5, 0.77, 0.999])
def test_a_budget_is_met_and_not_far_undercut(kind: Literal["params", "macs"], share: float) -> None:
    coupling = known("residual")[2]
    whole = getattr(cost(coupling, {}), kind)
    widths = allocate(coupling, Budget(kind, share), NO_GRID)
    left = getattr(cost(coupling, kept(coupling, widths)), kind)
    assert left <= share * whole
    # one unit more in every group that has one to give breaks the budget
    wider = {group.name: min(group.size, widths[group.name] + 1) for group in coupling.groups}
    assert getattr(cost(coupling, kept(coupling, wider)), kind) > share * whole


@pytest.mark.parametrize("kind", ["keep", "params", "macs"])
def test_the_whole_budget_leaves_the_net_whole_on_any_grid(kind: Literal["keep", "params", "macs"]) -> None:
    coupling = known("residual")[2]
    widths = allocate(coupling, Budget(kind, 1.0), Multiples(conv=5, units=5))
    assert widths == {group.name: group.size for group in coupling.groups}


@pytest.mark.parametrize("share", [0.0, -0.1, 1.0001, math.nan])
@pytest.mark.parametrize("kind", ["keep", "params", "macs"])
def test_a_share_out_of_range_is_refused(kind: Literal["keep", "params", "macs"], share: float) -> None:
    with pytest.raises(UsageError, match=f"--{kind} .*: a share must be above 0 and at most 1"):
        allocate(known("mlp")[2], Budget(kind, share), NO_GRID)


def test_a_budget_that_nothing_meets_is_refused_with_the_least_there_is() -> None:
    coupling = known("mlp")[2]
    least = cost(coupling, {group.name: np.arange(1) for group in coupling.groups}).params
    share = least / cost(coupling, {}).params
    with pytest.raises(UsageError, match=f"still takes {share:.3f} of the original"):
        allocate(coupling, Budget("params", share * 0.99), NO_GRID)
    assert set(allocate(coupling, Budget("params", share), NO_GRID).values()) == {1}


def test_a_net_without_groups_has_nothing_to_allocate() -> None:
    coupling = coupled(seeded(lambda: nn.Linear(6, 3)), noise(2, 6))
    assert allocate(coupling, Budget("keep", 0.1), NO_GRID) == {}
    with pytest.raises(UsageError, match=r"still takes 1\.000 of the original"):
        allocate(coupling, Budget("macs", 0.5), NO_GRID)


def test_equal_shares_of_a_grouped_convolution_are_what_is_counted() -> None:
    coupling = known("grouped")[2]
    widths = allocate(coupling, Budget("keep", 0.5), NO_GRID)
    assert widths == {"before": 2, "grouped": 3}, "units that stand for one channel in each of two groups"
