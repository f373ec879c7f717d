"""Widths → Plan: which units stay in each group, and what their readers' weights become.

Groups are visited bottom-up. Each is judged in the net that is already pruned below it, and its
readers are refitted against what the *original* net computes there, so that errors do not pile
up from layer to layer. The readers of a residual stream are fitted before the branches above them are
pruned; they are fitted again at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeprune.coresets import CORESETS, Coreset
from edgeprune.errors import CalibrationError, UsageError
from edgeprune.graph import Coupling, Graph, Group, Reader
from edgeprune.observation import Originals, Scene, batches, gather, landing, positions, refit, shift_site
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
    weights = dict(coupling.graph.weights)
    selections: dict[str, Selection] = {}
    fitted: dict[str, Reader] = {}
    todo = [group for group in coupling.groups if widths[group.name] < group.size]
    todo = todo[:: -1 if manner.direction == "top-down" else 1]
    run = knowledge.samples if knowledge is not None else None
    originals = _originals(coupling.graph, todo)
    for group in progress(todo, f"choosing ({method})", len(todo)):
        alive = coupling.alive({name: selection.keep for name, selection in selections.items()})
        known = knowledge if coreset.data else None
        scene = Scene(coupling.graph, weights, alive, known, radii or {}, torch_random, labels)
        evidence = gather(scene, group, shares=coreset.needs_shares, gradients=coreset.needs_gradients)
        selections[group.name] = selection = coreset.choose(evidence, widths[group.name], random)
        _compensate(coupling, group, selection, weights)
        if coreset.refits and run is not None:
            for reader in _distinct(group.readers):
                _refit(coupling, reader, selections, weights, run, torch_random, originals)
                fitted.pop(reader.node, None)
                fitted[reader.node] = reader
        logger.info("%s: %d units kept, error %s", group.name, len(selection.keep), selection.error)
    if run is not None and fitted:
        _settle(coupling, fitted, selections, weights, run, torch_random, originals, progress)
    if again and run is not None:
        _recalibrate(coupling, weights, run)
    changed = {name: w for name, w in weights.items() if w is not coupling.graph.weights[name]}
    return Plan(method, selections, changed, _notes(coreset))


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


def _compensate(coupling: Coupling, group: Group, selection: Selection, weights: dict[str, Tensor]) -> None:
    """W′ = W · mixᵀ in every reader, zeros where units left; the shift goes to the shift site."""
    gone = np.setdiff1d(np.arange(group.size), selection.keep)
    for reader in group.readers:
        if reader.weight is None:
            continue
        units = next(p.units for p in group.places if p.weight == reader.weight and p.axis == reader.axis)
        weight = weights[reader.weight].movedim(reader.axis, 0).double()
        new = weight.clone()
        shift = torch.zeros_like(weight[0])
        for place in positions(units, group.size):
            new[torch.from_numpy(place[gone][place[gone] >= 0])] = 0.0
            if selection.mix is not None and reader.compensable:
                shift = shift + _mixed(weight, new, place, selection)
            elif selection.factors is not None and reader.compensable and reader.node in selection.factors:
                _multiplied(weight, new, place, selection, selection.factors[reader.node])
        weights[reader.weight] = new.movedim(0, reader.axis).to(weights[reader.weight].dtype)
        site = shift_site(coupling.graph, reader) if reader.compensable else None
        if selection.shift is not None and site is not None:
            constant = shift.reshape(len(shift), -1).sum(1)
            weights[site.weight] = weights[site.weight] + site.sign * constant.to(weights[site.weight].dtype)


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


def _refit(
    coupling: Coupling,
    reader: Reader,
    selections: Mapping[str, Selection],
    weights: dict[str, Tensor],
    samples: Sequence[Tensor],
    generator: torch.Generator,
    originals: Originals,
) -> None:
    if not reader.compensable:
        return
    graph = coupling.graph
    alive = coupling.alive({name: selection.keep for name, selection in selections.items()})
    channels = np.flatnonzero(alive.axes(reader.data)[reader.data_axis])
    left = alive.axes(reader.node)[-1 if graph.nodes[reader.node].operation == "linear" else 1]
    weights.update(
        refit(graph, reader, channels, np.flatnonzero(left), weights, samples, generator, originals)
    )


def _originals(graph: Graph, groups: Iterable[Group]) -> Originals:
    """The original's values wherever a reader of these groups can land."""
    readers = [reader for group in groups for reader in group.readers if reader.compensable]
    return Originals(graph, frozenset(landing(graph, one, graph.weights).node for one in readers))


def _settle(
    coupling: Coupling,
    fitted: dict[str, Reader],
    selections: Mapping[str, Selection],
    weights: dict[str, Tensor],
    samples: Sequence[Tensor],
    generator: torch.Generator,
    originals: Originals,
    progress: Progress,
) -> None:
    """Refit, in graph order, every reader that hears or meets what was refitted after it.

    In a plain chain there is none. A second round changed nothing more (ResNet-20).

    Args:
        fitted: by node, in the order in which they were refitted.
    """
    graph = coupling.graph
    readers = [fitted[name] for name in graph.nodes if name in fitted]
    for reader in progress(readers, "refitting", len(readers)):
        before = _ancestors(graph, landing(graph, reader, weights).node)
        names = list(fitted)
        if before.isdisjoint(names[names.index(reader.node) + 1 :]):
            continue
        _refit(coupling, reader, selections, weights, samples, generator, originals)
        fitted[reader.node] = fitted.pop(reader.node)


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


def _recalibrate(coupling: Coupling, weights: dict[str, Tensor], samples: Sequence[Tensor]) -> None:
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
