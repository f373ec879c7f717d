"""Widths → Plan: which units stay in each group, and what their readers' weights become.

Groups are visited bottom-up. Each is judged in the net that is already pruned below it, and its
readers are refitted against what the *original* net computes there, so that errors do not pile
up from layer to layer. The readers of a residual stream are fitted before the branches above them are
pruned; they are fitted again at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeprune.coresets import CORESETS, Coreset, Evidence
from edgeprune.errors import CalibrationError, UsageError
from edgeprune.graph.groups import Alive, Coupling, Graph, Group, Reader
from edgeprune.graph.silenced import Weights
from edgeprune.observation import (
    Originals,
    Scene,
    batches,
    gather,
    landing,
    positions,
    refit,
    refittable,
    shift_site,
)
from edgeprune.observation.knowledge import Knowledge, know
from edgeprune.plan import Plan, Selection
from edgeprune.progress import Progress, silent

logger = logging.getLogger(__name__)

DIRECTIONS = ("bottom-up", "top-down")


@dataclass(frozen=True, slots=True)
class Manner:
    """How groups are visited, and where second moments come from.

    Attributes:
        source: `samples`, `synthetic`, `moments` or `none` (see `edgeprune.observation.knowledge`).
        direction: `bottom-up`, or `top-down` for methods that look at weights only.
        recalibrate: re-estimate the statistics of batch norms at the end (methods that do not refit; needs
            samples).
        bounds: of every input value, where known, for synthetic inputs.
    """

    source: str = "samples"
    direction: str = "bottom-up"
    recalibrate: bool = False
    bounds: tuple[float, float] | None = None


def choose(
    coupling: Coupling,
    widths: Mapping[str, int],
    method: str,
    samples: Sequence[Tensor] | None,
    *,
    seed: int,
    radii: Mapping[str, float] | None = None,
    manner: Manner | None = None,
    recalibrate: bool = False,
    labels: Tensor | None = None,
    progress: Progress = silent,
) -> Plan:
    """Choose the units of every group that shall become narrower.

    Args:
        widths: units to keep, by group; groups at their full size are left alone.
        method: name of a coreset.
        samples: calibration inputs, float32, samples first; None for a data-independent plan.
        radii: by making node, a bound on the l2 norm of what it hears (see `Evidence`).
        manner: how; the default is bottom-up, from samples.
        recalibrate: the same as the manner's.
        labels: classes of the samples, int64 (n,), for methods that use them.

    Raises:
        CalibrationError: the method needs data and there is none.
        UnsupportedModel: an assumption of the method fails for a group.
        UsageError: the direction does not fit the method.
    """
    coreset, manner = CORESETS[method], manner or Manner()
    again = recalibrate or manner.recalibrate
    knowledge = _knowledge(coupling, coreset, manner, samples, seed, again, progress)
    random, torch_random = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    net = _Net(coupling, Weights(coupling.graph.weights), coupling.alive({}), coreset.hears)
    todo = [group for group in coupling.groups if widths[group.name] < group.size]
    todo = todo[:: -1 if manner.direction == "top-down" else 1]
    run = knowledge.samples if knowledge is not None else None
    if coreset.refits and run is not None:
        net.originals = _originals(coupling.graph, todo)
        net.audible = knowledge.audible if knowledge is not None else {}
    for group in progress(todo, f"choosing ({method})", len(todo)):
        known = knowledge if coreset.data else None
        scene = Scene(coupling.graph, net.weights, net.alive, known, radii or {}, torch_random, labels)
        selection = coreset.choose(_evidence(scene, group, coreset), widths[group.name], random)
        net.take(group, selection)
        if coreset.refits and run is not None:
            for reader in _distinct(group.readers):
                _refit(net, reader, run, torch_random)
        logger.info("%s: %d units kept, error %s", group.name, len(selection.keep), selection.error)
    if run is not None and net.fitted:
        _settle(net, run, torch_random, progress)
    if again and run is not None:
        _recalibrate(coupling, net.weights, run)
    return Plan(method, net.selections, net.weights.changed(), _notes(coreset))


def _evidence(scene: Scene, group: Group, coreset: Coreset) -> Evidence:
    """What the method asks for, and no more."""
    return gather(
        scene,
        group,
        hears=coreset.hears,
        rows=coreset.needs_rows,
        shares=coreset.needs_shares,
        gradients=coreset.needs_gradients,
    )


@dataclass(slots=True)
class _Net:
    """The net as it becomes while its groups are chosen.

    Attributes:
        weights: the current weights at original sizes, by qualified name.
        alive: what is left of every axis, where anybody listens.
        heard: whether the method listens.
        selections: by group, what was chosen so far.
        fitted: readers by node, in the order in which they were refitted last.
        originals: what the original net computes where readers are refitted.
        audible: positions that refits count (see `edgeprune.observation.audibility`).
    """

    coupling: Coupling
    weights: Weights
    alive: Alive
    heard: bool = True
    selections: dict[str, Selection] = field(default_factory=dict)
    fitted: dict[str, Reader] = field(default_factory=dict)
    originals: Originals | None = None
    audible: Mapping[str, Tensor] = field(default_factory=dict)

    def take(self, group: Group, selection: Selection) -> None:
        """Let a group keep what was selected of it."""
        self.selections[group.name] = selection
        if self.heard:
            self.alive = self.alive.narrowed(group, selection.keep)
        for reader in group.readers:
            if reader.weight is not None:
                _compensate(self, group, reader, selection)


def _knowledge(
    coupling: Coupling,
    coreset: Coreset,
    manner: Manner,
    samples: Sequence[Tensor] | None,
    seed: int,
    recalibrate: bool,
    progress: Progress,
) -> Knowledge | None:
    """What is known of the inputs; None where the method asks for nothing.

    Raises:
        CalibrationError: the method needs data and there is none.
        UsageError: the direction does not fit the method.
    """
    if manner.direction not in DIRECTIONS:
        raise UsageError(f"--direction {manner.direction}: choose {' or '.join(DIRECTIONS)}.")
    if manner.direction == "top-down" and coreset.data:
        raise UsageError(
            f"--direction top-down: {coreset.name} listens to the net below a group as it has become, which "
            "only bottom-up knows; leave the direction, or use --method sensitivity."
        )
    if not coreset.data and not recalibrate:
        return None
    knowledge = know(coupling, manner.source, samples, seed, bounds=manner.bounds, progress=progress)
    if not knowledge.anything:
        raise CalibrationError(
            f"--method {coreset.name} needs a calibration set; give one with --calibration, let it do "
            "without (--moments synthetic for a net with batch norms, --moments none for any), or choose a "
            "data-independent method such as sensitivity."
        )
    if knowledge.samples is None and (coreset.needs_samples or recalibrate):
        what = "--recalibrate" if recalibrate else f"--method {coreset.name}"
        raise CalibrationError(
            f"{what} runs samples through the net, and --moments {manner.source} gives none; use --moments "
            "samples with a calibration set, or --moments synthetic for a net with batch norms."
        )
    return knowledge


def _notes(coreset: Coreset) -> tuple[str, ...]:
    return (f"source: {coreset.source}",) if coreset.source else ()


def _compensate(net: _Net, group: Group, reader: Reader, selection: Selection) -> None:
    """W′ = W · mixᵀ in a reader, zeros where units left; the shift goes to the shift site."""
    assert reader.weight is not None
    units = group.units_at(reader.weight, reader.axis)
    assert units is not None
    gone = np.ones(group.size, dtype=np.bool_)
    gone[selection.keep] = False
    removed = np.flatnonzero(gone[units] & (units >= 0))
    factors = (selection.factors or {}).get(reader.node)
    if not reader.compensable or (selection.mix is None and factors is None):
        net.weights.silence(reader.weight, reader.axis, removed)
        return
    places = positions(units, group.size)
    weight = net.weights[reader.weight].movedim(reader.axis, 0).double()
    new = weight.clone()
    new[torch.from_numpy(removed)] = 0.0
    shift = torch.zeros_like(weight[0])
    for place in places:
        if selection.mix is not None:
            shift = shift + _mixed(weight, new, place, selection)
        elif factors is not None:
            _multiplied(weight, new, place, selection, factors)
    net.weights[reader.weight] = new.movedim(0, reader.axis).to(net.weights[reader.weight].dtype)
    site = shift_site(net.coupling.graph, reader)
    if selection.shift is not None and site is not None:
        constant = shift.reshape(len(shift), -1).sum(1)
        old = net.weights[site.weight]
        net.weights[site.weight] = old + site.sign * constant.to(old.dtype)


def _mixed(weight: Tensor, new: Tensor, place: Any, selection: Selection) -> Tensor:
    """Write the mixed weights of one position of each unit; returns what the shift adds there."""
    assert selection.mix is not None
    index = torch.from_numpy(place)
    there = (index >= 0).to(weight.dtype).reshape(-1, *[1] * (weight.dim() - 1))
    old = weight[index.clamp_min(0)] * there
    kept = index[torch.from_numpy(selection.keep)]
    mixed = torch.tensordot(torch.from_numpy(selection.mix), old, dims=1)
    new[kept[kept >= 0]] = mixed[kept >= 0]
    if selection.shift is None:
        return torch.zeros_like(weight[0])
    added: Tensor = torch.tensordot(torch.from_numpy(selection.shift), old, dims=1)
    return added


def _multiplied(
    weight: Tensor, new: Tensor, place: Any, selection: Selection, factors: npt.NDArray[np.float64]
) -> None:
    """Multiply the kept weights of one position of each unit, output by output."""
    for unit in selection.keep[place[selection.keep] >= 0]:
        factor = torch.from_numpy(factors[:, unit].copy())
        new[place[unit]] = weight[place[unit]] * factor.reshape(-1, *[1] * (weight.dim() - 2))


def _refit(net: _Net, reader: Reader, samples: Sequence[Tensor], generator: torch.Generator) -> None:
    graph, alive = net.coupling.graph, net.alive
    if not refittable(graph, reader):
        logger.info("%s keeps the closed form: it is no plain layer to refit", graph.nodes[reader.node].where)
        return
    net.fitted.pop(reader.node, None)
    net.fitted[reader.node] = reader
    channels = np.flatnonzero(alive.axes(reader.data)[reader.data_axis])
    left = alive.axes(reader.node)[-1 if graph.nodes[reader.node].operation == "linear" else 1]
    counted = net.audible.get(reader.data)
    fitted = refit(
        graph,
        reader,
        channels,
        np.flatnonzero(left),
        net.weights,
        samples,
        generator,
        net.originals,
        counted,
    )
    for name, value in fitted.items():
        net.weights[name] = value


def _originals(graph: Graph, groups: Iterable[Group]) -> Originals:
    """The original's values wherever a reader of these groups can land."""
    readers = [reader for group in groups for reader in group.readers if refittable(graph, reader)]
    return Originals(graph, frozenset(landing(graph, one, graph.weights).node for one in readers))


