"""Coupling → Survey: what can be pruned, what cannot and why, and what each layer costs."""

from __future__ import annotations

from dataclasses import dataclass

from edgeprune.graph import Coupling, Group
from edgeprune.ops import operation_for


@dataclass(frozen=True, slots=True)
class GroupFound:
    """A group that can be pruned. `params` counts the entries of weights that carry its units."""

    name: str
    units: int
    params: int
    made_by: tuple[str, ...]
    read_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PinnedFound:
    """Units that are left alone, and why."""

    name: str
    units: int
    reason: str


@dataclass(frozen=True, slots=True)
class LayerFound:
    """An operation with weights: its parameters, and multiply-accumulates for one sample."""

    name: str
    operation: str
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class Survey:
    """The whole model. `prunable_params` counts entries of weights that carry any prunable unit."""

    groups: tuple[GroupFound, ...]
    pinned: tuple[PinnedFound, ...]
    layers: tuple[LayerFound, ...]
    params: int
    macs: int
    prunable_params: int


def survey(coupling: Coupling) -> Survey:
    """Look at a coupled graph without changing anything."""
    graph = coupling.graph
    names = {name for name, _ in graph.module.named_parameters(remove_duplicate=False)}
    sizes = {name: graph.weights[name].numel() for name in graph.weights if name in names}
    carried = {place.weight for group in coupling.groups for place in group.places}
    layers = _layers(coupling, sizes)
    return Survey(
        groups=tuple(_group(coupling, group, sizes) for group in coupling.groups),
        pinned=tuple(PinnedFound(p.name, p.size, p.reason) for p in coupling.pinned),
        layers=layers,
        params=sum(sizes.values()),
        macs=sum(layer.macs for layer in layers),
        prunable_params=sum(size for name, size in sizes.items() if name in carried),
    )


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


__all__ = ["GroupFound", "LayerFound", "PinnedFound", "Survey", "survey"]
