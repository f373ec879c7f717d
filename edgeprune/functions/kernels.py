"""Products of a weight and a tensor: the linear part of every layer, forwards and backwards.

Tensors are float64 with a batch in front; coefficients of bounds have their rows in its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.errors import UnsupportedOperation

Kept = tuple[Tensor | None, ...]
"""For each axis the indices (int64) that are left; None where all are."""


def restrict(tensor: Tensor, kept: Kept) -> Tensor:
    """The part of `tensor` that is left; axes are aligned from the right, axes of one stay."""
    offset = len(kept) - tensor.dim()
    for k, index in enumerate(kept):
        if index is not None and k >= offset and tensor.shape[k - offset] != 1:
            tensor = tensor.index_select(k - offset, index)
    return tensor


def folded(a: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Coefficients (rows, …) of a tensor that was broadcast from `shape` (its batch in front): their sums."""
    while a.dim() > len(shape):
        a = a.sum(1)
    axes = [k for k in range(1, len(shape)) if shape[k] == 1 and a.shape[k] != 1]
    return a.sum(axes, keepdim=True) if axes else a


def spread(tensor: Tensor, kept: Kept, shape: tuple[int, ...]) -> Tensor:
    """The adjoint of `restrict`: `tensor` (rows, …) put back among zeros of `shape` (its batch in front)."""
    for k, index in enumerate(kept):
        if k and index is not None and shape[k] != 1:
            whole = torch.zeros((*tensor.shape[:k], shape[k], *tensor.shape[k + 1 :]), dtype=tensor.dtype)
            tensor = whole.index_copy(k, index, tensor)
    return tensor


