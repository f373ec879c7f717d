"""What a net of given widths costs: a sum of pieces, each a function of the widths of a few groups.

A layer's parameters, multiply-accumulates, bytes and milliseconds depend on what it reads and what it makes,
so on one or two groups; behind a concatenation on more. Whatever is counted or measured, allocation sees
`Costs`: the price of a net, and the price of every width of a group while the others stay as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeprune.graph.groups import Coupling, Ints, Node
from edgeprune.ops import Operation, operation_for

Floats = npt.NDArray[np.float64]
Sizes = Callable[[str], tuple[int, ...]]
Counted = Literal["keep", "params", "macs", "bytes"]

UNITS: Mapping[str, str] = {"keep": "units", "params": "parameters", "macs": "MACs", "bytes": "bytes"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the cost.

    Attributes:
        groups: whose widths it depends on, each once.
        at: its value at their widths, in the same order.
    """

    groups: tuple[str, ...]
    at: Callable[[tuple[int, ...]], float]


@dataclass(frozen=True, slots=True)
class Costs:
    """What a net costs by the widths of its groups.

    Attributes:
        kind: `keep`, `params`, `macs`, `bytes` or `latency`.
        unit: of the numbers.
        whole: units of each group.
        fixed: what no width changes.
        pieces: the rest.
        polynomial: whether the cost is a polynomial of degree two in any one width.
    """

    kind: str
    unit: str
    whole: Mapping[str, int]
    fixed: float
    pieces: tuple[Piece, ...]
    polynomial: bool = True

    def price(self, widths: Mapping[str, int]) -> float:
        """The cost of a net; groups that are not named are whole."""
        every = {**self.whole, **widths}
        return self.fixed + sum(p.at(tuple(every[g] for g in p.groups)) for p in self.pieces)

    def share(self, widths: Mapping[str, int]) -> float:
        """The same as a share of the whole net's cost, 1 where that costs nothing."""
        whole = self.price({})
        return self.price(widths) / whole if whole else 1.0

    def along(self, widths: Mapping[str, int], name: str, grid: Ints) -> Floats:
        """The price at each width of one group, the others as they are: float64, as long as the grid.

        A count needs three evaluations: a layer costs inputs × outputs, and one inside a residual
        stream reads and makes the same group.
        """
        every = {**self.whole, **widths}
        return self.price(every) - self._near(every, name) + self.part(widths, name, grid)

    def part(self, widths: Mapping[str, int], name: str, grid: Ints) -> Floats:
        """The same without the pieces that the group has no part in: all that differs along its grid."""
        every = {**self.whole, **widths}
        if not self.polynomial or len(grid) <= 3:
            return np.array([self._near({**every, name: int(w)}, name) for w in grid])
        known = np.array([grid[0], grid[len(grid) // 2], grid[-1]])
        values = [self._near({**every, name: int(w)}, name) for w in known]
        return np.asarray(np.polyval(np.polyfit(known.astype(np.float64), values, 2), grid))

    def scaled(self, factor: float) -> Costs:
        """The same, everything times a number."""
        pieces = tuple(Piece(p.groups, partial(_times, factor, p)) for p in self.pieces)
        return replace(self, fixed=factor * self.fixed, pieces=pieces)

    def _near(self, widths: Mapping[str, int], name: str) -> float:
        """The pieces that a group has a part in."""
        return sum(p.at(tuple(widths[g] for g in p.groups)) for p in self.pieces if name in p.groups)


@dataclass(frozen=True, slots=True)
class Extents:
    """How long the axes of tensors are, by the widths of groups.

    A group of width w keeps its first w units here: units of a group take as many places each, but
    for odd cases (a unit that is read twice), where this is an approximation of other choices.
    """

    coupling: Coupling
    owners: npt.NDArray[np.int64]
    units: npt.NDArray[np.int64]

    @classmethod
    def of(cls, coupling: Coupling) -> Extents:
        """Number the labels: for each the group and the unit that it belongs to, −1 for none."""
        owners = np.full(len(coupling.labels), -1, dtype=np.int64)
        units = owners.copy()
        for number, group in enumerate(coupling.groups):
            owners[group.roots], units[group.roots] = number, np.arange(group.size)
        return cls(coupling, owners, units)

    def at(self, widths: Mapping[str, int]) -> Sizes:
        """The sizes of any node when groups have these widths; those that are not named are whole."""

        def sizes(name: str) -> tuple[int, ...]:
            return tuple(
                fixed + sum(int(places[widths.get(group, len(places) - 1)]) for group, places in parts)
                for fixed, parts in self.axes(name)
            )

        return sizes

    def axes(self, name: str) -> tuple[tuple[int, tuple[tuple[str, Ints], ...]], ...]:
        """For each axis of a node: what is always there, and (group, places by width 0 … n)."""
        found = self.coupling.axes[name]
        if found is None:
            return ()
        return tuple(self._axis(labels) for labels in found)  # type: ignore[arg-type]

    def _axis(self, labels: Ints) -> tuple[int, tuple[tuple[str, Ints], ...]]:
        roots = self.coupling.labels.find(labels)
        owners, units = self.owners[roots], self.units[roots]
        parts = []
        for number in np.unique(owners[owners >= 0]):
            group = self.coupling.groups[number]
            places = np.bincount(units[owners == number], minlength=group.size)
            parts.append((group.name, np.concatenate([[0], np.cumsum(places)])))
        return int((owners < 0).sum()), tuple(parts)


def piece_of(extents: Extents, value: Callable[[Sizes], float]) -> Piece:
    """The piece that a function of some nodes' sizes is.

    Args:
        value: asked once to see which nodes it looks at; the groups on their axes are the piece's.
    """
    seen: dict[str, tuple[tuple[int, tuple[tuple[str, Ints], ...]], ...]] = {}
    groups: dict[str, None] = {}

    def look(name: str) -> tuple[int, ...]:
        seen[name] = extents.axes(name)
        groups.update({group: None for _, parts in seen[name] for group, _ in parts})
        return tuple(fixed + sum(int(places[-1]) for _, places in parts) for fixed, parts in seen[name])

    value(look)
    names, known = tuple(groups), dict[tuple[int, ...], float]()

    def at(widths: tuple[int, ...]) -> float:
        if widths not in known:
            by_name = dict(zip(names, widths, strict=True))

            def sizes(name: str) -> tuple[int, ...]:
                return tuple(
                    fixed + sum(int(places[by_name[group]]) for group, places in parts)
                    for fixed, parts in seen[name]
                )

            known[widths] = float(value(sizes))
        return known[widths]

    return Piece(names, at)


def counted(coupling: Coupling, kind: Counted) -> Costs:
    """Units, parameters, multiply-accumulates for one sample, or bytes of the weights."""
    whole = {group.name: group.size for group in coupling.groups}
    if kind == "keep":
        return Costs(kind, UNITS[kind], whole, 0.0, tuple(Piece((n,), lambda w: float(w[0])) for n in whole))
    extents = Extents.of(coupling)
    values = _macs(coupling) if kind == "macs" else _weights(coupling, kind)
    return gathered(kind, UNITS[kind], whole, [piece_of(extents, value) for value in values])


def _macs(coupling: Coupling) -> Iterable[Callable[[Sizes], float]]:
    graph = coupling.graph
    for node in graph.nodes.values():
        if node.operation != "weight" and (rule := operation_for(node.operation)) is not None:
            yield partial(_macs_of, node, rule, graph.traced_batch)


def _macs_of(node: Node, rule: Operation, batch: int, sizes: Sizes) -> float:
    return rule.macs(node, sizes) / batch


def _weights(coupling: Coupling, kind: str) -> Iterable[Callable[[Sizes], float]]:
    """Parameters, or the bytes of parameters and buffers; a weight that is used twice counts once."""
    graph = coupling.graph
    parameters = {name for name, _ in graph.module.named_parameters(remove_duplicate=False)}
    first = {n.target: n.name for n in reversed(list(graph.nodes.values())) if n.operation == "weight"}
    for target, name in first.items():
        if kind == "bytes":
            each = graph.weights[target].element_size() if target in graph.weights else 0
        else:
            each = int(target in parameters)
        if each:
            yield partial(_entries, name, each)


def _entries(name: str, each: int, sizes: Sizes) -> float:
    return each * math.prod(sizes(name))


def gathered(
    kind: str, unit: str, whole: Mapping[str, int], pieces: Iterable[Piece], polynomial: bool = True
) -> Costs:
    """Costs of these pieces; those of the same groups become one, those of none are fixed."""
    together: dict[tuple[str, ...], list[Piece]] = defaultdict(list)
    order = {name: k for k, name in enumerate(whole)}
    for piece in pieces:
        names = tuple(sorted(piece.groups, key=order.__getitem__))
        together[names].append(_turned(piece, names))
    fixed = sum(piece.at(()) for piece in together.pop((), []))
    merged = [Piece(names, partial(_summed, tuple(parts))) for names, parts in together.items()]
    return Costs(kind, unit, whole, fixed, tuple(merged), polynomial)


def _times(factor: float, piece: Piece, widths: tuple[int, ...]) -> float:
    return factor * piece.at(widths)


def _summed(parts: tuple[Piece, ...], widths: tuple[int, ...]) -> float:
    return sum(part.at(widths) for part in parts)


def _turned(piece: Piece, names: tuple[str, ...]) -> Piece:
    """The same piece, its groups in another order."""
    if names == piece.groups:
        return piece
    where = [names.index(name) for name in piece.groups]
    return Piece(names, lambda widths: piece.at(tuple(widths[k] for k in where)))
