"""Positions that no output depends on are counted nowhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgeprune.graph.groups import Coupling
from edgeprune.observation.knowledge import know
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.trace import trace

TOKENS, WIDTH = 6, 8


class Sentences(nn.Module):
    """Token ids and a mask to the mean of a feed-forward block over the real tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(30, WIDTH)
        self.first, self.second = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.table(ids)
        states = states + self.second(torch.relu(self.first(states)))
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


def sentences(padding: int) -> tuple[Tensor, Tensor]:
    """The same 80 sentences of two to six tokens, whatever stands behind their ends."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 20, (80, TOKENS), generator=generator)
    lengths = torch.randint(2, TOKENS + 1, (80, 1), generator=generator)
    mask = torch.arange(TOKENS) < lengths
    return torch.where(mask, ids, padding), mask.long()


def coupled() -> Coupling:
    return couple(trace(Sentences().eval(), tuple(x[:2] for x in sentences(0))))


def test_what_is_heard_is_what_the_mask_says() -> None:
    ids, mask = sentences(0)
    (heard,) = know(coupled(), "samples", (ids, mask), 0).audible.values()
    assert torch.equal(heard, mask.bool())


@pytest.mark.parametrize("method", ["gram", "magnitude-refit"])
def test_what_stands_in_the_padding_changes_no_plan(method: str) -> None:
    coupling = coupled()
    widths = {group.name: 5 if group.size == 16 else group.size for group in coupling.groups}
    plans = [choose(coupling, widths, method, sentences(padding), seed=0) for padding in (0, 25)]
    assert plans[0].weights, "something was refitted"
    for name, one in plans[0].selections.items():
        assert one.keep.tolist() == plans[1].selections[name].keep.tolist()
    for name, weight in plans[0].weights.items():
        assert torch.allclose(weight, plans[1].weights[name], atol=1e-6)


def test_a_net_without_padding_and_one_that_takes_no_sequences_are_heard_everywhere() -> None:
    ids, mask = sentences(0)
    assert not know(coupled(), "samples", (ids, torch.ones_like(mask)), 0).audible
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    assert not know(couple(trace(plain, (torch.randn(2, 4),))), "samples", (torch.randn(9, 4),), 0).audible
