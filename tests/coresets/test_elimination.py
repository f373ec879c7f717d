from __future__ import annotations

import numpy as np
import pytest

from edgeprune.coresets.coreset import Floats, Hearing
from edgeprune.coresets.elimination import BLOCK, backward, energy, forward, moments, ridge


def hearing(n: int, seed: int, *, shiftable: bool = True) -> Hearing:
    random = np.random.default_rng(seed)
    h = np.maximum(
        random.normal(size=(3 * n, 8)) @ random.normal(size=(8, n)) + random.normal(size=(3 * n, n)), 0
    )
    w = random.normal(size=(5, n))
    return Hearing("r", w.T @ w, np.abs(w).max(0), 5, h.T @ h / len(h), h.mean(0), shiftable)


def direct(hearings: tuple[Hearing, ...], keep: np.ndarray) -> float:
    """The error of a kept set by the formula."""
    total = 0.0
    for one in hearings:
        known: Floats = moments(one) + ridge(moments(one)) * np.eye(len(one.gram))
        rest = known
        if len(keep):
            rest = known - known[:, keep] @ np.linalg.solve(known[np.ix_(keep, keep)], known[keep])
        total += float((rest * one.gram).sum()) / energy(one)
    return total


@pytest.mark.parametrize("shiftable", [True, False])
def test_the_curve_is_that_of_the_formula_across_blocks(shiftable: bool) -> None:
    n = 2 * BLOCK + 30
    hearings = (hearing(n, 0, shiftable=shiftable), hearing(n, 1, shiftable=shiftable))
    for size in (n - 1, BLOCK, 7, 1):
        walk = backward(hearings, size)
        assert len(walk.keep) == size
        assert walk.curve[size] == pytest.approx(direct(hearings, walk.keep), rel=1e-6)


def test_one_pass_gives_every_width() -> None:
    hearings = (hearing(90, 2),)
    whole = backward(hearings)
    assert whole.curve[90] == 0.0
    assert (np.diff(whole.curve) <= 1e-12).all()
    for size in (80, 40, 10):
        assert backward(hearings, size).keep.tolist() == sorted(
            set(range(90)) - set(whole.order[: 90 - size].tolist())
        )


def test_the_forward_walk_gains_what_the_formula_says() -> None:
    n = BLOCK + 20
    hearings = (hearing(n, 3), hearing(n, 4))
    walk = forward(hearings, BLOCK + 5)
    for size in (1, 10, BLOCK + 5):
        assert walk.curve[size] == pytest.approx(direct(hearings, np.sort(walk.order[:size])), rel=1e-5)


def test_each_step_forward_is_the_best_there_is() -> None:
    hearings = (hearing(12, 5),)
    walk = forward(hearings, 5)
    for size in range(5):
        taken = walk.order[:size].tolist()
        best = min(direct(hearings, np.array(sorted([*taken, k]))) for k in range(12) if k not in taken)
        assert walk.curve[size + 1] == pytest.approx(best, rel=1e-6)
