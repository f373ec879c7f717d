"""Greedy choice from second moments: from n units down, or from none up, with the whole error curve.

Let K = E[h hᵀ] be what is known of n units and W a reader's weights, B = WᵀW. With the best weights on a
kept set S the expected squared error is tr(W R Wᵀ), R = K − K_{:S} K_SS⁻¹ K_{S:}.

*Backward.* Let H = K_SS⁻¹ and W′ = W K_{:S} K_SS⁻¹, B = W′ᵀW′. If unit i goes too, the error rises by
B_ii / H_ii, and with h = H_{:,i} / H_ii

    H ← H − H_ii h hᵀ,      B ← B − b hᵀ − h bᵀ + B_ii h hᵀ,   b = B_{:,i}.            (1)

*Forward.* Let R be the residual and M = R B R. If unit i is added, the error falls by M_ii / R_ii, and (1)
holds word for word with R for H and M for B: pivoted Cholesky of K, pivoted by what the readers gain.

Both are one loop over a pair (H, B). The corrections of (1) are collected, and applied 64 at a time as
one matrix product to the rows that are left: a column costs O(64 n), the whole walk about 2 n³ operations at
the speed of matrix products. Several readers of one group are served by the sum of their errors, each
relative to the energy of what it hears.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from edgeprune.coresets.coreset import Floats, Hearing
from edgeprune.graph.groups import Ints

RIDGE = 1e-6
"""Added to the moments' diagonal, relative to its mean, so that they can be inverted."""

BLOCK = 64
"""Corrections that are collected before they are applied."""


@dataclass(frozen=True, slots=True)
class Walk:
    """What one walk gives.

    Attributes:
        keep: (m,) int64, ascending: the units that are kept at its end.
        order: the units in the order in which they went (backward) or came (forward).
        curve: (n + 1,) float64: by number of units kept, the expected squared error relative to the energy
            of what the readers hear, summed over readers; NaN where the walk did not come by.
    """

    keep: Ints
    order: Ints
    curve: Floats


def moments(hearing: Hearing) -> Floats:
    """The covariance of what a shiftable reader hears, else the uncentred second moment; (n, n)."""
    assert hearing.moment is not None
    if hearing.shiftable and hearing.mean is not None:
        return hearing.moment - np.outer(hearing.mean, hearing.mean)
    return hearing.moment


def ridge(known: Floats) -> float:
    """What is added to the diagonal of `known`."""
    return RIDGE * max(float(np.diagonal(known).mean()), 1e-30)


def energy(hearing: Hearing) -> float:
    """E‖W h‖² under the moments, never 0."""
    return max(float((moments(hearing) * hearing.gram).sum()), 1e-300)


def backward(hearings: tuple[Hearing, ...], size: int = 0) -> Walk:
    """Let go, one by one, of the unit that costs least, until `size` are left."""
    states = []
    for hearing in hearings:
        known = moments(hearing) + ridge(moments(hearing)) * np.eye(len(hearing.gram))
        states.append(_Pair.of(_inverse(known), hearing.gram, energy(hearing)))
    n = len(hearings[0].gram)
    order, costs, left = _walk(states, n - size, 1.0)
    curve = np.full(n + 1, np.nan)
    curve[size:] = np.concatenate([[0.0], np.cumsum(costs)])[::-1]
    return Walk(left, order, curve)


def forward(hearings: tuple[Hearing, ...], size: int) -> Walk:
    """Take, one by one, the unit that lowers the error most, until there are `size`."""
    states, total = [], 0.0
    for hearing in hearings:
        known = moments(hearing) + ridge(moments(hearing)) * np.eye(len(hearing.gram))
        states.append(_Pair.of(known, known @ hearing.gram @ known, energy(hearing)))
        total += float((known * hearing.gram).sum()) / energy(hearing)
    order, gains, _ = _walk(states, size, -1.0)
    curve = np.full(len(hearings[0].gram) + 1, np.nan)
    curve[: size + 1] = np.maximum(total - np.concatenate([[0.0], np.cumsum(gains)]), 0.0)
    return Walk(np.sort(order), order, curve)


