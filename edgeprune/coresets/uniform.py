"""Uniform sampling without replacement, rescaled so that sums keep their expectation."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence
from edgeprune.plan import Selection


class Uniform(Coreset):
    """Every set of m units is as likely; kept weights are multiplied by n/m.

    Without the factor the estimate of Σ_i w_i h_i would be biased towards zero, which is how
    some published comparisons handicap this baseline.
    """

    name: ClassVar[str] = "uniform"
    hears: ClassVar[bool] = False
    needs_rows: ClassVar[bool] = False
    random: ClassVar[bool] = True

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        n = evidence.size
        keep = np.sort(generator.permutation(n)[:size])
        mix = np.zeros((size, n))
        mix[np.arange(size), keep] = n / size
        return Selection(keep, mix)
