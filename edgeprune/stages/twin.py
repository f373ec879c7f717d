"""Graph and plan → twins: what every node is mathematically, before and after pruning.

This is what deterministic bounds walk over. Operations say their forms; here they meet the weights
of both nets, what does not depend on the inputs is computed, and scalings (batch norm) are folded
into the layer before them, so that the cancellation between a layer and its pruned self is kept.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgeprune.errors import UnsupportedOperation
from edgeprune.forms import Affine, Application, Constant, Input, Kept, Scene, Twin
from edgeprune.graph import Alive, Graph, Node, Ref
from edgeprune.ops import operation_for
from edgeprune.ops.operation import replay


def twins(
    graph: Graph, alive: Alive, weights: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> tuple[Twin, ...]:
    """The nodes of both nets side by side, each after its sources.

    Args:
        graph: the original.
        alive: what the plan leaves.
        weights: of the pruned net, by qualified name: whole (they are then narrowed) or already
            narrowed; those not named are the original's.
        inputs: example inputs whose leading size the bounds shall have: one, but where the graph
            fixes another. Only their shapes matter.

    Raises:
        UnsupportedOperation: a node on the way to an output fits no form; it is named.
    """
    needed = _ancestors(graph)
    shapes, parts = _shapes(graph, inputs)
    masks = {name: alive.axes(name) if node.shape is not None else () for name, node in graph.nodes.items()}
    original = _Side(graph, Scene({}, shapes, parts), dict(graph.weights))
    pruned = _Side(graph, _narrowed(graph, alive, shapes, parts), {**graph.weights, **weights}, alive)
    result: list[Twin] = []
    for node in graph.nodes.values():
        if node.name not in needed or original.is_constant(node):
            original.remember(node)
            pruned.remember(node)
            continue
        if node.shape is None:
            continue  # its parts are taken one by one
        f, g = original.application(node), pruned.application(node)
        if f.sources != g.sources:
            raise UnsupportedOperation(f"{node.where}: pruning changed what it reads")
        _add_constants(f, result, original, pruned, masks)
        result.append(Twin(node.name, f.form, g.form, f.sources, _kept(masks[node.name])))
    return fold(result, frozenset(graph.outputs))


class _Side:
    """One of the two nets: its weights, and the forms of its nodes."""

    def __init__(
        self, graph: Graph, scene: Scene, weights: dict[str, Tensor], alive: Alive | None = None
    ) -> None:
        self.graph = graph
        self.scene = scene
        self.constants: dict[str, Tensor] = scene.constants  # type: ignore[assignment]
        self.weights = weights
        self.alive = alive
        self.unknown: dict[str, str] = {}

    def is_constant(self, node: Node) -> bool:
        """Whether nothing that the node reads depends on the inputs."""
        if node.operation in ("weight", "input", "output"):
            return node.operation != "input"
        known = self.constants.keys() | self.unknown.keys()
        return all(name in known for name in node.sources())

    def remember(self, node: Node) -> None:
        """Compute a node that does not depend on the inputs; what fails is missed only if it is read."""
        if node.operation == "weight":
            value = self.weights[node.target]
            if self.alive is not None and value.shape == self.graph.weights[node.target].shape:
                for axis, mask in enumerate(self.alive.axes(node.name)):
                    if not mask.all():
                        value = value.index_select(axis, torch.from_numpy(mask.nonzero()[0]))
            self.constants[node.name] = _double(value)
        elif node.operation != "output" and self.is_constant(node):
            node = self._narrow(node)
            try:
                value = replay(node, _values(node.arguments, self.constants))
                self.constants[node.name] = _double(value)
            except Exception as reason:  # any operation can be here, with any failure
                self.unknown[node.name] = str(reason)

    def application(self, node: Node) -> Application:
        """The node's form in this net.

        Raises:
            UnsupportedOperation: it has none.
        """
        if node.operation == "input":
            if not node.floating:
                raise UnsupportedOperation(f"{node.where}: an input of integers has no interval")
            return Application(Input(node.name), ())
        if node.operation == "getitem":
            parent = self.graph.nodes[node["input"].name]
            made = self._form(parent)
            if not isinstance(made, tuple) or not 0 <= node["index"] < len(made):
                raise UnsupportedOperation(f"{node.where}: this part of {parent.target} fits no form")
            part: Application = made[node["index"]]
            return part
        made = self._form(node)
        assert isinstance(made, Application)
        return made

    def _form(self, node: Node) -> Application | tuple[Application, ...]:
        rule = operation_for(node.operation)
        if rule is None:
            raise UnsupportedOperation(f"{node.where}: there is no rule for {node.target}")
        return rule.form(self._narrow(node), self.scene)

    def _narrow(self, node: Node) -> Node:
        rule = operation_for(node.operation)
        if self.alive is None or rule is None:
            return node
        changed = rule.narrow(node, self.alive)
        overload = rule.retarget(node, self.alive)
        target = f"aten.{overload}" if overload else node.target
        return dataclasses.replace(node, target=target, arguments={**node.arguments, **changed})


def _double(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError("not a single tensor")
    return value.detach().to(torch.float64) if value.is_floating_point() else value.detach()


def _values(value: Any, constants: Mapping[str, Tensor]) -> Any:
    """Arguments with the values of the nodes that they refer to."""
    if isinstance(value, Ref):
        return constants[value.name]
    if isinstance(value, Mapping):
        return {key: _values(item, constants) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_values(item, constants) for item in value]
    return value


def _ancestors(graph: Graph) -> frozenset[str]:
    """The outputs and all that they depend on."""
    found, waiting = set(), list(graph.outputs)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph.nodes[name].sources())
    return frozenset(found)


def _shapes(
    graph: Graph, inputs: Sequence[Tensor]
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[tuple[int, ...], ...]]]:
    """Sizes of every node's value at the inputs' leading size: seen by running the graph once."""
    with torch.no_grad():
        _, values = graph.run(inputs, wanted=frozenset(graph.nodes))
    shapes: dict[str, tuple[int, ...]] = {}
    parts: dict[str, tuple[tuple[int, ...], ...]] = {}
    several: Mapping[str, Any] = values
    for name, value in several.items():
        if isinstance(value, Tensor):
            shapes[name] = tuple(value.shape)
        elif isinstance(value, tuple | list):
            parts[name] = tuple(tuple(v.shape) if isinstance(v, Tensor) else () for v in value)
    return shapes, parts


def _narrowed(
    graph: Graph,
    alive: Alive,
    shapes: Mapping[str, tuple[int, ...]],
    parts: Mapping[str, tuple[tuple[int, ...], ...]],
) -> Scene:
    """The same for the pruned net: an axis of which something was removed has the size that is left."""
    left = {name: _left(shape, alive.axes(name)) for name, shape in shapes.items()}
    pieces = {}
    for name, sizes in parts.items():
        masks = alive.parts(name) or ((),) * len(sizes)
        pieces[name] = tuple(_left(shape, part) for shape, part in zip(sizes, masks, strict=True))
    return Scene({}, left, pieces)


def _left(shape: tuple[int, ...], masks: Sequence[Any]) -> tuple[int, ...]:
    if len(masks) != len(shape):
        return shape  # it carries no labels, so nothing of it is ever removed
    return tuple(size if mask.all() else int(mask.sum()) for size, mask in zip(shape, masks, strict=True))


def _kept(masks: Sequence[Any]) -> Kept:
    return tuple(None if mask.all() else torch.from_numpy(mask.nonzero()[0]) for mask in masks)


def _add_constants(
    application: Application, result: list[Twin], original: _Side, pruned: _Side, masks: Mapping[str, Any]
) -> None:
    """Twins for constants that are joined with what depends on the inputs."""
    present = {twin.name for twin in result}
    for name in application.sources:
        if name in present:
            continue
        if name not in original.constants or name not in pruned.constants:
            why = original.unknown.get(name) or pruned.unknown.get(name) or "it has no value"
            raise UnsupportedOperation(f"{original.graph.nodes[name].where}: {why}")
        pair = Constant(original.constants[name]), Constant(pruned.constants[name])
        result.append(Twin(name, *pair, (), _kept(masks[name])))


def fold(nodes: Sequence[Twin], outputs: frozenset[str]) -> tuple[Twin, ...]:
    """Fold scalings into the affine node that they alone read."""
    readers = Counter(source for twin in nodes for source in twin.sources)
    result: dict[str, Twin] = {}
    for twin in nodes:
        before = result.get(twin.sources[0]) if len(twin.sources) == 1 else None
        merged = None
        if before is not None and readers[before.name] == 1 and before.name not in outputs:
            merged = _merge(before, twin)
        if before is not None and merged is not None:
            del result[before.name]
        result[twin.name] = merged or twin
    return tuple(result.values())


def _merge(before: Twin, twin: Twin) -> Twin | None:
    forms = (before.f, twin.f, before.g, twin.g)
    if not all(isinstance(form, Affine) for form in forms) or len(before.kept) != len(twin.kept):
        return None
    f, scale_f, g, scale_g = forms
    assert isinstance(f, Affine)
    assert isinstance(g, Affine)
    assert isinstance(scale_f, Affine)
    assert isinstance(scale_g, Affine)
    both = f.followed_by(scale_f), g.followed_by(scale_g)
    if both[0] is None or both[1] is None:
        return None
    return Twin(twin.name, both[0], both[1], before.sources, twin.kept)
