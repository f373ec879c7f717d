"""The coreset theorem's promise for the layers that were sampled by it."""

from __future__ import annotations

import math

import torch

from edgeprune.bounds import a_priori
from edgeprune.bounds.differential import enclose
from edgeprune.bounds.interval import propagate
from edgeprune.domains import Domain
from edgeprune.graph import Coupling, Group
from edgeprune.plan import Shrunk
from edgeprune.records import Certificate
from edgeprune.twins import Pair


def layer_promises(
    coupling: Coupling, shrunk: Shrunk, pair: Pair | None, domain: Domain, confidence: float
) -> list[Certificate]:
    """The coreset theorem's promise for each layer that was sampled, and the paper's form beside it."""
    made: list[Certificate] = []
    if not shrunk.cuts.draws:
        return made
    heard = (
        {}
        if pair is None
        else propagate(pair.pruned(), enclose([domain] * len(pair.inputs), pair.shapes, pair.inputs))
    )
    for group in coupling.groups:
        draws = shrunk.cuts.draws.get(group.name)
        if draws is None:
            continue
        reason = _outside_theorem(coupling, group)
        source = coupling.graph.nodes[group.producers[0]].get("input")
        radius = heard[source.name].l2_norm if source is not None and source.name in heard else math.inf
        if not reason and not math.isfinite(radius):
            reason = "no bound on the norm of what the layer hears is known"
        numbers = (None, None) if reason else _promises(coupling, group, shrunk, draws, radius, confidence)
        for name, bound in zip(
            ("a-priori (explicit)", "a-priori (paper's form, c = 1; no bound)"), numbers, strict=True
        ):
            made.append(
                Certificate(
                    name=name,
                    scope="layer",
                    domain=f"every input of this layer with ‖x‖₂ ≤ {radius:.4g}"
                    if not reason
                    else domain.describe(),
                    norm="linf",
                    bound=bound,
                    label="statistical",
                    confidence=confidence,
                    n_inputs=0,
                    layer=group.name,
                    reason=reason,
                    source="Mussay et al., ICLR 2020; constants derived in edgeprune.bounds.a_priori",
                )
            )
    return made


def _outside_theorem(coupling: Coupling, group: Group) -> str:
    """Why the theorem does not speak about a group, '' if it does."""
    graph = coupling.graph
    if len(group.producers) != 1:
        return f"{len(group.producers)} layers make these units; the theorem is about one"
    if graph.nodes[group.producers[0]].operation != "linear":
        return "the units are channels; only the bound for neurons is implemented"
    for reader in group.readers:
        data = graph.nodes[reader.data]
        if (
            graph.nodes[reader.node].operation != "linear"
            or data.operation != "relu"
            or data.sources() != group.producers
        ):
            return "its readers do not hear a plain ReLU of its units"
    return ""


def _promises(
    coupling: Coupling, group: Group, shrunk: Shrunk, draws: int, radius: float, confidence: float
) -> tuple[float, float]:
    """From the scores max|W|·‖p̃‖ that were sampled by: t = Σ scores · √(β² + 1)."""
    graph, delta = coupling.graph, 1.0 - confidence
    scores = torch.tensor(shrunk.cuts.scores[group.name], dtype=torch.float64)
    t = a_priori.spread(scores * math.sqrt(radius**2 + 1))
    outputs = sum((graph.nodes[r.node].shape or (0,))[-1] for r in group.readers)
    fan_in = (graph.nodes[graph.nodes[group.producers[0]]["input"].name].shape or (0,))[-1]
    return (
        a_priori.explicit(t, draws, outputs, delta, any_time=True),
        a_priori.paper_form(t, draws, fan_in + 1, delta),
    )
