"""Operations that cut tensors and join them: labels are cut and joined as the elements are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from edgeprune.errors import UnsupportedOperation
from edgeprune.functions.forms import Application, Scene, Structural
from edgeprune.graph.groups import Alive, Axes, Flow, Ints, Node
from edgeprune.ops.operation import Operation, dimension


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
            if not flow.free(data[along]):
                assert node.shape is not None
                return tuple(flow.zeros(node.shape[k]) if k == along else axis for k, axis in enumerate(data))
            raise LookupError(f"{node.name} has symbolic limits")
        if node["step"] != 1:
            flow.labels.pin(data[along], f"taken in steps of {node['step']} by {node.where}")
        if slice(*bounds).indices(len(data[along])) == (0, len(data[along]), 1):
            return data
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


class Unbind(Operation):
    """unbind: an axis is taken apart, so all of its entries stay."""

    name: ClassVar[str] = "unbind"
    handles: ClassVar[tuple[str, ...]] = ("unbind",)

    def label(self, node: Node, flow: Flow) -> tuple[Axes, ...]:
        data = flow.of(node["self"])
        along = dimension(int(node["dim"]), len(data))
        flow.pin((data[along],), f"taken apart by {node.where}")
        left = tuple(axis for k, axis in enumerate(data) if k != along)
        return tuple(left for _ in node.shapes)

    def form(self, node: Node, scene: Scene) -> tuple[Application, ...]:
        source = node["self"].name
        along = dimension(int(node["dim"]), len(scene.shapes[source]))
        return tuple(
            Application(Structural.moving(_taken(along, k)), (source,))
            for k in range(len(scene.parts[node.name]))
        )


def _taken(axis: int, index: int) -> Callable[[Tensor], Tensor]:
    """Takes one entry of an axis."""
    return lambda x: x.select(axis, index)


class Select(Operation):
    """select: one entry of an axis, which stays; its place is counted anew where others before it go."""

    name: ClassVar[str] = "select"
    handles: ClassVar[tuple[str, ...]] = ("select",)

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"])
        along = dimension(int(node["dim"]), len(data))
        index = node["index"]
        picked = data[along] if not isinstance(index, int) else data[along][[index]]
        if flow.free(picked):
            flow.labels.pin(picked, f"picked out by {node.where}")
        return tuple(axis for k, axis in enumerate(data) if k != along)

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        masks = alive.axes(node["self"].name)
        mask = masks[dimension(int(node["dim"]), len(masks))]
        if mask.all():
            return {}
        index = int(node["index"])
        return {"index": int(mask[: index % len(mask)].sum())}

    def form(self, node: Node, scene: Scene) -> Application:
        source = node["self"].name
        if not isinstance(node["index"], int):
            raise UnsupportedOperation(f"{node.where}: a symbolic index")
        along = dimension(int(node["dim"]), len(scene.shapes[source]))
        return Application(Structural.moving(_taken(along, node["index"])), (source,))


class Stack(Operation):
    """stack: tensors are laid side by side along a new axis, tied along the others."""

    name: ClassVar[str] = "stack"
    handles: ClassVar[tuple[str, ...]] = ("stack",)

    def label(self, node: Node, flow: Flow) -> Axes:
        parts = [flow.of(ref) for ref in node["tensors"]]
        along = dimension(int(node["dim"]), len(parts[0]) + 1)
        for part in parts[1:]:
            for axis, other in zip(parts[0], part, strict=True):
                flow.labels.tie(axis, other)
        return (*parts[0][:along], flow.zeros(len(parts)), *parts[0][along:])

    def form(self, node: Node, scene: Scene) -> Application:
        along = int(node["dim"])

        def join(sources: Sequence[Tensor]) -> Tensor:
            return torch.stack(list(sources), along)

        return Application(Structural(join, join), tuple(ref.name for ref in node["tensors"]))


class Repeat(Operation):
    """repeat, tile and repeat_interleave: labels are repeated as the elements are.

    Of an axis of size one any of the equal copies may go, and the number of copies follows.
    """

    name: ClassVar[str] = "repeat"
    handles: ClassVar[tuple[str, ...]] = ("repeat", "tile", "repeat_interleave")

    def label(self, node: Node, flow: Flow) -> Axes:
        data = flow.of(node["self"] if "self" in node.arguments else node["input"])
        assert node.shape is not None
        if node.operation == "repeat_interleave":
            along, times = node.get("dim"), node.get("repeats")
            if not isinstance(along, int) or not isinstance(times, int):
                raise LookupError(f"{node.name} repeats by a tensor")
            place = dimension(along, len(data))
            return tuple(np.repeat(axis, times) if k == place else axis for k, axis in enumerate(data))
        times = node["repeats" if "repeats" in node.arguments else "dims"]
        data = (*flow.fixed([1] * (len(node.shape) - len(data))), *data)
        written = [1] * (len(data) - len(times)) + list(times)
        return tuple(
            self._repeated(node, flow, axis, size, count)
            for axis, size, count in zip(data, node.shape, written, strict=True)
        )

    @staticmethod
    def _repeated(node: Node, flow: Flow, axis: Ints, size: int, times: Any) -> Ints:
        if times == 1 and isinstance(times, int):
            return axis
        if len(axis) == 1:
            flow.labels.pin(axis, f"repeated by {node.where}")
            return flow.uniform([size], [times])[0]
        if not isinstance(times, int):
            flow.labels.pin(axis, f"repeated by {node.where}")
            return flow.zeros(size)
        return np.tile(axis, times)

    def narrow(self, node: Node, alive: Alive) -> Mapping[str, Any]:
        if node.operation == "repeat_interleave" or alive.whole(node.name):
            return {}
        key = "repeats" if "repeats" in node.arguments else "dims"
        before, after = alive.shape(node["self"].name), alive.shape(node.name)
        times = list(node[key])
        for back in range(1, len(times) + 1):
            single = back > len(before) or before[-back] == 1
            if single and isinstance(times[-back], int):
                times[-back] = after[-back]
        return {key: times}


__all__ = ["Concatenate", "Repeat", "Select", "Slice", "Split", "Stack", "Unbind"]
