"""Nets as queries of a data coreset: the model with noise of random strength on its weights.

A weighted set that stands for the whole one on such nets gives, from few samples, the metric of another net
of that kind: what a quick check asks of the nets that a build makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.errors import CalibrationError, UsageError
from edgeprune.graph.copies import copied
from edgeprune.graph.execution import flatten_outputs
from edgeprune.inputs.measures import load_function
from edgeprune.verdict.limits import UserMetric

Floats = npt.NDArray[np.float64]

STRONGEST = 0.5
BATCH = 512
KIND = f"the model with noise on every weight, of strength 0 to {STRONGEST:g} of the weights' own spread"

Metric = Callable[[Any, Any], Any]
"""Of the outputs (an array, a list of them for several) and the labels (or None): one number a sample."""


def cross_entropy(outputs: Any, labels: Any) -> Any:
    """−ln of the probability of the right class."""
    logits = torch.from_numpy(np.asarray(outputs, dtype=np.float64))
    return F.cross_entropy(logits, torch.from_numpy(labels), reduction="none").numpy()


def top1_error(outputs: Any, labels: Any) -> Any:
    """1 where another class than the right one is the likeliest, else 0."""
    return (np.asarray(outputs).argmax(1) != labels).astype(np.float64)


METRICS: dict[str, Metric] = {"cross-entropy": cross_entropy, "error": top1_error}


def metric_of(name: str, labelled: bool) -> Metric:
    """The metric of that name, or the user's own `module:function` or `file.py:function`.

    Raises:
        CalibrationError: it needs labels and there are none.
        UsageError: there is no such metric.
        ConfigError: it cannot be imported.
    """
    if name in METRICS:
        if not labelled:
            raise CalibrationError(
                f"--metric {name} needs labels, and the set has none; store fit_labels, or give "
                "module:function."
            )
        return METRICS[name]
    if ":" not in name:
        raise UsageError(f"--metric {name}: choose {', '.join(METRICS)}, or give module:function.")
    return load_function(UserMetric("own", name, at_most=0.0))


def measured(metric: Metric, outputs: tuple[Any, ...], labels: Any) -> Floats:
    """The metric of every sample, (n,) float64.

    Raises:
        UsageError: it gives something else than one finite number, not negative, a sample.
    """
    count = len(outputs[0])
    found = np.asarray(metric(outputs[0] if len(outputs) == 1 else list(outputs), labels), dtype=np.float64)
    if found.shape != (count,) or not np.isfinite(found).all() or (found < 0).any():
        raise UsageError(
            f"--metric: gives shape {found.shape} for {count} samples, or numbers that are negative or not "
            "finite; it must give one finite number ≥ 0 a sample."
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class NetQueries:
    """A loss and queries for `learn_set`: a query is the seed of a net, its loss the metric by sample."""

    model: nn.Module
    metric: Metric

    def queries(self, count: int, sample: Any, seed: int) -> Tensor:
        """Seeds, (count, 1) int64."""
        return torch.arange(count).reshape(-1, 1) + seed * 1_000_003

    def loss(self, query: Tensor, samples: Any, labels: Tensor | None) -> Tensor:
        """The metric of each sample under the net of that seed, (n,) float64."""
        net = perturbed(self.model, int(query))
        inputs = (samples,) if isinstance(samples, Tensor) else samples
        outputs = outputs_of(net, inputs)
        return torch.from_numpy(measured(self.metric, outputs, None if labels is None else labels.numpy()))


def perturbed(model: nn.Module, seed: int) -> nn.Module:
    """The net of a seed: a copy of the model with noise on every floating weight."""
    generator = torch.Generator().manual_seed(seed)
    net = copied(model).eval()
    strength = STRONGEST * float(torch.rand((), generator=generator))
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(strength * parameter.std() * noise)
    return net


def outputs_of(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """All outputs on all samples, as arrays."""
    with torch.no_grad():
        parts = [
            flatten_outputs(net(*(x[start : start + BATCH] for x in inputs)))
            for start in range(0, len(inputs[0]), BATCH)
        ]
    return tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True))
