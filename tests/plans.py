"""Random plans, and the measure every narrowing is held against: the net that hears zeros."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from nets import net
from torch import Tensor, nn

from edgeprune.graph.groups import Coupling, Ints, flatten_outputs
from edgeprune.plan import Plan, Selection
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import narrow_graph, reading_masks
from edgeprune.stages.trace import trace


def coupled(model: nn.Module, *inputs: Tensor, exclude: tuple[str, ...] = ()) -> Coupling:
    """The net traced and coupled."""
    return couple(trace(model, inputs), exclude)


@cache
def known(name: str) -> tuple[nn.Module, Tensor, Coupling]:
    """One of the nets in `nets.NETS` with an input and its coupling; for whoever changes none of them."""
    model, x = net(name)
    return model, x, coupled(model, x)


def random_keep(coupling: Coupling, seed: int) -> dict[str, Ints]:
    """Random units of every group; each group of several loses one at least."""
    random = np.random.default_rng(seed)
    keep = {}
    for group in coupling.groups:
        size = int(random.integers(1, max(group.size, 2)))
        keep[group.name] = np.sort(random.permutation(group.size)[:size])
    return keep


def plan_of(keep: Mapping[str, Ints], weights: Mapping[str, Tensor] | None = None) -> Plan:
    """A plan that only removes."""
    return Plan("test", {name: Selection(kept) for name, kept in keep.items()}, weights or {})


def narrowed(coupling: Coupling, keep: Mapping[str, Ints], *inputs: Tensor) -> tuple[Tensor, ...]:
    """What the narrowed graph gives."""
    module = narrow_graph(coupling.graph, coupling.alive(keep), {})
    with torch.no_grad():
        return flatten_outputs(module(*inputs))


def masked(coupling: Coupling, keep: Mapping[str, Ints], *inputs: Tensor) -> tuple[Tensor, ...]:
    """What the whole graph gives when the readers of removed units hear zeros."""
    return coupling.graph.run_masked(inputs, reading_masks(coupling, coupling.alive(keep)), {})


def muted(
    model: nn.Module, coupling: Coupling, keep: Mapping[str, Ints], *inputs: Tensor
) -> tuple[Tensor, ...]:
    """What the user's own net gives when weights that read removed units are set to zero.

    The same thing as `masked`, said without the graph and its masks.
    """
    silent = copy.deepcopy(model)
    with torch.no_grad():
        for group in coupling.groups:
            gone = np.setdiff1d(np.arange(group.size), keep.get(group.name, np.arange(group.size)))
            for reader in group.readers:
                assert reader.weight is not None
                place = next(p for p in group.places if (p.weight, p.axis) == (reader.weight, reader.axis))
                index = torch.from_numpy(np.flatnonzero(np.isin(place.units, gone)))
                silent.get_parameter(reader.weight).index_fill_(reader.axis, index, 0.0)
        return flatten_outputs(silent(*inputs))


def distance(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> float:
    """The largest absolute difference; shapes must agree."""
    assert [a.shape for a in first] == [b.shape for b in second]
    return max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))
