"""What an operation is mathematically: the narrow waist between operations and bounds.

An operation says which form it is; a bound has one rule for each form. So a new operation needs no
bound to know it, and a new bound no operation. The set is closed: what fits none of these has no
deterministic bound and is refused by name.

    Affine       z = K(W, h) + b            linear, convolution, scaling by a constant, batch norm
    Sum          z = Σ sᵢ hᵢ                add, sub
    Structural   every element is moved, or averaged with weights ≥ 0: reshape, cat, pad, mean, …
    Elementwise  z = φ(h)                   activations
    Maximum      z = ± max of ± elements    max-pool, maximum, minimum
    Product      z = h₁ · h₂                gates
    Softmax      z = e^h / Σ e^h            over one axis, or its logarithm
    Constant     z does not depend on the inputs
    Input        z is one of the model's inputs

Tensors are float64, with a batch of one in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.curves import Curve
from edgeprune.errors import UnsupportedOperation
from edgeprune.intervals import UNIT_ROUNDOFF

Kept = tuple[Tensor | None, ...]
"""For each axis the indices (int64) that are left; None where all are."""


def restrict(tensor: Tensor, kept: Kept) -> Tensor:
    """The part of `tensor` that is left; axes are aligned from the right, axes of one stay."""
    offset = len(kept) - tensor.dim()
    for k, index in enumerate(kept):
        if index is not None and k >= offset and tensor.shape[k - offset] != 1:
            tensor = tensor.index_select(k - offset, index)
    return tensor


class Kernel(Protocol):
    """A product of a weight and a tensor, linear in each."""

    def mixed_axis(self, weight: Tensor) -> int | None:
        """The axis of h along which elements are summed, None where there is none."""

    def apply(self, weight: Tensor, h: Tensor) -> Tensor:
        """K(W, h)."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """z = K(W, h) + b.

    Attributes:
        bias: broadcasts to z, aligned from the right.
        weight_error: how far `weight` can be from the exact one, elementwise (0 where given).
        bias_error: the same for the bias.
    """

    kernel: Kernel
    weight: Tensor
    bias: Tensor
    weight_error: Tensor
    bias_error: Tensor

    @staticmethod
    def given(kernel: Kernel, weight: Tensor, bias: Tensor | None = None) -> Affine:
        """An affine map whose weight and bias are exact."""
        bias = torch.zeros((), dtype=torch.float64) if bias is None else bias
        return Affine(kernel, weight, bias, torch.zeros_like(weight), torch.zeros_like(bias))

    def apply(self, h: Tensor) -> Tensor:
        """K(W, h) + b."""
        return self.kernel.apply(self.weight, h) + self.bias

    def linear(self) -> Affine:
        """The same without its bias."""
        zero = torch.zeros((), dtype=torch.float64)
        return Affine(self.kernel, self.weight, zero, self.weight_error, zero)

    def restricted(self, out: Kept, into: Kept) -> Affine:
        """Between what is left of the output and of the input."""
        kernel, weight = self.kernel.restrict(self.weight, out, into)
        _, weight_error = self.kernel.restrict(self.weight_error, out, into)
        return Affine(kernel, weight, restrict(self.bias, out), weight_error, restrict(self.bias_error, out))

    def minus(self, other: Affine) -> Affine:
        """The difference of two maps of the same shape.

        Raises:
            UnsupportedOperation: the shapes or kernels differ.
        """
        if self.kernel != other.kernel or self.weight.shape != other.weight.shape:
            raise UnsupportedOperation(
                f"the pruned layer {other.kernel} {tuple(other.weight.shape)} is not what is left of the "
                f"original, {self.kernel} {tuple(self.weight.shape)}"
            )
        weight, bias = self.weight - other.weight, self.bias - other.bias
        return Affine(
            self.kernel,
            weight,
            bias,
            self.weight_error + other.weight_error + UNIT_ROUNDOFF * weight.abs(),
            self.bias_error + other.bias_error + UNIT_ROUNDOFF * bias.abs(),
        )

    def followed_by(self, scale: Affine) -> Affine | None:
        """This map and then a scaling, as one map; None where they do not combine.

        (W ± e)(s ± d) differs from the computed product by |s|e + |W|d + ed + u|Ws|, and the bias
        b·s + c likewise; 4u stands for u to cover the rounding of the error terms themselves.
        """
        if not isinstance(scale.kernel, Scale):
            return None
        weight = self.kernel.scaled(self.weight, scale.weight)
        if weight is None:
            return None
        u = 4 * UNIT_ROUNDOFF
        size = self.kernel.scaled(self.weight_error, scale.weight.abs() + scale.weight_error)
        more = self.kernel.scaled(self.weight.abs(), scale.weight_error)
        assert size is not None
        assert more is not None
        grown = self.bias * scale.weight
        bias_error = self.bias_error * (scale.weight.abs() + scale.weight_error)
        bias_error = bias_error + self.bias.abs() * scale.weight_error + scale.bias_error
        return Affine(
            self.kernel,
            weight,
            grown + scale.bias,
            (size + more) * (1 + u) + u * weight.abs(),
            bias_error * (1 + u) + u * (grown.abs() + scale.bias.abs()),
        )


@dataclass(frozen=True, slots=True)
class Sum:
    """z = Σ signsᵢ · hᵢ, with broadcasting.

    Attributes:
        signs: one factor for each source: ±1, or another number (`alpha`).
    """

    signs: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Structural:
    """Each element of z is an element of a source, a constant, or a sum with weights ≥ 0 of elements.

    Attributes:
        apply: sources to z; monotone in every element.
        linear: the same with its constants (the value of a padding) at zero.
        terms: elements summed into one of z; 0 where they are moved only (and none is repeated
            unless z has more elements than the source).
    """

    apply: Callable[[Sequence[Tensor]], Tensor]
    linear: Callable[[Sequence[Tensor]], Tensor]
    terms: int = 0

    @staticmethod
    def moving(apply: Callable[[Tensor], Tensor]) -> Structural:
        """Elements of one source change places."""
        return Structural(lambda sources: apply(sources[0]), lambda sources: apply(sources[0]))


@dataclass(frozen=True, slots=True, eq=False)
class Elementwise:
    """z = φ(h)."""

    curve: Curve


@dataclass(frozen=True, slots=True, eq=False)
class Maximum:
    """z = max over elements of the sources, or min where `least`.

    Attributes:
        apply: sources to their maximum (over windows, an axis, or each other).
        least: the operation is the minimum instead: −apply(−h).
    """

    apply: Callable[[Sequence[Tensor]], Tensor]
    least: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """z = h₁ · h₂, both depending on the inputs, with broadcasting."""


@dataclass(frozen=True, slots=True)
class Softmax:
    """z = e^h / Σ e^h over an axis, or the logarithm of that."""

    axis: int
    logarithm: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """z does not depend on the inputs."""

    value: Tensor


@dataclass(frozen=True, slots=True)
class Input:
    """z is the input of this name."""

    name: str


Form = Affine | Sum | Structural | Elementwise | Maximum | Product | Softmax | Constant | Input


@dataclass(frozen=True, slots=True)
class Application:
    """A form and the nodes it is applied to."""

    form: Form
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """What an operation sees when it says which form it is.

    Attributes:
        constants: by name, values (float64) of the nodes that do not depend on the inputs.
        shapes: by name, sizes of every node's tensor for a batch of one.
        parts: the same for each tensor of a node that returns several.
    """

    constants: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]
    parts: Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Twin:
    """One node of the original net and what became of it in the pruned net.

    Attributes:
        name: of the node.
        f: its form in the original.
        g: its form in the pruned net, of the same kind.
        sources: nodes that both are applied to, in order.
        kept: which indices of the node's tensor are left, axis by axis.
    """

    name: str
    f: Form
    g: Form
    sources: tuple[str, ...]
    kept: Kept
