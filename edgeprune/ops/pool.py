"""Pooling: the batch and the channels are handed on, positions are fixed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from edgeprune.errors import UnsupportedOperation
from edgeprune.functions.forms import Application, Maximum, Scene, Structural
from edgeprune.graph.groups import Axes, Flow, Node, Ref
from edgeprune.ops.operation import Operation, replay, source_of


class Pool(Operation):
    """Maximum and average pooling over windows, fixed or adaptive; data (batch, channels, positions…)."""

    name: ClassVar[str] = "pool"
    handles: ClassVar[tuple[str, ...]] = (
        *(
            f"{kind}_pool{rank}d"
            for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
            for rank in (1, 2, 3)
        ),
    )

    def label(self, node: Node, flow: Flow) -> Axes | tuple[Axes | None, ...]:
        source = next(value for value in node.arguments.values() if isinstance(value, Ref))
        data = flow.of(source)
        rank = int(node.operation[-2])
        if len(data) != rank + 2:
            raise LookupError(f"{node.name} has no batch axis")
        for axis in data[2:]:
            flow.labels.pin(axis, f"pooled over by {node.where}")
        if node.shape is None:  # values and the places they came from
            return tuple((*data[:2], *flow.fixed(shape[2:])) for shape in node.shapes)
        return (*data[:2], *flow.fixed(node.shape[2:]))

    def form(self, node: Node, scene: Scene) -> Application | tuple[Application, ...]:
        """A maximum, or an average: a window of n is summed and divided with at most n + 1 roundings."""
        argument, source = source_of(node)

        def pooled(sources: Sequence[Tensor]) -> Tensor:
            result = replay(node, {argument: sources[0]})
            return result if isinstance(result, Tensor) else result[0]

        if "max" in node.operation:
            found = Application(Maximum(pooled, windows=_windows(node, scene, source)), (source,))
            return found if node.shape is not None else (found,)
        if (node.get("divisor_override") or 1) < 0:
            raise UnsupportedOperation(f"{node.where}: an average with a negative divisor")
        rank = int(node.operation[-2])
        if "adaptive" in node.operation:
            before, after = scene.shapes[source][-rank:], scene.shapes[node.name][-rank:]
            window = math.prod(-(-b // a) + 1 for b, a in zip(before, after, strict=True))
        else:
            window = math.prod(node["kernel_size"]) ** (rank if len(node["kernel_size"]) == 1 else 1)
        return Application(Structural(pooled, pooled, window + 2), (source,))


def _windows(node: Node, scene: Scene, source: str) -> Callable[[Tensor, float], Tensor] | None:
    """The elements under each place of a max-pool without dilation; None for other kinds."""
    rank = int(node.operation[-2]) if node.operation[-2].isdigit() else 0
    if not node.operation.startswith("max_pool") or not rank or "kernel_size" not in node.arguments:
        return None
    kernel = list(node["kernel_size"]) * (rank if len(node["kernel_size"]) == 1 else 1)
    stride, padding, dilation = (
        list(node.get(key) or default)
        for key, default in (("stride", kernel), ("padding", [0]), ("dilation", [1]))
    )
    stride, padding = (list(v) * (rank if len(v) == 1 else 1) for v in (stride, padding))
    shapes = scene.parts.get(node.name, (scene.shapes.get(node.name, ()),))
    made, given = shapes[0][-rank:], scene.shapes[source][-rank:]
    if any(d != 1 for d in dilation) or len(made) != rank:
        return None
    short = [
        (m - 1) * s + k - p - g for m, s, k, p, g in zip(made, stride, kernel, padding, given, strict=True)
    ]

    def windows(x: Tensor, outside: float) -> Tensor:
        for k in range(rank):
            axis = x.dim() - rank + k
            before = torch.full((*x.shape[:axis], padding[k], *x.shape[axis + 1 :]), outside, dtype=x.dtype)
            size = max(short[k], 0)
            after = torch.full((*x.shape[:axis], size, *x.shape[axis + 1 :]), outside, dtype=x.dtype)
            x = torch.cat([before, x, after], axis)
        first = x.dim() - rank
        for k in range(rank):
            x = x.unfold(first + k, kernel[k], stride[k])
        return x.flatten(-rank)

    return windows


RESIZED = tuple(
    f"upsample_{kind}"
    for kind in ("nearest1d", "nearest2d", "nearest3d", "bilinear2d", "bicubic2d", "linear1d", "trilinear3d")
)


class Resize(Operation):
    """Interpolation and sampling of positions: the batch and the channels are handed on."""

    name: ClassVar[str] = "resize"
    handles: ClassVar[tuple[str, ...]] = (
        *RESIZED,
        *(f"_upsample_nearest_exact{rank}d" for rank in (1, 2, 3)),
        *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler", "grid_sampler_2d"),
        *("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
        *("max_pool2d_with_indices", "max_pool1d_with_indices", "max_pool3d_with_indices"),
    )

    def label(self, node: Node, flow: Flow) -> Axes | tuple[Axes | None, ...]:
        data = flow.of(next(value for value in node.arguments.values() if isinstance(value, Ref)))
        shapes = node.shapes if node.shape is None else (node.shape,)
        if len(data) != len(shapes[0]) or len(data) < 3:
            raise LookupError(f"{node.name} has no batch axis")
        flow.pin(data[2:], f"resampled by {node.where}")
        if isinstance(node.get("grid"), Ref):
            flow.pin(flow.of(node["grid"]), f"resampled by {node.where}")
        made = tuple((*data[:2], *flow.fixed(shape[2:])) for shape in shapes)
        return made[0] if node.shape is not None else made

    def form(self, node: Node, scene: Scene) -> Application:
        """Nearest neighbours are moved; linear interpolation has weights ≥ 0, cubic has not."""
        argument, source = source_of(node)
        if "nearest" not in node.operation:
            raise UnsupportedOperation(f"{node.where}: {node.target} fits no form")

        def moved(sources: Sequence[Tensor]) -> Tensor:
            result: Tensor = replay(node, {argument: sources[0]})
            return result

        return Application(Structural(moved, moved, 1), (source,))
