"""Guarantees from held-out samples: finite-sample and distribution-free, numpy and scipy only.

The errors e₁ … eₙ are those of the pruned net *as its target's runtime computes it*, on inputs
drawn independently from the data's distribution and used for nothing else: not to prune, not to
compensate, not to choose the ratio. Every statement below then holds with probability at least
1 − δ over the draw of the samples, for whatever distribution the errors have.

Each function answers with a `Statement`: a bound, or None with the reason why not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from edgeprune.errors import BoundViolated, UsageError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Statement:
    """An upper bound that holds with a confidence.

    Attributes:
        bound: in the unit of the errors, or a probability; None when nothing can be said.
        confidence: 1 − δ.
        n: held-out samples it rests on.
        observed: the same quantity on the samples themselves (never a bound).
        reason: why there is no bound; empty where there is one.
        source: the theorem.
    """

    bound: float | None
    confidence: float
    n: int
    observed: float | None
    reason: str
    source: str


def _share(name: str, value: float) -> float:
    if not 0.0 < value < 1.0:
        raise UsageError(f"{name} must lie strictly between 0 and 1, not {value:g}.")
    return value


def errors_of(errors: npt.ArrayLike) -> Floats:
    """One float64 error a sample; what is no number counts as infinitely wrong."""
    e = np.asarray(errors, dtype=np.float64)
    if e.ndim != 1:
        raise UsageError(f"errors must be one number a sample, not an array of shape {e.shape}.")
    return np.where(np.isnan(e), np.inf, e)


def samples_for_quantile(share: float, delta: float) -> int:
    """How many samples `quantile` needs: the least n with shareⁿ ≤ δ.

    The largest of n errors falls below the quantile only if all n do: probability ≤ shareⁿ.
    (share, δ): (.95, .05) → 59, (.99, .05) → 299, (.999, .05) → 2995.

    Raises:
        UsageError: `share` or `delta` is not strictly between 0 and 1.

    Source:
        Wilks (1941), "Determination of sample sizes for setting tolerance limits".
    """
    _share("share", share)
    _share("delta", delta)
    n = max(1, math.ceil(math.log(delta) / math.log(share)) - 1)
    while n * math.log(share) > math.log(delta):
        n += 1
    return n


def quantile(errors: npt.ArrayLike, share: float, delta: float) -> Statement:
    """A bound that at least `share` of all inputs obey, by an order statistic.

    Let ξ be the least number with P(e ≤ ξ) ≥ share; then P(e < ξ) ≤ share. The k-th smallest
    error e₍ₖ₎ is below ξ only if at least k samples are, so
        P(e₍ₖ₎ < ξ) ≤ P(Bin(n, share) ≥ k).
    The smallest k for which the right side is ≤ δ gives the bound e₍ₖ₎ ≥ ξ. No continuity of
    the distribution is needed.

    Args:
        errors: (n,) one a sample.
        share: of the inputs that shall obey, e.g. 0.99.
        delta: δ, e.g. 0.05.

    Returns:
        The statement; its bound is None when n < `samples_for_quantile(share, delta)`, or
        when the k-th error is not finite.

    Raises:
        UsageError: a share is not strictly between 0 and 1.

    Source:
        Wilks (1941); David & Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    e = np.sort(errors_of(errors))
    n, needed = len(e), samples_for_quantile(share, delta)
    source = "order statistic (Wilks 1941)"
    observed = float(np.quantile(e, share, method="inverted_cdf")) if n and np.isfinite(e[-1]) else None
    if n < needed:
        reason = f"{n} samples are too few: {share:g} of inputs at confidence {1 - delta:g} needs {needed}"
        return Statement(None, 1 - delta, n, observed, reason, source)
    ranks = np.arange(1, n + 1)
    # P(Bin(n, share) ≥ k) is the regularised incomplete beta function I_share(k, n − k + 1)
    enough = special.betainc(ranks, n - ranks + 1, share) <= delta
    k = int(ranks[enough][0]) if enough.any() else n
    bound = float(e[k - 1])
    if not math.isfinite(bound):
        reason = f"{int(np.isinf(e).sum())} of {n} samples gave outputs that are not finite"
        return Statement(None, 1 - delta, n, None, reason, source)
    return Statement(bound, 1 - delta, n, observed, "", source)


