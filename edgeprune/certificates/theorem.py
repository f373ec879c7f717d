"""The coreset theorem's promise for the layers that were sampled by it.

A promise needs four things: how the units were drawn (`Sampling`), the way from the layers that make them to
each reader (`Way`), how often a reader hears a unit at once (its taps), and β: how large what the making
layers hear can be. Where one of them is missing it is said, and nothing is promised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgeprune.bounds import a_priori
from edgeprune.bounds.attack import Attack, attack
from edgeprune.bounds.differential import enclose
from edgeprune.bounds.interval import propagate
from edgeprune.certificates.twins import Pair
from edgeprune.domains.sets import Domain, L2Ball, described
from edgeprune.errors import UsageError
from edgeprune.functions.intervals import Interval
from edgeprune.functions.patch_norms import largest_patch
from edgeprune.graph.groups import Coupling, Graph, Group, Reader
from edgeprune.observation.evidence import queries_of, rows_of
from edgeprune.observation.moments import positions
from edgeprune.observation.ways import Way, way
from edgeprune.plan import Sampling, Shrunk
from edgeprune.records.run import Certificate

LAYERS = ("linear", "conv1d", "conv2d")
MOST_INPUTS = 64
"""Most patches that a search moves at once."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A group's readers, as the theorem sees them.

    Attributes:
        ways: one for each reader.
        taps: of each reader: kernel taps and positions through which it hears a unit.
        outputs: of all readers together.
        radii: by making layer, β.
    """

    readers: tuple[Reader, ...]
    ways: tuple[Way, ...]
    taps: tuple[int, ...]
    outputs: int
    radii: Mapping[str, float]

    def inputs(self, graph: Graph, one: Way) -> int:
        """How many numbers the layers on a way hear at one position."""
        weights = [graph.weights[str(graph.weight_of(graph.nodes[name]["weight"]))] for name in one.makers]
        return sum(weight[0].numel() for weight in weights)


def setting(coupling: Coupling, group: Group, radii: Mapping[str, float]) -> Setting | str:
    """What the theorem needs to know of a group, or why it does not speak about it.

    Args:
        radii: by making layer, a bound on the l2 norm of what it hears at one position.
    """
    graph = coupling.graph
    for name in group.producers:
        maker = graph.nodes[name]
        weight = graph.weight_of(maker.get("weight"))
        place = next((p for p in group.places if p.weight == weight and p.axis == 0), None)
        if maker.operation not in LAYERS or place is None or maker.get("groups", 1) != 1:
            return f"{maker.where} is no plain layer"
        if len(positions(place.units, group.size)) != 1:
            return f"{maker.where} makes its units in several places"
    ways = tuple(way(graph, group, reader) for reader in group.readers)
    if not group.readers:
        return "nothing reads its units through a weight"
    for reader, one in zip(group.readers, ways, strict=True):
        reason = _unfit(graph, reader, one)
        if reason:
            return reason
        unbounded = [name for name in one.makers if not math.isfinite(radii.get(name, math.inf))]
        if unbounded:
            return (
                f"no bound on the norm of what {graph.nodes[unbounded[0]].where} hears is known; the theorem "
                "needs a bounded domain"
            )
    weights = [graph.weights[str(reader.weight)] for reader in group.readers]
    taps = tuple(
        weight.flatten(2).shape[-1] * len(_places(group, reader))
        if weight.dim() > 2
        else len(_places(group, reader))
        for weight, reader in zip(weights, group.readers, strict=True)
    )
    return Setting(tuple(group.readers), ways, taps, sum(len(weight) for weight in weights), radii)


def _places(group: Group, reader: Reader) -> list[object]:
    units = next(p.units for p in group.places if p.weight == reader.weight and p.axis == reader.axis)
    return list(positions(units, group.size))


def _unfit(graph: Graph, reader: Reader, one: Way) -> str:
    node = graph.nodes[reader.node]
    if reader.weight is None or reader.axis != 1 or not reader.compensable or node.get("groups", 1) != 1:
        return f"{node.where} reads its units through no plain weight"
    if node.operation not in LAYERS:
        return f"{node.where} is no linear layer or convolution"
    if one.reason:
        return one.reason
    if not one.stepped and not all(math.isfinite(slope) for slope in one.steepness):
        return f"{' and '.join(one.activations)}: how steep that is, is not known"
    padding = node.get("padding", 0)
    padded = padding not in ("valid", 0) and any(padding if isinstance(padding, Sequence) else [padding])
    if node.operation != "linear" and padded and one.constant:
        return f"{node.where} pads with zeros, which {' and '.join(one.activations)} never says"
    return ""


def sizes(found: Setting, k: int, norms: Mapping[str, Tensor]) -> Tensor:
    """How large each unit's value can become on its way to the k-th reader; (n,) float64."""
    one = found.ways[k]
    if one.stepped:
        return torch.ones_like(norms[one.makers[0]], dtype=torch.float64)
    return a_priori.reach(
        [norms[name] for name in one.makers],
        [found.radii[name] for name in one.makers],
        one.steepness,
        one.constant,
    )


