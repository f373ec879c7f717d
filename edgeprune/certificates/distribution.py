"""What held-out samples promise about the distribution that they were drawn from.

The errors are those of the outputs that each target's own runtime gave, so that rounding and fused
kernels are inside; see `edgeprune.bounds.statistical` for the theorems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgeprune.bounds import exceeding, statistical
from edgeprune.domains.sets import Domain
from edgeprune.inputs.samples import Array
from edgeprune.records.run import Certificate


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


def linf_errors(first: Sequence[Array], second: Sequence[Array]) -> Array:
    """Largest absolute difference over all outputs, for each sample; (n,) float64."""
    n = len(first[0])
    gaps = [
        np.abs(a.astype(np.float64) - b.astype(np.float64)).reshape(n, -1)
        for a, b in zip(first, second, strict=True)
    ]
    return np.asarray(np.concatenate(gaps, axis=1).max(axis=1))


def inside_of(samples: Samples, domains: Sequence[Domain]) -> Array:
    """Which samples lie in the domain with all their inputs."""
    pairs = zip(domains, samples.inputs, strict=True)
    found = [domain.contains(torch.from_numpy(x).double()).numpy() for domain, x in pairs]
    return np.asarray(np.all(found, axis=0))


def promises(
    samples: Samples, odds: Odds, best: Certificate | None, inside: Array | None
) -> list[Certificate]:
    """Quantile, flips and whole distribution on every target; the torch net's mean where errors are bounded.

    Args:
        best: the least deterministic bound, which no error of an input of the domain can exceed.
        inside: which samples lie in the domain. The mean is claimed only if all do: else the
            distribution has inputs that the bound does not speak about.
    """
    delta = 1.0 - odds.confidence
    made = []
    for target, outputs in samples.on_target.items():
        errors = linf_errors(samples.reference, outputs)
        said = statistical.quantile(errors, odds.quantile, delta)
        made.append(statement(f"quantile {odds.quantile:g}", "linf", said, samples, target))
        made += _whole(errors, delta, samples, target)
        if samples.reference[0].ndim == 2 and samples.reference[0].shape[1] > 1:
            flips = int((samples.reference[0].argmax(1) != outputs[0].argmax(1)).sum())
            said = statistical.rate(flips, len(errors), delta)
            made.append(statement("top-1 flips", "rate", said, samples, target))
    return [*made, *_means(samples, delta, best, inside)]


def _means(
    samples: Samples, delta: float, best: Certificate | None, inside: Array | None
) -> list[Certificate]:
    """The mean error by two inequalities, each at its own confidence."""
    if best is None or not best.bound or inside is None:
        return []
    errors = linf_errors(samples.reference, samples.pruned)
    kinds = {
        "mean error": statistical.mean_betting,
        "mean error, empirical Bernstein": statistical.mean_bernstein,
    }
    if not inside.all():
        reason = f"{int((~inside).sum())} of {len(inside)} samples lie outside the domain of the bound"
        said = statistical.Statement(None, 1 - delta, len(errors), float(errors.mean()), reason, "")
        return [statement("mean error", "linf", said, samples, None)]
    capped = np.minimum(errors, best.bound)
    return [
        statement(name, "linf", how(capped, best.bound, delta), samples, None) for name, how in kinds.items()
    ]


def _whole(errors: Array, delta: float, samples: Samples, target: str) -> list[Certificate]:
    """P(error > t) for every t at once; the statement's own number is the widest gap to the samples."""
    curve = exceeding.whole_distribution(errors, min(delta, 0.5))
    if curve is None:
        return []
    gap = max(bound - above for bound, above in zip(curve.bounds, curve.above, strict=True))
    said = statistical.Statement(
        gap,
        1 - min(delta, 0.5),
        len(errors),
        None,
        "",
        "Dvoretzky–Kiefer–Wolfowitz band (Massart 1990) met with order statistics (Wilks 1941)",
    )
    points = tuple(zip(curve.thresholds, curve.above, curve.bounds, strict=True))
    return [replace(statement("whole distribution", "cdf", said, samples, target), curve=points)]


def statement(
    name: str, norm: str, said: statistical.Statement, samples: Samples, target: str | None
) -> Certificate:
    """A bound from samples as a record of the run."""
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
