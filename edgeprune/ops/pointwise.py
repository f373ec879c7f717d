"""Element by element: activations of one tensor, and arithmetic of several with broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgeprune.errors import UnsupportedOperation
from edgeprune.functions import curves
from edgeprune.functions.curves import Curve
from edgeprune.functions.forms import (
    Affine,
    Application,
    Elementwise,
    Maximum,
    Product,
    Scale,
    Scene,
    Structural,
    Sum,
)
from edgeprune.functions.intervals import UNIT_ROUNDOFF
from edgeprune.graph.groups import Axes, Flow, Ints, Node, Ref
from edgeprune.ops.operation import Operation, constant, source_of

ACTIVATIONS = [
    "relu",
    "relu6",
    "hardtanh",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "silu",
    "gelu",
    "mish",
    "softplus",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
]
PASS = [
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "native_dropout",
    "clone",
    "contiguous",
    "detach",
    "alias",
    "to",
    "_to_copy",
    "type_as",
    "neg",
    "abs",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "square",
    "reciprocal",
    "erf",
    "clamp",
    "clamp_min",
    "clamp_max",
]
FURTHER = (
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "ceil"),
    *("floor", "round", "trunc", "frac", "sign", "sgn", "log1p", "log2", "log10", "expm1", "exp2"),
    *("erfc", "erfinv", "nan_to_num", "isnan", "isinf", "isfinite", "logical_not", "bitwise_not"),
    *("log_sigmoid", "hardshrink", "softshrink", "threshold", "rrelu", "lift_fresh_copy"),
    *("positive", "real", "deg2rad", "rad2deg", "zero", "fill", "bernoulli"),
)
"""Served alike, but fit no form."""
COPIES = frozenset(["clone", "contiguous", "detach", "alias", "to", "_to_copy", "type_as"])
BROADCAST = (
    *("where", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or"),
    *("logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "pow", "float_power", "fmod"),
    *("remainder", "floor_divide", "true_divide", "atan2", "hypot", "xlogy", "fmax", "fmin", "lerp"),
    *("addcmul", "addcdiv", "copy", "__and__", "__or__", "heaviside", "divide", "multiply", "subtract"),
)
"""Arithmetic, choice and comparison of several tensors that fit no form, but for the binary step."""
DROPOUTS = frozenset(["dropout", "feature_dropout", "alpha_dropout"])
CURVES: Mapping[str, Callable[[Node], Curve]] = {
    "relu": lambda node: curves.clamp(0.0, math.inf),
    "relu6": lambda node: curves.clamp(0.0, 6.0),
    "hardtanh": lambda node: curves.clamp(float(node["min_val"]), float(node["max_val"])),
    "clamp": lambda node: curves.clamp(_limit(node, "min", -math.inf), _limit(node, "max", math.inf)),
    "clamp_min": lambda node: curves.clamp(_limit(node, "min", -math.inf), math.inf),
    "clamp_max": lambda node: curves.clamp(-math.inf, _limit(node, "max", math.inf)),
    "leaky_relu": lambda node: curves.leaky(float(node["negative_slope"])),
    "elu": lambda node: curves.elu(float(node["alpha"]), float(node["scale"]), float(node["input_scale"])),
    "selu": lambda node: curves.elu(1.6732632423543772848, 1.0507009873554804934, 1.0),
    "celu": lambda node: curves.elu(float(node["alpha"]), 1.0, 1.0 / float(node["alpha"])),
    "silu": lambda node: curves.silu(),
    "gelu": lambda node: curves.gelu() if node["approximate"] == "none" else curves.gelu_tanh(),
    "mish": lambda node: curves.mish(),
    "softplus": lambda node: curves.softplus(float(node["beta"]), float(node["threshold"])),
    "hardswish": lambda node: curves.hardswish(),
    "hardsigmoid": lambda node: curves.hardsigmoid(),
    "sigmoid": lambda node: curves.sigmoid(),
    "tanh": lambda node: curves.tanh(),
    "erf": lambda node: curves.erf(),
    "abs": lambda node: curves.absolute(),
    "square": lambda node: curves.square(),
    "exp": lambda node: curves.exp(),
    "log": lambda node: curves.log(),
    "sqrt": lambda node: curves.sqrt(),
    "rsqrt": lambda node: curves.rsqrt(),
    "reciprocal": lambda node: curves.reciprocal(),
}
"""The scalar function of each operation that is one."""


def _limit(node: Node, argument: str, absent: float) -> float:
    """An end of a clamp; tensors as ends have no rule."""
    value = node.get(argument)
    if isinstance(value, Ref):
        raise UnsupportedOperation(f"{node.where}: a clamp between tensors")
    return absent if value is None else float(value)


class Unary(Operation):
    """One tensor in, the same shape out: labels are handed on."""

    name: ClassVar[str] = "unary"
    handles: ClassVar[tuple[str, ...]] = (*ACTIVATIONS, *PASS, *FURTHER)

    def label(self, node: Node, flow: Flow) -> Axes | tuple[Axes | None, ...]:
        source, *others = (value for value in node.arguments.values() if isinstance(value, Ref))
        data = flow.of(source)
        for limit in others if node.operation != "type_as" else ():
            shape = flow.graph.nodes[limit.name].shape
            if shape is None or any(size != 1 for size in shape):
                raise LookupError(f"{node.name} takes tensors as limits")
            for axis in flow.of(limit):  # one number for all channels
                flow.labels.pin(axis, f"broadcast by {node.where}")
        if node.shape is None and node.shapes:  # a value and a mask
            return tuple(data for _ in node.shapes)
        if node.shape != tuple(len(axis) for axis in data):
            raise LookupError(f"{node.name} changes the shape of its input")
        return data

    def form(self, node: Node, scene: Scene) -> Application:
        _, source = source_of(node)
        if node.operation in COPIES | DROPOUTS:
            if node.operation in DROPOUTS and node["train"]:
                raise UnsupportedOperation(f"{node.where}: drops at random; trace the model in eval()")
            if not node.floating:
                raise UnsupportedOperation(f"{node.where}: is rounded to integers")
            return Application(Structural.moving(lambda x: x), (source,))
        if node.operation == "neg":
            return Application(Sum((-1.0,)), (source,))
        if node.operation not in CURVES:
            raise UnsupportedOperation(f"{node.where}: {node.target} fits no form")
        return Application(Elementwise(CURVES[node.operation](node)), (source,))


def meet(node: Node, flow: Flow) -> Axes:
    """The labels of a broadcast result: those that meet at an index are tied."""
    assert node.shape is not None
    result: list[Ints | None] = [None] * len(node.shape)
    for source in (value for value in node.arguments.values() if isinstance(value, Ref)):
        if flow.axes.get(source.name) is None and flow.graph.nodes[source.name].shape is None:
            continue  # a symbolic number, not a tensor
        data = flow.of(source)
        offset = len(node.shape) - len(data)
        for k, axis in enumerate(data):
            if len(axis) == 1 and node.shape[offset + k] != 1:
                flow.labels.pin(axis, f"broadcast by {node.where}")
                continue
            met = result[offset + k]
            if met is None:
                result[offset + k] = axis
            elif met is not axis:
                flow.labels.tie(met, axis)
    return tuple(
        flow.zeros(size) if axis is None else axis for axis, size in zip(result, node.shape, strict=True)
    )


class PReLU(Operation):
    """Leaky ReLU with a learned slope for each channel (axis 1), or one for all."""

    name: ClassVar[str] = "prelu"
    handles: ClassVar[tuple[str, ...]] = ("prelu",)
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.PReLU,)

    def label(self, node: Node, flow: Flow) -> Axes:
        data, slope = flow.of(node["self"]), flow.of(node["weight"])
        if len(slope) and len(slope[0]) > 1:
            flow.labels.tie(slope[0], data[1])
        return data

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, nn.PReLU)
        module.num_parameters = len(module.weight)

    def form(self, node: Node, scene: Scene) -> Application:
        slope = constant(node, scene, "weight")
        assert slope is not None
        if slope.numel() > 1:
            slope = slope.reshape(1, -1, *[1] * (len(scene.shapes[node.name]) - 2))
        return Application(Elementwise(curves.leaky(slope)), (node["self"].name,))


class Arithmetic(Operation):
    """Broadcast arithmetic: what meets at an index of the result lives or dies together."""

    name: ClassVar[str] = "arithmetic"
    handles: ClassVar[tuple[str, ...]] = (
        *("add", "sub", "rsub", "mul", "div", "maximum", "minimum"),
        *BROADCAST,
    )

    def label(self, node: Node, flow: Flow) -> Axes:
        return meet(node, flow)

    def form(self, node: Node, scene: Scene) -> Application:
        if node.operation in BROADCAST:
            return _stepped(node, scene)
        given = (node["self"], node["other"])
        moving = tuple(v.name for v in given if isinstance(v, Ref) and v.name not in scene.constants)
        if node.operation in ("maximum", "minimum"):
            return _extreme(node, tuple(v.name for v in given))
        if node.operation in ("add", "sub", "rsub"):
            return _sum(node, scene, moving)
        if node.operation == "div" and node.get("rounding_mode") is not None:
            raise UnsupportedOperation(f"{node.where}: a division that is rounded")
        if len(moving) == 2:
            if node.operation == "div":
                raise UnsupportedOperation(f"{node.where}: a division by what depends on the inputs")
            if moving[0] == moving[1]:
                return Application(Elementwise(curves.square()), moving[:1])
            return Application(Product(), moving)
        return _scaling(node, scene, moving)


def _stepped(node: Node, scene: Scene) -> Application:
    """The binary step: z ≥ 0 or z > 0, a choice of 1 or 0 by that, or heaviside.

    Raises:
        UnsupportedOperation: it is another comparison or choice.
    """
    if node.operation in ("ge", "gt") and isinstance(node["self"], Ref) and node["other"] == 0:
        return Application(Elementwise(curves.step(float(node.operation == "ge"))), (node["self"].name,))
    if node.operation == "where" and (node["self"], node["other"]) == (1.0, 0.0):
        return Application(Structural.moving(lambda x: x), (node["condition"].name,))
    if node.operation == "heaviside" and node["self"].name not in scene.constants:
        there = scene.constants.get(node["values"].name)
        if there is not None and there.numel() == 1 and 0 <= float(there) <= 1:
            return Application(Elementwise(curves.step(float(there))), (node["self"].name,))
    raise UnsupportedOperation(f"{node.where}: {node.target} fits no form")


def _extreme(node: Node, sources: tuple[str, ...]) -> Application:
    return Application(
        Maximum(lambda h: torch.maximum(h[0], h[1]), least=node.operation == "minimum"), sources
    )


def _sum(node: Node, scene: Scene, moving: tuple[str, ...]) -> Application:
    """Self + α·other, self − α·other, other − α·self; a constant is the bias of a scaling by ±α."""
    alpha = float(node.get("alpha", 1))
    first, second = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}[node.operation]
    if len(moving) == 2:
        return Application(Sum((first, second)), moving)
    known, factor, share = (
        ("other", first, second) if _is(node, "self", moving[0]) else ("self", second, first)
    )
    bias = constant(node, scene, known)
    assert bias is not None
    bias = bias * share
    weight = torch.tensor(factor, dtype=torch.float64)
    error = torch.zeros_like(bias) if abs(share) == 1 else 2 * UNIT_ROUNDOFF * bias.abs()
    return Application(Affine(Scale(), weight, bias, torch.zeros_like(weight), error), moving)


def _scaling(node: Node, scene: Scene, moving: tuple[str, ...]) -> Application:
    """A product with a constant, or a division by one."""
    factor = constant(node, scene, "other" if _is(node, "self", moving[0]) else "self")
    assert factor is not None
    if node.operation != "div":
        return Application(Affine.given(Scale(), factor), moving)
    if not _is(node, "self", moving[0]):
        return Application(Elementwise(_over(node, factor)), moving)
    zero = torch.zeros((), dtype=torch.float64)
    inverse = 1.0 / factor
    return Application(Affine(Scale(), inverse, zero, 2 * UNIT_ROUNDOFF * inverse.abs(), zero), moving)


def _is(node: Node, argument: str, name: str) -> bool:
    value = node[argument]
    return isinstance(value, Ref) and value.name == name


def _over(node: Node, numerator: Tensor) -> Curve:
    if not torch.equal(numerator, torch.ones_like(numerator)):
        raise UnsupportedOperation(f"{node.where}: a division by what depends on the inputs")
    return curves.reciprocal()
