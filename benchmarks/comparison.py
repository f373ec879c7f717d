"""Prune one trained net by many methods to many sizes, and measure what is left of it.

Each choice sees a fresh draw of unlabelled training samples; what is measured is never looked at before.
A method is a coreset of edgeprune, by name; what may stand before, behind or instead of it is told below.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.harness import Layout, Ledger, Row, finish
from edgeprune.coresets import CORESETS
from edgeprune.errors import UnsupportedModel
from edgeprune.graph.groups import Coupling
from edgeprune.observation.knowledge import know
from edgeprune.plan import Plan
from edgeprune.stages.choose import Manner, choose
from edgeprune.stages.couple import couple
from edgeprune.stages.finetune import Queries, Recipe, from_scratch, tune
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

BATCH = 500
ASIDE = 0.1
"""Share of the queries of a lesson that only choose the epoch that stays."""

RE_ESTIMATED = " + BN re-estimated"
"""Behind a name: running means and variances are measured again on the samples at the end."""

USUAL = "summed magnitude" + RE_ESTIMATED
"""The channels with the largest norms of all weights that make or read them, as they are stored (no batch
norm folded in), then some batches in training mode."""

SOURCES = {", no data": "none", ", synthetic inputs": "synthetic", ", mean and covariance": "moments"}
"""Behind a name: where second moments come from, if not from samples."""

PEER = "Torch-Pruning, "
"""Before the name of a criterion of that library."""

Figures = Sequence[tuple[str, float, str]]
"""Name, value and unit of what was measured."""


def registered() -> tuple[str, ...]:
    """Every coreset that needs neither labels nor training."""
    return tuple(name for name, one in CORESETS.items() if not one.needs_gradients and not one.matches)


@dataclass(frozen=True, slots=True)
class Lesson:
    """A training behind the choice.

    Attributes:
        queries: training samples to learn from, the first of the pool; 0 for those that the choice saw.
        labelled: whether their labels are used.
        scratch: whether the widths alone are kept, and the weights start at random.
        start: the method that chooses.
        seeds: how many times it is done.
    """

    recipe: Recipe
    queries: int = 0
    labelled: bool = False
    scratch: bool = False
    start: str = "gram"
    seeds: int = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """A trained net and its data.

    Attributes:
        pool: training inputs to draw unlabelled samples from, one tensor per input, samples first.
        labels: of the pool, int64 (n,), where known.
        samples: how many of them a choice sees.
        judge: measures a net.
        lessons: trainings by name.
        peer: what a criterion of Torch-Pruning would choose, where that library cannot prune the net itself.
        made: inputs made from batch norms, by seed: they are the same for every size.
    """

    name: str
    net: nn.Module
    coupling: Coupling
    pool: tuple[Tensor, ...]
    samples: int
    judge: Callable[[nn.Module], Figures]
    labels: Tensor | None = None
    lessons: Mapping[str, Lesson] = field(default_factory=dict)
    peer: peers.Peer | None = None
    made: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)

    def synthetic(self, seed: int) -> tuple[Tensor, ...]:
        """Inputs made from nothing but the net."""
        if seed not in self.made:
            known = know(self.coupling, "synthetic", None, seed).samples
            assert known is not None
            self.made[seed] = known
        return self.made[seed]

    def draw(self, seed: int) -> Draw:
        """Unlabelled samples, another set for each seed."""
        drawn = np.random.default_rng(seed).choice(len(self.pool[0]), self.samples, replace=False)
        index = torch.from_numpy(drawn)
        labels = None if self.labels is None else self.labels[index]
        return Draw(tuple(x[index] for x in self.pool), labels, seed)


@dataclass(frozen=True, slots=True)
class Draw:
    """What one choice may look at; the labels are for the criteria of others that ask for gradients."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None
    seed: int


def classifier(
    name: str,
    net: nn.Module,
    training: tuple[Tensor, Tensor],
    tests: tuple[Tensor, Tensor],
    samples: int,
    lessons: Mapping[str, Lesson],
) -> Subject:
    """A net judged by its test error and by how far its logits are from the original's."""
    images, labels = tests
    logits = logits_of(net, images)

    def judge(pruned: nn.Module) -> Figures:
        found = logits_of(pruned, images)
        wrong = 100.0 * int((found.argmax(1) != labels).sum()) / len(labels)
        away = (found - logits).norm(dim=1) / logits.norm(dim=1)
        return (("test error", wrong, "%"), ("relative logit error", float(away.mean()), ""))

    coupling = couple(trace(net, (images[:1],)))
    return Subject(name, net, coupling, (training[0],), samples, judge, training[1], lessons)


@torch.no_grad()
def logits_of(net: nn.Module, images: Tensor) -> Tensor:
    """Outputs on all images, float32 (n, classes)."""
    return torch.cat([net(batch) for batch in images.split(BATCH)])


def original(subject: Subject) -> list[Row]:
    """The first figure of the unpruned net."""
    name, value, unit = subject.judge(subject.net)[0]
    return [Row(subject.name, "", "", name, value, unit, 0)]


