"""Graph → Coupling: labels flow through the graph, and what they tie becomes groups."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import UnsupportedModel, UsageError
from edgeprune.graph.groups import (
    Axes,
    Bools,
    Contact,
    Coupling,
    Flow,
    Graph,
    Group,
    Ints,
    Node,
    PinnedGroup,
    Place,
    Reader,
    Ref,
)
from edgeprune.ops import operation_for
from edgeprune.progress import Progress, silent
from edgeprune.registry import suggestion

logger = logging.getLogger(__name__)

ROUNDS = 4
"""Times that the labels flow at most, to find the axes along which channels can be cut."""


def couple(
    graph: Graph,
    exclude: Sequence[str] = (),
    *,
    allow_norm_axes: bool = False,
    limit_s: float | None = None,
    progress: Progress = silent,
) -> Coupling:
    """Find the groups of channels that can be pruned, and the reason for each that cannot.

    Args:
        exclude: layers to leave alone: each name pins what the layer of that name, or any layer
            below it, makes.
        allow_norm_axes: whether channels that a layer norm or its like normalises over may go.
            What is left is then normalised anew: the shrunk net is only close to the masked one,
            and such groups say so.
        limit_s: seconds after which to give up.

    Raises:
        UsageError: an excluded name is no layer of the model.
        UnsupportedModel: the time limit was reached; the operation at work is named.
    """
    flow = _best_flow(graph, exclude, allow_norm_axes, limit_s, progress)
    classes = _Classes.of(flow)
    owners, units = (np.full(len(flow.labels), -1, dtype=np.int64) for _ in range(2))
    found: list[tuple[str, Ints, list[Contact]]] = []
    pinned: dict[PinnedGroup, None] = {}  # a layer that is called twice is one layer
    taken: Counter[str] = Counter()
    for made in _components(flow, classes):
        labels = np.concatenate([_labels(flow, c) for c in made])
        free = classes.free[labels]
        if not free.all():
            reason = flow.labels.reason(int(labels[np.argmin(free)]))
            places = tuple((graph.weight_of(c.argument) or c.argument.name, c.axis) for c in made)
            pinned[PinnedGroup(_name(graph, made[0]), int((~free).sum()), places, reason)] = None
        for part, roots, makers in _parts(flow, made, classes):
            taken[part] += 1
            unique = part if taken[part] == 1 else f"{part}#{taken[part]}"
            owners[roots], units[roots] = len(found), np.arange(len(roots))
            found.append((unique, roots, makers))
    groups = _groups(flow, found, owners[classes.roots], units[classes.roots])
    _warn_unnamed(groups)
    return Coupling(graph, flow.labels, flow.axes, tuple(groups), tuple(pinned), allow_norm_axes)


def _best_flow(
    graph: Graph, exclude: Sequence[str], norm_axes: bool, limit_s: float | None, progress: Progress
) -> Flow:
    """Let the labels flow; where a fork took an axis that turned out to be pinned, try another."""
    end = None if limit_s is None else time.monotonic() + limit_s
    choices: dict[str, int] = {}
    best, least = None, 0
    for _ in range(ROUNDS):
        flow = Flow(graph, norm_axes, dict(choices))
        _pin_taps(flow)
        for node in progress(graph.nodes.values(), "coupling", len(graph.nodes)):
            if end is not None and time.monotonic() > end:
                raise UnsupportedModel(
                    f"coupling took longer than {limit_s:g} s; it was at {node.where}. Allow more time, or "
                    "report the model: labels should flow in seconds."
                )
            _visit(node, flow)
        _exclude(flow, exclude)
        stuck = [name for name, fork in flow.forks.items() if not flow.free(fork.labels)]
        if best is None or len(stuck) < least:
            best, least = flow, len(stuck)
        more = {n: choices.get(n, 0) + 1 for n in stuck if choices.get(n, 0) + 1 < flow.forks[n].choices}
        if not more:
            break
        choices |= more
    assert best is not None
    return best


def _pin_taps(flow: Flow) -> None:
    """Pin the taps of kernels that are computed from a weight of their shape.

    Plain kernels are pinned by their convolution; computing on one may merge its taps with channels before.
    """
    graph = flow.graph
    for node in graph.nodes.values():
        kernel = node.get("weight") if node.operation.startswith("conv") else None
        if not isinstance(kernel, Ref) or graph.weight_of(kernel) is not None or graph.moves(kernel.name):
            continue
        shape, seen, waiting = graph.nodes[kernel.name].shape, {kernel.name}, [kernel.name]
        while waiting:
            at = graph.nodes[waiting.pop()]
            if at.operation == "weight" and at.shape == shape:
                flow.pin(flow.weight(at)[2:], "taps of a kernel")
            fresh = set(at.sources()) - seen
            seen |= fresh
            waiting += sorted(fresh)


def _visit(node: Node, flow: Flow) -> None:
    """Give the node's result its labels; pin whatever reaches an operation without a rule."""
    if node.operation == "input":
        flow.axes[node.name] = None if node.shape is None else _given(node, flow)
    elif node.operation == "weight":
        flow.axes[node.name] = flow.weight(node)
    elif node.operation == "output":
        for name in node.sources():
            _pin(flow, name, "an output of the model")
        flow.axes[node.name] = None
    else:
        rule = operation_for(node.operation)
        try:
            if rule is None:
                raise LookupError(f"no rule for {node.target}")
            flow.axes[node.name] = rule.label(node, flow)
        except (LookupError, ValueError) as reason:
            if node.shape is None and not node.shapes:
                flow.axes[node.name] = None  # a number: it carries no channels
                return
            for name in node.sources():
                _pin(flow, name, f"reaches {node.where}: {reason}")
            flow.axes[node.name] = (
                flow.fixed(node.shape)
                if node.shape is not None
                else tuple(flow.fixed(shape) for shape in node.shapes)
            )


