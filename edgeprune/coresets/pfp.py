"""Provable filter pruning, the deterministic variant that its authors use in their experiments."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence
from edgeprune.errors import UnsupportedModel
from edgeprune.plan import Selection


class Pfp(Coreset):
    """Keep the units with the largest empirical sensitivity; no reweighting.

    The sensitivity of unit i is the largest part it has of any output's positive, or negative, sum:
    max over samples, positions, outputs and taps of w_i h_i / Σ_k (w_k h_k)⁺, and of the negative parts.
    """

    name: ClassVar[str] = "pfp"
    needs_samples: ClassVar[bool] = True
    needs_shares: ClassVar[bool] = True
    source: ClassVar[str] = "Liebenwein et al., ICLR 2020, deterministic variant"

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        shares = [hearing.share for hearing in evidence.hearings if hearing.share is not None]
        if not shares:
            raise UnsupportedModel(
                f"{evidence.name}: the parts its units have of what is read are not known; give a "
                f"calibration set, or use --method magnitude, or --exclude {evidence.name}."
            )
        score = np.max(shares, axis=0)
        return Selection(np.sort(np.argsort(-score, kind="stable")[:size]))
