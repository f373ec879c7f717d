"""What can be promised of the error, and the search that every promise is held against.

Deterministic bounds speak about every input of a domain; statistical ones about the distribution
that the held-out samples are drawn from, with the outputs that the target's own runtime gave, so
that rounding and fused kernels are inside; the a-priori bound is the coreset theorem's promise.
A promise that a measured error exceeds is reported as a violation, and the run is aborted.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.bounds import statistical
from edgeprune.bounds.attack import Attack, attack
from edgeprune.bounds.crown import Effort, crown
from edgeprune.bounds.differential import difference, enclose
from edgeprune.distribution import Odds, Samples, inside_of, linf_errors, promises, statement
from edgeprune.domains import Box, Domain
from edgeprune.errors import UnsupportedOperation
from edgeprune.graph import Coupling, copied, flatten_outputs
from edgeprune.plan import Shrunk
from edgeprune.progress import Progress
from edgeprune.records import Certificate
from edgeprune.samples import Array
from edgeprune.theorem import layer_promises
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


Method = Literal["intervals", "crown", "quadratic"]

SOURCES: dict[Method, str] = {
    "intervals": "Paulsen et al. 2020, extended to other widths and compensation",
    "crown": "Δ-CROWN: Zhang et al. 2018, on both nets and their difference (edgeprune.bounds.backward)",
    "quadratic": "Δ-CROWN with Shor-dual layer certificates (edgeprune.bounds.quadratic)",
}
NAMES: dict[Method, str] = {
    "intervals": "difference intervals",
    "crown": "Δ-CROWN",
    "quadratic": "Δ-CROWN with quadratic layers",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """Which deterministic bounds are computed, and for how long.

    Attributes:
        methods: in the order they are tried; each that gives a bound is reported.
        budget_s: seconds for each of them, and for all local ones together.
        radius: of the box around every held-out sample that the robust statements speak about, in
            units of the inputs; None for none.
        balls: held-out samples that get such a box at most.
    """

    methods: tuple[Method, ...] = ("intervals", "crown")
    budget_s: float = 60.0
    radius: float | None = None
    balls: int = 100


def certify(
    model: nn.Module,
    coupling: Coupling,
    shrunk: Shrunk,
    domain: Domain | None,
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
        domain: of each input, without the batch axis; None leaves the deterministic bounds out.
        proof: which deterministic bounds to compute; intervals and Δ-CROWN where None.
    """
    proof = proof or Proof()
    batch = coupling.graph.batch
    example = tuple(torch.from_numpy(x[: batch or 1]) for x in samples.inputs)
    if domain is None:
        return _without(samples, odds, "no domain is known; give --domain LOW HIGH")
    if not all(x.is_floating_point() for x in example):
        return _without(samples, odds, "an input holds whole numbers")
    count = len(proof.methods) + 2
    steps = iter(progress(range(count), "certifying", count))
    next(steps)
    pair, reason = _paired(coupling, shrunk, example)
    bounds: dict[Method, tuple[float | None, str]] = {}
    for method in proof.methods:
        bounds[method] = (None, reason) if pair is None else _bounded(pair, domain, batch or 1, method, proof)
        next(steps)
    shapes = tuple(tuple(x.shape[1:]) for x in samples.inputs)
    attacked = _attack(model, shrunk.module, domain, shapes, samples, search, batch)
    proved = [_deterministic(m, *bounds[m], domain, attacked, samples) for m in proof.methods]
    layers = layer_promises(coupling, shrunk, pair, domain, odds.confidence)
    local = _local(pair, domain, samples, odds, proof) if batch is None else []
    best = min((c for c in proved if c.bound is not None), key=lambda c: c.bound or 0.0, default=None)
    inside = inside_of(samples, domain)
    certificates = (*proved, *layers, *local, *promises(samples, odds, best, inside))
    next(steps, None)
    value = attacked.value if math.isfinite(attacked.value) else None
    violation = None if best is None else _violation(best, attacked, samples, inside)
    return Certified(certificates, value, violation)


def _without(samples: Samples, odds: Odds, reason: str) -> Certified:
    """What is left where nothing can be said of every input: the statistics."""
    missing = Certificate("difference intervals", "global", "unknown", "linf", None, "proved", reason=reason)
    return Certified((missing, *promises(samples, odds, None, None)), None, None)


def _paired(coupling: Coupling, shrunk: Shrunk, example: tuple[Tensor, ...]) -> tuple[Pair | None, str]:
    """Both nets as twins, or None with the operation that fits no form."""
    alive = coupling.alive({name: np.array(keep) for name, keep in shrunk.cuts.keep.items()})
    try:
        return twins_of(coupling.graph, shrunk.graph, alive, example), ""
    except UnsupportedOperation as error:
        return None, str(error)


