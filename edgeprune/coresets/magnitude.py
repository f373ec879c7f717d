"""The baselines that users know: keep the units with the largest incoming weights."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence
from edgeprune.plan import Selection


class Magnitude(Coreset):
    """Keep the units whose incoming weights have the largest norm; no compensation.

    Units made by several layers (residual streams) are scored by the root of the summed squares
    (or by the sum, for l1) of their norms over those layers. Weights are taken as they are stored, as users
    and papers do: with their bias, without the batch norm that follows.
    """

    name: ClassVar[str] = "magnitude"
    hears: ClassVar[bool] = False
    needs_rows: ClassVar[bool] = False
    order: ClassVar[int] = 2

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        score = np.sum(evidence.powers(self.order), axis=0)
        keep = np.sort(np.argsort(-score, kind="stable")[:size])
        return Selection(keep)


class MagnitudeL1(Magnitude):
    """The same with the l1 norm."""

    name: ClassVar[str] = "magnitude-l1"
    order: ClassVar[int] = 1
