"""The room of operations: one file a family, and this table of contents.

To add an operation, write a class with the answers of `Operation` in a file of this folder and
name an instance of it in `OPERATIONS`; or register an instance from another distribution under
the entry point `edgeprune.ops`.
"""

from __future__ import annotations

from functools import cache

from torch import nn

from edgeprune.ops.conv import Convolution
from edgeprune.ops.linear import Linear
from edgeprune.ops.norm import BatchNorm, LayerNorm
from edgeprune.ops.operation import Operation
from edgeprune.ops.pointwise import Arithmetic, PReLU, Unary
from edgeprune.ops.pool import Pool
from edgeprune.ops.reduce import Reduction, Softmax
from edgeprune.ops.shape import Concatenate, Expand, Item, Pad, Permute, Reshape, Slice, Split
from edgeprune.registry import Registry

OPERATIONS: Registry[Operation] = Registry(
    "ops",
    (
        Linear(),
        Convolution(),
        BatchNorm(),
        LayerNorm(),
        Unary(),
        PReLU(),
        Arithmetic(),
        Pool(),
        Reduction(),
        Softmax(),
        Reshape(),
        Permute(),
        Concatenate(),
        Split(),
        Slice(),
        Expand(),
        Pad(),
        Item(),
    ),
)


@cache
def _by_handle() -> dict[str, Operation]:
    return {handle: member for member in OPERATIONS.values() for handle in member.handles}


def operation_for(name: str) -> Operation | None:
    """The family that serves an ATen operation, or None if there is none."""
    return _by_handle().get(name)


def family_of(module: nn.Module) -> Operation | None:
    """The family whose modules this one is an instance of, or None."""
    for member in OPERATIONS.values():
        if member.modules and isinstance(module, member.modules):
            return member
    return None


__all__ = ["OPERATIONS", "Operation", "family_of", "operation_for"]