def _given(node: Node, flow: Flow) -> Axes:
    """The axes of an input: whoever calls the model decides on them."""
    assert node.shape is not None
    axes = tuple(flow.labels.fresh(size) for size in node.shape)
    flow.pin(axes, f"tied to the model's input {node.target}")
    return axes


def _pin(flow: Flow, name: str, reason: str) -> None:
    found = flow.axes.get(name)
    for part in found or ():
        flow.pin((part,) if isinstance(part, np.ndarray) else (part or ()), reason)


def _exclude(flow: Flow, exclude: Sequence[str]) -> None:
    scopes = sorted({node.scope for node in flow.graph.nodes.values() if node.scope})
    for name in exclude:
        below = [s for s in scopes if s == name or s.startswith(f"{name}.")]
        if not below:
            raise UsageError(f"--exclude {name}: the model has no such layer; {suggestion(name, scopes)}")
        for contact in flow.contacts:
            if contact.role == "produce" and flow.graph.nodes[contact.node].scope in below:
                flow.labels.pin(_labels(flow, contact), f"excluded by --exclude {name}")


def _labels(flow: Flow, contact: Contact) -> Ints:
    return flow.of(contact.argument)[contact.axis]


@dataclass(frozen=True, slots=True)
class _Classes:
    """What is known of every label once no more are tied.

    Attributes:
        roots: the representative of its class.
        free: whether it can be removed.
        signatures: a number, where it is free, that tells on which axes of which tensors its class lies.
    """

    roots: Ints
    free: Bools
    signatures: np.ndarray[tuple[int], np.dtype[np.uint64]]

    @staticmethod
    def of(flow: Flow) -> _Classes:
        """Every axis draws a random number from a fixed seed, and a class sums those of its axes.

        Equal sums are equal sets of axes but for a chance of 2⁻⁶⁴ a pair.
        """
        roots = flow.labels.settle()
        free = ~flow.labels.pinned(roots)
        total = np.zeros(len(roots), dtype=np.uint64)
        axes = [roots[axis[free[axis]]] for axis in _axes(flow)]
        if axes:
            on = np.repeat(np.arange(len(axes)), [len(axis) for axis in axes])
            pairs = on * len(roots) + np.concatenate(axes)
            if not (pairs[1:] > pairs[:-1]).all():  # a class may lie on an axis in several places
                pairs = np.unique(pairs)
            on, classes = np.divmod(pairs, len(roots))
            drawn = np.random.default_rng(0).integers(1, 2**64 - 1, len(axes), dtype=np.uint64)
            np.add.at(total, classes, drawn[on])
        return _Classes(roots, free, total)


def _axes(flow: Flow) -> list[Ints]:
    """The axes of all tensors, each once."""
    found: dict[int, Ints] = {}
    for axes in flow.axes.values():
        for part in axes or ():
            for axis in (part,) if isinstance(part, np.ndarray) else (part or ()):
                found[id(axis)] = axis
    return list(found.values())


def _components(flow: Flow, classes: _Classes) -> list[list[Contact]]:
    """Contacts that make channels, gathered where they share a class of labels.

    Classes that lie on one produced axis belong to one component: a layer's channels are chosen
    among each other.
    """
    made = [c for c in flow.contacts if c.role == "produce"]
    above = list(range(len(made)))
    seen = np.full(len(classes.roots), -1, dtype=np.int64)

    def top(k: int) -> int:
        while above[k] != k:
            above[k] = k = above[above[k]]
        return k

    for k, contact in enumerate(made):
        labels = _labels(flow, contact)
        roots = classes.roots[labels[classes.free[labels]]]
        for other in set(seen[roots].tolist()) - {-1}:
            above[top(k)] = top(other)
        seen[roots] = k
    gathered: dict[int, list[Contact]] = defaultdict(list)
    for k, contact in enumerate(made):
        gathered[top(k)].append(contact)
    return list(gathered.values())


