"""The original net and the pruned one, node by node: what the differential bounds walk.

The narrowed graph keeps the names of the original's nodes, so a pair is found by name and never
guessed by comparing two graphs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgeprune.bounds.interval import Step
from edgeprune.errors import UnsupportedOperation
from edgeprune.functions.forms import Application, Chain, Constant, Form, Input, Kept, Scene, Twin
from edgeprune.graph.execution import Interpreter
from edgeprune.graph.groups import Alive, Graph, Node, copied
from edgeprune.ops import operation_for


@dataclass(frozen=True, slots=True)
class Pair:
    """Both nets as twins, every node after its sources.

    Attributes:
        inputs: names of the input nodes.
        shapes: of one input each, without the batch axis.
        outputs: names of the nodes that are the model's outputs.
    """

    twins: tuple[Twin, ...]
    inputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[str, ...]

    def pruned(self) -> tuple[Step, ...]:
        """The pruned net alone."""
        return tuple(Step(twin.name, twin.g, twin.sources) for twin in self.twins)


def twins_of(graph: Graph, narrowed: fx.GraphModule, alive: Alive, inputs: Sequence[Tensor]) -> Pair:
    """Pair the nodes of the original graph with those of the narrowed one.

    Args:
        narrowed: from `shrink`, with the pruned net's weights.
        inputs: one example, with a batch of one (or the batch that the graph fixes).

    Raises:
        UnsupportedOperation: an operation on the way from the inputs fits no form; named.
    """
    moving = _moving(graph) & _needed(graph)
    first = _scene(_all_values(graph.module, inputs), moving)
    second = _scene(_all_values(narrowed, inputs), moving)
    twins: dict[str, Twin] = {}
    parts: dict[str, tuple[tuple[Application, Application], ...]] = {}
    for node in graph.nodes.values():
        if (
            node.name not in moving
            or node.operation == "output"
            or not (node.name in first.shapes or node.name in first.parts)
        ):
            continue
        if node.operation == "input":
            twins[node.name] = Twin(
                node.name, Input(node.name), Input(node.name), (), _kept(alive, node.name)
            )
            continue
        if node.operation == "getitem":
            f, g = _part(node, parts)
        else:
            made, other = _forms(node, alive, first, second)
            if isinstance(made, Chain):
                assert isinstance(other, Chain)
                _chained(node, made, other, alive, (first, second), moving, twins)
                continue
            if not isinstance(made, Application):
                assert not isinstance(other, Application | Chain)
                parts[node.name] = tuple(zip(made, other, strict=True))
                continue
            assert isinstance(other, Application)
            f, g = made, other
        _add_constants(f.sources, first, second, alive, moving, twins)
        twins[node.name] = Twin(node.name, f.form, g.form, f.sources, _kept(alive, node.name))
    return Pair(
        tuple(twins.values()),
        graph.inputs,
        tuple(first.shapes[name][1:] for name in graph.inputs),
        graph.outputs,
    )


def _part(
    node: Node, parts: Mapping[str, tuple[tuple[Application, Application], ...]]
) -> tuple[Application, Application]:
    found = parts.get(node["input"].name, ())
    if not node["index"] < len(found):
        raise UnsupportedOperation(
            f"{node.where}: this part of what {node['input'].name} returns fits no form"
        )
    return found[node["index"]]


def _chained(
    node: Node,
    made: Chain,
    other: Chain,
    alive: Alive,
    scenes: tuple[Scene, Scene],
    moving: frozenset[str],
    twins: dict[str, Twin],
) -> None:
    """A twin for each step; the last one has the node's name."""
    last = made.parts[-1].name
    for f, g in zip(made.parts, other.parts, strict=True):
        sources = tuple(node.name + name if name.startswith(".") else name for name in f.application.sources)
        _add_constants(sources, *scenes, alive, moving | twins.keys(), twins)
        name = node.name if f.name == last else f"{node.name}.{f.name}"
        kept: Kept = tuple(None if at is None else _kept(alive, at[0])[at[1]] for at in f.axes)
        twins[name] = Twin(name, f.application.form, g.application.form, sources, kept)


def _add_constants(
    sources: Sequence[str],
    first: Scene,
    second: Scene,
    alive: Alive,
    moving: Collection[str],
    twins: dict[str, Twin],
) -> None:
    for source in sources:
        if source not in moving and source not in twins:
            twins[source] = _constant(source, first, second, alive)


def _forms(
    node: Node, alive: Alive, first: Scene, second: Scene
) -> tuple[Application | Chain | tuple[Application, ...], Application | Chain | tuple[Application, ...]]:
    rule = operation_for(node.operation)
    if rule is None:
        raise UnsupportedOperation(f"{node.where}: there is no rule for {node.target}")
    narrowed = replace(node, arguments={**node.arguments, **rule.narrow(node, alive)})
    return rule.form(node, first), rule.form(narrowed, second)


def _needed(graph: Graph) -> frozenset[str]:
    """Names of the nodes that the outputs depend on, and of the inputs."""
    found = {*graph.outputs, *graph.inputs}
    for node in reversed(list(graph.nodes.values())):
        if node.name in found:
            found.update(node.sources())
    return frozenset(found)


def _moving(graph: Graph) -> frozenset[str]:
    """Names of the nodes that depend on the inputs' values, not only on their sizes."""
    found: set[str] = set()
    for node in graph.nodes.values():
        if node.operation in ("sym_size", "sym_numel"):
            continue
        if node.operation == "input" or found.intersection(node.sources()):
            found.add(node.name)
    return frozenset(found)


def _all_values(module: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Every node's value in float64; casts to the traced precision follow."""
    every = frozenset(node.name for node in module.graph.nodes)
    recorder = Interpreter(copied(module).double(), {}, every, {}, torch.float64)
    with torch.no_grad():
        recorder.run(*[x.double() if x.is_floating_point() else x for x in inputs])
    return dict(recorder.values)


def _scene(values: Mapping[str, Any], moving: frozenset[str]) -> Scene:
    tensors = {name: v.detach() for name, v in values.items() if isinstance(v, Tensor)}
    several = {name: v for name, v in values.items() if isinstance(v, tuple | list)}
    return Scene(
        constants={name: v.double() for name, v in tensors.items() if name not in moving},
        shapes={name: tuple(v.shape) for name, v in tensors.items()},
        parts={
            name: tuple(tuple(part.shape) for part in v)
            for name, v in several.items()
            if all(isinstance(part, Tensor) for part in v)
        },
    )


def _kept(alive: Alive, name: str) -> Kept:
    return tuple(None if mask.all() else torch.from_numpy(np.flatnonzero(mask)) for mask in alive.axes(name))


def _constant(name: str, first: Scene, second: Scene, alive: Alive) -> Twin:
    f: Form = Constant(first.constants[name])
    g: Form = Constant(second.constants[name])
    return Twin(name, f, g, (), _kept(alive, name))


__all__ = ["Pair", "twins_of"]
