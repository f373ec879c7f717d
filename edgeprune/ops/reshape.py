"""Operations that regroup elements: axes are merged, cut, and merged anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from edgeprune.functions.forms import Application, Scene, Structural
from edgeprune.graph.groups import Alive, Axes, Flow, Fork, Graph, Ints, Node
from edgeprune.ops.operation import Operation, dimension, replay, source_of

PRODUCTS = frozenset(("matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"))
MIXERS = frozenset(
    (
        "linear",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "addmm",
    )
)
MERGERS = frozenset(("view", "reshape", "_unsafe_view", "flatten"))
COPIES = frozenset(("permute", "transpose", "contiguous", "clone", "view", "reshape", "dropout"))
TURNS = 6
"""Nodes looked back over: heads are merged right behind their use."""
REACH = 60
"""Nodes looked at: heads are cut shortly before they are used."""


class Reshape(Operation):
    """view, reshape, flatten, squeeze and their like.

    Input and output sizes are walked together and cut into the smallest blocks of axes with equal
    products. Inside a block one prunable axis is followed: flattened, its labels are repeated;
    cut in several, they go to the axis along which they vary. Where they vary along more than one,
    one of them gets the labels, and what lies along the others is tied: heads ahead of an
    attention (the axis before the last), the longest axis elsewhere, and the next one where that
    turns out to be pinned.
    """

    name: ClassVar[str] = "reshape"
    handles: ClassVar[tuple[str, ...]] = (
        *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as"),
        "reshape_as",
    )

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"] if "self" in node.arguments else node["input"])
        assert node.shape is not None
        before = [len(axis) for axis in data]
        result: list[Ints] = list(flow.fixed(node.shape))
        for sources, targets in blocks(before, node.shape):
            self._block(node, flow, data, sources, targets, result)
        return tuple(result)

    @staticmethod
    def _block(
        node: Node, flow: Flow, data: Axes, sources: list[int], targets: list[int], result: list[Ints]
    ) -> None:
        assert node.shape is not None
        sources = [k for k in sources if len(data[k]) > 1]
        targets = [k for k in targets if node.shape[k] > 1]
        if not sources or not targets:
            return
        if len(sources) == 1 and len(targets) == 1:
            result[targets[0]] = data[sources[0]]
            return
        free = [k for k in sources if flow.free(data[k])]
        if any(not flow.copies(data[k]) for k in free):  # copies stay as many as they are
            flow.pin((data[k] for k in free if flow.copies(data[k])), f"merged by {node.where}")
            free = [k for k in free if not flow.copies(data[k])]
        if not free:
            if not flow.graph.moves(node.name):  # a kernel on its way: why it stays is to be told
                reason = flow.labels.reason(int(data[sources[0]][0]))
                for k in targets:
                    result[k] = flow.labels.fresh(node.shape[k])
                    flow.labels.pin(result[k], reason)
            return
        kept = free[0]  # heads lie before their width
        if len(free) > 1:
            heads = comes_from_attention(flow.graph, node.name)
            for k in free[1:] if heads else free:
                flow.labels.pin(data[k], f"merged with another prunable axis by {node.where}")
            if not heads:
                return
        sizes = [len(data[k]) for k in sources]
        place = sources.index(kept)
        spread = data[kept].reshape([-1 if k == place else 1 for k in range(len(sizes))])
        flat = np.broadcast_to(spread, sizes).reshape(-1)
        if len(targets) == 1:
            result[targets[0]] = flat.copy()
            return
        grid = flat.reshape([node.shape[k] for k in targets])
        carrier, labels = _carried(node, flow, grid, f"{node.name}:{targets[0]}")
        result[targets[carrier]] = labels

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        if node.operation == "unflatten":
            start = dimension(node["dim"], len(alive.axes(node["self"].name)))
            sizes = alive.shape(node.name)[start : start + len(node["sizes"])]
            return {"sizes": [_size(old, new) for old, new in zip(node["sizes"], sizes, strict=True)]}
        key = next((k for k in ("size", "shape") if k in node.arguments), None)
        if key is None or alive.whole(node.name):
            return {}
        masks = alive.axes(node.name)
        if not any(_symbolic(old) and not mask.all() for old, mask in zip(node[key], masks, strict=True)):
            return {key: [_size(old, int(mask.sum())) for old, mask in zip(node[key], masks, strict=True)]}
        # an axis that merges the batch with channels is what is left over; every other size is written out
        return {
            key: [
                (-1 if not mask.all() else old) if _symbolic(old) else int(mask.sum())
                for old, mask in zip(node[key], masks, strict=True)
            ]
        }

    def form(self, node: Node, scene: Scene) -> Application:
        _, source = source_of(node)
        shape = scene.shapes[node.name]
        return Application(Structural.moving(lambda x: x.reshape(shape)), (source,))


def _carried(node: Node, flow: Flow, grid: Ints, key: str) -> tuple[int, Ints]:
    """The axis of `grid` that carries the labels from here on, and its labels."""
    roots = flow.labels.find(grid.reshape(-1)).reshape(grid.shape)
    for axis in range(grid.ndim):
        rows = np.moveaxis(roots, axis, 0).reshape(grid.shape[axis], -1)
        if (rows == rows[:, :1]).all():
            return axis, np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1)[:, 0].copy()
    order = sorted(range(grid.ndim), key=lambda axis: -grid.shape[axis])
    if meets_attention(flow.graph, node.name):
        order.sort(key=lambda axis: axis != grid.ndim - 2)
    axis = order[min(flow.choices.get(key, 0), len(order) - 1)]
    rows = np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1)
    labels = rows[:, 0].copy()
    flow.labels.tie(np.repeat(labels, rows.shape[1] - 1), rows[:, 1:].reshape(-1))
    flow.forks[key] = Fork(labels, len(order))
    return axis, labels


def _symbolic(size: Any) -> bool:
    """Whether a size is computed in the graph, from the batch."""
    return not isinstance(size, int)


def _size(old: Any, new: int) -> Any:
    """A literal size in the narrowed graph; symbolic sizes and −1 stay as they are."""
    return new if isinstance(old, int) and old != -1 else old


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes of equal product into the smallest runs of axes with equal products."""
    cuts: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = list(range(i, min(i + 1, len(before)))), list(range(j, min(j + 1, len(after))))
        i, j = i + 1, j + 1
        while math.prod(before[k] for k in left) != math.prod(after[k] for k in right):
            if math.prod(before[k] for k in left) < math.prod(after[k] for k in right):
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        cuts.append((left, right))
    return cuts


