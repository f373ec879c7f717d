"""What is known before anything is run: the error that each choice will cause, and what draws promise.

`gram` and its like know the expected squared error of what the readers hear exactly, from second moments
alone. Sampling by sensitivity knows, for an ε and a δ, how many draws make the coreset theorem promise ε.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from edgeprune.bounds import a_priori
from edgeprune.certificates.theorem import Setting, setting, sizes
from edgeprune.coresets.sensitivity import sampled, scores
from edgeprune.errors import UnsupportedModel
from edgeprune.graph.groups import Coupling, Group
from edgeprune.observation import Scene, gather
from edgeprune.plan import Plan, Sampling


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What will become of a group.

    Attributes:
        error: expected squared error of what its readers hear, relative to what they hear; None where
            the method states none.
        draws: random draws that were made, None for methods that do not sample.
    """

    group: str
    before: int
    after: int
    error: float | None
    draws: int | None


@dataclass(frozen=True, slots=True)
class SampleSize:
    """How many draws make the promise ε with probability 1 − δ.

    Attributes:
        units: n.
        outputs: k of all readers.
        taps: the most with which a reader hears a unit.
        spread: t, the total sensitivity in the theorem's units, the largest over the readers.
        radius: β, the largest over the layers that make the units.
        draws: by the explicit bound.
        paper_draws: by the paper's form with its open constant taken as 1: no promise.
    """

    group: str
    units: int
    outputs: int
    taps: int
    spread: float
    radius: float
    draws: int
    paper_draws: int


def foreseen(coupling: Coupling, plan: Plan) -> tuple[Foreseen, ...]:
    """What a plan says of every group that becomes narrower, in the net's order."""
    found = []
    for group in coupling.groups:
        selection = plan.selections.get(group.name)
        if selection is not None:
            draws = None if selection.sampling is None else selection.sampling.draws
            found.append(Foreseen(group.name, group.size, len(selection.keep), selection.error, draws))
    return tuple(found)


def sample_sizes(
    coupling: Coupling, radii: Mapping[str, float], epsilon: float, delta: float
) -> tuple[SampleSize, ...]:
    """For every group, how many draws of `sensitivity-draws` make its readers' largest error at most ε.

    Args:
        radii: by making layer, β.
        epsilon: ε, in the unit of what the readers compute.
        delta: δ, over the draws of one group.

    Raises:
        UnsupportedModel: an assumption of the theorem fails for a group.
        UsageError: ε or δ is out of its range.
    """
    return tuple(_sample_size(coupling, group, radii, epsilon, delta) for group in coupling.groups)


def _sample_size(
    coupling: Coupling, group: Group, radii: Mapping[str, float], epsilon: float, delta: float
) -> SampleSize:
    alive = coupling.alive({})
    scene = Scene(coupling.graph, coupling.graph.weights, alive, None, radii, torch.Generator())
    evidence = gather(scene, group)
    sampling = sampled(evidence, 1, scores(evidence), fixed=True)
    found = setting(coupling, group, radii)
    if isinstance(found, str):
        raise UnsupportedModel(
            f"{group.name}: {found}, so the coreset theorem says nothing; use --method gram, or --exclude "
            f"{group.name} to learn about the other layers."
        )
    each = [_reader(coupling, group, found, k, sampling, epsilon, delta) for k in range(len(found.readers))]
    return SampleSize(
        group.name,
        group.size,
        found.outputs,
        max(found.taps),
        max(spread for spread, _, _ in each),
        max(radii[name] for name in group.producers),
        max(draws for _, draws, _ in each),
        max(draws for _, _, draws in each),
    )


def _reader(
    coupling: Coupling,
    group: Group,
    found: Setting,
    k: int,
    sampling: Sampling,
    epsilon: float,
    delta: float,
) -> tuple[float, int, int]:
    """Total sensitivity and both numbers of draws for the k-th reader."""
    one, taps = found.ways[k], found.taps[k]
    norms = dict(zip(group.producers, map(torch.from_numpy, sampling.norms), strict=True))
    share = torch.from_numpy(sampling.scores / sampling.scores.sum())
    load = torch.from_numpy(sampling.loads[found.readers[k].node])
    spread = a_priori.spread(load * sizes(found, k, norms), share)
    inputs = found.inputs(coupling.graph, one)
    if one.stepped:
        draws = a_priori.stepped_draws_for(
            epsilon, spread, found.outputs, delta, units=group.size, inputs=inputs, taps=taps
        )
    else:
        draws = a_priori.draws_for(epsilon, spread, found.outputs, delta, taps=taps)
    return spread, draws, a_priori.paper_draws_for(epsilon, spread, inputs + 1, delta)
