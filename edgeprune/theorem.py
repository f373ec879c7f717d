"""The coreset theorem's promise for the layers that were sampled by it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgeprune.bounds import a_priori
from edgeprune.bounds.attack import Attack, attack
from edgeprune.bounds.differential import enclose
from edgeprune.bounds.interval import propagate
from edgeprune.domains import Domain, L2Ball, described
from edgeprune.graph import Coupling, Group
from edgeprune.plan import Cuts, Shrunk
from edgeprune.records import Certificate
from edgeprune.twins import Pair


def layer_promises(
    coupling: Coupling, shrunk: Shrunk, pair: Pair | None, domains: Sequence[Domain], confidence: float
) -> list[Certificate]:
    """The coreset theorem's promise for each layer that was sampled, and the paper's form beside it."""
    made: list[Certificate] = []
    if not shrunk.cuts.draws:
        return made
    heard = {} if pair is None else propagate(pair.pruned(), enclose(domains, pair.shapes, pair.inputs))
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
        found = None if reason else attacked(coupling, group, shrunk, radius)
        for name, bound in zip(
            ("a-priori (explicit)", "a-priori (paper's form, c = 1; no bound)"), numbers, strict=True
        ):
            made.append(
                Certificate(
                    name=name,
                    scope="layer",
                    domain=f"every input of this layer with ‖x‖₂ ≤ {radius:.4g}"
                    if not reason
                    else described(domains),
                    norm="linf",
                    bound=bound,
                    label="statistical",
                    confidence=confidence,
                    attacked=None if found is None else found.value,
                    tightness=bound / found.value if bound is not None and found and found.value else None,
                    n_inputs=0 if found is None else found.n_inputs,
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


def attacked(coupling: Coupling, group: Group, shrunk: Shrunk, radius: float) -> Attack | None:
    """The largest error of a sampled layer that a search over ‖x‖₂ ≤ radius finds.

    The layer is the one that was sampled: all its units, with the weights that they had when the
    coreset was drawn. None where those weights are not at hand any more: in a resumed run, or where
    the layers below were pruned afterwards (the scores then tell that the weights have changed).
    """
    graph = coupling.graph
    maker = graph.nodes[group.producers[0]]
    weight, bias = graph.weight_of(maker["weight"]), graph.weight_of(maker.get("bias"))
    readers = [reader.weight for reader in group.readers]
    if not shrunk.full or weight is None or None in readers:
        return None
    now = {**graph.weights, **shrunk.full}
    units = next(p.units for p in group.places if p.weight == weight and p.axis == 0)
    order = torch.from_numpy(np.argsort(units, kind="stable")[-group.size :])
    incoming = now[weight].double()[order]
    offset = torch.zeros(group.size, dtype=torch.float64) if bias is None else now[bias].double()[order]
    before = torch.cat([graph.weights[name].double() for name in readers if name])
    after = torch.cat([now[name].double() for name in readers if name])
    if before.shape[1] != group.size or not _sampled_by(incoming, offset, before, shrunk.cuts, group.name):
        return None

    def gap(inputs: tuple[Tensor, ...]) -> Tensor:
        return torch.relu(inputs[0] @ incoming.T + offset) @ (before - after).T

    return attack(
        gap, [L2Ball(0.0, radius)], [(incoming.shape[1],)], generator=torch.Generator().manual_seed(0)
    )


def _sampled_by(incoming: Tensor, offset: Tensor, outgoing: Tensor, cuts: Cuts, name: str) -> bool:
    """Whether these weights give the scores that the coreset was drawn by."""
    norms = torch.linalg.vector_norm(torch.cat([incoming, offset[:, None]], dim=1), dim=1)
    scores = torch.tensor(cuts.scores[name], dtype=torch.float64)
    return bool(torch.allclose(outgoing.abs().amax(0) * norms, scores, rtol=1e-4))
