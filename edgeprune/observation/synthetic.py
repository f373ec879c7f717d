"""Inputs made from nothing but the net: those on which every batch norm sees what it saw in training.

A batch norm keeps the mean μ̄ and the variance σ̄² of each of its channels over the training data. Inputs
are optimised (all of them at once, by Adam) until their own statistics agree,

    Σ_norms  mean_c (μ_c − μ̄_c)² / σ̄_c²  +  mean_c ln²(σ_c² / σ̄_c²),

and then stand in for samples: any net with batch norms can be pruned without its data.

Source:
    Yin et al., "Dreaming to Distill", CVPR 2020; Haroush et al., "The Knowledge Within", CVPR 2020 (the
    idea); the objective in logarithms of variances is our own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.errors import UnsupportedModel
from edgeprune.graph.execution import AllSeen, Interpreter
from edgeprune.graph.groups import Graph, Node
from edgeprune.progress import Progress, silent

logger = logging.getLogger(__name__)

COUNT = 500
STEPS = 200
RATE = 0.1


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a batch norm remembers of its input `source`: (channels,) each."""

    source: str
    mean: Tensor
    variance: Tensor


def remembered(graph: Graph, weights: Mapping[str, Tensor]) -> tuple[Statistics, ...]:
    """The statistics of every batch norm in the net."""
    found = []
    for node in graph.nodes.values():
        if node.operation != "batch_norm":
            continue
        mean, variance = graph.weight_of(node.get("running_mean")), graph.weight_of(node.get("running_var"))
        if mean is not None and variance is not None:
            found.append(Statistics(node["input"].name, weights[mean], weights[variance].clamp_min(1e-8)))
    return tuple(found)


def synthesise(
    graph: Graph,
    shapes: Sequence[tuple[int, ...]],
    generator: torch.Generator,
    *,
    count: int = COUNT,
    steps: int = STEPS,
    bounds: tuple[float, float] | None = None,
    progress: Progress = silent,
) -> tuple[Tensor, ...]:
    """Inputs that match the statistics of the net's batch norms.

    Args:
        shapes: of one sample, per input.
        count: inputs to make.
        steps: of Adam, over all inputs at once.
        bounds: every value is kept between these two; None leaves them free.

    Returns:
        One tensor per input, (count, …) float32.

    Raises:
        UnsupportedModel: the net has no batch norm with running statistics, takes other inputs than floating
            ones, or has a fixed batch size.
    """
    statistics = remembered(graph, graph.weights)
    _check(graph, statistics)
    dtype = statistics[0].mean.dtype
    inputs = [torch.randn(count, *shape, generator=generator).to(dtype) for shape in shapes]
    if bounds is not None:
        inputs = [((x + 3) / 6 * (bounds[1] - bounds[0]) + bounds[0]).clamp(*bounds) for x in inputs]
    parameters = [x.requires_grad_(True) for x in inputs]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss = torch.zeros(())
    for _ in progress(range(steps), "making inputs from batch-norm statistics", steps):
        loss = _mismatch(graph, parameters, statistics)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
        optimizer.step()
        schedule.step()
        if bounds is not None:
            with torch.no_grad():
                for x in parameters:
                    x.clamp_(*bounds)
    logger.info(
        "inputs from batch-norm statistics: mismatch %.4f after %d steps", float(loss.detach()), steps
    )
    return tuple(x.detach() for x in parameters)


def _check(graph: Graph, statistics: Sequence[Statistics]) -> None:
    if not statistics:
        raise UnsupportedModel(
            "--moments synthetic: the net has no batch norm with running statistics, so nothing tells what "
            "its inputs look like; give a calibration set, or use --moments none."
        )
    for name in graph.inputs:
        node: Node = graph.nodes[name]
        if not node.floating:
            raise UnsupportedModel(
                f"--moments synthetic: input {name} holds whole numbers, which cannot be optimised; give a "
                "calibration set."
            )
    if graph.batch is not None:
        raise UnsupportedModel(
            f"--moments synthetic: the model runs only at batch size {graph.batch}, and batch statistics "
            "need many samples at once; give a calibration set."
        )


def _mismatch(graph: Graph, inputs: Sequence[Tensor], statistics: Sequence[Statistics]) -> Tensor:
    wanted = frozenset(s.source for s in statistics)
    interpreter = Interpreter(graph.module, graph.weights, wanted, {})
    interpreter.stop_early = True
    with contextlib.suppress(AllSeen):
        interpreter.run(*inputs)
    total = torch.zeros(())
    for s in statistics:
        away, variance = _apart(interpreter.values[s.source], s.mean)
        total = total + (away**2 / s.variance).mean()
        total = total + ((variance / s.variance).clamp_min(1e-6).log() ** 2).mean()
    return total


def _apart(value: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """By channel (axis 1), how far the mean is from the one that is remembered, and the variance.

    Of norms along the positions: on the CPU 2.5 times as fast, derivative included, as `torch.var_mean` over
    axes that are not neighbours.
    """
    apart = value.flatten(2) if value.dim() > 2 else value.unsqueeze(2)
    apart = apart - mean[:, None]
    away = apart.mean(2).mean(0)
    squares = torch.linalg.vector_norm(apart, dim=2).square().mean(0) / apart.shape[2]
    return away, squares - away.square()
