"""Which positions of a sequence the outputs depend on: padding is read by nobody, so nothing is fitted to it.

A net of tokens takes sequences of one length and a mask. At positions behind the end it computes values that
no output hears; moments and refits that count them spend units and weights on nothing. The mask itself means
something to the net alone, so it is asked: a position is heard if the derivative of the outputs, weighted by
random signs, by anything that is computed there is not zero.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgeprune.graph.groups import Coupling, Graph
from edgeprune.observation.importance import differentiable
from edgeprune.observation.moments import batches

logger = logging.getLogger(__name__)


def sequences(coupling: Coupling) -> frozenset[str]:
    """What linear readers hear of sequences: names of values with axes between samples and channels."""
    nodes = coupling.graph.nodes
    readers = [one for group in coupling.groups for one in group.readers if one.weight is not None]
    return frozenset(
        one.data
        for one in readers
        if nodes[one.node].operation == "linear" and len(nodes[one.data].shape or ()) > 2
    )


def audible(
    graph: Graph, names: frozenset[str], samples: Sequence[Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """For each value the positions that the outputs depend on in the original net.

    Returns:
        Bool (samples, …) over the axes before the channels, in the order of `batches`; values that are heard
        everywhere, and nets without a derivative, are left out.
    """
    if not names:
        return {}
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in batches(graph, samples):
        slopes = _slopes(graph, names, batch, generator)
        if slopes is None:
            return {}
        for name, slope in slopes.items():
            found[name].append((slope != 0).any(-1))
    whole = {name: torch.cat(parts) for name, parts in found.items()}
    silent = {name: heard for name, heard in whole.items() if not heard.all() and heard.any()}
    if silent:
        share = sum(float(heard.double().mean()) for heard in silent.values()) / len(silent)
        logger.info("%.0f %% of the positions are heard, the others are left out", 100 * share)
    return silent


def _slopes(
    graph: Graph, names: frozenset[str], batch: Sequence[Tensor], generator: torch.Generator
) -> Mapping[str, Tensor] | None:
    """Derivatives of the outputs times random signs; None where there are none."""
    values, outputs = differentiable(graph, graph.weights, batch, names)
    smooth = [y for y in outputs if y.requires_grad]
    if not smooth or any(name not in values or not values[name].requires_grad for name in names):
        return None
    signs = [torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1 for y in smooth]
    loss = torch.stack([(y * s).sum() for y, s in zip(smooth, signs, strict=True)]).sum()
    order = sorted(names)
    try:
        given = torch.autograd.grad(loss, [values[name] for name in order], allow_unused=True)
    except RuntimeError as error:
        logger.info("no derivative of the outputs (%s): every position counts", error)
        return None
    return {
        name: torch.zeros_like(values[name]) if slope is None else slope  # type: ignore[redundant-expr,unused-ignore]
        for name, slope in zip(order, given, strict=True)
    }
