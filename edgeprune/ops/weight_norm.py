"""Weights that are computed from parameters by dividing them by a norm of theirs.

A weight that loses indices has another norm than before. Where the norm has a factor of its own (the
length g of a weight norm, the vector u of a spectral norm) that factor is *restated*: it is written anew so
that the weight which comes out is, on what is left, the one that came out before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeprune.graph.groups import Alive, Axes, Flow, Graph, Node, Ref
from edgeprune.ops.operation import Operation

FAINT = 1e-3
"""Below this share of σ, what is left of uᵀ W v is too small to be scaled up; u and v are found anew."""


class WeightNorm(Operation):
    """weight_norm: w = g · v / ‖v‖, the norm taken over all axes but one (Salimans and Kingma, 2016).

    Channels pass on both sides: where v loses some of what it is normalised over, g becomes
    g · ‖v left‖ / ‖v‖, and the weight stays what it was.
    """

    name: ClassVar[str] = "weight_norm"
    handles: ClassVar[tuple[str, ...]] = ("_weight_norm", "_weight_norm_interface")

    def label(self, node: Node, flow: Flow) -> Axes | tuple[Axes | None, ...]:
        if flow.graph.weight_of(node["v"]) is None or flow.graph.weight_of(node["g"]) is None:
            raise LookupError(f"{node.name} normalises a weight that is itself computed")
        direction, length = flow.of(node["v"]), flow.of(node["g"])
        dim = int(node["dim"])
        if dim >= 0 and length:
            flow.labels.tie(length[dim], direction[dim])
        return direction if node.shape is not None else (direction, length)

    def restate(self, node: Node, alive: Alive, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        masks, dim = alive.axes(node["v"].name), int(node["dim"])
        if all(mask.all() for k, mask in enumerate(masks) if k != dim):
            return {}
        graph = alive.coupling.graph
        names = [str(graph.weight_of(node[key])) for key in ("v", "g")]
        direction, length = (weights.get(name, graph.weights[name]).double() for name in names)
        left = direction
        for k, mask in enumerate(masks):
            if k != dim:
                left = left.index_fill(k, torch.from_numpy(np.flatnonzero(~mask)), 0.0)
        before, after = _norm(direction, dim), _norm(left, dim)
        silent = after == 0  # nothing is left of a row: any direction of length 0 says the same
        restated = {names[1]: torch.where(silent, 0.0, length * after / before).reshape(length.shape)}
        if bool(silent.any()):
            restated[names[0]] = torch.where(silent, torch.ones_like(direction), direction)
        return restated


def _norm(value: Tensor, dim: int) -> Tensor:
    """The l2 norm over all axes but one (over all for −1), with axes of size 1 in their place."""
    over = [k for k in range(value.dim()) if k != dim]
    norm: Tensor = torch.linalg.vector_norm(value, dim=over, keepdim=True)
    return norm


def restated_sigma(node: Node, alive: Alive, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Vectors u and v under which σ = uᵀ W v of a spectral norm stays what it was (Miyato et al., 2018).

    u is scaled; where what is left of W says next to nothing of u and v, its largest singular pair takes
    their place.
    """
    graph = alive.coupling.graph
    found = spectral_factors(graph, node)
    if found is None:
        return {}
    matrix, u_name, v_name = found
    rows, columns = alive.axes(matrix)
    if rows.all() and columns.all():
        return {}
    product = graph.constant(matrix, weights).double()
    u, v = (weights.get(name, graph.weights[name]).double() for name in (u_name, v_name))
    sigma = u @ product @ v
    left = product * torch.from_numpy(rows).double()[:, None] * torch.from_numpy(columns).double()
    rest = u @ left @ v
    if float(rest.abs()) > FAINT * float(sigma.abs()):
        return {u_name: u * sigma / rest}
    first, values, second = torch.linalg.svd(left, full_matrices=False)
    return {u_name: first[:, 0] * sigma / values[0].clamp_min(1e-30), v_name: second[0]}


def is_spectral(graph: Graph, node: Node) -> bool:
    """Whether a product is the W v, or the uᵀ (W v), of a spectral norm."""
    users = [user for user in graph.users(node.name) if user.operation != "clone"]
    inner = (
        node.operation == "mv"
        and bool(users)
        and all(spectral_factors(graph, user) is not None for user in users)
    )
    return inner or spectral_factors(graph, node) is not None


def spectral_factors(graph: Graph, node: Node) -> tuple[str, str, str] | None:
    """In uᵀ (W v), the node of the matrix W, and the names of u and v; None where it is anything else."""
    if graph.moves(node.name) or node.operation not in ("dot", "vdot"):
        return None
    for one, other in (node.sources()[:2], node.sources()[1::-1]):
        product = graph.nodes[_behind(graph, other)]
        if product.operation != "mv":
            continue
        u, v = (graph.weight_of(Ref(_behind(graph, name))) for name in (one, product["vec"].name))
        divides = all(user.operation == "div" for user in graph.users(node.name))
        if u is not None and v is not None and u != v and divides:
            return product["self"].name, u, v
    return None


def _behind(graph: Graph, name: str) -> str:
    """What a value is a copy of."""
    while graph.nodes[name].operation in ("clone", "detach", "alias"):
        name = graph.nodes[name].sources()[0]
    return name


__all__ = ["WeightNorm", "is_spectral", "restated_sigma"]
