"""What can be known of a group before choosing: its weights as queries, and what data makes of it.

`evidence` gathers what a coreset method may see; `moments` listens on the calibration set;
`patches` writes a reader as a matrix, so that it can be refitted by least squares.
"""

from __future__ import annotations

from edgeprune.observation.evidence import Scene, gather
from edgeprune.observation.moments import batches, positions
from edgeprune.observation.patches import Landing, NormalEquations, Site, landing, refit, shift_site

__all__ = [
    "Landing",
    "NormalEquations",
    "Scene",
    "Site",
    "batches",
    "gather",
    "landing",
    "positions",
    "refit",
    "shift_site",
]
