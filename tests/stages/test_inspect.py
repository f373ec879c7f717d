"""What `inspect` tells: what cannot be pruned, for which reason, and how much of the net that is."""

from __future__ import annotations

import pytest
import torch
from nets import noise, seeded
from plans import coupled
from torch import Tensor, nn

from edgeprune.errors import UnsupportedModel
from edgeprune.stages.couple import couple
from edgeprune.stages.inspect import survey
from edgeprune.stages.trace import trace


class Stream(nn.Module):
    """A layer that is added to the model's input, and one behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.back, self.up, self.norm = nn.Linear(6, 6), nn.Linear(6, 10), nn.LayerNorm(10)
        self.head, self.idle = nn.Linear(10, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x + self.back(x)
        return self.head(self.norm(self.up(h)))


def test_each_parameter_that_no_plan_can_touch_has_one_reason() -> None:
    found = survey(coupled(seeded(Stream), noise(2, 6)))
    reasons = {reason.reason: reason.params for reason in found.reasons}
    assert found.groups == ()
    assert sum(reasons.values()) == found.params
    assert next(p.reason for p in found.pinned if p.name == "back") == "tied to the model's input x"
    assert any(reason.startswith("normalised over by norm") for reason in reasons)


def test_groups_that_are_only_approximate_say_so() -> None:
    graph = trace(seeded(Stream), [noise(2, 6)])
    found = survey(couple(graph, allow_norm_axes=True))
    (group,) = found.groups
    assert group.name == "up"
    assert group.approximate.startswith("normalised over by norm")


@torch.library.custom_op("edgeprune_inspected::mixed", mutates_args=())
def mixed(x: Tensor, weight: Tensor) -> Tensor:
    """An operation that nobody wrote a rule for."""
    return x @ weight


@mixed.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(mixed(x, self.weight)))


def test_a_layer_without_a_rule_is_listed() -> None:
    found = survey(coupled(seeded(Mixed), noise(2, 4)))
    (item,) = [p for p in found.pinned if p.name == "weight"]
    assert item.units == 5
    assert "there is no rule for edgeprune_inspected.mixed" in item.reason


def test_a_time_limit_names_the_operation_at_work() -> None:
    graph = trace(seeded(Stream), [noise(2, 6)])
    with pytest.raises(UnsupportedModel, match=r"longer than 1e-09 s; it was at"):
        couple(graph, limit_s=1e-9)
