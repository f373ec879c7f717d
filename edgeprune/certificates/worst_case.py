"""`--minimax-lambda`: the readers of pruned groups weighed again, so that the certificate falls too.

Readers are taken in graph order, each in the net as it has become below; what its inputs can be over the
domain comes from intervals through both nets.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from edgeprune.bounds.differential import Reach, enclose, propagate
from edgeprune.bounds.minimax import Evidence, Worst, compensate
from edgeprune.certificates.twins import twins_of
from edgeprune.domains.sets import Domain
from edgeprune.errors import UsageError
from edgeprune.graph.groups import Coupling, Reader, copied
from edgeprune.observation import batches, shift_site
from edgeprune.observation.patches import patches, responses
from edgeprune.plan import Plan
from edgeprune.progress import Progress, silent

logger = logging.getLogger(__name__)


def weighed_again(
    coupling: Coupling,
    plan: Plan,
    samples: Sequence[Tensor] | None,
    domains: Sequence[Domain] | None,
    trade: float,
    progress: Progress = silent,
) -> Plan:
    """The plan with the weights of its linear readers traded between data error and certificate.

    Args:
        samples: calibration inputs, samples first.
        domains: of each input.
        trade: λ, see `edgeprune.bounds.minimax.compensate`.

    Raises:
        UsageError: there is no domain, or there are no samples.
        UnsupportedOperation: intervals do not get through the net; named.
    """
    if domains is None or samples is None:
        missing = "a domain of all inputs (--domain)" if domains is None else "samples (--calibration)"
        raise UsageError(f"--minimax-lambda needs {missing}; give it, or leave the option out.")
    weights = {**coupling.graph.weights, **plan.weights}
    readers = {r.node: r for g in coupling.groups if g.name in plan.keep for r in g.readers}
    able = [
        readers[name] for name in coupling.graph.nodes if name in readers and _able(coupling, readers[name])
    ]
    for reader in progress(able, "minding the worst case", len(able)):
        reached = _reached(coupling, weights, domains, samples)
        weights.update(_weighed(coupling, plan, reader, weights, reached, samples, trade))
    changed = {name: w for name, w in weights.items() if w is not coupling.graph.weights[name]}
    return dataclasses.replace(plan, weights=changed)


def _able(coupling: Coupling, reader: Reader) -> bool:
    """Plain linear layers whose weight's second axis is read; others keep their least-squares weights."""
    node = coupling.graph.nodes[reader.node]
    return (
        reader.weight is not None and reader.compensable and node.operation == "linear" and reader.axis == 1
    )


def _reached(
    coupling: Coupling, weights: Mapping[str, Tensor], domains: Sequence[Domain], samples: Sequence[Tensor]
) -> Mapping[str, Reach]:
    """Intervals of the original, of the net with these weights at original sizes, and of their difference."""
    graph = coupling.graph
    module = copied(graph.module)
    state = module.state_dict()
    module.load_state_dict({name: weights.get(name, value) for name, value in state.items()})
    example = [x[: graph.batch or 1] for x in samples]
    pair = twins_of(graph, module, coupling.alive({}), example)
    inputs = enclose(domains, pair.shapes, pair.inputs, graph.batch or 1)
    return propagate(pair.twins, inputs)


def _weighed(
    coupling: Coupling,
    plan: Plan,
    reader: Reader,
    weights: Mapping[str, Tensor],
    reached: Mapping[str, Reach],
    samples: Sequence[Tensor],
    trade: float,
) -> dict[str, Tensor]:
    """New weights for one reader."""
    graph = coupling.graph
    node = graph.nodes[reader.node]
    assert reader.weight is not None
    alive = coupling.alive(plan.keep)
    channels = np.flatnonzero(alive.axes(reader.data)[reader.data_axis])
    outputs = np.flatnonzero(alive.axes(reader.node)[-1])
    left, rows = torch.from_numpy(channels), torch.from_numpy(outputs)
    gone = torch.from_numpy(np.flatnonzero(~alive.axes(reader.data)[reader.data_axis]))
    full, present = graph.weights[reader.weight].double()[rows], weights[reader.weight].double()[rows]
    site = shift_site(graph, reader)
    before = torch.zeros(len(rows)).double() if site is None else graph.weights[site.weight].double()[rows]
    now = torch.zeros(len(rows)).double() if site is None else weights[site.weight].double()[rows]
    evidence = _evidence(coupling, reader, weights, samples, channels, outputs, site is not None)
    reach = reached[reader.data]
    if reach.f.low.dim() != 2:
        return {}
    f, g = reach.f, reach.g
    apart = torch.maximum(reach.delta.low.abs(), reach.delta.high.abs())[0]
    sign = 1.0 if site is None else float(site.sign)
    worst = Worst(
        weight=full[:, left],
        center=((g.low + g.high) / 2)[0, left],
        radius=((g.high - g.low) / 2)[0, left],
        rest_center=full[:, gone] @ ((f.low + f.high) / 2)[0, gone] + sign * before,
        rest_radius=full[:, gone].abs() @ ((f.high - f.low) / 2)[0, gone] + full[:, left].abs() @ apart[left],
    )
    start = torch.cat([present[:, left], (sign * now)[:, None]], dim=1)
    solved = compensate(evidence, worst, start, trade)
    logger.info(
        "%s: certificate %.4g → %.4g", node.where, worst.bound(start).max(), worst.bound(solved).max()
    )
    weight = weights[reader.weight].clone()
    weight[rows[:, None], left[None]] = solved[:, :-1].to(weight.dtype)
    made = {reader.weight: weight}
    if site is not None:
        shift = weights[site.weight].clone()
        shift[rows] = (sign * solved[:, -1]).to(shift.dtype)
        made[site.weight] = shift
    return made


def _evidence(
    coupling: Coupling,
    reader: Reader,
    weights: Mapping[str, Tensor],
    samples: Sequence[Tensor],
    channels: np.ndarray[tuple[int], np.dtype[np.int64]],
    outputs: np.ndarray[tuple[int], np.dtype[np.int64]],
    constant: bool,
) -> Evidence:
    """What the reader hears in the pruned net, and what it says in the original, on samples."""
    graph, node = coupling.graph, coupling.graph.nodes[reader.node]
    size = len(channels) + 1
    gram = torch.zeros(size, size, dtype=torch.float64)
    cross = torch.zeros(size, len(outputs), dtype=torch.float64)
    energy, count = 0.0, 0
    for batch in batches(graph, samples):
        heard = graph.values(batch, weights, frozenset({reader.data}))[reader.data]
        said = graph.values(batch, graph.weights, frozenset({reader.node}))[reader.node]
        rows = patches(node, (), heard, channels).double()
        rows = torch.cat([rows, torch.full((len(rows), 1), float(constant), dtype=torch.float64)], dim=1)
        target = responses(node, said)[:, torch.from_numpy(outputs)].double()
        gram, cross = gram + rows.T @ rows, cross + rows.T @ target
        energy, count = energy + float(target.square().sum()), count + len(rows)
    return Evidence(gram / count, cross / count, energy / count)


__all__ = ["weighed_again"]