def _walk(states: list[_Pair], steps: int, sign: float) -> tuple[Ints, Floats, Ints]:
    """Eliminate `steps` units, each time the one with the least sign · Σ_readers B_ii / H_ii.

    Returns:
        The units in that order (steps,), what each cost or gained (steps,), and the units that were not met,
        ascending.
    """
    left = np.arange(len(states[0].first))
    met = np.zeros(len(left), dtype=np.bool_)
    order, ratios = np.empty(steps, dtype=np.int64), np.empty(steps)
    for step in range(steps):
        ratio = np.sum([state.ratio() for state in states], axis=0)
        unit = int(np.argmin(np.where(met, np.inf, sign * ratio)))
        order[step], ratios[step], met[unit] = left[unit], ratio[unit], True
        full = [state.eliminate(unit) for state in states]
        if any(full):
            rest = np.flatnonzero(~met)
            for state in states:
                state.flush(rest)
            left, met = left[rest], np.zeros(len(rest), dtype=np.bool_)
    return order, ratios, left[~met]


def _inverse(known: Floats) -> Floats:
    """Inverse of a positive definite matrix by Cholesky; by LU where rounding made it indefinite."""
    potrf, potri = linalg.get_lapack_funcs(("potrf", "potri"), (known,))
    factor, failed = potrf(known, lower=1)
    if failed:
        return np.asarray(np.linalg.inv(known), dtype=np.float64)
    half, _ = potri(factor, lower=1)
    lower = np.tril(half)
    return np.ascontiguousarray(lower + np.tril(half, -1).T)


@dataclass(slots=True)
class _Pair:
    """(H, B) of one reader during a walk: matrices as of the last flush, and the corrections since.

    Attributes:
        diagonal: of H and of B, up to date.
        u: (block, n) rows √H_ii h; H is now `first` − uᵀu.
        p, q: (block, n) rows b − ½ B_ii h and h; B is now `second` − pᵀq − qᵀp.
    """

    first: Floats
    second: Floats
    energy: float
    diagonal: tuple[Floats, Floats]
    u: Floats
    p: Floats
    q: Floats
    count: int = 0

    @staticmethod
    def of(first: Floats, second: Floats, energy: float) -> _Pair:
        n = len(first)
        diagonal = (np.diagonal(first).copy(), np.diagonal(second).copy())
        rows = (np.empty((BLOCK, n)), np.empty((BLOCK, n)), np.empty((BLOCK, n)))
        return _Pair(first, second, energy, diagonal, *rows)

    def ratio(self) -> Floats:
        """B_ii / H_ii over the energy: what each unit costs, or gains, now; (n,)."""
        own, load = self.diagonal
        sound = own > 0
        return np.where(sound, np.maximum(load, 0.0) / np.where(sound, own, 1.0), 0.0) / self.energy

    def eliminate(self, i: int) -> bool:
        """Apply (1) for unit i; tells whether the block is full."""
        k = self.count
        column = self.first[i] - self.u[:k, i] @ self.u[:k]
        b = self.second[i] - self.p[:k, i] @ self.q[:k] - self.q[:k, i] @ self.p[:k]
        pivot = max(float(column[i]), 1e-300)
        h = column / pivot
        self.u[k] = column / np.sqrt(pivot)
        self.p[k] = b - 0.5 * b[i] * h
        self.q[k] = h
        self.diagonal[0][:] -= self.u[k] ** 2
        self.diagonal[1][:] -= 2 * self.p[k] * self.q[k]
        self.count += 1
        return self.count == BLOCK

    def flush(self, rest: Ints) -> None:
        """Apply the corrections to the rows and columns `rest`, and forget the others."""
        k = self.count
        u, p, q = self.u[:k, rest], self.p[:k, rest], self.q[:k, rest]
        index = np.ix_(rest, rest)
        self.first = self.first[index]
        self.first -= u.T @ u
        self.second = self.second[index]
        both = p.T @ q
        self.second -= both
        self.second -= both.T
        self.diagonal = (np.diagonal(self.first).copy(), np.diagonal(self.second).copy())
        self.u, self.p, self.q = (np.empty((BLOCK, len(rest))) for _ in range(3))
        self.count = 0
