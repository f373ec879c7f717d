"""Prune one trained net by many methods to many sizes, and measure what is left of it.

No weight is trained afterwards. Each choice sees a fresh draw of unlabelled training samples; the test
set is looked at only to measure.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Row
from edgeprune.coresets import CORESETS
from edgeprune.errors import UnsupportedModel
from edgeprune.graph import Coupling
from edgeprune.plan import Plan, Selection
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.finetune import Queries, Recipe, tune
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

BATCH = 500
LEARN_STEPS = 2000
RE_ESTIMATED = " + BN re-estimated"
"""Behind the name of a method: running means and variances are measured again on the samples at the end."""

USUAL = "summed magnitude" + RE_ESTIMATED
"""What pruning libraries do: keep the channels with the largest norms of all weights that make or read them,
as they are stored (no batch norm folded in), then run some batches in training mode."""


def registered() -> tuple[str, ...]:
    """Every coreset that needs neither labels nor training."""
    return tuple(name for name, one in CORESETS.items() if not one.needs_gradients and not one.matches)


@dataclass(frozen=True, slots=True)
class Subject:
    """A trained classifier and its data.

    Attributes:
        images: training images to draw unlabelled samples from, float32, samples first.
        tests: test images, float32, samples first.
        labels: of the test images, int64 (n,).
        logits: of the unpruned net on the test images, float32 (n, classes).
    """

    name: str
    net: nn.Module
    coupling: Coupling
    images: Tensor
    tests: Tensor
    labels: Tensor
    logits: Tensor

    @staticmethod
    def of(name: str, net: nn.Module, images: Tensor, tests: Tensor, labels: Tensor) -> Subject:
        """Trace and couple a net, and run it once over the test images."""
        coupling = couple(trace(net, (images[:1],)))
        return Subject(name, net, coupling, images, tests, labels, logits_of(net, tests))


@torch.no_grad()
def logits_of(net: nn.Module, images: Tensor) -> Tensor:
    """Outputs on all images, float32 (n, classes)."""
    return torch.cat([net(batch) for batch in images.split(BATCH)])


def original(subject: Subject) -> Row:
    """The test error of the unpruned net."""
    return Row(subject.name, "", "", "test error", _error(subject.logits, subject.labels), "%", 0)


def compare(
    subject: Subject,
    methods: Sequence[str],
    sizes: Mapping[str, Mapping[str, int]],
    samples: int,
    seeds: Sequence[int],
) -> Iterator[Row]:
    """Three rows per method, size and seed: test error, relative logit error, seconds to choose.

    Args:
        methods: names of coresets, with `RE_ESTIMATED` behind them where that is wanted.
        sizes: what to call a size, and the units that each group keeps.
        samples: unlabelled training samples that a method may look at, where it looks at any.
        seeds: of the samples and of the random choices; methods without either use the first alone.
    """
    for method in methods:
        for size, widths in sizes.items():
            for seed in seeds if _varies(method) else seeds[:1]:
                drawn = np.random.default_rng(seed).choice(len(subject.images), samples, replace=False)
                data = subject.images[torch.from_numpy(drawn)]
                try:
                    net, seconds = _pruned(subject, method, widths, data, seed)
                except UnsupportedModel as reason:  # then the method has no line in the table
                    print(f"{method} is left out: {reason}", file=sys.stderr)
                    continue
                found = logits_of(net, subject.tests)
                away = (found - subject.logits).norm(dim=1) / subject.logits.norm(dim=1)
                error = _error(found, subject.labels)
                yield Row(subject.name, method, size, "test error", error, "%", seed)
                yield Row(subject.name, method, size, "relative logit error", float(away.mean()), "", seed)
                yield Row(subject.name, method, size, "choosing", seconds, "s", seed)


def _varies(method: str) -> bool:
    """Whether another seed gives another net: by its draws, or by the samples that are looked at."""
    if method.endswith(RE_ESTIMATED):
        return True
    return CORESETS[method].random or CORESETS[method].data


def _pruned(
    subject: Subject, method: str, widths: Mapping[str, int], data: Tensor, seed: int
) -> tuple[nn.Module, float]:
    """The net that a method leaves, and the seconds it took to choose and to compensate."""
    started = time.perf_counter()
    if method == USUAL:
        net = shrink(subject.net, subject.coupling, _largest(subject, widths), (data[:4],)).module
        return _in_training(net, data), time.perf_counter() - started
    again = method.endswith(RE_ESTIMATED)
    name = method.removesuffix(RE_ESTIMATED)
    plan = choose(subject.coupling, widths, name, (data,), seed=seed, recalibrate=again)
    net = shrink(subject.net, subject.coupling, plan, (data[:4],)).module
    if CORESETS[name].matches:  # all layers trained at once on the same samples, without labels
        tune(net, Queries.of(subject.net, (data,), None), Recipe.of_steps(LEARN_STEPS, len(data)), seed=seed)
    return net, time.perf_counter() - started


def _largest(subject: Subject, widths: Mapping[str, int]) -> Plan:
    """Keep the units with the largest sum of squared weights, over every place that carries them."""
    selections = {}
    for group in subject.coupling.groups:
        score = np.zeros(group.size)
        for place in group.places:
            weight = subject.coupling.graph.weights[place.weight].double()
            if weight.dim() > 1:
                squares = (weight.movedim(place.axis, 0).flatten(1) ** 2).sum(1).numpy()
                np.add.at(score, place.units[place.units >= 0], squares[place.units >= 0])
        kept = np.sort(np.argsort(-score, kind="stable")[: widths[group.name]])
        selections[group.name] = Selection(kept)
    return Plan(USUAL, selections, {})


def _in_training(net: nn.Module, data: Tensor) -> nn.Module:
    """Batch norms set to the statistics of the samples, as one batch in training mode sets them."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain average
    with torch.no_grad():
        net.train()(data)
    return net.eval()


def _error(logits: Tensor, labels: Tensor) -> float:
    """Share of wrong answers, in per cent."""
    return 100.0 * int((logits.argmax(1) != labels).sum()) / len(labels)
