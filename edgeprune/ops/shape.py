"""Operations that only move elements: labels are cut, joined and rearranged as the elements are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.errors import UnsupportedOperation
from edgeprune.forms import Application, Scene, Structural
from edgeprune.graph import Alive, Axes, Flow, Ints, Node
from edgeprune.ops.operation import Operation, dimension, source_of


class Reshape(Operation):
    """view, reshape, flatten, squeeze and their like.

    Input and output sizes are walked together and cut into the smallest blocks of axes with equal
    products. Inside a block at most one prunable axis is followed: flattened, its labels are
    repeated; cut in two, they go to the axis along which they vary, and where they vary along
    both, the longest axis gets them and the others are tied.
    """

    name: ClassVar[str] = "reshape"
    handles: ClassVar[tuple[str, ...]] = (
        *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"),
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
        free = [k for k in sources if not flow.labels.pinned(data[k]).all()]
        if not sources or not targets:
            return
        if len(sources) == 1 and len(targets) == 1:
            result[targets[0]] = data[sources[0]]
            return
        if len(free) != 1:
            for k in sources:
                flow.labels.pin(data[k], f"merged with another prunable axis by {node.where}")
            return
        sizes = [len(data[k]) for k in sources]
        place = sources.index(free[0])
        spread = data[free[0]].reshape([-1 if k == place else 1 for k in range(len(sizes))])
        flat = np.broadcast_to(spread, sizes).reshape(-1)
        if len(targets) == 1:
            result[targets[0]] = flat.copy()
            return
        shape = [node.shape[k] for k in targets]
        grid = flat.reshape(shape)
        carrier = _carrier(grid)
        rows = np.moveaxis(grid, carrier, 0).reshape(shape[carrier], -1)
        for column in range(1, rows.shape[1]):
            flow.labels.tie(rows[:, 0], rows[:, column])
        result[targets[carrier]] = rows[:, 0].copy()

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        if node.operation == "unflatten":
            start = dimension(node["dim"], len(alive.axes(node["self"].name)))
            sizes = alive.shape(node.name)[start : start + len(node["sizes"])]
            return {"sizes": [_size(old, new) for old, new in zip(node["sizes"], sizes, strict=True)]}
        key = next((k for k in ("size", "shape") if k in node.arguments), None)
        if key is None:
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


def _carrier(grid: Ints) -> int:
    """The axis of `grid` that alone tells the label, or else the longest axis."""
    for axis in range(grid.ndim):
        rows = np.moveaxis(grid, axis, 0).reshape(grid.shape[axis], -1)
        if (rows == rows[:, :1]).all():
            return axis
    return int(np.argmax(grid.shape))


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


class Permute(Operation):
    """permute, transpose and t: axes change places."""

    name: ClassVar[str] = "permute"
    handles: ClassVar[tuple[str, ...]] = ("permute", "transpose", "swapaxes", "t", "numpy_T")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        return tuple(data[k] for k in self._order(node, len(data)))

    @staticmethod
    def _order(node: Node, rank: int) -> list[int]:
        """For each axis of the result, the axis of the data that it is."""
        order = list(range(rank))
        if node.operation in ("t", "numpy_T"):
            return order[::-1]
        if node.operation == "permute":
            return [dimension(d, rank) for d in node["dims"]]
        first, second = (
            dimension(node.arguments[key], rank)
            for key in (("dim0", "dim1") if "dim0" in node.arguments else ("axis0", "axis1"))
        )
        order[first], order[second] = second, first
        return order

    def form(self, node: Node, scene: Scene) -> Application:
        _, source = source_of(node)
        order = self._order(node, len(scene.shapes[source]))
        return Application(Structural.moving(lambda x: x.permute(order)), (source,))


class Concatenate(Operation):
    """cat: labels are joined along one axis, tied along the others."""

    name: ClassVar[str] = "cat"
    handles: ClassVar[tuple[str, ...]] = ("cat", "concat", "concatenate")

    def label(self, node: Node, flow: Flow) -> Axes:
        parts = [flow.of(ref) for ref in node["tensors"]]
        along = dimension(node["dim"], len(parts[0]))
        for part in parts[1:]:
            for k, axis in enumerate(part):
                if k != along:
                    flow.labels.tie(parts[0][k], axis)
        joined = np.concatenate([part[along] for part in parts])
        return tuple(joined if k == along else axis for k, axis in enumerate(parts[0]))

    def form(self, node: Node, scene: Scene) -> Application:
        along = int(node["dim"])

        def join(sources: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(sources), along)

        return Application(Structural(join, join), tuple(ref.name for ref in node["tensors"]))


class Split(Operation):
    """chunk, split, split_with_sizes: labels are cut where the elements are."""

    name: ClassVar[str] = "split"
    handles: ClassVar[tuple[str, ...]] = ("chunk", "split", "split_with_sizes", "tensor_split")

    def label(self, node: Node, flow: Flow) -> tuple[Axes, ...]:
        data = flow.of(node["self"])
        along = dimension(node["dim"], len(data))
        parts, start = [], 0
        for shape in node.shapes:
            cut = data[along][start : start + shape[along]]
            start += shape[along]
            parts.append(tuple(cut if k == along else axis for k, axis in enumerate(data)))
        return tuple(parts)

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        masks = alive.axes(node["self"].name)
        along = dimension(node["dim"], len(masks))
        if masks[along].all():
            return {}
        sizes = [int(part[along].sum()) for part in alive.parts(node.name)]
        return {"split_sizes": sizes, "dim": node["dim"]}

    def retarget(self, node: Node, alive: Alive) -> str | None:
        return "split_with_sizes.default" if self.narrow(node, alive) else None

    def form(self, node: Node, scene: Scene) -> tuple[Application, ...]:
        source = node["self"].name
        along = dimension(node["dim"], len(scene.shapes[source]))
        parts, start = [], 0
        for shape in scene.parts[node.name]:
            cut = _narrow(along, start, start + shape[along], 1)
            parts.append(Application(Structural.moving(cut), (source,)))
            start += shape[along]
        return tuple(parts)


def _narrow(axis: int, start: int | None, end: int | None, step: int) -> Callable[[Tensor], Tensor]:
    """Takes a range of an axis."""
    return lambda x: x[(*[slice(None)] * axis, slice(start, end, step))]


class Slice(Operation):
    """slice: a range of an axis."""

    name: ClassVar[str] = "slice"
    handles: ClassVar[tuple[str, ...]] = ("slice",)

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        along = dimension(node["dim"], len(data))
        bounds = (node["start"], node["end"], node["step"])
        if not all(value is None or isinstance(value, int) for value in bounds):
            if flow.labels.pinned(data[along]).all():
                assert node.shape is not None
                return tuple(
                    flow.fixed([node.shape[k]])[0] if k == along else axis for k, axis in enumerate(data)
                )
            raise LookupError(f"{node.name} has symbolic limits")
        if node["step"] != 1:
            flow.labels.pin(data[along], f"taken in steps of {node['step']} by {node.where}")
        return tuple(axis[slice(*bounds)] if k == along else axis for k, axis in enumerate(data))

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        masks = alive.axes(node["self"].name)
        along = dimension(node["dim"], len(masks))
        mask = masks[along]
        if mask.all():
            return {}
        start, end, _ = slice(node["start"], node["end"]).indices(len(mask))
        return {"start": int(mask[:start].sum()), "end": int(mask[:end].sum())}

    def form(self, node: Node, scene: Scene) -> Application:
        source = node["self"].name
        limits = (node["start"], node["end"], node["step"])
        if not all(value is None or isinstance(value, int) for value in limits):
            raise UnsupportedOperation(f"{node.where}: a slice with symbolic limits")
        along = dimension(node["dim"], len(scene.shapes[source]))
        return Application(Structural.moving(_narrow(along, *limits)), (source,))


class Expand(Operation):
    """expand: axes of size one are repeated, and so are fixed; others are handed on."""

    name: ClassVar[str] = "expand"
    handles: ClassVar[tuple[str, ...]] = ("expand",)

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        assert node.shape is not None
        result = list(flow.fixed(node.shape))
        offset = len(node.shape) - len(data)
        for k, axis in enumerate(data):
            if len(axis) == node.shape[offset + k]:
                result[offset + k] = axis
            else:
                flow.labels.pin(axis, f"repeated by {node.where}")
        return tuple(result)

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        return {
            "size": [_size(old, new) for old, new in zip(node["size"], alive.shape(node.name), strict=True)]
        }

    def form(self, node: Node, scene: Scene) -> Application:
        _, source = source_of(node)
        shape = scene.shapes[node.name]
        return Application(Structural.moving(lambda x: x.expand(shape)), (source,))


class Pad(Operation):
    """Padding: padded axes get places that are always there; the rest is handed on.

    Padding with anything but a constant copies elements, so such axes are fixed.
    """

    name: ClassVar[str] = "pad"
    handles: ClassVar[tuple[str, ...]] = ("pad", "constant_pad_nd")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = list(flow.of(node["self"]))
        constant = node.get("mode", "constant") == "constant"
        amounts = list(node["pad"])
        for index in range(len(amounts) // 2):
            k = len(data) - 1 - index
            low, high = amounts[2 * index], amounts[2 * index + 1]
            if low == 0 and high == 0:
                continue
            if not constant or low < 0 or high < 0:
                flow.labels.pin(data[k], f"padded by {node.where}")
                assert node.shape is not None
                data[k] = np.zeros(node.shape[k], dtype=np.int64)
            else:
                data[k] = np.concatenate([np.zeros(low, np.int64), data[k], np.zeros(high, np.int64)])
        return tuple(data)

    def form(self, node: Node, scene: Scene) -> Application:
        _, source = source_of(node)
        amounts, mode = list(node["pad"]), str(node.get("mode", "constant"))
        value = float(node.get("value") or 0.0) if mode == "constant" else None

        def padded(sources: Sequence[Tensor]) -> Tensor:
            return F.pad(sources[0], amounts, mode, value)

        def padded_by_zeros(sources: Sequence[Tensor]) -> Tensor:
            return F.pad(sources[0], amounts, mode, None if value is None else 0.0)

        return Application(Structural(padded, padded_by_zeros), (source,))


class Item(Operation):
    """getitem: one of the tensors that an operation returned."""

    name: ClassVar[str] = "getitem"
    handles: ClassVar[tuple[str, ...]] = ("getitem",)

    def label(self, node: Node, flow: Flow) -> Axes | None:
        parts = flow.axes.get(node["input"].name)
        if parts is None:
            raise LookupError(f"{node.name} takes a part of an unlabelled value")
        part = parts[node["index"]]
        assert part is None or isinstance(part, tuple)
        return part
