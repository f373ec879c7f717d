"""What can be known of a group before choosing: its weights as queries, and what data makes of it.

`evidence` gathers what a coreset method may see; `moments` listens on the calibration set;
`patches` writes a reader as a matrix, so that it can be refitted by least squares.

Beside them:

    audibility    Which positions of a sequence the outputs depend on: padding is read by nobody, so nothing …
    gaussian      Moments of φ(z) for Gaussian z, in closed form: what a unit says when only mean and …
    importance    What units do on samples besides their moments: their part of each sum, their hold on …
    kernel_ridge  The refit of a reader with more unknowns than rows: ridge regression in the space of the …
    knowledge     Where second moments come from: samples, inputs made from batch norms, mean and …
    originals     What the original net computes on the samples: run once, and kept while there is room.
    powers        How large the weights are that make a group's units, without a copy of them in float64.
    propagation   Mean and covariance carried through a net: what every layer hears when only the …
    synthetic     Inputs made from nothing but the net: those on which every batch norm sees what it saw …
    ways          The way from the layers that make a group's units to what a reader hears of them.
"""

from __future__ import annotations

from edgeprune.observation.evidence import Scene, gather
from edgeprune.observation.moments import batches, positions
from edgeprune.observation.originals import Originals
from edgeprune.observation.patches import (
    Landing,
    NormalEquations,
    Site,
    landing,
    refit,
    refittable,
    shift_site,
)

__all__ = [
    "Landing",
    "NormalEquations",
    "Originals",
    "Scene",
    "Site",
    "batches",
    "gather",
    "landing",
    "positions",
    "refit",
    "refittable",
    "shift_site",
]
