"""First-order Taylor criterion: how much the loss moves if a unit is set to zero."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence
from edgeprune.errors import UnsupportedModel
from edgeprune.plan import Selection


class Taylor(Coreset):
    """Keep the units with the largest E(h ∂L/∂h)², summed over positions; no compensation.

    Without labels L is a random projection of the outputs, fresh for every sample, so that the score is
    E‖h ∂f/∂h‖²: the first-order change of the outputs themselves.
    """

    name: ClassVar[str] = "taylor"
    needs_samples: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True
    source: ClassVar[str] = "Molchanov et al., CVPR 2019, on activations"

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        if evidence.gradients is None:
            raise UnsupportedModel(
                f"{evidence.name}: no gradients are known, which need samples; give a calibration set, or "
                "use --method magnitude."
            )
        return Selection(np.sort(np.argsort(-evidence.gradients, kind="stable")[:size]))
