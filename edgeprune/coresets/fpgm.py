"""Filter pruning via geometric median: drop the units that the others can stand for."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence
from edgeprune.plan import Selection


class Fpgm(Coreset):
    """Keep the units whose weights lie farthest, in sum, from those of all others; no compensation.

    Weights are taken as they are stored: with their bias, without the batch norm that follows.
    """

    name: ClassVar[str] = "fpgm"
    hears: ClassVar[bool] = False
    source: ClassVar[str] = "He et al., CVPR 2019, equation 6"

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        rows = np.concatenate(evidence.stored, axis=1)
        squares = (rows**2).sum(axis=1)
        distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0.0))
        return Selection(np.sort(np.argsort(-distances.sum(axis=1), kind="stable")[:size]))
