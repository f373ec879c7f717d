"""Normalisations: batch norm hands channels on; layer norm and its like fix the axis they reduce."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeprune.errors import UnsupportedOperation
from edgeprune.forms import Affine, Application, Scale, Scene
from edgeprune.graph import Axes, Flow, Node, Ref
from edgeprune.intervals import UNIT_ROUNDOFF
from edgeprune.ops.operation import Operation, constant


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

    def form(self, node: Node, scene: Scene) -> Application:
        """A scaling by s = γ/√(σ² + ε) with bias β − μ s; s has four roundings, the bias two more."""
        if node["training"]:
            raise UnsupportedOperation(f"{node.where}: normalises by the batch's own statistics; use eval()")
        gamma, beta, mean, variance = (
            constant(node, scene, key) for key in ("weight", "bias", "running_mean", "running_var")
        )
        if mean is None or variance is None:
            raise UnsupportedOperation(f"{node.where}: a batch norm without running statistics")
        one, u = torch.ones_like(mean), 8 * UNIT_ROUNDOFF
        scale = (one if gamma is None else gamma) / (variance + float(node["eps"])).sqrt()
        beta = torch.zeros_like(mean) if beta is None else beta
        trailing = [1] * (len(scene.shapes[node.name]) - 2)
        weight, bias, weight_error, bias_error = (
            value.reshape(1, -1, *trailing)
            for value in (
                scale,
                beta - mean * scale,
                u * scale.abs(),
                2 * u * (beta.abs() + (mean * scale).abs()),
            )
        )
        return Application(Affine(Scale(), weight, bias, weight_error, bias_error), (node["input"].name,))


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
