"""Fully connected layers: linear, and addmm as older exporters write it."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import nn

from edgeprune.functions.forms import Affine, Application, Dense, Scene
from edgeprune.graph.groups import Axes, Flow, Node
from edgeprune.ops.operation import Operation, Sizes, constant


class Linear(Operation):
    """y = x Wᵀ + b with x (…, in), W (out, in), b (out,)."""

    name: ClassVar[str] = "linear"
    handles: ClassVar[tuple[str, ...]] = ("linear",)
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["input"])
        weight = flow.of(node["weight"])
        flow.labels.tie(data[-1], weight[1])
        flow.contact("read", node, "weight", 1, node["input"], len(data) - 1)
        flow.contact("produce", node, "weight", 0)
        if node.get("bias") is not None:
            flow.labels.tie(flow.of(node["bias"])[0], weight[0])
        return (*data[:-1], weight[0])

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, nn.Linear)
        module.out_features, module.in_features = module.weight.shape

    def macs(self, node: Node, sizes: Sizes) -> int:
        return math.prod(sizes(node.name)) * sizes(node["weight"].name)[1]

    def form(self, node: Node, scene: Scene) -> Application:
        weight = constant(node, scene, "weight")
        assert weight is not None
        return Application(
            Affine.given(Dense(), weight, constant(node, scene, "bias")), (node["input"].name,)
        )