def _bounded(
    pair: Pair, domain: Domain, batch: int, method: Method, proof: Proof
) -> tuple[float | None, str]:
    """A bound, or None with the reason."""
    domains = [domain] * len(pair.inputs)
    try:
        if method == "intervals":
            inputs = enclose(domains, pair.shapes, pair.inputs, batch)
            found = difference(pair.twins, inputs, pair.outputs).linf
        elif batch != 1:
            return None, f"the graph fixes a batch of {batch}; linear bounds need one of 1"
        else:
            effort = Effort(proof.budget_s, quadratic=method == "quadratic")
            found = crown(pair.twins, domains, pair.shapes, pair.inputs, pair.outputs, effort).linf
    except UnsupportedOperation as error:
        return None, str(error)
    return found, "" if found is not None else "the bounds grew beyond all numbers"


def _local(
    pair: Pair | None, domain: Domain, samples: Samples, odds: Odds, proof: Proof
) -> list[Certificate]:
    """The largest error within a box around each of some held-out samples, and its quantile.

    The samples are independent, and so are the suprema around them: an order statistic of the
    suprema bounds the quantile of "the worst error near an input" over the distribution.
    """
    if proof.radius is None or pair is None or len(pair.inputs) != 1:
        return []
    low, high = (domain.low, domain.high) if isinstance(domain, Box) else (-math.inf, math.inf)
    deadline = time.monotonic() + proof.budget_s
    found: list[float] = []
    for x in samples.inputs[0][: proof.balls]:
        if time.monotonic() > deadline:
            break
        around = Box.around(torch.from_numpy(x).double(), proof.radius, low, high)
        effort = Effort(max(1.0, deadline - time.monotonic()), steps=0)
        bound = crown(pair.twins, [around], pair.shapes, pair.inputs, pair.outputs, effort).linf
        found.append(math.inf if bound is None else bound)
    said = statistical.quantile(np.array(found), odds.quantile, 1.0 - odds.confidence)
    where = f"±{proof.radius:g} around inputs drawn like {samples.distribution}"
    robust = statement(f"robust quantile {odds.quantile:g}", "linf", said, samples, None)
    errors = linf_errors(samples.reference, samples.pruned)[: len(found)]
    most = max(found, default=math.inf)
    reason = "" if math.isfinite(most) else "the bounds grew beyond all numbers"
    worst = Certificate(
        name="largest error near held-out samples",
        scope="local",
        domain=f"within ±{proof.radius:g} of any of {len(found)} held-out samples",
        norm="linf",
        bound=most if math.isfinite(most) else None,
        label="proved",
        observed=float(errors.max(initial=0.0)),
        n_inputs=len(found),
        reason=reason,
        source=SOURCES["crown"],
    )
    return [worst, replace(robust, domain=where)]


def _attack(
    model: nn.Module,
    pruned: nn.Module,
    domain: Domain,
    shapes: Sequence[tuple[int, ...]],
    samples: Samples,
    search: Search,
    batch: int | None,
) -> Attack:
    """The largest error found in the domain: random, corners, then projected gradient ascent.

    Args:
        batch: how many inputs the graph takes at once, None for any number.
    """
    f, g = (copied(net).double().requires_grad_(False) for net in (model, pruned))

    def together(inputs: tuple[Tensor, ...]) -> Tensor:
        pairs = zip(flatten_outputs(f(*inputs)), flatten_outputs(g(*inputs)), strict=True)
        return torch.cat([(a - b).flatten(1) for a, b in pairs], dim=1)

    def gap(inputs: tuple[Tensor, ...]) -> Tensor:
        if batch is None:
            return together(inputs)
        n = len(inputs[0])
        filled = tuple(torch.cat([x, x[-1:].expand(-n % batch, *x.shape[1:])]) for x in inputs)
        parts = [together(tuple(x[i : i + batch] for x in filled)) for i in range(0, n, batch)]
        return torch.cat(parts)[:n]

    return attack(
        gap,
        [domain] * len(shapes),
        shapes,
        generator=torch.Generator().manual_seed(search.seed),
        seeds=tuple(torch.from_numpy(x[:256]).double() for x in samples.inputs),
        steps=search.steps,
        restarts=search.restarts,
    )


def _deterministic(
    method: Method, bound: float | None, reason: str, domain: Domain, attacked: Attack, samples: Samples
) -> Certificate:
    """A bound with the search beside it; it covers its own rounding, so it is proved of the torch nets."""
    value = attacked.value if math.isfinite(attacked.value) else None
    if value is None and not reason:
        reason = "the search found an input where an output is no number"
    return Certificate(
        name=NAMES[method],
        scope="global",
        domain=domain.describe(),
        norm="linf",
        bound=bound,
        label="proved",
        observed=float(linf_errors(samples.reference, samples.pruned).max()),
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
