"""What units do on samples besides their moments: their part of each sum, their hold on the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeprune.graph.execution import Interpreter, flatten_outputs
from edgeprune.graph.groups import Graph, Group, Reader
from edgeprune.observation.moments import batches, part, positions
from edgeprune.observation.patches import patches

Floats = npt.NDArray[np.float64]

ROWS = 512
"""Most rows (samples × positions) of a batch whose shares are formed."""


def shares_of(
    graph: Graph,
    group: Group,
    readers: Sequence[Reader],
    weights: Mapping[str, Tensor],
    samples: Sequence[Tensor],
    generator: torch.Generator,
) -> list[Floats | None]:
    """For each reader the largest share of every unit, (n,); None for a reader that is no matrix.

    With z⁺ and z⁻ the positive and the negative part of an output's sum over all units and taps, the share
    of a unit is the largest of w h / z⁺ and w h / z⁻ over outputs, taps and rows.
    """
    found: list[Floats | None] = []
    for reader in readers:
        node = graph.nodes[reader.node]
        plain = node.operation == "linear" or (node.operation in ("conv1d", "conv2d") and node["groups"] == 1)
        if not plain or reader.weight is None or reader.axis != 1:
            found.append(None)
            continue
        weight = weights[reader.weight]
        channels = np.arange(weight.shape[1])
        largest = torch.zeros(weight.shape[1], dtype=weight.dtype)
        for batch in batches(graph, samples):
            heard = graph.values(batch, weights, frozenset({reader.data}))[reader.data]
            rows = part(patches(node, weight.shape[2:], heard, channels), ROWS, generator)
            largest = torch.maximum(largest, _largest(rows, weight))
        score = np.zeros(group.size)
        for place in positions(reader.units, group.size):
            score = np.maximum(score, largest.double().numpy()[place.clip(0)] * (place >= 0))
        found.append(score)
    return found


def _largest(rows: Tensor, weight: Tensor) -> Tensor:
    """By channel, the largest share over rows (r, channels × taps) and the weight's outputs."""
    flat = weight.flatten(1)
    best = torch.zeros(flat.shape[1], dtype=flat.dtype)
    for query in flat:
        products = rows * query
        for signed in (products.clamp_min(0), (-products).clamp_min(0)):
            whole = signed.sum(1, keepdim=True)
            best = torch.maximum(best, (signed / whole.clamp_min(1e-12)).amax(0))
    return best.reshape(weight.shape[1], -1).amax(1)


def gradients_of(
    graph: Graph,
    group: Group,
    readers: Sequence[Reader],
    weights: Mapping[str, Tensor],
    samples: Sequence[Tensor],
    generator: torch.Generator,
    labels: Tensor | None,
) -> Floats:
    """E(Σ_positions h ∂L/∂h)² of each unit, (n,), summed over what the readers hear.

    L is the cross-entropy where labels are known, else the outputs times fresh random signs.
    """
    wanted = {reader.data: reader for reader in readers}
    score, count = np.zeros(group.size), 0
    for batch in batches(graph, samples):
        values, outputs = differentiable(graph, weights, batch, frozenset(wanted))
        size = len(batch[0])
        if labels is not None:
            loss = F.cross_entropy(outputs[0], labels[count : count + size], reduction="sum")
        else:
            signs = [torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1 for y in outputs]
            loss = torch.stack([(y * s).sum() for y, s in zip(outputs, signs, strict=True)]).sum()
        names = list(wanted)
        slopes = torch.autograd.grad(loss, [values[name] for name in names], allow_unused=True)
        for name, slope in zip(names, slopes, strict=True):
            if slope is None:  # type: ignore[unreachable,unused-ignore]  # nothing leads on from there
                continue  # type: ignore[unreachable,unused-ignore]
            reader = wanted[name]
            change = (
                (values[name].detach() * slope)
                .movedim(reader.data_axis, 1)
                .flatten(2 if slope.dim() > 2 else 1)
            )
            each = change.sum(2) if change.dim() > 2 else change
            squares = (each.double() ** 2).sum(0).numpy()
            for place in positions(reader.units, group.size):
                score += squares[place.clip(0)] * (place >= 0)
        count += size
    return np.asarray(score / max(count, 1), dtype=np.float64)


def differentiable(
    graph: Graph, weights: Mapping[str, Tensor], batch: Sequence[Tensor], wanted: frozenset[str]
) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Values and outputs with a gradient that leads from the outputs to the values."""
    held = {name: w.detach().requires_grad_(w.is_floating_point()) for name, w in weights.items()}
    interpreter = Interpreter(graph.module, {**graph.weights, **held}, wanted, {})
    outputs = flatten_outputs(interpreter.run(*batch))
    return interpreter.values, outputs
