"""The traced network, and the labels that tell which of its channels live or die together.

A `Graph` is what one `torch.export` gave: operations on named weights, in order. Every axis of
every tensor in it carries one integer *label* per index (`Axes`). Operations hand labels on;
where two indices must live or die together their labels are tied (`Labels`, a union-find).
Label 0 is carried by whatever can never be removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgeprune.graph.copies import copied as copied
from edgeprune.graph.execution import Mask as Mask
from edgeprune.graph.execution import flatten_outputs as flatten_outputs
from edgeprune.graph.labels import FIXED as FIXED
from edgeprune.graph.labels import Axes as Axes
from edgeprune.graph.labels import Bools as Bools
from edgeprune.graph.labels import Ints as Ints
from edgeprune.graph.labels import Labels as Labels
from edgeprune.graph.network import Graph as Graph
from edgeprune.graph.network import Node as Node
from edgeprune.graph.network import Ref as Ref

Role = Literal["produce", "read"]


@dataclass(frozen=True, slots=True)
class Contact:
    """An axis of a weight where an operation makes new channels or reads existing ones.

    Attributes:
        argument: the weight; any other node where channels are read without one (two activations
            multiplied with each other).
        data: name of the node whose channels are read (for `read`), with the axis they lie on.
        compensable: whether the reader can be given other weights in place of the removed units.
    """

    role: Role
    node: str
    argument: Ref
    axis: int
    data: str | None = None
    data_axis: int = 0
    compensable: bool = True


@dataclass(frozen=True, slots=True)
class Fork:
    """A reshape that cuts channels in two or more axes, of which one alone can lose some.

    Attributes:
        labels: those of the axis that was chosen.
        choices: number of axes that could have been.
    """

    labels: Ints
    choices: int


@dataclass(slots=True)
class Flow:
    """What operations see while labels flow through the graph.

    Attributes:
        norm_axes: whether an axis that a layer norm or its like normalises over may lose channels.
        choices: by node, which of the possible axes a fork takes; the first where it is not named.
        forks: by node, what it took.
        approximate: labels whose removal changes what is normalised, and where.
    """

    graph: Graph
    norm_axes: bool = False
    choices: Mapping[str, int] = field(default_factory=dict)
    labels: Labels = field(default_factory=Labels)
    axes: dict[str, Axes | tuple[Axes | None, ...] | None] = field(default_factory=dict)
    contacts: list[Contact] = field(default_factory=list)
    forks: dict[str, Fork] = field(default_factory=dict)
    approximate: list[tuple[Ints, str]] = field(default_factory=list)
    _zeros: dict[int, Ints] = field(default_factory=dict)
    _weights: dict[str, Axes] = field(default_factory=dict)
    _copies: dict[int, Ints] = field(default_factory=dict)

    def weight(self, node: Node) -> Axes:
        """The labels of a weight: one set, however often it is fetched."""
        found = self._weights.get(node.target)
        if found is None:
            assert node.shape is not None
            found = self._weights[node.target] = tuple(self.labels.fresh(size) for size in node.shape)
        return found

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
        return tuple(self.zeros(size) for size in shape)

    def zeros(self, size: int) -> Ints:
        """The labels of one such axis; do not write into them."""
        return self._zeros.setdefault(size, np.zeros(size, dtype=np.int64))

    def uniform(self, shape: Sequence[int], sizes: Sequence[Any]) -> Axes:
        """Axes whose entries are all alike, so that any may go: those whose size is a number."""
        made = tuple(
            self.labels.fresh(size) if isinstance(written, int) and size > 1 else self.zeros(size)
            for size, written in zip(shape, sizes, strict=True)
        )
        self._copies.update({id(axis): axis for axis in made if axis is not self._zeros.get(len(axis))})
        return made

    def copies(self, axis: Ints) -> bool:
        """Whether an axis only holds equal entries, as `uniform` made it."""
        return id(axis) in self._copies

    def free(self, axis: Ints) -> bool:
        """Whether any of these labels can still be removed."""
        return not bool(self.labels.pinned(axis).all())

    def pin(self, axes: Iterable[Ints], reason: str) -> None:
        """Pin several axes for one reason."""
        for axis in axes:
            if axis is not self._zeros.get(len(axis)):
                self.labels.pin(axis, reason)

    def normalised(self, axis: Ints, where: str) -> None:
        """Note that an operation normalises over an axis: it is pinned unless the user allowed it."""
        if self.norm_axes:
            self.approximate.append((axis, where))
        else:
            self.labels.pin(axis, f"normalised over by {where}")

    def contact(
        self, role: Role, node: Node, argument: str, axis: int, data: Ref | None = None, data_axis: int = 0
    ) -> None:
        """Record that `node` makes or reads channels on an axis of its weight `argument`.

        A weight that is only turned (permuted, transposed) on its way is looked up behind that.
        """
        ref, axis = self.origin(node[argument], axis)
        self.contacts.append(Contact(role, node.name, ref, axis, data.name if data else None, data_axis))

    def origin(self, ref: Ref, axis: int) -> tuple[Ref, int]:
        """The node and axis that a value's axis has behind permutations."""
        while self.graph.nodes[ref.name].operation in TURNS:
            labels = self.of(ref)[axis]
            before = Ref(self.graph.nodes[ref.name].sources()[0])
            same = [k for k, candidate in enumerate(self.of(before)) if candidate is labels]
            if len(same) != 1:
                break
            ref, axis = before, same[0]
        return ref, axis


