"""What can be promised of the error, and the search that every promise is held against.

Deterministic bounds speak about every input of a domain; statistical ones about the distribution
that the held-out samples are drawn from, with the outputs that the target's own runtime gave, so
that rounding and fused kernels are inside; the a-priori bound is the coreset theorem's promise.
A promise that a measured error exceeds is reported as a violation, and the run is aborted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.bounds import a_priori, statistical
from edgeprune.bounds.attack import Attack, attack
from edgeprune.bounds.differential import Difference, difference, enclose
from edgeprune.bounds.interval import propagate
from edgeprune.domains import Domain
from edgeprune.errors import UnsupportedOperation
from edgeprune.graph import Coupling, Group, copied, flatten_outputs
from edgeprune.progress import Progress
from edgeprune.records import Certificate
from edgeprune.samples import Array
from edgeprune.stages.shrink import Shrunk
from edgeprune.twins import Pair, twins_of

logger = logging.getLogger(__name__)

ROUNDING = 1e-9
"""Share of the outputs' size that a measured float64 error may exceed a bound by: its own rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Violation:
    """A promise that was seen broken."""

    certificate: str
    bound: float
    measured: float
    inputs: tuple[Array, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Certified:
    """The promises, and the search beside them.

    Attributes:
        attacked: largest linf error that the search over the domain found, None without a domain.
    """

    certificates: tuple[Certificate, ...]
    attacked: float | None
    violation: Violation | None

    @property
    def best_global(self) -> Certificate | None:
        """The smallest bound over the whole domain, None if there is none."""
        found = [c for c in self.certificates if c.scope == "global" and c.bound is not None]
        return min(found, key=lambda c: c.bound or 0.0, default=None)


@dataclass(frozen=True, slots=True)
class Search:
    """How hard to look for large errors: gradient steps from a number of starts, seeded."""

    steps: int
    restarts: int
    seed: int


@dataclass(frozen=True, slots=True)
class Odds:
    """Confidence of statistical statements, and the share of inputs a quantile speaks about."""

    confidence: float
    quantile: float


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Held-out samples and what the nets gave on them.

    Attributes:
        inputs: one array per input, samples first; never used to prune.
        reference: the original torch net's outputs, float64.
        pruned: the pruned torch net's outputs, float64.
        on_target: by target, the pruned model's outputs there.
        distribution: what the samples are, in words.
    """

    inputs: tuple[Array, ...]
    reference: tuple[Array, ...]
    pruned: tuple[Array, ...]
    on_target: Mapping[str, tuple[Array, ...]]
    distribution: str


def certify(
    model: nn.Module,
    coupling: Coupling,
    shrunk: Shrunk,
    domain: Domain | None,
    samples: Samples,
    odds: Odds,
    search: Search,
    progress: Progress,
) -> Certified:
    """Make every promise that can be made, and hold each against what can be found.

    Args:
        model: the original.
        shrunk: the pruned net.
        domain: of each input, without the batch axis; None leaves the deterministic bounds out.
    """
    example = tuple(torch.from_numpy(x[: coupling.graph.batch or 1]) for x in samples.inputs)
    if domain is None or not all(x.is_floating_point() for x in example):
        reason = (
            "no domain is known; give --domain LOW HIGH" if domain is None else "an input holds whole numbers"
        )
        missing = Certificate(
            "difference intervals",
            "global",
            "unknown",
            "linf",
            None,
            "proved-modulo-rounding-model",
            reason=reason,
        )
        return Certified((missing, *_statistical(samples, odds, None)), None, None)
    alive = coupling.alive({name: np.array(keep) for name, keep in shrunk.cuts.keep.items()})
    steps = iter(progress(range(2), "certifying", 2))
    next(steps)
    found, reason, pair = None, "", None
    try:
        pair = twins_of(coupling.graph, shrunk.graph, alive, example)
        found = _bounded(pair, domain, coupling.graph.batch or 1)
    except UnsupportedOperation as error:
        reason = str(error)
    next(steps)
    shapes = tuple(tuple(x.shape[1:]) for x in samples.inputs)
    attacked = _attack(model, shrunk.module, domain, shapes, samples, search)
    differential = _differential(found, reason, domain, attacked, samples)
    layers = _a_priori(coupling, shrunk, pair, domain, odds)
    certificates = (differential, *layers, *_statistical(samples, odds, differential.bound))
    next(steps, None)
    return Certified(certificates, attacked.value, _violation(differential, attacked, samples, domain))


def _bounded(pair: Pair, domain: Domain, batch: int) -> Difference:
    inputs = enclose([domain] * len(pair.inputs), pair.shapes, pair.inputs, batch)
    return difference(pair.twins, inputs, pair.outputs)


def _attack(
    model: nn.Module,
    pruned: nn.Module,
    domain: Domain,
    shapes: Sequence[tuple[int, ...]],
    samples: Samples,
    search: Search,
) -> Attack:
    """The largest error found in the domain: random, corners, then projected gradient ascent."""
    f, g = (copied(net).double().requires_grad_(False) for net in (model, pruned))

    def gap(inputs: tuple[Tensor, ...]) -> Tensor:
        pairs = zip(flatten_outputs(f(*inputs)), flatten_outputs(g(*inputs)), strict=True)
        return torch.cat([(a - b).flatten(1) for a, b in pairs], dim=1)

    return attack(
        gap,
        [domain] * len(shapes),
        shapes,
        generator=torch.Generator().manual_seed(search.seed),
        seeds=tuple(torch.from_numpy(x[:256]).double() for x in samples.inputs),
        steps=search.steps,
        restarts=search.restarts,
    )


def _linf(first: Sequence[Array], second: Sequence[Array]) -> Array:
    """Largest absolute difference over all outputs, for each sample; (n,) float64."""
    n = len(first[0])
    gaps = [
        np.abs(a.astype(np.float64) - b.astype(np.float64)).reshape(n, -1)
        for a, b in zip(first, second, strict=True)
    ]
    return np.asarray(np.concatenate(gaps, axis=1).max(axis=1))


def _differential(
    found: Difference | None, reason: str, domain: Domain, attacked: Attack, samples: Samples
) -> Certificate:
    bound = None if found is None else found.linf
    if found is not None and bound is None:
        reason = "the intervals grew beyond all numbers"
    return Certificate(
        name="difference intervals",
        scope="global",
        domain=domain.describe(),
        norm="linf",
        bound=bound,
        label="proved-modulo-rounding-model",
        observed=float(_linf(samples.reference, samples.pruned).max()),
        attacked=attacked.value,
        tightness=bound / attacked.value if bound is not None and attacked.value > 0 else None,
        n_inputs=attacked.n_inputs,
        reason=reason,
        source="Paulsen et al. 2020, extended to other widths and compensation",
    )


def _violation(
    differential: Certificate, attacked: Attack, samples: Samples, domain: Domain
) -> Violation | None:
    """A measured error above the bound, on the attack's input or on a held-out one of the domain."""
    if differential.bound is None:
        return None
    slack = ROUNDING * max(float(np.abs(y).max(initial=0.0)) for y in samples.reference)
    if not attacked.value <= differential.bound + slack:
        inputs = tuple(x.numpy() for x in attacked.inputs)
        return Violation(differential.name, differential.bound, attacked.value, inputs)
    errors = _linf(samples.reference, samples.pruned)
    inside = np.all([domain.contains(torch.from_numpy(x).double()).numpy() for x in samples.inputs], axis=0)
    worst = int(np.argmax(np.where(inside, errors, -np.inf)))
    if inside[worst] and not errors[worst] <= differential.bound + slack:
        inputs = tuple(x[worst] for x in samples.inputs)
        return Violation(differential.name, differential.bound, float(errors[worst]), inputs)
    return None


def _statistical(samples: Samples, odds: Odds, largest: float | None) -> list[Certificate]:
    """Quantile and flips on every target; the mean of the torch net's error where its range is proved."""
    delta = 1.0 - odds.confidence
    made = []
    for target, outputs in samples.on_target.items():
        errors = _linf(samples.reference, outputs)
        said = statistical.quantile(errors, odds.quantile, delta)
        made.append(_statement(f"quantile {odds.quantile:g}", "linf", said, samples, target))
        if samples.reference[0].ndim == 2 and samples.reference[0].shape[1] > 1:
            flips = int((samples.reference[0].argmax(1) != outputs[0].argmax(1)).sum())
            said = statistical.rate(flips, len(errors), delta)
            made.append(_statement("top-1 flips", "rate", said, samples, target))
    if largest is not None:
        errors = _linf(samples.reference, samples.pruned)
        said = statistical.mean_betting(np.minimum(errors, largest), largest, delta)
        made.append(_statement("mean error", "linf", said, samples, None))
    return made


def _statement(
    name: str, norm: str, said: statistical.Statement, samples: Samples, target: str | None
) -> Certificate:
    tight = said.bound / said.observed if said.bound is not None and said.observed else None
    return Certificate(
        name=name,
        scope="distribution",
        domain=f"inputs drawn like {samples.distribution}",
        norm=norm,
        bound=said.bound,
        label="statistical",
        confidence=said.confidence,
        observed=said.observed,
        tightness=tight,
        n_inputs=said.n,
        target=target,
        reason=said.reason,
        source=said.source,
    )


def _a_priori(
    coupling: Coupling, shrunk: Shrunk, pair: Pair | None, domain: Domain, odds: Odds
) -> list[Certificate]:
    """The coreset theorem's promise for each layer that was sampled, and the paper's form beside it."""
    made: list[Certificate] = []
    if not shrunk.cuts.draws:
        return made
    heard = (
        {}
        if pair is None
        else propagate(pair.pruned(), enclose([domain] * len(pair.inputs), pair.shapes, pair.inputs))
    )
    for group in coupling.groups:
        draws = shrunk.cuts.draws.get(group.name)
        if draws is None:
            continue
        reason = _outside_theorem(coupling, group)
        source = coupling.graph.nodes[group.producers[0]]["input"].name
        radius = heard[source].l2_norm if source in heard else math.inf
        if not reason and not math.isfinite(radius):
            reason = "no bound on the norm of what the layer hears is known"
        numbers = (None, None) if reason else _promises(coupling, group, shrunk, draws, radius, odds)
        for name, bound in zip(
            ("a-priori (explicit)", "a-priori (paper's form, c = 1; no bound)"), numbers, strict=True
        ):
            made.append(
                Certificate(
                    name=name,
                    scope="layer",
                    domain=f"every input of this layer with ‖x‖₂ ≤ {radius:.4g}"
                    if not reason
                    else domain.describe(),
                    norm="linf",
                    bound=bound,
                    label="statistical",
                    confidence=odds.confidence,
                    n_inputs=0,
                    layer=group.name,
                    reason=reason,
                    source="Mussay et al., ICLR 2020; constants derived in edgeprune.bounds.a_priori",
                )
            )
    return made


def _outside_theorem(coupling: Coupling, group: Group) -> str:
    """Why the theorem does not speak about a group, '' if it does."""
    graph = coupling.graph
    if len(group.producers) != 1:
        return f"{len(group.producers)} layers make these units; the theorem is about one"
    if graph.nodes[group.producers[0]].operation != "linear":
        return "the units are channels; only the bound for neurons is implemented"
    for reader in group.readers:
        data = graph.nodes[reader.data]
        if (
            graph.nodes[reader.node].operation != "linear"
            or data.operation != "relu"
            or data.sources() != group.producers
        ):
            return "its readers do not hear a plain ReLU of its units"
    return ""


def _promises(
    coupling: Coupling, group: Group, shrunk: Shrunk, draws: int, radius: float, odds: Odds
) -> tuple[float, float]:
    """From the scores max|W|·‖p̃‖ that were sampled by: t = Σ scores · √(β² + 1)."""
    graph, delta = coupling.graph, 1.0 - odds.confidence
    scores = torch.tensor(shrunk.cuts.scores[group.name], dtype=torch.float64)
    t = a_priori.spread(scores * math.sqrt(radius**2 + 1))
    outputs = sum((graph.nodes[r.node].shape or (0,))[-1] for r in group.readers)
    fan_in = (graph.nodes[graph.nodes[group.producers[0]]["input"].name].shape or (0,))[-1]
    return (
        a_priori.explicit(t, draws, outputs, delta, any_time=True),
        a_priori.paper_form(t, draws, fan_in + 1, delta),
    )
