"""Domain → β of every layer: how large what it hears at one position can be, in the l2 norm.

The papers take β as given. Here intervals of every value over the whole domain are carried through the
original net, and β is the norm of the largest patch that fits into them: a bound, exact for the first layer
of a box, growing with depth. Layers whose inputs cannot be bounded have no β, and what needs it says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edgeprune.bounds.differential import enclose
from edgeprune.bounds.interval import propagate
from edgeprune.certificates.twins import twins_of
from edgeprune.domains.sets import Domain
from edgeprune.errors import EdgepruneError
from edgeprune.functions.patch_norms import largest_patch
from edgeprune.graph.groups import Coupling

logger = logging.getLogger(__name__)


def radii(coupling: Coupling, domains: Sequence[Domain] | None, inputs: Sequence[Tensor]) -> dict[str, float]:
    """By making node, a bound on the l2 norm of what it hears at one position.

    Args:
        domains: of each input; None leaves every layer without a bound.
        inputs: an example, batch of one.
    """
    if domains is None:
        return {}
    graph = coupling.graph
    makers = [n for n in graph.nodes.values() if n.operation in ("linear", "conv1d", "conv2d")]
    of = dict(zip(graph.inputs, domains, strict=True))
    found = {
        node.name: of[node["input"].name].l2_radius(tuple(graph.nodes[node["input"].name].shape or ())[1:])
        for node in makers
        if node.operation == "linear" and node["input"].name in graph.inputs
    }
    try:
        pair = twins_of(graph, graph.module, coupling.alive({}), [x[:1] for x in inputs])
        reached = propagate(pair.pruned(), enclose(domains, pair.shapes, pair.inputs))
    except (EdgepruneError, RuntimeError) as error:
        logger.info("intervals do not reach every layer (%s)", error)
        return found
    for node in makers:
        interval = reached.get(node["input"].name)
        if interval is not None:
            beta = largest_patch(graph, node, torch.maximum(interval.low.abs(), interval.high.abs()))
            found[node.name] = min(beta, found.get(node.name, math.inf))
    return {name: beta for name, beta in found.items() if math.isfinite(beta)}
