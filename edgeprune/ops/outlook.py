"""What lies around a node: whether what it makes meets another activation in a product, or comes from one."""

from __future__ import annotations

from edgeprune.graph import Graph, Node

PRODUCTS = frozenset(("matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"))
MIXERS = frozenset(
    (
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "addmm",
    )
)
MERGERS = frozenset(("view", "reshape", "_unsafe_view", "flatten"))
COPIES = frozenset(("permute", "transpose", "contiguous", "clone", "view", "reshape", "dropout"))
TURNS = 6
"""Nodes looked back over: heads are merged right behind their use."""
REACH = 60
"""Nodes looked at: heads are cut shortly before they are used."""


def meets_attention(graph: Graph, name: str) -> bool:
    """Whether a node's axes reach a product of two activations before a layer mixes or merges them."""
    seen, waiting = {name}, [name]
    while waiting and len(seen) < REACH:
        at = graph.nodes[waiting.pop(0)]
        for user in graph.users(at.name):
            if user.operation in PRODUCTS and all(graph.moves(s) for s in user.sources()[:2]):
                return True
            if user.name not in seen and user.operation not in MIXERS and not _merges(at, user):
                seen.add(user.name)
                waiting.append(user.name)
    return False


def comes_from_attention(graph: Graph, name: str) -> bool:
    """Whether a node only turns and copies what a product of two activations gave."""
    node = graph.nodes[name]
    for _ in range(TURNS):
        sources = node.sources()
        if not sources:
            return False
        node = graph.nodes[sources[0]]
        if node.operation in PRODUCTS:
            return True
        if node.operation not in COPIES:
            return False
    return False


def _merges(before: Node, after: Node) -> bool:
    if after.operation not in MERGERS or before.shape is None or after.shape is None:
        return False
    longest = max(after.shape, default=1)
    return len(after.shape) < len(before.shape) and longest not in before.shape
