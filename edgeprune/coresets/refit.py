"""The units with the largest weights, and least squares for the rest."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence
from edgeprune.coresets.gram import compensated, heard
from edgeprune.coresets.magnitude import Magnitude
from edgeprune.plan import Selection


class MagnitudeRefit(Coreset):
    """Top-k by l2 norm, with the same compensation and refit as `gram`: only the choice differs."""

    name: ClassVar[str] = "magnitude-refit"
    needs_data: ClassVar[bool] = True
    refits: ClassVar[bool] = True

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        keep = Magnitude().choose(evidence, size, generator).keep
        return compensated(heard(evidence), keep)
