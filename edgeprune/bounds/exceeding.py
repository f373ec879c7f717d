"""The whole distribution of the error at once: how many inputs exceed any threshold, also in the tail."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from edgeprune.bounds.statistical import band, errors_of


@dataclass(frozen=True, slots=True)
class Curve:
    """Upper bounds on the share of all inputs above every threshold, all at once.

    Attributes:
        thresholds: ascending, in the unit of the errors: some of the errors themselves.
        above: share of the samples with a larger error (never a bound).
        bounds: on the share of all inputs with a larger error; between two thresholds the left one's holds.
    """

    thresholds: tuple[float, ...]
    above: tuple[float, ...]
    bounds: tuple[float, ...]


def whole_distribution(errors: npt.ArrayLike, delta: float, points: int = 24) -> Curve | None:
    """Bounds on P(e > t) for every t at once: the DKW band, met with order statistics in the tail.

    Half of δ goes to the band #(eᵢ > t)/n + √(ln(2/δ)/(2n)). The band is far too wide where few samples are
    left; there K ranks fixed in advance, n, n − 1, n − 2, n − 4, …, share the other half: as in `quantile`,
        P( P(e > e₍ₖ₎) > 1 − q ) ≤ δ/(2K)   for q the δ/(2K) quantile of Beta(k, n − k + 1),
    and what bounds the share above e₍ₖ₎ bounds it above every larger t.

    Args:
        errors: (n,) one a sample.
        delta: δ ≤ ½.
        points: of the curve that are evenly spaced in probability; the K ranks are added.

    Returns:
        The curve; None without samples, or where an error is no number.

    Raises:
        UsageError: δ is not in (0, ½].

    Source:
        Massart (1990) for the band; Wilks (1941) for the ranks; a union bound joins them.
    """
    e = np.sort(errors_of(errors))
    n, width = len(e), band(len(e), delta / 2)
    if width is None or not np.isfinite(e).all():
        return None
    ranks = np.unique(n - np.concatenate([[0], 2 ** np.arange(int(math.log2(n)) if n > 1 else 0)]))
    share = special.betaincinv(ranks, n - ranks + 1, delta / (2 * len(ranks))) * (1 - 1e-10)
    evenly = np.ceil(np.linspace(0, 1, points + 1)[1:] * n).astype(int)
    thresholds = np.unique(e[np.unique(np.concatenate([ranks, evenly])) - 1])
    above = 1.0 - np.searchsorted(e, thresholds, side="right") / n
    tail = [float((1 - share[e[ranks - 1] <= t]).min(initial=1.0)) for t in thresholds]
    bounds = np.minimum(np.minimum(above + width, tail), 1.0)
    return Curve(tuple(map(float, thresholds)), tuple(map(float, above)), tuple(map(float, bounds)))
