"""Graph → Coupling: labels flow through the graph, and what they tie becomes groups."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from edgeprune.errors import UnsupportedModel, UsageError
from edgeprune.graph import (
    Axes,
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
    group_of, unit_of = (np.full(len(flow.labels), -1, dtype=np.int64) for _ in range(2))
    found: list[tuple[str, Ints, list[Contact]]] = []
    pinned: list[PinnedGroup] = []
    taken: Counter[str] = Counter()
    signatures = _signatures(flow)
    for made in _components(flow):
        labels = np.concatenate([_labels(flow, c) for c in made])
        fixed = flow.labels.pinned(labels)
        name = _name(graph, made[0])
        if fixed.any():
            reason = flow.labels.reason(int(labels[fixed][0]))
            places = tuple((graph.weight_of(c.argument) or c.argument.name, c.axis) for c in made)
            left_alone = PinnedGroup(name, int(fixed.sum()), places, reason)
            if left_alone not in pinned:  # a layer that is called twice is one layer
                pinned.append(left_alone)
        for part, roots, makers in _parts(flow, made, labels[~fixed], signatures):
            taken[part] += 1
            unique = part if taken[part] == 1 else f"{part}#{taken[part]}"
            group_of[roots], unit_of[roots] = len(found), np.arange(len(roots))
            found.append((unique, roots, makers))
    groups = _groups(flow, found, group_of, unit_of)
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


def _components(flow: Flow) -> list[list[Contact]]:
    """Contacts that make channels, gathered where they share a class of labels.

    Classes that lie on one produced axis belong to one component: a layer's channels are chosen
    among each other.
    """
    made = [c for c in flow.contacts if c.role == "produce"]
    if not made:
        return []
    rows, columns = [], []
    for k, contact in enumerate(made):
        labels = _labels(flow, contact)
        roots = np.unique(flow.labels.find(labels[~flow.labels.pinned(labels)]))
        rows.append(np.full(len(roots), k))
        columns.append(roots)
    row, column = np.concatenate(rows), np.concatenate(columns) + len(made)
    size = len(made) + len(flow.labels)
    _, component = connected_components(
        coo_array((np.ones(len(row)), (row, column)), shape=(size, size)),  # type: ignore[no-untyped-call]
        False,
    )
    gathered: dict[int, list[Contact]] = defaultdict(list)
    for k, contact in enumerate(made):
        gathered[int(component[k])].append(contact)
    return list(gathered.values())


def _signatures(flow: Flow) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """For each class of labels a number that tells on which axes of which tensors it lies.

    Every axis draws a random number from a fixed seed, and a class sums those of its axes: equal
    sums are equal sets of axes but for a chance of 2⁻⁶⁴ a pair.
    """
    random = np.random.default_rng(0)
    total = np.zeros(len(flow.labels), dtype=np.uint64)
    seen: set[int] = set()
    for found in flow.axes.values():
        for part in found or ():
            for axis in (part,) if isinstance(part, np.ndarray) else (part or ()):
                if id(axis) not in seen and len(axis):
                    seen.add(id(axis))
                    roots = np.unique(flow.labels.find(axis))
                    total[roots] += random.integers(1, 2**64 - 1, dtype=np.uint64)
    return total


def _parts(
    flow: Flow,
    made: list[Contact],
    labels: Ints,
    signatures: np.ndarray[tuple[int], np.dtype[np.uint64]],
) -> Iterator[tuple[str, Ints, list[Contact]]]:
    """Cut a component where its channels part: each group keeps a unit, so no axis is left empty.

    Yields:
        A name, the representative labels and the makers of each group.
    """
    roots = np.unique(flow.labels.find(labels))
    if not len(roots):
        return
    kinds = np.unique(signatures[roots])
    ordered = sorted((roots[signatures[roots] == kind] for kind in kinds), key=lambda part: int(part[0]))
    on = [(c, flow.labels.find(_labels(flow, c))) for c in made]
    for part in ordered:
        makers = [(c, np.flatnonzero(np.isin(axis, part))) for c, axis in on]
        makers = [(c, index) for c, index in makers if len(index)]
        first, index = makers[0]
        name = _name(flow.graph, first)
        if len(ordered) > 1 and len(index) == index[-1] - index[0] + 1:
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
    """Hand every axis of every weight, and every reader, to the groups whose units it carries."""

    def units(axis: Ints) -> Iterator[tuple[int, Ints]]:
        roots = flow.labels.find(axis)
        owners = group_of[roots]
        for owner in np.unique(owners[owners >= 0]).tolist():
            yield owner, np.where(owners == owner, unit_of[roots], -1)

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
