"""The traced network, and the labels that tell which of its channels live or die together.

A `Graph` is what one `torch.export` gave: operations on named weights, in order. Every axis of
every tensor in it carries one integer *label* per index (`Axes`). Operations hand labels on;
where two indices must live or die together their labels are tied (`Labels`, a union-find).
Label 0 is carried by whatever can never be removed.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Axes = tuple[Ints, ...]
"""One label array per axis of a tensor: axes[k] has shape (size of axis k,)."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)

FIXED = 0
_FREE = np.iinfo(np.int64).max


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

    def weight_of(self, ref: Any) -> str | None:
        """The qualified name of the weight that an argument is, or None if it is none."""
        if not isinstance(ref, Ref):
            return None
        node = self.nodes[ref.name]
        return node.target if node.operation == "weight" else None

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that read `name`, in order."""
        return tuple(node for node in self.nodes.values() if name in node.sources())

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
        interpreter = _Interpreter(self.module, {**self.weights, **(weights or {})}, wanted, {})
        with torch.no_grad():
            result = interpreter.run(*inputs)
        return flatten_outputs(result), interpreter.values

    def values(
        self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor], wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        """The values of the wanted nodes; what comes after the last of them is not computed."""
        interpreter = _Interpreter(self.module, {**self.weights, **weights}, wanted, {})
        with torch.no_grad(), contextlib.suppress(_AllSeen):
            interpreter.stop_early = True
            interpreter.run(*inputs)
        return interpreter.values

    def run_masked(
        self, inputs: Sequence[Tensor], masks: Mapping[str, Sequence[Mask]], weights: Mapping[str, Tensor]
    ) -> tuple[Tensor, ...]:
        """Execute the graph while chosen readers hear zeros on some channels.

        Args:
            masks: by name of the reading node, what it must not hear.
        """
        interpreter = _Interpreter(self.module, {**self.weights, **weights}, frozenset(), masks)
        with torch.no_grad():
            return flatten_outputs(interpreter.run(*inputs))


@dataclass(frozen=True, slots=True)
class Mask:
    """Channels of node `data`, on `axis`, that are heard (True) or read as zero (False)."""

    data: str
    axis: int
    heard: Bools


class _AllSeen(Exception):
    """Raised inside a run once every wanted value is known."""


class _Interpreter(fx.Interpreter):
    """Runs a graph with other weights, remembers some values, and mutes some channels."""

    def __init__(
        self,
        module: fx.GraphModule,
        weights: Mapping[str, Tensor],
        wanted: frozenset[str],
        masks: Mapping[str, Sequence[Mask]],
    ) -> None:
        super().__init__(module)
        self.weights = weights
        self.wanted = wanted
        self.masks = masks
        self.values: dict[str, Tensor] = {}
        self.stop_early = False

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        found = self.weights.get(target)
        return super().get_attr(target, args, kwargs) if found is None else found

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        if n.name not in self.masks:
            return super().fetch_args_kwargs_from_env(n)
        muted: dict[fx.Node, Tensor] = {}
        for mask in self.masks[n.name]:
            source = next(a for a in n.all_input_nodes if a.name == mask.data)
            value = muted.get(source, self.env[source])
            sizes = [-1 if k == mask.axis else 1 for k in range(value.dim())]
            heard = torch.from_numpy(mask.heard).to(value.dtype).reshape(sizes)
            muted[source] = value * heard
        lookup = {**self.env, **muted}
        return fx.node.map_arg(n.args, lookup.__getitem__), fx.node.map_arg(n.kwargs, lookup.__getitem__)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.wanted:
            self.values[n.name] = value
            if self.stop_early and len(self.values) == len(self.wanted):
                raise _AllSeen
        return value


def copied(module: ModuleT) -> ModuleT:
    """A deep copy; the warning that copying a traced module gives is torch's own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(module)


def flatten_outputs(result: Any) -> tuple[Tensor, ...]:
    """Every tensor in a model's (possibly nested) result, in pytree order."""
    leaves, _ = torch.utils._pytree.tree_flatten(result)
    return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


class Labels:
    """A union-find over integer labels, vectorised over numpy arrays.

    A class of tied labels is *pinned* once any of its members was pinned; the reason that was
    given first is the one reported.
    """

    def __init__(self) -> None:
        self._parent: Ints = np.zeros(1, dtype=np.int64)
        self._reason: Ints = np.zeros(1, dtype=np.int64)
        self._size = 1
        self.reasons: list[str] = ["a size that the operation fixes"]

    def fresh(self, count: int) -> Ints:
        """`count` new labels, each a class of its own."""
        end = self._size + count
        if end > len(self._parent):
            room = max(end, 2 * len(self._parent)) - len(self._parent)
            self._parent = np.concatenate(
                [self._parent, np.arange(len(self._parent), len(self._parent) + room)]
            )
            self._reason = np.concatenate([self._reason, np.full(room, _FREE)])
        new = np.arange(self._size, end, dtype=np.int64)
        self._size = end
        return new

    def find(self, labels: Ints) -> Ints:
        """The representative of each label's class (the smallest member), same shape."""
        roots = self._parent[labels]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[labels] = roots
        return roots

    def tie(self, first: Ints, second: Ints) -> None:
        """Make first[i] and second[i] live or die together, for every i."""
        if len(first) != len(second):
            raise ValueError(f"cannot tie {len(first)} labels to {len(second)}")
        while True:
            a, b = self.find(first), self.find(second)
            apart = a != b
            if not apart.any():
                return
            low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
            np.minimum.at(self._parent, high, low)
            np.minimum.at(self._reason, self.find(high), self._reason[high])

    def pin(self, labels: Ints, reason: str) -> None:
        """Forbid the removal of these labels (and of all that is tied to them, now or later)."""
        roots = np.unique(self.find(labels))
        free = roots[self._reason[roots] == _FREE]
        if len(free):
            if reason not in self.reasons:
                self.reasons.append(reason)
            self._reason[free] = self.reasons.index(reason)

    def pinned(self, labels: Ints) -> Bools:
        """Which of the labels may never be removed."""
        return np.asarray(self._reason[self.find(labels)] != _FREE)

    def reason(self, label: int) -> str:
        """Why a pinned label is pinned."""
        return self.reasons[int(self._reason[self.find(np.array([label]))[0]])]

    def __len__(self) -> int:
        return self._size