class Kernel(Protocol):
    """A product of a weight and a tensor, linear in each."""

    def mixed_axis(self, weight: Tensor) -> int | None:
        """The axis of h along which elements are summed, None where there is none."""

    def apply(self, weight: Tensor, h: Tensor) -> Tensor:
        """K(W, h)."""

    def adjoint(self, weight: Tensor, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The coefficients Kᵀ(W, a) of h in aᵀK(W, h).

        Args:
            a: (rows, *shape of the output without its batch).
            shape: of h, with its batch axis in front, which is not looked at.
        """

    def terms(self, weight: Tensor) -> int:
        """Products summed into one output."""

    def restrict(self, weight: Tensor, out: Kept, into: Kept) -> tuple[Kernel, Tensor]:
        """The kernel and weight between what is left of the output and of the input.

        Raises:
            UnsupportedOperation: an axis was narrowed that the kernel cannot be narrowed along.
        """

    def scaled(self, weight: Tensor, factor: Tensor) -> Tensor | None:
        """The weight whose product is `factor` times this one's; None if there is none."""


@dataclass(frozen=True, slots=True)
class Dense:
    """(…, in) × (out, in) → (…, out)."""

    def mixed_axis(self, weight: Tensor) -> int | None:
        """The last."""
        return -1

    def apply(self, weight: Tensor, h: Tensor) -> Tensor:
        """H Wᵀ."""
        return h @ weight.transpose(0, 1)

    def adjoint(self, weight: Tensor, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A W."""
        return a @ weight

    def terms(self, weight: Tensor) -> int:
        """The inputs."""
        return weight.shape[1]

    def restrict(self, weight: Tensor, out: Kept, into: Kept) -> tuple[Kernel, Tensor]:
        """Rows by the output's last axis, columns by the input's."""
        _same_axes(out[:-1], into[:-1], "a linear layer")
        return self, restrict(weight, (out[-1], into[-1]))

    def scaled(self, weight: Tensor, factor: Tensor) -> Tensor | None:
        """Rows are scaled, where the factor varies along the last axis only."""
        if any(size != 1 for size in factor.shape[:-1]):
            return None
        return weight * factor.reshape(-1, 1)


@dataclass(frozen=True, slots=True)
class Convolve:
    """(1, in, positions…) × (out, in ÷ groups, taps…) → (1, out, positions…).

    Torch computes it in float64 as a product of matrices: any order of summation is covered.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int

    def mixed_axis(self, weight: Tensor) -> int | None:
        """The channels; a depthwise convolution sums none of them."""
        return None if weight.shape[1] == 1 and self.groups > 1 else 1

    def apply(self, weight: Tensor, h: Tensor) -> Tensor:
        """The convolution without its bias."""
        convolution = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        result: Tensor = convolution(h, weight, None, self.stride, self.padding, self.dilation, self.groups)
        return result

    def adjoint(self, weight: Tensor, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The transposed convolution, padded to the size of h."""
        rank = weight.dim() - 2
        if isinstance(self.padding, str) and self.padding != "valid":
            return self._transposed(weight, a, shape)
        padding = (0,) * rank if isinstance(self.padding, str) else self.padding
        backward = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        spare = tuple(
            shape[2 + k]
            - ((a.shape[2 + k] - 1) * self.stride[k] - 2 * padding[k])
            - self.dilation[k] * (weight.shape[2 + k] - 1)
            - 1
            for k in range(rank)
        )
        if any(s >= max(self.stride[k], self.dilation[k]) for k, s in enumerate(spare)):
            return self._transposed(weight, a, shape)
        result: Tensor = backward(a, weight, None, self.stride, padding, spare, self.groups, self.dilation)
        return result

    def _transposed(self, weight: Tensor, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The same by automatic differentiation, which knows every kind of padding."""
        with torch.enable_grad():
            h = torch.zeros((len(a), *shape[1:]), dtype=a.dtype, requires_grad=True)
            z = self.apply(weight, h)
            return torch.autograd.grad(z, h, a, create_graph=a.requires_grad)[0]

    def terms(self, weight: Tensor) -> int:
        """Channels of a group times taps."""
        return math.prod(weight.shape[1:])

    def restrict(self, weight: Tensor, out: Kept, into: Kept) -> tuple[Kernel, Tensor]:
        """Output channels by the weight's first axis; input channels by its second."""
        _same_axes((*out[:1], *out[2:]), (*into[:1], *into[2:]), "a convolution")
        if any(index is not None for index in (*into[:1], *into[2:])):
            raise UnsupportedOperation("a convolution was narrowed along its batch or its positions")
        if self.groups == 1:
            return self, restrict(weight, (out[1], into[1], *[None] * (weight.dim() - 2)))
        narrowed = weight if out[1] is None else weight.index_select(0, out[1])
        made, read = len(weight) // self.groups, weight.shape[1]
        if read == 1:  # depthwise: each group is an input channel
            groups = torch.arange(self.groups) if into[1] is None else into[1]
            every = torch.arange(len(weight)) if out[1] is None else out[1]
            if not torch.equal(every // made, groups.repeat_interleave(len(every) // max(1, len(groups)))):
                raise UnsupportedOperation("a depthwise convolution lost other channels than its input")
            return Convolve(self.stride, self.padding, self.dilation, len(groups)), narrowed
        self._share(out[1], made)
        first = self._share(into[1], read)
        return self, narrowed if first is None else narrowed.index_select(1, first)

    def _share(self, kept: Tensor | None, size: int) -> Tensor | None:
        """What the first group keeps; every other must keep the same of its own."""
        if kept is None:
            return None
        first = kept[: len(kept) // self.groups]
        if not torch.equal(torch.cat([first + g * size for g in range(self.groups)]), kept):
            raise UnsupportedOperation(f"a grouped convolution (groups={self.groups}) kept unequal shares")
        return first

    def scaled(self, weight: Tensor, factor: Tensor) -> Tensor | None:
        """Output channels are scaled, where the factor varies along the channels only."""
        shape = (1,) * (weight.dim() - factor.dim()) + tuple(factor.shape)
        if any(size != 1 for k, size in enumerate(shape) if k != 1):
            return None
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))


@dataclass(frozen=True, slots=True)
class Scale:
    """Elementwise product with a weight that broadcasts to the tensor."""

    def mixed_axis(self, weight: Tensor) -> int | None:
        """Nothing is summed."""
        return None

    def apply(self, weight: Tensor, h: Tensor) -> Tensor:
        """W · h."""
        return weight * h

    def adjoint(self, weight: Tensor, a: Tensor, shape: tuple[int, ...]) -> Tensor:
        """W · a, summed where h was broadcast."""
        return folded(weight * a, shape)

    def terms(self, weight: Tensor) -> int:
        """One."""
        return 1

    def restrict(self, weight: Tensor, out: Kept, into: Kept) -> tuple[Kernel, Tensor]:
        """By the output's axes; the input's are the same but where it is broadcast."""
        return self, restrict(weight, out)

    def scaled(self, weight: Tensor, factor: Tensor) -> Tensor | None:
        """The product of both."""
        return weight * factor


def _same_axes(out: Kept, into: Kept, what: str) -> None:
    for a, b in zip(out, into, strict=True):
        same = (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        if not same:
            raise UnsupportedOperation(f"{what} was narrowed along an axis that it does not mix")
