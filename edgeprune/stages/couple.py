"""Graph → Coupling: labels flow through the graph, and what they tie becomes groups."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from edgeprune.errors import UsageError
from edgeprune.graph import Contact, Coupling, Flow, Graph, Group, Ints, Node, PinnedGroup, Place, Reader, Ref
from edgeprune.ops import operation_for
from edgeprune.registry import suggestion

logger = logging.getLogger(__name__)


def couple(graph: Graph, exclude: Sequence[str] = ()) -> Coupling:
    """Find the groups of channels that can be pruned, and the reason for each that cannot.

    Args:
        exclude: layers to leave alone: each name pins what the layer of that name, or any layer
            below it, makes.

    Raises:
        UsageError: an excluded name is no layer of the model.
    """
    flow = Flow(graph)
    for node in graph.nodes.values():
        _visit(node, flow)
    _exclude(flow, exclude)
    members = _components(flow)
    groups, pinned = [], []
    for contacts in members:
        made = [c for c in contacts if c.role == "produce"]
        labels = np.concatenate([_labels(flow, c) for c in made])
        fixed = flow.labels.pinned(labels)
        name = _name(graph, made[0])
        if fixed.any():
            reason = flow.labels.reason(int(labels[fixed][0]))
            places = tuple((graph.weight_of(c.argument) or c.argument.name, c.axis) for c in made)
            left_alone = PinnedGroup(name, int(fixed.sum()), places, reason)
            if left_alone not in pinned:  # a layer that is called twice is one layer
                pinned.append(left_alone)
        if not fixed.all():
            roots = np.unique(flow.labels.find(labels[~fixed]))
            groups.append(_group(flow, name, roots, made))
    _warn_unnamed(groups)
    return Coupling(graph, flow.labels, flow.axes, tuple(groups), tuple(pinned))


def _visit(node: Node, flow: Flow) -> None:
    """Give the node's result its labels; pin whatever reaches an operation without a rule."""
    if node.operation == "input":
        flow.axes[node.name] = None if node.shape is None else flow.fixed(node.shape)
    elif node.operation == "weight":
        flow.axes[node.name] = _weight_axes(node, flow)
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


def _weight_axes(node: Node, flow: Flow) -> tuple[Ints, ...]:
    """One set of labels a weight, however often it is read."""
    for other, axes in flow.axes.items():
        if flow.graph.nodes[other].operation == "weight" and flow.graph.nodes[other].target == node.target:
            return axes  # type: ignore[return-value]
    assert node.shape is not None
    return tuple(flow.labels.fresh(size) for size in node.shape)


def _pin(flow: Flow, name: str, reason: str) -> None:
    found = flow.axes.get(name)
    for part in found or ():
        for axis in (part,) if isinstance(part, np.ndarray) else (part or ()):
            flow.labels.pin(axis, reason)


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

    Classes that lie on one produced axis belong to one group: a layer's channels are chosen
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
        coo_matrix((np.ones(len(row)), (row, column)), shape=(size, size)), False
    )
    gathered: dict[int, list[Contact]] = defaultdict(list)
    for k, contact in enumerate(made):
        gathered[int(component[k])].append(contact)
    return list(gathered.values())


def _name(graph: Graph, contact: Contact) -> str:
    weight = graph.weight_of(contact.argument)
    return (weight or contact.node).removesuffix(".weight")


def _group(flow: Flow, name: str, roots: Ints, made: list[Contact]) -> Group:
    graph = flow.graph
    unit = np.full(len(flow.labels), -1, dtype=np.int64)
    unit[roots] = np.arange(len(roots))

    def units(axis: Ints) -> Ints:
        return np.asarray(unit[flow.labels.find(axis)])

    places, readers, seen = [], [], set()
    for node in graph.nodes.values():
        if node.operation != "weight" or node.target in seen:
            continue
        seen.add(node.target)
        for k, axis in enumerate(flow.of(Ref(node.name))):
            if (found := units(axis)).max(initial=-1) >= 0:
                places.append(Place(node.target, k, found))
    for contact in flow.contacts:
        if contact.role == "read" and (found := units(_heard(flow, contact))).max(initial=-1) >= 0:
            readers.append(_reader(flow, contact, found))
    touched = [graph.nodes[c.node].operation for c in made] + [graph.nodes[r.node].operation for r in readers]
    return Group(
        name,
        roots,
        tuple(places),
        tuple(c.node for c in made),
        tuple(readers),
        any(operation.startswith("conv") for operation in touched),
    )


def _heard(flow: Flow, contact: Contact) -> Ints:
    assert contact.data is not None
    return flow.of(Ref(contact.data))[contact.data_axis]


def _reader(flow: Flow, contact: Contact, units: Ints) -> Reader:
    weight = flow.graph.weight_of(contact.argument)
    plain = weight is not None and len(units) == len(_labels(flow, contact))
    once = sum(len(flow.graph.users(n.name)) for n in flow.graph.nodes.values() if n.target == weight) == 1
    assert contact.data is not None
    return Reader(contact.node, weight, contact.axis, contact.data, contact.data_axis, units, plain and once)


def _warn_unnamed(groups: list[Group]) -> None:
    for group in groups:
        if not group.readers:
            logger.info(
                "%s: nothing reads its units through a weight; their loss is not compensated", group.name
            )
