"""What can be promised of the error, and the search that every promise is held against.

Deterministic bounds speak about every input of a domain; statistical ones about the distribution
that the held-out samples are drawn from, with the outputs that the target's own runtime gave, so
that rounding and fused kernels are inside; the a-priori bound is the coreset theorem's promise.
A promise that a measured error exceeds is reported as a violation, and the run is aborted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.bounds import statistical
from edgeprune.bounds.attack import Attack, attack
from edgeprune.certificates.deterministic import (
    BEYOND,
    NAMES,
    SOURCES,
    Bounded,
    Method,
    Proof,
    ball,
    bounded,
    near,
)
from edgeprune.certificates.distribution import Odds, Samples, inside_of, linf_errors, promises, statement
from edgeprune.certificates.theorem import layer_promises
from edgeprune.certificates.twins import Pair, twins_of
from edgeprune.domains.sets import Domain, described
from edgeprune.errors import UnsupportedOperation
from edgeprune.graph.groups import Coupling, copied, flatten_outputs
from edgeprune.inputs.samples import Array
from edgeprune.plan import Shrunk
from edgeprune.progress import Progress
from edgeprune.records.run import Certificate

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
        best: the smallest bound over the whole domain, None if there is none.
        inside: which held-out samples lie in the domain, (n,) bool; None without a domain.
    """

    certificates: tuple[Certificate, ...]
    attacked: float | None
    violation: Violation | None
    best: Certificate | None = None
    inside: Array | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """How hard to look for large errors: gradient steps from a number of starts, seeded."""

    steps: int
    restarts: int
    seed: int


def certify(
    model: nn.Module,
    coupling: Coupling,
    shrunk: Shrunk,
    domains: Sequence[Domain] | None,
    samples: Samples,
    odds: Odds,
    search: Search,
    progress: Progress,
    proof: Proof | None = None,
) -> Certified:
    """Make every promise that can be made, and hold each against what can be found.

    Args:
        model: the original.
        shrunk: the pruned net.
        domains: of each input, without the batch axis; None leaves the deterministic bounds out.
        proof: which deterministic bounds to compute; intervals and Δ-CROWN where None.
    """
    proof = proof or Proof()
    batch = coupling.graph.batch
    example = tuple(torch.from_numpy(x[: batch or 1]) for x in samples.inputs)
    if domains is None or not all(x.is_floating_point() for x in example):
        lone = layer_promises(coupling, shrunk, None, None, odds.confidence)
        unknown = "no domain is known; give --domain LOW,HIGH"
        return _without(samples, odds, unknown if domains is None else "an input holds whole numbers", lone)
    pair, reason = _paired(coupling, shrunk, example)
    bounds = {
        method: Bounded(None, reason)
        if pair is None
        else bounded(pair, domains, batch or 1, method, proof, progress)
        for method in proof.methods
    }
    fight = _Fight(model, shrunk.module, search, batch)
    shapes = tuple(tuple(x.shape[1:]) for x in samples.inputs)
    seeds = tuple(torch.from_numpy(x[:256]).double() for x in samples.inputs)
    for _ in progress(range(1), "searching for the largest error", 1):
        attacked = fight.search(domains, shapes, seeds)
    inside = inside_of(samples, domains)
    scope: Literal["local", "global"] = "local" if proof.local else "global"
    proved = [_deterministic(m, bounds[m], scope, domains, attacked, samples, inside) for m in proof.methods]
    layers = layer_promises(coupling, shrunk, pair, domains, odds.confidence)
    near_samples = _near(pair, domains, samples, odds, proof, fight, progress) if batch is None else _Near()
    best = min((c for c in proved if c.bound is not None), key=lambda c: c.bound or 0.0, default=None)
    said = promises(samples, odds, best, inside)
    value = attacked.value if math.isfinite(attacked.value) else None
    violation = None if best is None else _violation(best, attacked, samples, inside)
    certificates = (*proved, *layers, *near_samples.certificates, *said)
    return Certified(certificates, value, violation or near_samples.violation, best, inside)


def _without(samples: Samples, odds: Odds, reason: str, layers: Sequence[Certificate]) -> Certified:
    """What is left where nothing can be said of every input: the statistics."""
    missing = Certificate("difference intervals", "global", "unknown", "linf", None, "proved", reason=reason)
    return Certified((missing, *layers, *promises(samples, odds, None, None)), None, None)


def _paired(coupling: Coupling, shrunk: Shrunk, example: tuple[Tensor, ...]) -> tuple[Pair | None, str]:
    """Both nets as twins, or None with the operation that fits no form."""
    alive = coupling.alive({name: np.array(keep) for name, keep in shrunk.cuts.keep.items()})
    try:
        return twins_of(coupling.graph, shrunk.graph, alive, example), ""
    except UnsupportedOperation as error:
        return None, str(error)


@dataclass(frozen=True, slots=True)
class _Near:
    """What holds around single samples."""

    certificates: tuple[Certificate, ...] = ()
    violation: Violation | None = None