def compare(
    subject: Subject,
    methods: Sequence[str],
    sizes: Mapping[str, Mapping[str, int]],
    seeds: Sequence[int],
    ledger: Ledger,
) -> None:
    """Note the subject's figures and the seconds to choose, per method, size and seed.

    Args:
        sizes: what to call a size, and the units that each group keeps.
        seeds: of the samples and of the random choices; methods without either use the first alone.
    """
    if subject.labels is not None and not ledger.has("", "", 0):
        ledger.add(original(subject))
    for method in methods:
        for size, widths in sizes.items():
            for seed in _seeds(subject, method, seeds):
                if ledger.has(method, size, seed):
                    continue
                try:
                    net, seconds = pruned(subject, method, widths, subject.draw(seed))
                except (UnsupportedModel, peers.Unable) as reason:  # then it has no line in the table
                    print(f"{method} is left out: {reason}", file=sys.stderr)
                    continue
                found = (*subject.judge(net), ("choosing", seconds, "s"))
                ledger.add([Row(subject.name, method, size, *figure, seed) for figure in found])


def _seeds(subject: Subject, method: str, seeds: Sequence[int]) -> Sequence[int]:
    """Once for what comes out the same each time."""
    if method in subject.lessons:
        return seeds[: subject.lessons[method].seeds]
    if method.startswith(PEER):
        return seeds[:1]
    if method.endswith(RE_ESTIMATED):
        return seeds
    name, source = _parts(method)
    varies = source != "none" and (CORESETS[name].random or CORESETS[name].data)
    return seeds if varies else seeds[:1]


def _parts(method: str) -> tuple[str, str]:
    """The coreset, and where its second moments come from."""
    for words, source in SOURCES.items():
        if method.endswith(words):
            return method.removesuffix(words), source
    return method, "samples"


def pruned(subject: Subject, method: str, widths: Mapping[str, int], draw: Draw) -> tuple[nn.Module, float]:
    """The net that a method leaves, and the seconds it took."""
    started = time.perf_counter()
    if method in subject.lessons:
        net = _taught(subject, subject.lessons[method], widths, draw)
    elif method == USUAL:
        plan = peers.largest(subject.coupling, widths)
        net = _in_training(_shrunk(subject, plan, draw), draw)
    elif method.startswith(PEER):
        again = method.endswith(RE_ESTIMATED)
        criterion = method.removeprefix(PEER).removesuffix(RE_ESTIMATED)
        if subject.peer is not None:
            net = _shrunk(subject, subject.peer(criterion, widths, draw), draw)
        else:
            net = peers.torch_pruned(subject.net, subject.coupling, widths, criterion, draw)
        net = _in_training(net, draw) if again else net
    else:
        again = method.endswith(RE_ESTIMATED)
        name, source = _parts(method.removesuffix(RE_ESTIMATED))
        inputs = subject.synthetic(draw.seed) if source == "synthetic" else draw.inputs
        manner = Manner("samples" if source == "synthetic" else source, recalibrate=again)
        plan = choose(subject.coupling, widths, name, inputs, seed=draw.seed, manner=manner)
        net = _shrunk(subject, plan, draw)
    return net, time.perf_counter() - started


def _shrunk(subject: Subject, plan: Plan, draw: Draw) -> nn.Module:
    return shrink(subject.net, subject.coupling, plan, tuple(x[:4] for x in draw.inputs)).module


def _taught(subject: Subject, lesson: Lesson, widths: Mapping[str, int], draw: Draw) -> nn.Module:
    inputs, labels = draw.inputs, draw.labels
    if lesson.queries:
        inputs = tuple(x[: lesson.queries] for x in subject.pool)
        labels = None if subject.labels is None else subject.labels[: lesson.queries]
    order = torch.randperm(len(inputs[0]), generator=torch.Generator().manual_seed(draw.seed))
    aside = max(1, round(ASIDE * len(order)))
    seen = draw
    if not lesson.queries:  # what chooses the epoch must not have chosen the start: it would always win
        kept = order[aside:]
        seen = Draw(tuple(x[kept] for x in inputs), None if labels is None else labels[kept], draw.seed)
    net, _ = pruned(subject, lesson.start, widths, seen)
    if lesson.scratch:
        net = from_scratch(net, draw.seed + 100)
    every = Queries.of(subject.net, inputs, labels if lesson.labelled else None)
    tune(net, every.part(order[aside:]), lesson.recipe, every.part(order[:aside]), seed=draw.seed)
    return net


def _in_training(net: nn.Module, draw: Draw) -> nn.Module:
    """Batch norms set to the statistics of the samples, as one batch in training mode sets them."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain average
    with torch.no_grad():
        net.train()(*draw.inputs)
    return net.eval()


def measure(
    chosen: argparse.Namespace,
    subject: Subject,
    methods: Sequence[str],
    sizes: Mapping[str, Mapping[str, int]],
    seeds: Sequence[int],
    layout: Layout,
) -> None:
    """The whole of a script behind its subject: compare, print the table, write the file."""
    ledger = Ledger.open(chosen.json, chosen.resume)
    seeds = seeds[:1] if chosen.quick else seeds[: chosen.seeds]
    asked = {name: widths for name, widths in sizes.items() if name in (chosen.size or sizes)}
    compare(subject, chosen.method or methods, asked, seeds, ledger)
    finish(ledger.arranged(methods, sizes), layout, chosen.json)
