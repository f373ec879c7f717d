"""The traced network: operations on named weights, in order."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from edgeprune.graph.execution import AllSeen, Anew, Interpreter, Mask, flatten_outputs


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument that is the value of another node."""

    name: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operation, weight, input or output.

    Attributes:
        name: unique in the graph.
        operation: `input`, `weight`, `output`, `getitem`, or the ATen name without overload
            (`conv2d`).
        target: the full ATen name (`aten.conv2d.default`), or the weight's qualified name.
        arguments: by schema name, defaults filled in, other nodes as `Ref`.
        shape: sizes of the tensor (hints where symbolic); None when it is no single tensor.
        shapes: sizes of each tensor for an operation that returns several.
        floating: whether the tensor has a floating-point dtype.
        scope: path of the module that called it ('' for the root).
    """

    name: str
    operation: str
    target: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...] | None
    shapes: tuple[tuple[int, ...], ...] = ()
    floating: bool = True
    scope: str = ""

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """The argument, or `default` where the operation has no such argument."""
        return self.arguments.get(argument, default)

    def sources(self) -> tuple[str, ...]:
        """Names of the nodes this one reads, in the order of its arguments."""
        return tuple(_refs(self.arguments.values()))

    @property
    def where(self) -> str:
        """How a person finds it: the module's path if it has one, else the node's name."""
        return f"{self.scope} ({self.operation})" if self.scope else f"{self.name} ({self.operation})"


def _refs(value: Any) -> list[str]:
    if isinstance(value, Ref):
        return [value.name]
    if isinstance(value, Mapping):
        return [name for item in value.values() for name in _refs(item)]
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return []
    return [name for item in value for name in _refs(item)]


@dataclass(frozen=True, slots=True)
class Graph:
    """A traced network. Nothing in it is ever changed; later stages copy.

    Attributes:
        program: what `torch.export` returned.
        module: the same as an executable graph whose in-place operations were made functional.
        nodes: by name, in topological order.
        inputs: names of the input nodes that are tensors.
        outputs: names of the nodes whose values are returned.
        weights: parameters, buffers and constants by qualified name.
        batch: the leading size that the graph must be run with; None when it is free.
        traced_batch: the leading size that the shapes of the nodes speak of.
    """

    program: ExportedProgram
    module: fx.GraphModule
    nodes: Mapping[str, Node]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Tensor]
    batch: int | None
    traced_batch: int = 1

    _users: dict[str, tuple[Node, ...]] = field(init=False, repr=False, compare=False)
    _moving: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        users: dict[str, list[Node]] = {}
        moving: set[str] = set()
        for node in self.nodes.values():
            sources = dict.fromkeys(node.sources())
            for name in sources:
                users.setdefault(name, []).append(node)
            if node.operation == "input" or not moving.isdisjoint(sources):
                moving.add(node.name)
        object.__setattr__(self, "_users", {name: tuple(found) for name, found in users.items()})
        object.__setattr__(self, "_moving", frozenset(moving))

    def weight_of(self, ref: Any) -> str | None:
        """The qualified name of the weight that an argument is, or None if it is none."""
        if not isinstance(ref, Ref):
            return None
        node = self.nodes[ref.name]
        return node.target if node.operation == "weight" else None

    def constant(self, name: str, weights: Mapping[str, Tensor]) -> Tensor:
        """The value of a node that does not depend on the inputs.

        Args:
            weights: replacements for `self.weights`, by qualified name.
        """
        interpreter = Interpreter(self.module, {**self.weights, **weights}, frozenset(), {})
        made: dict[str, Any] = {}
        waiting = [name]
        nodes = {n.name: n for n in self.module.graph.nodes if n.name in self.nodes}
        while waiting:
            missing = [s for s in self.nodes[waiting[-1]].sources() if s not in made]
            if missing:
                waiting += missing
                continue
            at = nodes[waiting.pop()]
            interpreter.env = {nodes[key]: value for key, value in made.items()}
            with torch.no_grad():
                made[at.name] = interpreter.run_node(at)
        value: Tensor = made[name]
        return value

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that read `name`, in order."""
        return self._users.get(name, ())

    def moves(self, name: str) -> bool:
        """Whether a node's value depends on the model's inputs."""
        return name in self._moving

    def run(
        self,
        inputs: Sequence[Tensor],
        weights: Mapping[str, Tensor] | None = None,
        wanted: frozenset[str] = frozenset(),
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Execute the graph.

        Args:
            inputs: one tensor per input, as traced (batch size free unless `batch` is None).
            weights: replacements for `self.weights`, by qualified name; others stay.
            wanted: names of nodes whose values are asked for.

        Returns:
            The outputs, and the wanted values by node name.
        """
        interpreter = Interpreter(self.module, {**self.weights, **(weights or {})}, wanted, {})
        with torch.no_grad():
            result = interpreter.run(*inputs)
        return flatten_outputs(result), interpreter.values

    def values(
        self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor], wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        """The values of the wanted nodes; what comes after the last of them is not computed."""
        interpreter = Interpreter(self.module, {**self.weights, **weights}, wanted, {})
        with torch.no_grad(), contextlib.suppress(AllSeen):
            interpreter.stop_early = True
            interpreter.run(*inputs)
        return interpreter.values

    def run_masked(
        self,
        inputs: Sequence[Tensor],
        masks: Mapping[str, Sequence[Mask]],
        weights: Mapping[str, Tensor],
        dtype: torch.dtype | None = None,
        anew: Mapping[str, Anew] | None = None,
    ) -> tuple[Tensor, ...]:
        """Execute the graph while chosen readers hear zeros on some channels.

        Args:
            masks: by name of the reading node, what it must not hear.
            dtype: to compute in, None for the graph's own; weights are cast one by one, as they
                are read.
            anew: by name, normalisers that see only what is left.
        """
        interpreter = Interpreter(self.module, {**self.weights, **weights}, frozenset(), masks, dtype, anew)
        with torch.no_grad():
            return flatten_outputs(interpreter.run(*inputs))
