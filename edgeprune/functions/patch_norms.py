"""How large what a layer hears at one position can be, in the l2 norm: the β of the coreset papers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.graph.groups import Graph, Node


def largest_patch(graph: Graph, node: Node, size: Tensor) -> float:
    """Largest l2 norm of what a layer hears at one position, of values that are at most `size`; rounded up.

    Args:
        node: a linear layer or a convolution; infinite for a grouped one.
        size: (1, …) bounds on the absolute values of its input.
    """
    squares = size.double() ** 2
    if node.operation == "linear":
        return float(squares.sum(-1).max().sqrt()) * (1 + 1e-9)
    name = graph.weight_of(node["weight"])
    if name is None or node["groups"] != 1:
        return math.inf
    taps = tuple(graph.weights[name].shape[2:])
    ones = torch.ones((1, squares.shape[1], *taps), dtype=torch.float64)
    # every position of a stride of one: no fewer patches than the layer takes, zeros outside add nothing
    whole = F.pad(squares, [amount for k in reversed(taps) for amount in (k - 1, k - 1)])
    convolve = F.conv1d if len(taps) == 1 else F.conv2d
    if any(d != 1 for d in _list(node["dilation"])):
        convolve_dilated = convolve(
            squares.sum(1, keepdim=True), torch.ones((1, 1, *[1] * len(taps))).double()
        )
        return math.sqrt(float(convolve_dilated.max()) * math.prod(taps)) * (1 + 1e-9)
    return math.sqrt(float(convolve(whole, ones).max())) * (1 + 1e-9)


def _list(value: object) -> list[int]:
    return [value] if isinstance(value, int) else [int(v) for v in value]  # type: ignore[attr-defined]
