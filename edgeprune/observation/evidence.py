"""Gathering a group's evidence from the traced graph, its weights and the calibration set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edgeprune.coresets import Evidence, Hearing
from edgeprune.coresets.coreset import Floats, Response, powers
from edgeprune.coresets.sensitivity import ADMISSIBLE
from edgeprune.graph.groups import Alive, Graph, Group, Ints, Node, Reader
from edgeprune.observation.gaussian import isotropic
from edgeprune.observation.importance import gradients_of, shares_of
from edgeprune.observation.knowledge import Knowledge
from edgeprune.observation.moments import listen, positions
from edgeprune.observation.patches import shift_site
from edgeprune.observation.powers import plain_powers
from edgeprune.observation.propagation import propagate
from edgeprune.observation.ways import Way, way


@dataclass(frozen=True, slots=True)
class Scene:
    """A net that is being pruned, and what is known of its inputs.

    Attributes:
        weights: the current weights at original sizes, by qualified name.
        alive: what is left of every axis under the groups chosen so far.
        knowledge: where second moments come from; None for a choice that asks for none.
        radii: by name of a making node, a bound on the l2 norm of what it hears.
        generator: for the part of the positions that is used.
        labels: classes of the samples, int64 (n,), where known.
    """

    graph: Graph
    weights: Mapping[str, Tensor]
    alive: Alive
    knowledge: Knowledge | None
    radii: Mapping[str, float]
    generator: torch.Generator
    labels: Tensor | None = None


def gather(
    scene: Scene,
    group: Group,
    *,
    hears: bool = True,
    rows: bool = True,
    shares: bool = False,
    gradients: bool = False,
) -> Evidence:
    """All that a coreset method may see of a group.

    Args:
        hears: whether the readers are looked at; without them it is much faster, and the rows are as stored.
        rows: whether the weights that make the units are looked at; without them there are only their powers.
        shares: also what part each unit has of its readers' sums, over the samples.
        gradients: also the mean squared first-order change of the loss without each unit.
    """
    graph, samples = scene.graph, None if scene.knowledge is None else scene.knowledge.samples
    plain = [reader for reader in group.readers if reader.weight is not None and hears]
    makers = [graph.nodes[name] for name in group.producers]
    if not (hears or rows):
        summed = partial(_summed, scene, group)
        return Evidence(group.name, (), (), (), (), count=group.size, summed=summed)
    folded = tuple(_rows(graph, group, maker, scene.weights, folded=hears) for maker in makers)
    ways = [way(graph, group, reader) for reader in plain]
    heard = [_applied(maker.name, ways) for maker in makers]
    laws = _moments(scene, group, plain, ways)
    fixed = torch.Generator().manual_seed(0)  # these methods count as deterministic
    parts: Sequence[Floats | None] = [None] * len(plain)
    if shares and samples is not None:
        parts = shares_of(graph, group, plain, scene.weights, samples, fixed)
    return Evidence(
        group.name,
        folded,
        tuple(name for name, _ in heard),
        tuple(scene.radii.get(maker.name) for maker in makers),
        tuple(_hearing(scene, group, r, m, s) for r, m, s in zip(plain, laws, parts, strict=True)),
        tuple(_scale(graph, group, maker, scene.weights) for maker in makers),
        gradients_of(graph, group, plain, scene.weights, samples, fixed, scene.labels)
        if gradients and samples is not None
        else None,
        raw=tuple(_rows(graph, group, maker, scene.weights, folded=False) for maker in makers if hears),
        responses=tuple(function for _, function in heard),
    )


def _summed(scene: Scene, group: Group, order: int) -> tuple[Floats, ...]:
    """Σ |p|^order of each unit, for each layer that makes it."""
    found = []
    for name in group.producers:
        maker = scene.graph.nodes[name]
        size = plain_powers(scene.graph, group, maker, scene.weights, order)
        if size is None:
            size = powers(_rows(scene.graph, group, maker, scene.weights, folded=False), order)
        found.append(size)
    return tuple(found)


def _applied(maker: str, ways: Sequence[Way]) -> tuple[str, Response | None]:
    """Name and function of the activation between a layer and the group's readers.

    Where there are several, one that the theorem does not cover if there is any; '' where all are covered, or
    where the layer is one of several whose values are added first.
    """
    mine = [one for one in ways if maker in one.makers]
    names = list(dict.fromkeys(name for one in mine for name in one.activations))
    foreign = [name for name in names if name not in ADMISSIBLE]
    if foreign:
        return foreign[0], None
    if len(names) != 1 or any(one.activations != (names[0],) or len(one.makers) > 1 for one in mine):
        return "", None
    function = mine[0].function
    if function is None:
        return names[0], None

    def response(z: Floats) -> Floats:
        found: Floats = function({maker: torch.from_numpy(z)}).numpy()
        return found

    return names[0], response


Known = tuple[Floats, Floats] | None
"""Mean (n,) and second moment (n, n) of what a reader hears of a group."""


def _moments(scene: Scene, group: Group, readers: Sequence[Reader], ways: Sequence[Way]) -> list[Known]:
    """For each reader, from the best that is known."""
    graph, knowledge = scene.graph, scene.knowledge
    if knowledge is None:
        return [None] * len(readers)
    if knowledge.samples is not None:
        asked = [one for one in readers if graph.moves(one.data)] or list(readers)
        heard = listen(
            graph, group, asked, scene.weights, knowledge.samples, scene.generator, knowledge.audible
        )
        laws = {id(one): (m.mean, m.second_moment) for one, m in zip(asked, heard, strict=True)}
        # a recurrent layer hears its own state: what the others hear of it
        return [laws.get(id(one), laws[id(asked[0])]) for one in readers]
    if knowledge.moments is not None:
        reached = propagate(graph, scene.weights, knowledge.moments)
        return [_placed(reached[reader.data], reader, group.size) for reader in readers]
    if knowledge.source != "none":
        return [None] * len(readers)
    known: dict[tuple[object, ...], Known] = {}
    for reader, one in zip(readers, ways, strict=True):
        if (reader.data, one.makers) not in known:
            known[reader.data, one.makers] = _from_nothing(graph, group, one)
    return [known[reader.data, one.makers] for reader, one in zip(readers, ways, strict=True)]


def _from_nothing(graph: Graph, group: Group, heard: Way) -> Known:
    """Moments where all inputs of the units' own layers are alike and independent.

    By the original's rows, so that no order matters.

    Where several layers are added, the activation is taken of their sum.
    """
    makers = heard.makers or group.producers
    if not makers:
        return None
    rows = np.concatenate([_rows(graph, group, graph.nodes[n], graph.weights) for n in makers], axis=1)
    function = heard.function
    if heard.activations in ((), ("relu",), ("step",)) and heard.makers:
        return isotropic(rows, "".join(heard.activations))
    if function is None:
        return isotropic(rows, "relu")
    first, *others = makers

    def response(z: Floats) -> Floats:
        values = torch.from_numpy(z)
        given = {first: values, **dict.fromkeys(others, torch.zeros_like(values))}
        found: Floats = function(given).numpy()
        return found

    return isotropic(rows, response)


def _placed(law: tuple[Floats, Floats], reader: Reader, size: int) -> tuple[Floats, Floats]:
    """Moments of units out of moments of values; averaged over the positions of a unit."""
    first, second = np.zeros(size), np.zeros((size, size))
    places = positions(reader.units, size)
    for place in places:
        index, there = place.clip(0), (place >= 0).astype(np.float64)
        first += law[0][index] * there
        second += law[1][np.ix_(index, index)] * np.outer(there, there)
    return first / len(places), second / len(places)


def rows_of(graph: Graph, group: Group, maker: str, weights: Mapping[str, Tensor]) -> Floats:
    """Incoming weights of each unit with its bias, (n, fan-in + 1); batch norm folded in."""
    return _rows(graph, group, graph.nodes[maker], weights)


def queries_of(weights: Mapping[str, Tensor], group: Group, reader: Reader) -> Floats:
    """A reader's weights by unit, output, and tap or position: (n, outputs, taps) float64."""
    assert reader.weight is not None
    return _queries(weights[reader.weight].double(), group, reader)