def rate(events: int, n: int, delta: float) -> Statement:
    """A bound on the probability of an event (a top-1 flip) seen `events` times in n samples.

    The largest p with P(Bin(n, p) ≤ events) ≥ δ, which is the (1 − δ) quantile of
    Beta(events + 1, n − events); 1 where every sample had the event.

    Args:
        events: how often it was seen.
        n: samples.
        delta: δ.

    Returns:
        The statement; its bound is None only for n = 0.

    Raises:
        UsageError: events is not between 0 and n, or δ is no share.

    Source:
        Clopper & Pearson (1934), "The use of confidence or fiducial limits".
    """
    _share("delta", delta)
    source = "Clopper–Pearson (1934)"
    if not 0 <= events <= n:
        raise UsageError(f"{events} events in {n} samples is impossible.")
    if n == 0:
        return Statement(None, 1 - delta, 0, None, "no samples: at least 1 is needed", source)
    if events == n:
        return Statement(1.0, 1 - delta, n, 1.0, "", source)
    # the library's quantile is good to about 1e-14; this is on the safe side of it
    bound = min(1.0, float(special.betaincinv(events + 1, n - events, 1 - delta)) * (1 + 1e-10))
    return Statement(bound, 1 - delta, n, events / n, "", source)


def _in_range(errors: npt.ArrayLike, largest: float) -> Floats:
    e = errors_of(errors)
    if not (math.isfinite(largest) and largest > 0):
        raise UsageError(f"a bound on the mean needs a finite range > 0, not {largest:g}.")
    if len(e) and (e.max() > largest or e.min() < 0):
        wrong = e.max() if e.max() > largest else e.min()
        raise BoundViolated(
            f"an error of {wrong:g} lies outside [0, {largest:g}], which no error was to leave; "
            "the certificate that gave this range is wrong."
        )
    return e


def mean_bernstein(errors: npt.ArrayLike, largest: float, delta: float) -> Statement:
    """A bound on the mean error by the empirical Bernstein inequality.

    With V the sample variance (n − 1 in the denominator) and errors in [0, b]:
        E e ≤ ē + √(2 V ln(2/δ) / n) + 7 b ln(2/δ) / (3 (n − 1)).

    Args:
        errors: (n,) one a sample.
        largest: b, which no error can exceed: from a deterministic certificate, or from the
            nature of the error (2 for the ℓ1 distance of two probability vectors).
        delta: δ.

    Returns:
        The statement; its bound is None for n < 2, and never above b.

    Raises:
        BoundViolated: an error lies outside [0, b].
        UsageError: the range or δ is out of bounds.

    Source:
        Maurer & Pontil (2009), arXiv 0907.3740, theorem 4.
    """
    _share("delta", delta)
    e = _in_range(errors, largest)
    n, source = len(e), "empirical Bernstein (Maurer & Pontil 2009, theorem 4)"
    if n < 2:
        return Statement(None, 1 - delta, n, None, f"{n} samples are too few: at least 2 are needed", source)
    log = math.log(2 / delta)
    mean = float(e.mean())
    bound = mean + math.sqrt(2 * float(e.var(ddof=1)) * log / n) + 7 * largest * log / (3 * (n - 1))
    return Statement(min(bound, largest), 1 - delta, n, mean, "", source)