def _settle(net: _Net, samples: Sequence[Tensor], generator: torch.Generator, progress: Progress) -> None:
    """Refit, in graph order, every reader that hears or meets what was refitted after it.

    In a plain chain there is none. A second round changed nothing more (ResNet-20).
    """
    graph = net.coupling.graph
    readers = [net.fitted[name] for name in graph.nodes if name in net.fitted]
    for reader in progress(readers, "refitting", len(readers)):
        before = _ancestors(graph, landing(graph, reader, net.weights).node)
        names = list(net.fitted)
        if not before.isdisjoint(names[names.index(reader.node) + 1 :]):
            _refit(net, reader, samples, generator)


def _ancestors(graph: Graph, name: str) -> set[str]:
    """All nodes that a node depends on."""
    found: set[str] = set()
    todo = [name]
    while todo:
        sources = [source for source in graph.nodes[todo.pop()].sources() if source not in found]
        found.update(sources)
        todo.extend(sources)
    return found


def _distinct(readers: Iterable[Reader]) -> list[Reader]:
    return list({reader.node: reader for reader in readers}.values())


def _recalibrate(coupling: Coupling, weights: Weights, samples: Sequence[Tensor]) -> None:
    """Set running means and variances to what the pruned net shows on the samples, in graph order."""
    graph = coupling.graph
    for node in graph.nodes.values():
        if node.operation != "batch_norm":
            continue
        mean, var = graph.weight_of(node.get("running_mean")), graph.weight_of(node.get("running_var"))
        source = node["input"].name
        if mean is None or var is None:
            continue
        count, first, second = 0, torch.zeros(1).double(), torch.zeros(1).double()
        for batch in batches(graph, samples):
            value = graph.values(batch, weights, frozenset({source}))[source].double()
            rows = value.movedim(1, -1).reshape(-1, value.shape[1])
            count, first, second = count + len(rows), first + rows.sum(0), second + (rows**2).sum(0)
        centre = first / count
        spread = (second / count - centre**2).clamp_min(0.0) * count / max(count - 1, 1)
        weights[mean] = centre.to(weights[mean].dtype)
        weights[var] = torch.where(spread > 0, spread, torch.ones_like(spread)).to(weights[var].dtype)