def _parts(flow: Flow, made: list[Contact], classes: _Classes) -> Iterator[tuple[str, Ints, list[Contact]]]:
    """Cut a component where its channels part: each group keeps a unit, so no axis is left empty.

    Yields:
        A name, the representative labels and the makers of each group.
    """
    on = [_labels(flow, c) for c in made]
    roots = np.unique(classes.roots[np.concatenate([axis[classes.free[axis]] for axis in on])])
    if not len(roots):
        return
    kinds = np.unique(classes.signatures[roots])
    parts = [roots[classes.signatures[roots] == kind] for kind in kinds] if len(kinds) > 1 else [roots]
    for part in sorted(parts, key=lambda part: int(part[0])):
        kind = classes.signatures[part[0]]
        lie = [classes.free[axis] & (classes.signatures[classes.roots[axis]] == kind) for axis in on]
        makers = [(c, np.flatnonzero(there)) for c, there in zip(made, lie, strict=True) if there.any()]
        first, index = makers[0]
        name = _name(flow.graph, first)
        if len(parts) > 1 and len(index) == index[-1] - index[0] + 1:
            whole = len(index) == len(_labels(flow, first))
            name = name if whole else f"{name}[{index[0]}:{index[-1] + 1}]"
        yield name, part, [c for c, _ in makers]


def _name(graph: Graph, contact: Contact) -> str:
    weight = graph.weight_of(contact.argument)
    scope = graph.nodes[contact.node].scope if contact.argument.name != contact.node else ""
    return (weight or scope or contact.node).removesuffix(".weight")


def _groups(
    flow: Flow, found: Sequence[tuple[str, Ints, list[Contact]]], group_of: Ints, unit_of: Ints
) -> list[Group]:
    """Hand every axis of every weight, and every reader, to the groups whose units it carries.

    Args:
        group_of: the group that each label belongs to, −1 for none.
        unit_of: which of its units the label is.
    """

    def units(axis: Ints) -> Iterator[tuple[int, Ints]]:
        owners = group_of[axis]
        first = int(owners.min(initial=len(found)))
        if first == owners.max(initial=-1):
            if first >= 0:
                yield first, unit_of[axis]
            return
        for owner in np.unique(owners[owners >= 0]).tolist():
            yield owner, np.where(owners == owner, unit_of[axis], -1)

    places: dict[int, list[Place]] = defaultdict(list)
    readers: dict[int, list[Reader]] = defaultdict(list)
    near: dict[int, str] = {}
    uses: Counter[str] = Counter()
    for node in flow.graph.nodes.values():
        if node.operation != "weight":
            continue
        fetched = node.target in uses
        uses[node.target] += len(flow.graph.users(node.name))
        if fetched:
            continue
        for k, axis in enumerate(flow.of(Ref(node.name))):
            for owner, index in units(axis):
                places[owner].append(Place(node.target, k, index))
    for contact in flow.contacts:
        if contact.role == "read":
            for owner, index in units(_heard(flow, contact)):
                readers[owner].append(_reader(flow, contact, index, uses))
    for axis, where in flow.approximate:
        for owner, _ in units(axis):
            near.setdefault(owner, f"normalised over by {where}")
    return [
        Group(
            name,
            roots,
            tuple(places[k]),
            tuple(c.node for c in made),
            tuple(readers[k]),
            _convolutional(flow.graph, (*(c.node for c in made), *(r.node for r in readers[k]))),
            near.get(k, ""),
        )
        for k, (name, roots, made) in enumerate(found)
    ]


def _convolutional(graph: Graph, touched: Sequence[str]) -> bool:
    return any(graph.nodes[name].operation.startswith("conv") for name in touched)


def _heard(flow: Flow, contact: Contact) -> Ints:
    assert contact.data is not None
    return flow.of(Ref(contact.data))[contact.data_axis]


def _reader(flow: Flow, contact: Contact, units: Ints, uses: Mapping[str, int]) -> Reader:
    weight = flow.graph.weight_of(contact.argument)
    plain = weight is not None and contact.compensable and len(units) == len(_labels(flow, contact))
    assert contact.data is not None
    return Reader(
        contact.node,
        weight,
        contact.axis,
        contact.data,
        contact.data_axis,
        units,
        plain and weight is not None and uses[weight] == 1,
    )


def _warn_unnamed(groups: list[Group]) -> None:
    for group in groups:
        if not group.readers:
            logger.info(
                "%s: nothing reads its units through a weight; their loss is not compensated", group.name
            )
