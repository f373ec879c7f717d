"""Normalisations: batch norm hands channels on; layer norm and its like fix the axis they reduce.

Where the user allows it, axes that are normalised over lose channels too, and what is left is
normalised anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from edgeprune.errors import UnsupportedOperation
from edgeprune.functions import curves
from edgeprune.functions.forms import (
    Affine,
    Application,
    Axis,
    Chain,
    Dense,
    Elementwise,
    Part,
    Product,
    Scale,
    Scene,
)
from edgeprune.functions.intervals import UNIT_ROUNDOFF
from edgeprune.graph.groups import Alive, Axes, Flow, Node, Ref
from edgeprune.ops.operation import Operation, constant


class BatchNorm(Operation):
    """Per-channel affine map of axis 1 with running statistics (evaluation mode)."""

    name: ClassVar[str] = "batch_norm"
    handles: ClassVar[tuple[str, ...]] = ("batch_norm",)
    modules: ClassVar[tuple[type[nn.Module], ...]] = (_NormBase,)

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["input"])
        if node["training"]:  # such as a standardised weight: by its own statistics
            for axis in (*data[:1], *data[2:]):
                flow.normalised(axis, node.where)
        for argument in ("weight", "bias", "running_mean", "running_var"):
            if isinstance(node.get(argument), Ref):
                flow.labels.tie(flow.of(node[argument])[0], data[1])
        return data

    def normalised_axes(self, node: Node, alive: Alive) -> tuple[int, ...]:
        masks = alive.axes(node["input"].name)
        return tuple(k for k, mask in enumerate(masks) if node["training"] and k != 1 and not mask.all())

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, _NormBase)
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
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.LayerNorm, nn.RMSNorm)

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["input"])
        count = len(node["normalized_shape"])
        for k in range(count):
            axis = data[len(data) - count + k]
            flow.normalised(axis, node.where)
            for argument in ("weight", "bias"):
                if isinstance(node.get(argument), Ref):
                    flow.labels.tie(flow.of(node[argument])[k], axis)
        return data

    def normalised_axes(self, node: Node, alive: Alive) -> tuple[int, ...]:
        masks, count = alive.axes(node["input"].name), len(node["normalized_shape"])
        return tuple(k for k in range(len(masks) - count, len(masks)) if not masks[k].all())

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        shape = alive.shape(node["input"].name)[-len(node["normalized_shape"]) :]
        return {} if alive.whole(node["input"].name) else {"normalized_shape": list(shape)}

    def form(self, node: Node, scene: Scene) -> Chain:
        """The mean taken away, squares averaged, 1/√(that + ε), and the product: over one last axis.

        Weights of 1/n have one rounding each, the sums of a step the usual ones.
        """
        source = node["input"].name
        shape = scene.shapes[source]
        if len(node["normalized_shape"]) != 1:
            raise UnsupportedOperation(f"{node.where}: a normalisation over several axes has no form")
        gamma, beta = (
            constant(node, scene, key) if key in node.arguments else None for key in ("weight", "bias")
        )
        n, given = shape[-1], node.get("eps")
        eps = float(torch.finfo(torch.float32).eps if given is None else given)
        whole: tuple[Axis, ...] = tuple((source, k) for k in range(len(shape)))
        level: tuple[Axis, ...] = (*whole[:-1], None)
        rows = torch.full((1, n), 1.0 / n, dtype=torch.float64)
        off = 2 * UNIT_ROUNDOFF * rows
        parts, centred, most = [], source, 1.1 * math.sqrt(n)
        if "rms" not in node.operation:
            away = torch.eye(n, dtype=torch.float64) - rows
            zero = torch.zeros((), dtype=torch.float64)
            minus = Affine(Dense(), away, zero, off.expand(n, n) + UNIT_ROUNDOFF * away.abs(), zero)
            parts.append(Part("centred", Application(minus, (source,)), whole))
            centred = ".centred"
        add = torch.full((1,), eps, dtype=torch.float64)
        average = Affine(Dense(), rows, add, off, torch.zeros_like(add))
        parts += [
            Part("square", Application(Elementwise(curves.square()), (centred,)), whole),
            Part("variance", Application(average, (".square",)), level),
            # facts that the forms forget: a mean of squares is ≥ 0, no element exceeds √n. Nothing is
            # cut off; the room left is for a runtime, whose rounded values obey them nearly
            Part(
                "positive", Application(Elementwise(curves.clamp(eps / 2, math.inf)), (".variance",)), level
            ),
            Part("inverse", Application(Elementwise(curves.rsqrt()), (".positive",)), level),
            Part("each", Application(Product(), (centred, ".inverse")), whole),
            Part("level", Application(Elementwise(curves.clamp(-most, most)), (".each",)), whole),
        ]
        if gamma is not None or beta is not None:
            one = torch.ones(n, dtype=torch.float64)
            scale = Affine.given(Scale(), one if gamma is None else gamma, beta)
            parts.append(Part("scaled", Application(scale, (".level",)), whole))
        return Chain(tuple(parts))

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, nn.LayerNorm | nn.RMSNorm)
        if module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)


class GroupNorm(Operation):
    """Normalises over the channels of each group and over positions.

    With a group for each channel no channels are mixed, and they are handed on. Otherwise, where
    the user allows it, every group loses the same channels of its own.
    """

    name: ClassVar[str] = "group_norm"
    handles: ClassVar[tuple[str, ...]] = ("group_norm", "native_group_norm")
    modules: ClassVar[tuple[type[nn.Module], ...]] = (nn.GroupNorm,)

    def label(self, node: Node, flow: Flow) -> Axes | tuple[Axes | None, ...]:
        data = flow.of(node["input"])
        groups = int(node["num_groups" if "num_groups" in node.arguments else "group"])
        flow.pin(data[2:], f"normalised over by {node.where}")
        if groups != len(data[1]):
            rows = data[1].reshape(groups, -1)
            if flow.norm_axes:
                flow.labels.tie(np.tile(rows[0], groups - 1), rows[1:].reshape(-1))
            flow.normalised(data[1], node.where)
        for argument in ("weight", "bias"):
            if isinstance(node.get(argument), Ref):
                flow.labels.tie(flow.of(node[argument])[0], data[1])
        if node.operation == "native_group_norm":
            return (data, *(flow.fixed(shape) for shape in node.shapes[1:]))
        return data

    def normalised_axes(self, node: Node, alive: Alive) -> tuple[int, ...]:
        mask = alive.axes(node["input"].name)[1]
        return (1,) if not mask.all() and node.get("num_groups") not in (None, len(mask)) else ()

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        size = alive.shape(node["input"].name)[1]
        whole = len(alive.axes(node["input"].name)[1])
        if size == whole:
            return {}
        if node.operation == "native_group_norm":
            return {"C": size, "group": size if node["group"] == whole else node["group"]}
        return {"num_groups": size} if node["num_groups"] == whole else {}

    def resize(self, module: nn.Module) -> None:
        assert isinstance(module, nn.GroupNorm)
        if module.weight is not None:
            if module.num_groups == module.num_channels:
                module.num_groups = len(module.weight)
            module.num_channels = len(module.weight)


class InstanceNorm(Operation):
    """Normalises every channel of every sample by itself: channels are handed on."""

    name: ClassVar[str] = "instance_norm"
    handles: ClassVar[tuple[str, ...]] = ("instance_norm",)

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["input"])
        flow.pin(data[2:], f"normalised over by {node.where}")
        for argument in ("weight", "bias", "running_mean", "running_var"):
            if isinstance(node.get(argument), Ref):
                flow.labels.tie(flow.of(node[argument])[0], data[1])
        return data


class InferenceBatchNorm(Operation):
    """Batch norm as the core operation set writes it: the result and two empty statistics."""

    name: ClassVar[str] = "native_batch_norm"
    handles: ClassVar[tuple[str, ...]] = ("_native_batch_norm_legit_no_training",)

    def label(self, node: Node, flow: Flow) -> tuple[Axes | None, ...]:
        data = flow.of(node["input"])
        for argument in ("weight", "bias", "running_mean", "running_var"):
            if isinstance(node.get(argument), Ref):
                flow.labels.tie(flow.of(node[argument])[0], data[1])
        return (data, *(flow.fixed(shape) for shape in node.shapes[1:]))
