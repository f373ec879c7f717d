"""The coreset theorem's promise, and the attack that is printed beside it."""

from __future__ import annotations

import numpy as np
import pytest
import small
import torch

from edgeprune.domains import Box
from edgeprune.plan import Shrunk
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace
from edgeprune.theorem import layer_promises
from edgeprune.twins import twins_of

DOMAIN = Box(-1.0, 1.0)


@pytest.fixture(scope="module")
def sampled():
    net = small.build()
    coupling = couple(trace(net, (torch.randn(2, 8),)))
    widths = {group.name: group.size // 2 for group in coupling.groups}
    plan = choose(coupling, widths, "sensitivity", None, seed=0)
    return coupling, shrink(net, coupling, plan, (torch.randn(2, 8),))


def _promised(coupling, shrunk):
    alive = coupling.alive({name: np.array(keep) for name, keep in shrunk.cuts.keep.items()})
    pair = twins_of(coupling.graph, shrunk.graph, alive, (torch.zeros(1, 8),))
    return [c for c in layer_promises(coupling, shrunk, pair, (DOMAIN,), 0.95) if "explicit" in c.name]


def test_every_sampled_layer_is_attacked_and_its_promise_holds(sampled):
    promises = _promised(*sampled)
    assert [c.layer for c in promises] == ["0", "2"]
    for promise in promises:
        assert promise.attacked is not None
        assert 0 < promise.attacked <= promise.bound
        assert promise.tightness == pytest.approx(promise.bound / promise.attacked)


def test_without_the_weights_of_the_draw_nothing_is_claimed_of_an_attack(sampled):
    coupling, shrunk = sampled
    resumed = Shrunk(shrunk.module, shrunk.graph, "module", "", shrunk.cuts, 0.0, 0.0, 0)
    assert [c.attacked for c in _promised(coupling, resumed)] == [None, None]
    other = {name: value * 2 for name, value in shrunk.full.items()}
    changed = Shrunk(shrunk.module, shrunk.graph, "module", "", shrunk.cuts, 0.0, 0.0, 0, other)
    assert _promised(coupling, changed)[1].attacked is None