def _near(
    pair: Pair | None,
    domains: Sequence[Domain],
    samples: Samples,
    odds: Odds,
    proof: Proof,
    fight: _Fight,
    progress: Progress,
) -> _Near:
    """The largest error within a box around each of some held-out samples, and its quantile.

    The samples are independent, and so are the suprema around them: an order statistic of the
    suprema bounds the quantile of "the worst error near an input" over the distribution.
    """
    if proof.radius is None or pair is None or len(pair.inputs) != 1:
        return _Near()
    inputs = torch.from_numpy(samples.inputs[0])
    try:
        found = near(pair, domains[0], list(inputs), proof, progress)
    except UnsupportedOperation as error:
        logger.info("no bounds around samples (%s)", error)
        return _Near()
    errors = linf_errors(samples.reference, samples.pruned)[: len(found)]
    place = int(np.argmax(found))
    around = ball(inputs[place], proof.radius, domains[0], proof.local)
    attacked = fight.search([around], pair.shapes, (inputs[place : place + 1].double(),))
    most = found[place] if math.isfinite(found[place]) else None
    worst = Certificate(
        name="largest error near held-out samples",
        scope="local",
        domain=f"within ±{proof.radius:g} of any of {len(found)} held-out samples",
        norm="linf",
        bound=most,
        label="proved",
        observed=float(errors.max(initial=0.0)),
        attacked=attacked.value if math.isfinite(attacked.value) else None,
        tightness=most / attacked.value if most is not None and attacked.value else None,
        n_inputs=len(found),
        reason="" if most is not None else BEYOND,
        source=SOURCES["crown"],
    )
    said = statistical.quantile(np.array(found), odds.quantile, 1.0 - odds.confidence)
    robust = statement(f"robust quantile {odds.quantile:g}", "linf", said, samples, None)
    where = f"±{proof.radius:g} around inputs drawn like {samples.distribution}"
    violation = None if most is None else _violation(worst, attacked, samples, np.zeros(len(inputs), bool))
    slack = ROUNDING * max(float(np.abs(y).max(initial=0.0)) for y in samples.reference)
    broken = np.flatnonzero(errors > np.array(found) + slack)
    if violation is None and len(broken):
        k = int(broken[0])
        violation = Violation(worst.name, found[k], float(errors[k]), (samples.inputs[0][k],))
    return _Near((worst, replace(robust, domain=where)), violation)


class _Fight:
    """Both nets in float64, and the search for the input on which they differ most.

    Args:
        batch: how many inputs the graph takes at once, None for any number.
    """

    def __init__(self, model: nn.Module, pruned: nn.Module, search: Search, batch: int | None) -> None:
        self.f, self.g = (copied(net).double().requires_grad_(False) for net in (model, pruned))
        self.how = search
        self.batch = batch

    def _together(self, inputs: tuple[Tensor, ...]) -> Tensor:
        pairs = zip(flatten_outputs(self.f(*inputs)), flatten_outputs(self.g(*inputs)), strict=True)
        return torch.cat([(a - b).flatten(1) for a, b in pairs], dim=1)

    def gap(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """F − g of any number of inputs, flattened."""
        if self.batch is None:
            return self._together(inputs)
        n, width = len(inputs[0]), self.batch
        filled = tuple(torch.cat([x, x[-1:].expand(-n % width, *x.shape[1:])]) for x in inputs)
        parts = [self._together(tuple(x[i : i + width] for x in filled)) for i in range(0, n, width)]
        return torch.cat(parts)[:n]

    def search(
        self, domains: Sequence[Domain], shapes: Sequence[tuple[int, ...]], seeds: tuple[Tensor, ...]
    ) -> Attack:
        """The largest error found in the domain: random, corners, then projected gradient ascent."""
        return attack(
            self.gap,
            list(domains),
            shapes,
            generator=torch.Generator().manual_seed(self.how.seed),
            seeds=seeds,
            steps=self.how.steps,
            restarts=self.how.restarts,
        )


def _deterministic(
    method: Method,
    found: Bounded,
    scope: Literal["local", "global"],
    domains: Sequence[Domain],
    attacked: Attack,
    samples: Samples,
    inside: Array,
) -> Certificate:
    """A bound with the search beside it; it covers its own rounding, so it is proved of the torch nets."""
    value = attacked.value if math.isfinite(attacked.value) else None
    errors = linf_errors(samples.reference, samples.pruned)[inside]
    bound, reason = found.bound, found.reason
    if value is None and not reason:
        reason = "the search found an input where an output is no number"
    return Certificate(
        name=NAMES[method],
        scope=scope,
        domain=described(domains),
        norm="linf",
        bound=bound,
        label="proved",
        observed=float(errors.max()) if len(errors) else None,
        attacked=value,
        tightness=bound / value if bound is not None and value else None,
        n_inputs=attacked.n_inputs,
        reason=reason,
        source=SOURCES[method],
    )


def _violation(best: Certificate, attacked: Attack, samples: Samples, inside: Array) -> Violation | None:
    """A measured error above the bound, on the attack's input or on a held-out one of the domain."""
    if best.bound is None:
        return None
    slack = ROUNDING * max(float(np.abs(y).max(initial=0.0)) for y in samples.reference)
    if not attacked.value <= best.bound + slack:
        inputs = tuple(x.numpy() for x in attacked.inputs)
        return Violation(best.name, best.bound, attacked.value, inputs)
    errors = linf_errors(samples.reference, samples.pruned)
    worst = int(np.argmax(np.where(inside, errors, -np.inf)))
    if inside[worst] and not errors[worst] <= best.bound + slack:
        inputs = tuple(x[worst] for x in samples.inputs)
        return Violation(best.name, best.bound, float(errors[worst]), inputs)
    return None