def promise(
    coupling: Coupling, group: Group, found: Setting, sampling: Sampling, delta: float
) -> tuple[float, float]:
    """The explicit bound for what was drawn, the largest over the readers, and the paper's form beside it."""
    norms = dict(zip(group.producers, map(torch.from_numpy, sampling.norms), strict=True))
    share = torch.from_numpy(sampling.scores / sampling.scores.sum())
    best, paper = 0.0, 0.0
    for k, reader in enumerate(found.readers):
        one, taps = found.ways[k], found.taps[k]
        inputs = found.inputs(coupling.graph, one)
        spread = a_priori.spread(
            torch.from_numpy(sampling.loads[reader.node]) * sizes(found, k, norms), share
        )
        paper = max(paper, a_priori.paper_form(spread, sampling.draws, inputs + 1, delta))
        if sampling.masses is not None:
            factor = math.sqrt(found.radii[one.makers[0]] ** 2 + 1)
            inside, outside = factor * torch.from_numpy(sampling.masses[reader.node])
            best = max(best, a_priori.confined(inside, outside, sampling.draws, delta / len(found.readers)))
        elif one.stepped:
            bound = a_priori.stepped(
                spread,
                sampling.draws,
                found.outputs,
                delta,
                units=group.size,
                inputs=inputs,
                taps=taps,
                any_time=not sampling.fixed,
            )
            best = max(best, bound)
        else:
            bound = a_priori.explicit(
                spread, sampling.draws, found.outputs, delta, taps=taps, any_time=not sampling.fixed
            )
            best = max(best, bound)
    return best, paper


def layer_promises(
    coupling: Coupling,
    shrunk: Shrunk,
    pair: Pair | None,
    domains: Sequence[Domain] | None,
    confidence: float,
) -> list[Certificate]:
    """The coreset theorem's promise for each layer that was sampled, and the paper's form beside it."""
    made: list[Certificate] = []
    if not shrunk.cuts.sampling:
        return made
    radii = {} if domains is None else _radii(coupling, pair, domains)
    unmet = "unknown" if domains is None else described(domains)
    for group in coupling.groups:
        sampling = shrunk.cuts.sampling.get(group.name)
        if sampling is not None:
            made += _stated(coupling, shrunk, group, sampling, radii, unmet, confidence)
    return made


def _radii(coupling: Coupling, pair: Pair | None, domains: Sequence[Domain]) -> dict[str, float]:
    """By layer, β: the largest norm of what it hears at one position in the pruned net.

    Without `pair` (an operation fits no form) only of layers that hear the inputs themselves.
    """
    graph, heard = coupling.graph, {}
    of = dict(zip(graph.inputs, domains, strict=True))
    if pair is not None:
        heard = propagate(pair.pruned(), enclose(domains, pair.shapes, pair.inputs))
    found = {}
    for node in graph.nodes.values():
        if node.operation not in LAYERS:
            continue
        source = node["input"].name
        shape = tuple(graph.nodes[source].shape or ())[1:]
        interval = heard.get(source)
        if interval is None and source in graph.inputs:
            bounds = of[source].bounds(shape)
            interval = Interval(bounds.low[None], bounds.high[None])
        if interval is None:
            continue
        size = torch.maximum(interval.low.abs(), interval.high.abs())
        found[node.name] = largest_patch(graph, node, size)
        if source in graph.inputs and node.operation == "linear":
            found[node.name] = min(found[node.name], of[source].l2_radius(shape))
    return found