def _queries(weight: Tensor, group: Group, reader: Reader) -> Floats:
    assert reader.weight is not None
    units = group.units_at(reader.weight, reader.axis)
    assert units is not None
    turned = weight.movedim(reader.axis, 0)
    outputs = turned.shape[1] if turned.dim() > 1 else 1
    flat = turned.reshape(len(turned), outputs, -1).numpy()
    places = positions(units, group.size)
    parts = [flat[place.clip(0)] * (place >= 0)[:, None, None] for place in places]
    return np.concatenate(parts, axis=2)


def _hearing(scene: Scene, group: Group, reader: Reader, law: Known, share: Floats | None) -> Hearing:
    assert reader.weight is not None
    queries = _queries(_living(scene, reader), group, reader)
    size = np.abs(queries)
    flat = queries.reshape(len(queries), -1)
    single = queries[:, :, 0] if queries.shape[2] == 1 else size.max(axis=2)
    return Hearing(
        reader.node,
        flat @ flat.T,
        size.max(axis=(1, 2), initial=0.0),
        outputs=int((np.abs(single).max(axis=0, initial=0.0) > 0).sum()) or queries.shape[1],
        moment=None if law is None else law[1],
        mean=None if law is None else law[0],
        shiftable=reader.compensable and shift_site(scene.graph, reader) is not None,
        queries=single.T,
        taps=queries.shape[2],
        share=share,
        load=size.max(axis=1).sum(axis=1),
    )


