"""Evidence of groups that no plain layer makes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgeprune.budget import Budget, Multiples
from edgeprune.stages.allocate import allocate
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace


class Transposed(nn.Module):
    """Weights stored (in, out), as GPT-2's are: addmm makes the units, and has no argument `weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 10))
        self.bias = nn.Parameter(torch.randn(10))
        self.last = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(torch.addmm(self.bias, x, self.first)))


def test_units_made_by_addmm_are_scored_by_their_own_weights():
    torch.manual_seed(0)
    net = Transposed().eval()
    with torch.no_grad():
        net.first[:, :5] *= 100.0
    coupling = couple(trace(net, (torch.randn(2, 6),)))
    (group,) = coupling.groups
    widths = allocate(coupling, Budget("keep", 0.5), Multiples())
    plan = choose(coupling, widths, "magnitude", None, seed=0)
    np.testing.assert_array_equal(plan.keep[group.name], np.arange(5))
    assert shrink(net, coupling, plan, (torch.randn(2, 6),)).masking < 1e-9
