"""Coupling → Survey: what can be pruned, what cannot and why, and what each layer costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeprune.graph.groups import Coupling, Group
from edgeprune.ops import operation_for


@dataclass(frozen=True, slots=True)
class GroupFound:
    """A group that can be pruned.

    Attributes:
        params: entries of weights that carry its units.
        approximate: where losing a unit changes what is normalised; '' where pruning is exact.
    """

    name: str
    units: int
    params: int
    made_by: tuple[str, ...]
    read_by: tuple[str, ...]
    approximate: str = ""


@dataclass(frozen=True, slots=True)
class PinnedFound:
    """Units that are left alone, and why."""

    name: str
    units: int
    reason: str


@dataclass(frozen=True, slots=True)
class ReasonFound:
    """A reason, and how many parameters no plan can touch for it.

    A parameter that can lose something along one of its axes is not counted; one that cannot is counted
    once, under the reason of its largest axis.
    """

    reason: str
    params: int


@dataclass(frozen=True, slots=True)
class LayerFound:
    """An operation with weights: its parameters, and multiply-accumulates for one sample."""

    name: str
    operation: str
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole model.

    Attributes:
        prunable_params: entries of weights that carry any prunable unit.
        reasons: why the others carry none, the largest first.
    """

    groups: tuple[GroupFound, ...]
    pinned: tuple[PinnedFound, ...]
    layers: tuple[LayerFound, ...]
    params: int
    macs: int
    prunable_params: int
    reasons: tuple[ReasonFound, ...] = ()


def survey(coupling: Coupling) -> Survey:
    """Look at a coupled graph without changing anything."""
    graph = coupling.graph
    names = {name for name, _ in graph.module.named_parameters(remove_duplicate=False)}
    sizes = {name: graph.weights[name].numel() for name in graph.weights if name in names}
    carried = {place.weight for group in coupling.groups for place in group.places}
    layers = _layers(coupling, sizes)
    return Survey(
        groups=tuple(_group(coupling, group, sizes) for group in coupling.groups),
        pinned=(
            *(PinnedFound(p.name, p.size, p.reason) for p in coupling.pinned),
            *_unknown(coupling, {p.name for p in coupling.pinned}),
        ),
        layers=layers,
        params=sum(sizes.values()),
        macs=sum(layer.macs for layer in layers),
        prunable_params=sum(size for name, size in sizes.items() if name in carried),
        reasons=_reasons(coupling, {name: size for name, size in sizes.items() if name not in carried}),
    )


def _unknown(coupling: Coupling, listed: set[str]) -> Iterator[PinnedFound]:
    """Layers whose operation has no rule: what they make is left alone, whole."""
    for node in coupling.graph.nodes.values():
        own = [coupling.graph.nodes[s] for s in node.sources()]
        weights = [n.target for n in own if n.operation == "weight"]
        known = node.operation in ("input", "weight", "output") or operation_for(node.operation) is not None
        if known or not weights or node.shape is None:
            continue
        name = weights[0].removesuffix(".weight")
        if name not in listed:
            listed.add(name)
            units = node.shape[1] if len(node.shape) > 1 else 1
            yield PinnedFound(name, units, f"made by {node.where}, and there is no rule for {node.target}")


def _reasons(coupling: Coupling, sizes: dict[str, int]) -> tuple[ReasonFound, ...]:
    """Why these weights cannot lose anything."""
    found: Counter[str] = Counter()
    labels = coupling.labels
    for node in coupling.graph.nodes.values():
        if node.operation != "weight" or node.target not in sizes:
            continue
        axes = [axis for axis in coupling.axes[node.name] or () if isinstance(axis, np.ndarray) and len(axis)]
        pinned = [(len(axis), axis[labels.pinned(axis)]) for axis in axes]
        known = [(size, labels.reason(int(index[0]))) for size, index in pinned if len(index)]
        reason = max(known)[1] if known else "a single number, or its units were made by no layer"
        found[reason] += sizes.pop(node.target)
    for size in sizes.values():
        found["not used by the model"] += size
    return tuple(ReasonFound(reason, params) for reason, params in found.most_common())


def _group(coupling: Coupling, group: Group, sizes: dict[str, int]) -> GroupFound:
    graph = coupling.graph
    held = 0
    for place in group.places:
        if place.weight in sizes:
            share = float((place.units >= 0).mean()) if len(place.units) else 0.0
            held += round(sizes[place.weight] * share)
    return GroupFound(
        group.name,
        group.size,
        held,
        tuple(graph.nodes[name].scope or name for name in group.producers),
        tuple(dict.fromkeys(graph.nodes[r.node].scope or r.node for r in group.readers)),
        group.approximate,
    )


def _layers(coupling: Coupling, sizes: dict[str, int]) -> tuple[LayerFound, ...]:
    graph, found = coupling.graph, []
    counted: set[str] = set()

    def shape(name: str) -> tuple[int, ...]:
        return graph.nodes[name].shape or ()

    for node in graph.nodes.values():
        rule = operation_for(node.operation)
        if rule is None:
            continue
        own = [graph.nodes[s].target for s in node.sources() if graph.nodes[s].operation == "weight"]
        params = sum(sizes.get(name, 0) for name in own if name not in counted)
        counted.update(own)
        macs = rule.macs(node, shape) // graph.traced_batch
        if params or macs:
            found.append(LayerFound(node.scope or node.name, node.operation, params, macs))
    return tuple(found)


__all__ = ["GroupFound", "LayerFound", "PinnedFound", "ReasonFound", "Survey", "survey"]