Role = Literal["produce", "read"]


@dataclass(frozen=True, slots=True)
class Contact:
    """An axis of a weight where an operation makes new channels or reads existing ones.

    Attributes:
        data: name of the node whose channels are read (for `read`), with the axis they lie on.
    """

    role: Role
    node: str
    argument: Ref
    axis: int
    data: str | None = None
    data_axis: int = 0


@dataclass(slots=True)
class Flow:
    """What operations see while labels flow through the graph."""

    graph: Graph
    labels: Labels = field(default_factory=Labels)
    axes: dict[str, Axes | tuple[Axes | None, ...] | None] = field(default_factory=dict)
    contacts: list[Contact] = field(default_factory=list)

    def of(self, ref: Ref) -> Axes:
        """The labels of a single tensor.

        Raises:
            LookupError: the value is no single labelled tensor.
        """
        found = self.axes.get(ref.name)
        if found is None or (found and not isinstance(found[0], np.ndarray)):
            raise LookupError(f"{ref.name} carries no labels")
        return found  # type: ignore[return-value]

    def fixed(self, shape: Sequence[int]) -> Axes:
        """Axes that can never be narrowed."""
        return tuple(np.zeros(size, dtype=np.int64) for size in shape)

    def contact(
        self, role: Role, node: Node, argument: str, axis: int, data: Ref | None = None, data_axis: int = 0
    ) -> None:
        """Record that `node` makes or reads channels on an axis of its weight `argument`."""
        self.contacts.append(
            Contact(role, node.name, node[argument], axis, data.name if data else None, data_axis)
        )


@dataclass(frozen=True, slots=True)
class Place:
    """An axis of a named weight that carries a group's units.

    Attributes:
        units: for each index of the axis, which unit of the group it belongs to; −1 for none.
    """

    weight: str
    axis: int
    units: Ints


@dataclass(frozen=True, slots=True)
class Reader:
    """An operation that consumes a group's units through a weight.

    Attributes:
        node: the operation.
        weight: its weight's qualified name; None where the weight is computed.
        data: the node whose channels it reads, on axis `data_axis`.
        units: for each index of that axis, the unit of the group; −1 for none.
        compensable: whether W′ = W · mixᵀ can be written into the weight: it is a plain weight,
            read once, whose axis matches the data's index by index.
    """

    node: str
    weight: str | None
    axis: int
    data: str
    data_axis: int
    units: Ints
    compensable: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Units that are pruned together, and every place that makes or consumes them.

    Attributes:
        name: of the first layer that makes them.
        roots: representative label of each unit.
        producers: names of the nodes that make the units, in order.
        convolutional: whether a convolution makes or reads them (then a target's channel
            multiple applies).
    """

    name: str
    roots: Ints
    places: tuple[Place, ...]
    producers: tuple[str, ...]
    readers: tuple[Reader, ...]
    convolutional: bool

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.roots)


@dataclass(frozen=True, slots=True)
class PinnedGroup:
    """Units that are left alone, and why."""

    name: str
    size: int
    places: tuple[tuple[str, int], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Coupling:
    """A graph with its groups: all that later stages need to know about structure."""

    graph: Graph
    labels: Labels
    axes: Mapping[str, Axes | tuple[Axes | None, ...] | None]
    groups: tuple[Group, ...]
    pinned: tuple[PinnedGroup, ...]

    def alive(self, keep: Mapping[str, Ints]) -> Alive:
        """What is left when each named group keeps only these units (others stay whole)."""
        living = np.ones(len(self.labels), dtype=np.bool_)
        for group in self.groups:
            if group.name in keep:
                living[group.roots] = False
                living[group.roots[keep[group.name]]] = True
        return Alive(self, living)


@dataclass(frozen=True, slots=True)
class Alive:
    """Which index of which axis is left under a plan."""

    coupling: Coupling
    living: Bools

    def mask(self, labels: Ints) -> Bools:
        """Which of the labels are left."""
        return np.asarray(self.living[self.coupling.labels.find(labels)])

    def axes(self, name: str) -> tuple[Bools, ...]:
        """For each axis of a node's tensor, which indices are left."""
        found = self.coupling.axes[name]
        if found is None:
            return ()
        return tuple(self.mask(labels) for labels in found)  # type: ignore[arg-type]

    def parts(self, name: str) -> tuple[tuple[Bools, ...], ...]:
        """The same for each tensor of a node that returns several."""
        found = self.coupling.axes[name]
        if found is None:
            return ()
        return tuple(() if part is None else tuple(self.mask(axis) for axis in part) for part in found)

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes that are left of a node's tensor."""
        return tuple(int(mask.sum()) for mask in self.axes(name))

    def whole(self, name: str) -> bool:
        """Whether nothing of a node's tensor was removed."""
        return all(bool(mask.all()) for mask in self.axes(name))