def _stated(
    coupling: Coupling,
    shrunk: Shrunk,
    group: Group,
    sampling: Sampling,
    radii: Mapping[str, float],
    unmet: str,
    confidence: float,
) -> list[Certificate]:
    found = setting(coupling, group, radii)
    reason = found if isinstance(found, str) else ""
    if not reason and sampling.masses is not None and not sampling.masses:
        reason = "a coreset of each neuron is bounded for linear readers of a plain ReLU only"
    numbers: tuple[float | None, float | None] = (None, None)
    seen, words = None, unmet
    if not isinstance(found, str) and not reason:
        try:
            numbers = promise(coupling, group, found, sampling, 1.0 - confidence)
        except UsageError as error:  # a unit that matters and could not be drawn
            reason = str(error)
    if not isinstance(found, str) and not reason:
        seen = attacked(coupling, group, found, shrunk, sampling)
        betas = ", ".join(f"{radii[name]:.4g}" for name in group.producers)
        words = f"every input of this layer with ‖x‖₂ ≤ {betas}"
    names = ("a-priori (explicit)", "a-priori (paper's form, c = 1; no bound)")
    return [
        Certificate(
            name=name,
            scope="layer",
            domain=words,
            norm="linf",
            bound=bound,
            label="statistical",
            confidence=confidence,
            attacked=None if seen is None else seen.value,
            tightness=bound / seen.value if bound is not None and seen and seen.value else None,
            n_inputs=0 if seen is None else seen.n_inputs,
            layer=group.name,
            reason=reason,
            source="Mussay et al., ICLR 2020; constants derived in edgeprune.bounds.a_priori",
        )
        for name, bound in zip(names, numbers, strict=True)
    ]


def attacked(
    coupling: Coupling, group: Group, found: Setting, shrunk: Shrunk, sampling: Sampling
) -> Attack | None:
    """The largest error of a sampled layer that a search finds over patches x with ‖x‖₂ ≤ β.

    The layer is the one that was sampled: all its units, with the weights that they had when the coreset was
    drawn; a reader with several taps hears as many patches, each moved by itself. None where those weights
    are not at hand any more: training or pruning below has changed them (the norms tell).
    """
    graph, most = coupling.graph, max(found.taps)
    if not shrunk.full or most * len(group.producers) > MOST_INPUTS:
        return None
    now = {**graph.weights, **shrunk.full}
    rows = _rows_then(graph, group, sampling, now)
    changes = [_change(coupling, group, reader, shrunk, sampling, now) for reader in found.readers]
    if rows is None or any(change is None for change in changes):
        return None
    places = [(name, tap) for name in group.producers for tap in range(most)]

    def gap(inputs: tuple[Tensor, ...]) -> Tensor:
        values = {
            place: x @ rows[place[0]][:, :-1].T + rows[place[0]][:, -1]
            for place, x in zip(places, inputs, strict=True)
        }
        errors = []
        for one, taps, change in zip(found.ways, found.taps, changes, strict=True):
            assert one.function is not None
            assert change is not None
            heard = [one.function({name: values[name, tap] for name in one.makers}) for tap in range(taps)]
            errors.append(sum(h @ change[:, :, tap] for tap, h in enumerate(heard)))
        return torch.cat([error for error in errors if isinstance(error, Tensor)], dim=1)

    balls = [L2Ball(0.0, found.radii[name]) for name, _ in places]
    shapes = [(rows[name].shape[1] - 1,) for name, _ in places]
    return attack(gap, balls, shapes, generator=torch.Generator().manual_seed(0))


def _rows_then(
    graph: Graph, group: Group, sampling: Sampling, now: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """The rows of the making layers when the coreset was drawn: as they are now, or as they were at first.

    A layer that reads another group may have been changed by that group's draws, before or afterwards.
    """
    found: dict[str, Tensor] = {}
    for name, norm in zip(group.producers, sampling.norms, strict=True):
        for weights in (now, graph.weights):
            rows = torch.from_numpy(rows_of(graph, group, name, weights))
            if torch.allclose(torch.linalg.vector_norm(rows, dim=1), torch.from_numpy(norm), rtol=1e-4):
                found[name] = rows
                break
        else:
            return None
    return found


def _change(
    coupling: Coupling,
    group: Group,
    reader: Reader,
    shrunk: Shrunk,
    sampling: Sampling,
    now: Mapping[str, Tensor],
) -> Tensor | None:
    """What the draw took from a reader's weights, (n, outputs, taps); None where those are not known.

    Outputs that had been removed before the draw do not count.
    """
    graph = coupling.graph
    before = torch.from_numpy(queries_of(graph.weights, group, reader))
    after = torch.from_numpy(queries_of(now, group, reader))
    alive = coupling.alive({name: np.array(keep) for name, keep in shrunk.cuts.keep.items()})
    axis = -1 if graph.nodes[reader.node].operation == "linear" else 1
    left = torch.from_numpy(alive.axes(reader.node)[axis])[None, :, None]
    load = torch.from_numpy(sampling.loads[reader.node])
    for mask in (torch.ones_like(left), left):
        if torch.allclose((before * mask).abs().amax(1).sum(1), load, rtol=1e-4):
            return (before - after) * mask
    return None