def _living(scene: Scene, reader: Reader) -> Tensor:
    """A reader's weight, float64, with zeros for outputs that were removed before."""
    assert reader.weight is not None
    weight = scene.weights[reader.weight].double()
    node = next((n for n in scene.graph.nodes.values() if n.target == reader.weight), None)
    if node is None or node.operation != "weight":
        return weight
    for axis, mask in enumerate(scene.alive.axes(node.name)):
        if axis != reader.axis and not mask.all():
            sizes = [-1 if k == axis else 1 for k in range(weight.dim())]
            weight = weight * torch.from_numpy(mask).to(weight).reshape(sizes)
    return weight


def _scale(graph: Graph, group: Group, maker: Node, weights: Mapping[str, Tensor]) -> Floats | None:
    """γ of the batch norm that alone follows a layer, by unit."""
    users = graph.users(maker.name)
    name = graph.weight_of(maker.get("weight"))
    if len(users) != 1 or users[0].operation != "batch_norm" or name is None:
        return None
    factor = graph.weight_of(users[0].get("weight"))
    if factor is None:
        return None
    units = next((p.units for p in group.places if p.weight == factor), None)
    if units is None:
        return None
    values = weights[factor].double().numpy()
    places = positions(units, group.size)
    total = np.sum([np.abs(values[place.clip(0)]) * (place >= 0) for place in places], axis=0)
    return np.asarray(total, dtype=np.float64)


def _rows(
    graph: Graph, group: Group, maker: Node, weights: Mapping[str, Tensor], *, folded: bool = True
) -> Floats:
    """Incoming weights of each unit with its bias, (n, fan-in + 1); batch norm folded in where asked.

    A unit that a layer makes in several places (equal shares of a grouped convolution) gets
    the places side by side.
    """
    name = graph.weight_of(maker.get("weight"))
    units = None if name is None else group.units_at(name, 0)
    if name is None or units is None:
        return _carried(graph, group, maker, weights)
    value = weights[name].flatten(1)
    weight = (value if value.dtype in (torch.float32, torch.float64) else value.double()).numpy()
    bias_name = graph.weight_of(maker.get("bias"))
    bias = weights[bias_name].double().numpy() if bias_name else np.zeros(len(weight))
    scale, offset = np.ones(len(weight)), np.zeros(len(weight))
    if folded:
        scale, offset = _folded(graph, maker, weights, len(weight))
    rows = np.empty((len(weight), weight.shape[1] + 1))
    np.multiply(weight, scale[:, None], out=rows[:, :-1])
    rows[:, -1] = bias * scale + offset
    places = positions(units, group.size)
    if len(places) == 1 and np.array_equal(places[0], np.arange(len(rows))):
        return rows
    return np.concatenate([rows[place.clip(0)] * (place >= 0)[:, None] for place in places], axis=1)


def _carried(graph: Graph, group: Group, maker: Node, weights: Mapping[str, Tensor]) -> Floats:
    """The same for operations that are no plain layer: whatever of their weights carries the units.

    Ones where no weight does (it is computed), so that every unit scores alike.
    """
    own = {graph.nodes[name].target for name in maker.sources() if graph.nodes[name].operation == "weight"}
    parts = [np.zeros((group.size, 0))]
    for place in group.places:
        if place.weight in own:
            value = weights[place.weight].double().movedim(place.axis, 0)
            rows = value.reshape(len(value), -1).numpy()
            places = positions(place.units, group.size)
            parts += [rows[index.clip(0)] * (index >= 0)[:, None] for index in places]
    found = np.concatenate(parts, axis=1)
    return found if found.shape[1] else np.ones((group.size, 1))


def _folded(graph: Graph, maker: Node, weights: Mapping[str, Tensor], size: int) -> tuple[Floats, Floats]:
    """Scale and offset of the batch norm that alone follows, or of the identity."""
    users = graph.users(maker.name)
    if len(users) != 1 or users[0].operation != "batch_norm":
        return np.ones(size), np.zeros(size)
    norm = users[0]

    def value(argument: str, default: float) -> Floats:
        name = graph.weight_of(norm.get(argument))
        return weights[name].double().numpy() if name else np.full(size, default)

    scale = value("weight", 1.0) / np.sqrt(value("running_var", 1.0) + float(norm["eps"]))
    return scale, value("bias", 0.0) - value("running_mean", 0.0) * scale


__all__ = ["Ints", "Scene", "gather", "queries_of", "rows_of"]
