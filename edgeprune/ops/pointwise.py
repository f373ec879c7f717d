"""Element by element: activations of one tensor, and arithmetic of several with broadcasting."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import nn

from edgeprune.graph import Axes, Flow, Ints, Node, Ref
from edgeprune.ops.operation import Operation

ACTIVATIONS = (
    "relu relu6 hardtanh leaky_relu elu selu celu silu gelu mish softplus hardswish hardsigmoid sigmoid tanh"
).split()
PASS = (
    "dropout feature_dropout alpha_dropout native_dropout clone contiguous detach alias to _to_copy type_as "
    "neg abs exp log sqrt rsqrt square reciprocal erf clamp clamp_min clamp_max"
).split()


class Unary(Operation):
    """One tensor in, the same shape out: labels are handed on."""

    name: ClassVar[str] = "unary"
    handles: ClassVar[tuple[str, ...]] = (*ACTIVATIONS, *PASS)

    def label(self, node: Node, flow: Flow) -> Axes:
        source = next(value for value in node.arguments.values() if isinstance(value, Ref))
        data = flow.of(source)
        if node.shape != tuple(len(axis) for axis in data):
            raise LookupError(f"{node.name} changes the shape of its input")
        return data


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


class Arithmetic(Operation):
    """Broadcast arithmetic: what meets at an index of the result lives or dies together."""

    name: ClassVar[str] = "arithmetic"
    handles: ClassVar[tuple[str, ...]] = ("add", "sub", "rsub", "mul", "div", "maximum", "minimum")

    def label(self, node: Node, flow: Flow) -> Axes:
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
                else:
                    flow.labels.tie(met, axis)
        return tuple(
            np.zeros(size, dtype=np.int64) if axis is None else axis
            for axis, size in zip(result, node.shape, strict=True)
        )