def mean_betting(errors: npt.ArrayLike, largest: float, delta: float) -> Statement:
    """A bound on the mean error by betting against every candidate mean: the tightest of all.

    With yᵢ = eᵢ/b in [0, 1], a gambler who thinks that the mean is below m stakes
        K_t(m) = Π_{i ≤ t} (1 − λᵢ (yᵢ − m)),   0 ≤ λᵢ ≤ ½/(1 − m),   λᵢ a function of y₁ … yᵢ₋₁.
    Every factor is positive, and if the mean is m its conditional expectation is 1: K is a
    non-negative martingale, so P(max_t K_t(m) ≥ 1/δ) ≤ δ (Ville). The m that are not rejected
    therefore hold the mean with probability 1 − δ. The stakes follow the variance seen so far,
    λᵢ = min(√(2 ln(1/δ) / (n σ̂²ᵢ₋₁)), ½/(1 − m)). Each factor grows with m (while the stake is
    capped, (y − m)/(1 − m) falls with m as y ≤ 1), so the m not rejected are an interval from 0
    and its end is found by bisection, kept on the rejected side.

    The result depends on the order of the samples, which must not depend on their values.

    Args:
        errors: (n,) in the order drawn.
        largest: b, as for `mean_bernstein`.
        delta: δ.

    Returns:
        The statement; its bound is None for n < 2, and never above b.

    Raises:
        BoundViolated: an error lies outside [0, b].
        UsageError: the range or δ is out of bounds.

    Source:
        Waudby-Smith & Ramdas (2024), arXiv 2010.09686, theorem 3 and section 4.
    """
    _share("delta", delta)
    e = _in_range(errors, largest)
    n, source = len(e), "betting (Waudby-Smith & Ramdas 2024)"
    if n < 2:
        return Statement(None, 1 - delta, n, None, f"{n} samples are too few: at least 2 are needed", source)
    y = e / largest
    seen = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(y)) / (seen + 1)
    variances = (0.25 + np.cumsum((y - means) ** 2)) / (seen + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    stakes = np.sqrt(2 * math.log(1 / delta) / (n * before))

    def rejected(m: float) -> bool:
        capped = np.minimum(stakes, 0.5 / (1 - m))
        return bool(np.cumsum(np.log1p(-capped * (y - m))).max() >= math.log(1 / delta) + 1e-9)

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle < 1.0 and rejected(middle):
            high = middle
        else:
            low = middle
    return Statement(min(high * (1 + 1e-12), 1.0) * largest, 1 - delta, n, float(e.mean()), "", source)


def band(n: int, delta: float) -> float | None:
    """How far the share of *all* inputs above any threshold can exceed the share of samples.

    With F the distribution of the errors and Fₙ that of the samples,
        P( sup_t (Fₙ(t) − F(t)) > ε ) ≤ exp(−2 n ε²)   whenever exp(−2 n ε²) ≤ ½,
    so ε = √(ln(1/δ) / (2 n)). It holds for all thresholds at once: they may be chosen after
    looking at the samples.

    Returns:
        ε, or None for n = 0.

    Raises:
        UsageError: δ is not in (0, ½].

    Source:
        Massart (1990), "The tight constant in the Dvoretzky–Kiefer–Wolfowitz inequality".
    """
    _share("delta", delta)
    if delta > 0.5:
        raise UsageError(f"the DKW band needs delta ≤ 0.5, not {delta:g}.")
    return math.sqrt(math.log(1 / delta) / (2 * n)) if n else None


def exceedance(errors: npt.ArrayLike, threshold: float, delta: float) -> Statement:
    """A bound on the share of inputs whose error exceeds a threshold chosen after the fact.

    The share of samples above the threshold plus the DKW band. For a threshold fixed in
    advance `rate` is tighter.

    Returns:
        The statement; its bound is None where the band is 1 or wider: it needs more than
        ln(1/δ)/2 samples.

    Raises:
        UsageError: δ is not in (0, ½].

    Source:
        Massart (1990).
    """
    e = errors_of(errors)
    n, source = len(e), "Dvoretzky–Kiefer–Wolfowitz band (Massart 1990)"
    width = band(n, delta)
    observed = float((e > threshold).mean()) if n else None
    if width is None or observed is None or width >= 1.0:
        needed = math.floor(math.log(1 / delta) / 2) + 1
        reason = f"{n} samples are too few: at least {needed} are needed"
        return Statement(None, 1 - delta, n, observed, reason, source)
    return Statement(min(1.0, observed + width), 1 - delta, n, observed, "", source)


def chosen_ratio(
    errors: npt.ArrayLike, ratios: npt.ArrayLike, limit: float, share: float, delta: float
) -> tuple[int | None, Statement]:
    """The most aggressive of several candidates whose error is certified, chosen on the same samples.

    Learn, then test: candidate j is good if at least `share` of all inputs have an error ≤ limit. Its
    null hypothesis "the rate of errors above the limit exceeds 1 − share" has the binomial p-value
    P(Bin(n, 1 − share) ≤ events_j). The candidates are tested from the mildest on, each at level δ, and
    the first that is not rejected ends it: with probability ≥ 1 − δ no bad candidate is ever accepted,
    because to accept one its own p-value would have to be ≤ δ (fixed sequence testing; no correction is
    needed). The order must not depend on the errors.

    Args:
        errors: (candidates, n) on the same held-out samples.
        ratios: (candidates,) how much is removed; they are tested in ascending order.
        limit: largest error that is acceptable.
        share: of the inputs that shall obey it.
        delta: δ.

    Returns:
        The index of the accepted candidate that removes most, None if there is none; and the statement,
        whose bound is the limit.

    Raises:
        UsageError: shapes do not fit, or a share is out of range.

    Source:
        Angelopoulos et al. (2021), "Learn then test", arXiv 2110.01052, section 3 (fixed sequence testing).
    """
    _share("share", share)
    _share("delta", delta)
    table, order = np.asarray(errors, dtype=np.float64), np.asarray(ratios, dtype=np.float64)
    if table.ndim != 2 or len(table) != len(order):
        raise UsageError(f"needs one row of errors a ratio, not {table.shape} for {len(order)} ratios.")
    n, source = table.shape[1], "learn then test (Angelopoulos et al. 2021)"
    accepted: int | None = None
    for j in np.argsort(order, kind="stable"):
        events = int((~(table[j] <= limit)).sum())
        # P(Bin(n, p) ≤ k) is the regularised incomplete beta function I_{1 − p}(n − k, k + 1)
        p_value = 1.0 if events >= n else float(special.betainc(n - events, events + 1, share))
        if p_value > delta:
            break
        accepted = int(j)
    if accepted is None:
        reason = f"even the mildest candidate is not certified with {n} samples"
        return None, Statement(None, 1 - delta, n, None, reason, source)
    return accepted, Statement(limit, 1 - delta, n, float(table[accepted].max()), "", source)
