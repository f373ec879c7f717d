"""The statistics of paired latencies.

One launch (a fresh process) gives paired times (a_i, b_i) of two models; its figure is the median
of log(b_i / a_i), because pairs share what the machine was doing, the logarithm makes faster and
slower symmetric, and the median ignores interruptions. A launch has its own luck (memory layout,
order of sessions) that no number of pairs averages out, so the interval is over launches: with
launch figures r_1 … r_L, mean r̄ and standard deviation s,

    exp(r̄ ± t_{(1+c)/2, L−1} · s / √L)

covers the ratio with confidence c when the r_l are independent and near normal, which the median
of many pairs makes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RatioInterval:
    """A ratio of latencies and where it may lie.

    Attributes:
        ratio: geometric mean over launches.
        low: lower end of the interval.
        high: upper end.
        half_width: of the interval of the log-ratio; 0.02 is about 2 %.
        launches: how many it was made from.
        confidence: share of such intervals that hold the true ratio.
    """

    ratio: float
    low: float
    high: float
    half_width: float
    launches: int
    confidence: float


def median_log_ratio(times_ms: Floats) -> float:
    """The figure of one launch.

    Args:
        times_ms: float64 (pairs, 2), columns (first model, second model), positive.

    Returns:
        The median of log(second ÷ first).
    """
    return float(np.median(np.log(times_ms[:, 1] / times_ms[:, 0])))


def ratio_interval(log_ratios: Sequence[float], confidence: float) -> RatioInterval:
    """Student's interval over launches.

    Args:
        log_ratios: one figure a launch, at least two.
        confidence: in (0, 1).

    Raises:
        ValueError: fewer than two launches.
    """
    from scipy.special import stdtrit

    count = len(log_ratios)
    if count < 2:
        raise ValueError(f"an interval over launches needs at least 2, not {count}")
    centre = float(np.mean(log_ratios))
    spread = float(np.std(log_ratios, ddof=1))
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * spread / math.sqrt(count)
    return RatioInterval(
        ratio=math.exp(centre),
        low=math.exp(centre - half),
        high=math.exp(centre + half),
        half_width=half,
        launches=count,
        confidence=confidence,
    )


def percentile_upper(values: Sequence[float] | Floats, share: float, confidence: float) -> float | None:
    """An upper confidence bound of a percentile, free of assumptions on the distribution.

    The k-th smallest of n independent values exceeds the `share` quantile unless at least k of
    them lie below it, so it is a bound with confidence P(Bin(n, share) ≤ k − 1); the smallest such
    k is taken. None when even the largest value is not enough (95 % of 95 % needs 59 values).

    Source:
        Order-statistic confidence limits for quantiles; the rule behind MLPerf's early stopping.
    """
    from scipy.special import bdtr

    ordered = np.sort(np.asarray(values, dtype=np.float64))
    ranks = np.arange(1, len(ordered) + 1)
    enough = bdtr(ranks - 1, len(ordered), share) >= confidence
    return float(ordered[int(np.argmax(enough))]) if enough.any() else None


def percentile_lower(values: Sequence[float] | Floats, share: float, confidence: float) -> float | None:
    """A lower confidence bound of a percentile; the mirror of `percentile_upper`.

    The k-th smallest of n independent values is below the `share` quantile unless fewer than k of
    them lie below it, so it is a bound with confidence 1 − P(Bin(n, share) ≤ k − 1). None when even
    the smallest value is not enough.
    """
    mirrored = percentile_upper(-np.asarray(values, dtype=np.float64), 1 - share, confidence)
    return None if mirrored is None else -mirrored
