"""Backward elimination with closed-form compensation, from second moments.

Let K = E[h hᵀ] (or the covariance, where a constant may be added to the readers) be what is known
of the n units, and W a reader's weights. For a kept set S the best W′ supported on S is
W K_{:S} K_SS⁻¹, and its expected squared error is

    E‖(W − W′) h‖² = tr( W (K − K_{:S} K_SS⁻¹ K_{S:}) Wᵀ ).

Removing one more unit i from the kept set (with H = K_SS⁻¹ and the current W′) raises it by
‖W′_{:,i}‖² / H_ii, so the cheapest unit is known in closed form; the update of H and of
B = W′ᵀW′ is a rank-one (rank-two) correction. One pass from n units to 1 therefore gives the whole
curve error(m). Several readers of one group are served together by the sum of their errors, each
relative to the energy of what it hears.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence, Floats, Hearing
from edgeprune.errors import UnsupportedModel
from edgeprune.graph import Ints
from edgeprune.plan import Selection

RIDGE = 1e-6
"""Added to the moments' diagonal, relative to its mean, so that they can be inverted."""


class Gram(Coreset):
    """Eliminate unit by unit what costs least, and let the rest make up for it."""

    name: ClassVar[str] = "gram"
    needs_data: ClassVar[bool] = True
    refits: ClassVar[bool] = True

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        hearings = evidence.hearings
        if not hearings or any(hearing.moment is None for hearing in hearings):
            raise UnsupportedModel(
                f"{evidence.name}: nothing is known of what its readers hear; give a calibration set "
                f"(--calibration), use --method magnitude, or --exclude {evidence.name}."
            )
        keep = eliminate(hearings, size)
        mix, shift = compensation(hearings, keep)
        return Selection(keep, mix, shift, error=expected_error(hearings, keep, mix, shift))


@dataclass(slots=True)
class _State:
    """One reader during the elimination, on the units that are still there."""

    inverse: Floats
    gram: Floats
    energy: float

    @staticmethod
    def of(hearing: Hearing) -> _State:
        known = moments(hearing)
        inverse: Floats = np.linalg.inv(known + _ridge(known) * np.eye(len(known))).astype(np.float64)
        return _State(inverse, hearing.gram.copy(), max(float((known * hearing.gram).sum()), 1e-300))

    def cost(self) -> Floats:
        """Relative rise of the expected squared error for each unit, if it goes now."""
        own = np.diagonal(self.inverse)
        there = own > 0  # units that are gone have a zero here
        return (
            np.where(there, np.maximum(np.diagonal(self.gram), 0.0) / np.where(there, own, 1.0), np.inf)
            / self.energy
        )

    def remove(self, i: int) -> None:
        h = self.inverse[:, i] / self.inverse[i, i]
        b = self.gram[:, i].copy()
        # W′ ← W′ − W′_{:,i} hᵀ, so B ← B − b hᵀ − h bᵀ + B_ii h hᵀ
        self.gram -= np.outer(b - 0.5 * b[i] * h, h)
        self.gram -= np.outer(h, b - 0.5 * b[i] * h)
        self.inverse -= np.outer(self.inverse[:, i], h)

    def keep(self, left: Ints) -> None:
        self.inverse = self.inverse[np.ix_(left, left)]
        self.gram = self.gram[np.ix_(left, left)]


def moments(hearing: Hearing) -> Floats:
    """The covariance of what a shiftable reader hears, else the uncentred second moment; (n, n)."""
    assert hearing.moment is not None
    if hearing.shiftable and hearing.mean is not None:
        return hearing.moment - np.outer(hearing.mean, hearing.mean)
    return hearing.moment


def _ridge(known: Floats) -> float:
    return RIDGE * max(float(np.diagonal(known).mean()), 1e-30)


def eliminate(hearings: tuple[Hearing, ...], size: int) -> Ints:
    """The units left by backward elimination; (size,) int64, ascending.

    Removed rows are dropped in batches, so that the work shrinks with the units that are left.
    """
    states = [_State.of(hearing) for hearing in hearings]
    left = np.arange(len(hearings[0].gram))
    gone = np.zeros(len(left), dtype=np.bool_)
    while int((~gone).sum()) > size:
        cost = np.sum([state.cost() for state in states], axis=0)
        cost[gone] = np.inf
        unit = int(np.argmin(cost))
        for state in states:
            state.remove(unit)
        gone[unit] = True
        if gone.sum() * 5 > len(gone):
            rest = np.flatnonzero(~gone)
            for state in states:
                state.keep(rest)
            left, gone = left[rest], np.zeros(len(rest), dtype=np.bool_)
    return left[~gone]


def compensation(hearings: tuple[Hearing, ...], keep: Ints) -> tuple[Floats, Floats]:
    """The mix (m, n) and shift (n,) that serve all readers best.

    h ≈ mixᵀ h_S + shift, the least-squares affine fit under the readers' moments, weighted by the
    inverse of each reader's energy. The shift is zero unless every reader can take it.
    """
    weight = [1.0 / max(float((moments(h) * h.gram).sum()), 1e-300) for h in hearings]
    scale = np.sum(weight)
    known = sum((w / scale) * moments(h) for w, h in zip(weight, hearings, strict=True))
    inner = known[np.ix_(keep, keep)] + _ridge(known) * np.eye(len(keep))
    mix = np.linalg.solve(inner, known[keep])
    shift = np.zeros(known.shape[0])
    if all(h.shiftable and h.mean is not None for h in hearings):
        mean = sum((w / scale) * h.mean for w, h in zip(weight, hearings, strict=True) if h.mean is not None)
        shift = mean - mix.T @ mean[keep]
    return mix, shift


def expected_error(hearings: tuple[Hearing, ...], keep: Ints, mix: Floats, shift: Floats) -> float:
    """Σ_readers E‖W h − W′ h_S − W shift‖² ÷ Σ_readers E‖W h‖² under the moments; exact, no run."""
    error = energy = 0.0
    for hearing in hearings:
        assert hearing.moment is not None
        residual = np.eye(len(hearing.gram))
        residual[:, keep] -= mix.T
        known = residual @ hearing.moment @ residual.T
        if hearing.mean is not None:
            mean = residual @ hearing.mean
            known += -np.outer(mean, shift) - np.outer(shift, mean) + np.outer(shift, shift)
        error += float((known * hearing.gram).sum())
        energy += float((hearing.moment * hearing.gram).sum())
    return max(error, 0.0) / max(energy, 1e-300)
