"""Network slimming's criterion: the factor γ of the batch norm behind a channel."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence
from edgeprune.errors import UnsupportedModel
from edgeprune.plan import Selection


class BatchNormScale(Coreset):
    """Keep the channels with the largest |γ|, summed over the layers that make them; no compensation."""

    name: ClassVar[str] = "bn-scale"
    hears: ClassVar[bool] = False
    source: ClassVar[str] = "Liu et al., ICCV 2017"

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        found = [scale for scale in evidence.scales if scale is not None]
        if not found:
            raise UnsupportedModel(
                f"{evidence.name}: no batch norm with a factor follows it, so bn-scale has nothing to rank "
                f"by; use --method magnitude or gram, or --exclude {evidence.name}."
            )
        score = np.sum([np.abs(scale) for scale in found], axis=0)
        return Selection(np.sort(np.argsort(-score, kind="stable")[:size]))