def meets_attention(graph: Graph, name: str) -> bool:
    """Whether a node's axes reach a product of two activations before a layer mixes or merges them."""
    seen, waiting = {name}, [name]
    while waiting and len(seen) < REACH:
        at = graph.nodes[waiting.pop(0)]
        for user in graph.users(at.name):
            if user.operation in PRODUCTS and all(graph.moves(s) for s in user.sources()[:2]):
                return True
            if user.name not in seen and user.operation not in MIXERS and not _merges(at, user):
                seen.add(user.name)
                waiting.append(user.name)
    return False


def comes_from_attention(graph: Graph, name: str) -> bool:
    """Whether a node only turns and copies what a product of two activations gave."""
    node = graph.nodes[name]
    for _ in range(TURNS):
        sources = node.sources()
        if not sources:
            return False
        node = graph.nodes[sources[0]]
        if node.operation in PRODUCTS:
            return True
        if node.operation not in COPIES:
            return False
    return False


def _merges(before: Node, after: Node) -> bool:
    if after.operation not in MERGERS or before.shape is None or after.shape is None:
        return False
    longest = max(after.shape, default=1)
    return len(after.shape) < len(before.shape) and longest not in before.shape


class PixelShuffle(Operation):
    """pixel_shuffle: r² neighbouring channels become one, so they live or die together."""

    name: ClassVar[str] = "pixel_shuffle"
    handles: ClassVar[tuple[str, ...]] = ("pixel_shuffle", "pixel_unshuffle")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        assert node.shape is not None
        key = "upscale_factor" if "upscale_factor" in node.arguments else "downscale_factor"
        area = int(node[key]) ** 2
        flow.pin(data[-2:], f"rearranged by {node.where}")
        channels = data[-3]
        if node.operation == "pixel_unshuffle":
            made = np.repeat(channels, area)
        else:
            rows = channels.reshape(-1, area)
            made = rows[:, 0].copy()
            flow.labels.tie(np.repeat(made, area - 1), rows[:, 1:].reshape(-1))
        return (*data[:-3], made, *flow.fixed(node.shape[-2:]))

    def form(self, node: Node, scene: Scene) -> Application:
        argument, source = source_of(node)
        return Application(Structural.moving(lambda x: replay(node, {argument: x})), (source,))


class ChannelShuffle(Operation):
    """channel_shuffle: the i-th channels of all groups become neighbours, and live or die together."""

    name: ClassVar[str] = "channel_shuffle"
    handles: ClassVar[tuple[str, ...]] = ("channel_shuffle", "native_channel_shuffle")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        rows = data[1].reshape(int(node["groups"]), -1)
        made = rows[0].copy()
        flow.labels.tie(np.tile(made, len(rows) - 1), rows[1:].reshape(-1))
        return (data[0], np.repeat(made, len(rows)), *data[2:])

    def form(self, node: Node, scene: Scene) -> Application:
        argument, source = source_of(node)
        return Application(Structural.moving(lambda x: replay(node, {argument: x})), (source,))


class Unfold(Operation):
    """im2col, unfold and their inverse: every channel becomes one row for each tap of a window."""

    name: ClassVar[str] = "unfold"
    handles: ClassVar[tuple[str, ...]] = ("im2col", "col2im", "unfold")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        assert node.shape is not None
        if node.operation == "unfold":  # windows along one axis; a window is a new last axis
            along = dimension(node["dimension"], len(data))
            flow.pin((data[along],), f"cut into windows by {node.where}")
            new = flow.fixed(node.shape)
            return (*(new[k] if k == along else axis for k, axis in enumerate(data)), new[-1])
        if len(data) != (4 if node.operation == "im2col" else 3):
            raise LookupError(f"{node.name} has no batch axis")
        taps = math.prod(node["kernel_size"])
        flow.pin(data[2:], f"cut into windows by {node.where}")
        if node.operation == "im2col":
            return (data[0], np.repeat(data[1], taps), *flow.fixed(node.shape[2:]))
        rows = data[1].reshape(-1, taps)
        made = rows[:, 0].copy()
        flow.labels.tie(np.repeat(made, taps - 1), rows[:, 1:].reshape(-1))
        return (data[0], made, *flow.fixed(node.shape[2:]))


__all__ = ["ChannelShuffle", "PixelShuffle", "Reshape", "Unfold", "blocks"]
