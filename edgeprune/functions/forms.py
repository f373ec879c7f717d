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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.errors import UnsupportedOperation
from edgeprune.functions.curves import Curve
from edgeprune.functions.intervals import UNIT_ROUNDOFF
from edgeprune.functions.kernels import Convolve, Dense, Kept, Kernel, Scale, restrict


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
        windows: for a single source, the elements that each maximum is taken over: (batch, *z, window),
            with a given number where a window leaves the source; None where that is not known.
    """

    apply: Callable[[Sequence[Tensor]], Tensor]
    least: bool = False
    windows: Callable[[Tensor, float], Tensor] | None = None


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


Axis = tuple[str, int] | None
"""Which axis of which node an axis is left with; None where it is never narrowed."""


@dataclass(frozen=True, slots=True)
class Part:
    """One step of an operation that is several forms in a row.

    Attributes:
        name: of the step; behind the node's name it names a node of its own.
        application: its sources are nodes, or names of earlier steps with a dot in front.
        axes: for each axis of its tensor, which one it is left with.
    """

    name: str
    application: Application
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """An operation that is several forms in a row; the last step is its value."""

    parts: tuple[Part, ...]


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


__all__ = [
    "Affine",
    "Application",
    "Axis",
    "Chain",
    "Constant",
    "Convolve",
    "Dense",
    "Elementwise",
    "Form",
    "Input",
    "Kept",
    "Kernel",
    "Maximum",
    "Part",
    "Product",
    "Scale",
    "Scene",
    "Softmax",
    "Structural",
    "Sum",
    "Twin",
    "restrict",
]
