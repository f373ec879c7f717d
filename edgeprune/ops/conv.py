"""Convolutions: 1-d, 2-d and 3-d, with any stride, padding, dilation and number of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import nn

from edgeprune.functions.forms import Affine, Application, Convolve, Scene
from edgeprune.graph.groups import Alive, Axes, Flow, Node
from edgeprune.ops.operation import Operation, Sizes, constant


class Convolution(Operation):
    """Weight (out, in ÷ groups, taps…), data (batch, in, positions…).

    With one group the layer makes channels and reads channels. A depthwise layer hands each
    channel on. With g groups, every group keeps an equal share: the i-th channel of all groups
    lives or dies together, on both sides.
    """

    name: ClassVar[str] = "conv"
    handles: ClassVar[tuple[str, ...]] = ("conv1d", "conv2d", "conv3d")
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def label(self, node: Node, flow: Flow) -> Axes:
        data, weight = flow.of(node["input"]), flow.of(node["weight"])
        if len(data) != len(weight):
            raise LookupError(f"{node.name} has no batch axis")
        groups, shape = int(node["groups"]), node.shape
        assert shape is not None
        flow.pin(weight[2:], "taps of a kernel")
        flow.pin(data[2:], f"convolved over by {node.where}")
        if node.get("bias") is not None:
            flow.labels.tie(flow.of(node["bias"])[0], weight[0])
        if groups == 1:
            flow.labels.tie(data[1], weight[1])
            flow.contact("read", node, "weight", 1, node["input"], 1)
            flow.contact("produce", node, "weight", 0)
        elif len(weight[1]) == 1:
            flow.labels.pin(weight[1], "the single tap axis of a depthwise convolution")
            flow.labels.tie(weight[0], np.repeat(data[1], len(weight[0]) // groups))
        else:
            self._share(groups, data[1], weight, flow)
            flow.contact("read", node, "weight", 1, node["input"], 1)
            flow.contact("produce", node, "weight", 0)
        return (data[0], weight[0], *flow.fixed(shape[2:]))

    @staticmethod
    def _share(groups: int, channels: np.ndarray[Any, Any], weight: Axes, flow: Flow) -> None:
        made = len(weight[0]) // groups
        flow.labels.tie(channels, np.tile(weight[1], groups))
        flow.labels.tie(weight[0], np.tile(weight[0][:made], groups))

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        whole = alive.coupling.axes[node["weight"].name]
        assert whole is not None
        if node["groups"] == 1 or len(whole[1]) != 1:  # type: ignore[arg-type]
            return {}
        return {"groups": alive.shape(node["input"].name)[1]}

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        made, read = module.weight.shape[:2]
        if module.groups > 1 and module.groups == module.in_channels:
            module.groups = made * module.in_channels // module.out_channels
        module.out_channels, module.in_channels = made, read * module.groups

    def macs(self, node: Node, sizes: Sizes) -> int:
        return math.prod(sizes(node.name)) * math.prod(sizes(node["weight"].name)[1:])

    def form(self, node: Node, scene: Scene) -> Application:
        weight, bias = constant(node, scene, "weight"), constant(node, scene, "bias")
        assert weight is not None
        rank = weight.dim() - 2
        stride, padding, dilation = (_each(node[key], rank) for key in ("stride", "padding", "dilation"))
        kernel = Convolve(tuple(stride), padding, tuple(dilation), int(node["groups"]))
        spread = None if bias is None else bias.reshape(-1, *[1] * rank)
        return Application(Affine.given(kernel, weight, spread), (node["input"].name,))


class TransposedConvolution(Operation):
    """Weight (in, out ÷ groups, taps…), data (batch, in, positions…).

    With several groups, every group keeps an equal share on both sides; where each group reads one
    channel, the channels that it makes follow that one.
    """

    name: ClassVar[str] = "conv_transpose"
    handles: ClassVar[tuple[str, ...]] = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    modules: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )

    def label(self, node: Node, flow: Flow) -> Axes:
        data, weight = flow.of(node["input"]), flow.of(node["weight"])
        if len(data) != len(weight):
            raise LookupError(f"{node.name} has no batch axis")
        groups = int(node["groups"])
        assert node.shape is not None
        flow.pin(weight[2:], "taps of a kernel")
        flow.pin(data[2:], f"convolved over by {node.where}")
        flow.labels.tie(data[1], weight[0])
        if groups > 1 and len(weight[0]) == groups:
            flow.pin(weight[1:2], "the tap axis of a depthwise convolution")
            made = np.repeat(data[1], len(weight[1]))
        else:
            rows = weight[0].reshape(groups, -1)
            flow.labels.tie(np.tile(rows[0], groups - 1), rows[1:].reshape(-1))
            made = np.tile(weight[1], groups) if groups > 1 else weight[1]
            flow.contact("read", node, "weight", 0, node["input"], 1)
            flow.contact("produce", node, "weight", 1)
        if node.get("bias") is not None:
            flow.labels.tie(flow.of(node["bias"])[0], made)
        return (data[0], made, *flow.fixed(node.shape[2:]))

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        whole = alive.coupling.axes[node["weight"].name]
        assert whole is not None
        if node["groups"] == 1 or len(whole[0]) != node["groups"]:  # type: ignore[arg-type]
            return {}
        return {"groups": alive.shape(node["input"].name)[1]}

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        read, made = module.weight.shape[:2]
        if module.groups > 1 and module.groups == module.in_channels:
            module.groups = read
        module.in_channels, module.out_channels = read, made * module.groups

    def macs(self, node: Node, sizes: Sizes) -> int:
        return math.prod(sizes(node["input"].name)) * math.prod(sizes(node["weight"].name)[1:])


def _each(value: Any, rank: int) -> Any:
    """One number for each position axis; a padding may also be a word."""
    if isinstance(value, str):
        return value
    given = tuple(value) if isinstance(value, list | tuple) else (value,)
    return given * rank if len(given) == 1 else given
