"""The room of operations: one file a family, and this table of contents.

To add an operation, write a class with the answers of `Operation` in a file of this folder and
name an instance of it in `OPERATIONS`; or register an instance from another distribution under
the entry point `edgeprune.ops`. `narrowing` cuts a whole graph, or a module, by their rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from torch import Tensor, nn

from edgeprune.graph.groups import Alive, Graph
from edgeprune.ops.contraction import Attention, Einsum, Matmul
from edgeprune.ops.conv import Convolution, TransposedConvolution
from edgeprune.ops.create import Alike, Sequence, Uniform
from edgeprune.ops.cut import Concatenate, Repeat, Select, Slice, Split, Stack, Unbind
from edgeprune.ops.index import Embedding, Index, Lookup, Put
from edgeprune.ops.linear import Linear
from edgeprune.ops.norm import BatchNorm, GroupNorm, InferenceBatchNorm, InstanceNorm, LayerNorm
from edgeprune.ops.operation import Operation
from edgeprune.ops.pointwise import Arithmetic, PReLU, Unary
from edgeprune.ops.pool import Pool, Resize
from edgeprune.ops.recurrent import Recurrent
from edgeprune.ops.reduce import GatedHalves, Reduction, Scan, Softmax
from edgeprune.ops.reshape import ChannelShuffle, PixelShuffle, Reshape, Unfold
from edgeprune.ops.shape import Expand, Item, Pad, Permute
from edgeprune.ops.weight_norm import WeightNorm
from edgeprune.registry import Registry

OPERATIONS: Registry[Operation] = Registry(
    "ops",
    (
        Linear(),
        Convolution(),
        TransposedConvolution(),
        Matmul(),
        Einsum(),
        Attention(),
        Recurrent(),
        Embedding(),
        BatchNorm(),
        InferenceBatchNorm(),
        LayerNorm(),
        GroupNorm(),
        InstanceNorm(),
        WeightNorm(),
        Unary(),
        PReLU(),
        Arithmetic(),
        Pool(),
        Resize(),
        Reduction(),
        Scan(),
        GatedHalves(),
        Softmax(),
        Reshape(),
        PixelShuffle(),
        ChannelShuffle(),
        Unfold(),
        Permute(),
        Concatenate(),
        Split(),
        Unbind(),
        Select(),
        Stack(),
        Slice(),
        Expand(),
        Repeat(),
        Pad(),
        Item(),
        Index(),
        Lookup(),
        Put(),
        Uniform(),
        Alike(),
        Sequence(),
    ),
)


@cache
def _by_handle() -> dict[str, Operation]:
    return {handle: member for member in OPERATIONS.values() for handle in member.handles}


def operation_for(name: str) -> Operation | None:
    """The family that serves an ATen operation (in place or not), or None if there is none."""
    found = _by_handle()
    if name not in found and name.endswith("_") and not name.startswith("_"):
        return found.get(name[:-1])
    return found.get(name)


def family_of(module: nn.Module) -> Operation | None:
    """The family whose modules this one is an instance of, or None."""
    for member in OPERATIONS.values():
        if member.modules and isinstance(module, member.modules):
            return member
    return None


def restated(graph: Graph, alive: Alive, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that make up for what operations on other weights no longer see, float64."""
    found: dict[str, Tensor] = {}
    for node in graph.nodes.values():
        rule = operation_for(node.operation) if not graph.moves(node.name) else None
        if rule is not None and type(rule).restate is not Operation.restate:
            found.update(rule.restate(node, alive, {**weights, **found}))
    return found


__all__ = ["OPERATIONS", "Operation", "family_of", "operation_for", "restated"]