TURNS = frozenset(("permute", "transpose", "swapaxes", "t", "numpy_T"))
"""Operations that only change the order of axes."""


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
        approximate: where removing a unit changes what is normalised, so that the shrunk net is
            not the masked one; '' where it is exact.
    """

    name: str
    roots: Ints
    places: tuple[Place, ...]
    producers: tuple[str, ...]
    readers: tuple[Reader, ...]
    convolutional: bool
    approximate: str = ""
    _units: dict[tuple[str, int], Ints] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = {(place.weight, place.axis): place.units for place in reversed(self.places)}
        object.__setattr__(self, "_units", found)

    def units_at(self, weight: str, axis: int) -> Ints | None:
        """For each index of a weight's axis its unit, −1 for none; None where the axis carries none."""
        return self._units.get((weight, axis))

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
    """A graph with its groups: all that later stages need to know about structure.

    Attributes:
        norm_axes: whether channels that are normalised over were allowed to go.
    """

    graph: Graph
    labels: Labels
    axes: Mapping[str, Axes | tuple[Axes | None, ...] | None]
    groups: tuple[Group, ...]
    pinned: tuple[PinnedGroup, ...]
    norm_axes: bool = False

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
    _masks: dict[int, Bools] = field(default_factory=dict, repr=False, compare=False)
    _left: dict[bytes, Ints | None] = field(default_factory=dict, repr=False, compare=False)

    def mask(self, labels: Ints) -> Bools:
        """Which of the labels are left."""
        return np.asarray(self.living[self.coupling.labels.find(labels)])

    def narrowed(self, group: Group, keep: Ints) -> Alive:
        """The same, when a group that was whole keeps only these units."""
        living = self.living.copy()
        living[group.roots] = False
        living[group.roots[keep]] = True
        return Alive(self.coupling, living)

    def _of(self, labels: Ints) -> Bools:
        """The same for labels that the coupling holds; nodes share most of them, so they are kept."""
        found = self._masks.get(id(labels))
        if found is None:
            found = self._masks[id(labels)] = self.mask(labels)
        return found

    def axes(self, name: str) -> tuple[Bools, ...]:
        """For each axis of a node's tensor, which indices are left."""
        found = self.coupling.axes[name]
        if found is None:
            return ()
        return tuple(self._of(labels) for labels in found)  # type: ignore[arg-type]

    def left(self, name: str) -> tuple[Ints | None, ...]:
        """For each axis of a node's tensor the indices that are left, None where nothing was removed."""
        return tuple(self._indices(mask) for mask in self.axes(name))

    def _indices(self, mask: Bools) -> Ints | None:
        """Layers that share their channels share the indices."""
        key = mask.tobytes()
        if key not in self._left:
            self._left[key] = None if mask.all() else np.flatnonzero(mask)
        return self._left[key]

    def parts(self, name: str) -> tuple[tuple[Bools, ...], ...]:
        """The same for each tensor of a node that returns several."""
        found = self.coupling.axes[name]
        if found is None:
            return ()
        return tuple(() if part is None else tuple(self._of(axis) for axis in part) for part in found)

    def shape(self, name: str) -> tuple[int, ...]:
        """Sizes that are left of a node's tensor."""
        return tuple(int(mask.sum()) for mask in self.axes(name))

    def whole(self, name: str) -> bool:
        """Whether nothing of a node's tensor was removed."""
        return all(bool(mask.all()) for mask in self.axes(name))
