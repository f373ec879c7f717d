"""Elimination with closed-form compensation, from second moments.

Let K = E[h hᵀ] (or the covariance, where a constant may be added to the readers) be what is known
of the n units, and W a reader's weights. For a kept set S the best W′ supported on S is
W K_{:S} K_SS⁻¹, and its expected squared error is

    E‖(W − W′) h‖² = tr( W (K − K_{:S} K_SS⁻¹ K_{S:}) Wᵀ ),

known exactly before anything is run. `elimination` finds S, and the whole curve error(m) on its way.
The moments may come from samples, from inputs made to match batch-norm statistics, from the data's mean
and covariance alone, or from nothing but the weights (see `edgeprune.observation.knowledge`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence, Floats, Hearing
from edgeprune.coresets.elimination import backward, energy, forward, moments, ridge
from edgeprune.errors import UnsupportedModel
from edgeprune.graph.groups import Ints
from edgeprune.plan import Selection


class Gram(Coreset):
    """Eliminate unit by unit what costs least, and let the rest make up for it."""

    name: ClassVar[str] = "gram"
    needs_data: ClassVar[bool] = True
    refits: ClassVar[bool] = True

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        hearings = heard(evidence)
        keep, curve = self._walked(hearings, size)
        return replace(compensated(hearings, keep), curve=curve)

    def _walked(self, hearings: tuple[Hearing, ...], size: int) -> tuple[Ints, Floats | None]:
        """The units to keep, and the error of every width: the walk goes on to the end for it.

        What is left of the matrices shrinks on the way, so that the second half of a walk costs an eighth.
        """
        walk = backward(hearings)
        return np.sort(walk.order[len(walk.order) - size :]), walk.curve


class GramMix(Gram):
    """The same units and the closed form alone, also where there are samples: for convolutions a 1×1 mix.

    Cheaper than the refit of each reader on kept channels × taps, and less exact.
    """

    name: ClassVar[str] = "gram-mix"
    refits: ClassVar[bool] = False


class GramForward(Gram):
    """The same from the other end: add unit by unit what explains most (pivoted Cholesky)."""

    name: ClassVar[str] = "gram-forward"

    def _walked(self, hearings: tuple[Hearing, ...], size: int) -> tuple[Ints, Floats | None]:
        return forward(hearings, size).keep, None


def heard(evidence: Evidence) -> tuple[Hearing, ...]:
    """The readers, whose moments must be known.

    Raises:
        UnsupportedModel: they are not.
    """
    if not evidence.hearings or any(hearing.moment is None for hearing in evidence.hearings):
        raise UnsupportedModel(
            f"{evidence.name}: nothing is known of what its readers hear; give a calibration set "
            f"(--calibration), use --method magnitude, or --exclude {evidence.name}."
        )
    return evidence.hearings


def compensated(hearings: tuple[Hearing, ...], keep: Ints) -> Selection:
    """Keep these units, and mix them so that the readers lose least."""
    mix, shift = compensation(hearings, keep)
    return Selection(keep, mix, shift, error=expected_error(hearings, keep, mix, shift))


def compensation(hearings: tuple[Hearing, ...], keep: Ints) -> tuple[Floats, Floats]:
    """The mix (m, n) and shift (n,) that serve all readers best.

    h ≈ mixᵀ h_S + shift, the least-squares affine fit under the readers' moments, weighted by the
    inverse of each reader's energy. The shift is zero unless every reader can take it.
    """
    weight = [1.0 / energy(h) for h in hearings]
    scale = np.sum(weight)
    known = sum((w / scale) * moments(h) for w, h in zip(weight, hearings, strict=True))
    inner = known[np.ix_(keep, keep)] + ridge(known) * np.eye(len(keep))
    mix = np.linalg.solve(inner, known[keep])
    shift = np.zeros(known.shape[0])
    if all(h.shiftable and h.mean is not None for h in hearings):
        mean = sum((w / scale) * h.mean for w, h in zip(weight, hearings, strict=True) if h.mean is not None)
        shift = mean - mix.T @ mean[keep]
    return mix, shift


def expected_error(hearings: tuple[Hearing, ...], keep: Ints, mix: Floats, shift: Floats) -> float:
    """Σ_readers E‖W h − W′ h_S − W shift‖² ÷ Σ_readers E‖W h‖² under the moments; exact, no run."""
    error = total = 0.0
    for hearing in hearings:
        assert hearing.moment is not None
        residual = np.eye(len(hearing.gram))
        residual[:, keep] -= mix.T
        known = residual @ hearing.moment @ residual.T
        if hearing.mean is not None:
            mean = residual @ hearing.mean
            known += -np.outer(mean, shift) - np.outer(shift, mean) + np.outer(shift, shift)
        error += float((known * hearing.gram).sum())
        total += float((hearing.moment * hearing.gram).sum())
    return max(error, 0.0) / max(total, 1e-300)
