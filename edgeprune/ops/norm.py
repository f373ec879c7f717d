"""Normalisations: batch norm hands channels on; layer norm and its like fix the axis they reduce."""

from __future__ import annotations

from typing import ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.graph import Axes, Flow, Node, Ref
from edgeprune.ops.operation import Operation


class BatchNorm(Operation):
    """Per-channel affine map of axis 1 with running statistics (evaluation mode)."""

    name: ClassVar[str] = "batch_norm"
    handles: ClassVar[tuple[str, ...]] = ("batch_norm",)
    modules: ClassVar[tuple[type[nn.Module], ...]] = (_BatchNorm,)

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["input"])
        for argument in ("weight", "bias", "running_mean", "running_var"):
            if isinstance(node.get(argument), Ref):
                flow.labels.tie(flow.of(node[argument])[0], data[1])
        return data

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, _BatchNorm)
        size = module.weight if module.weight is not None else module.running_mean
        if size is not None:
            module.num_features = len(size)


class LayerNorm(Operation):
    """Normalises over its last axes: removing a channel there would change what is normalised."""

    name: ClassVar[str] = "layer_norm"
    handles: ClassVar[tuple[str, ...]] = ("layer_norm", "rms_norm")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["input"])
        count = len(node["normalized_shape"])
        for k in range(count):
            axis = data[len(data) - count + k]
            flow.labels.pin(axis, f"normalised over by {node.where}")
            for argument in ("weight", "bias"):
                if isinstance(node.get(argument), Ref):
                    flow.labels.tie(flow.of(node[argument])[k], axis)
        return data
