from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeprune.search.front import Front, dominates, hypervolume


def _by_inclusion(points: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    """Volume of a union of boxes, by inclusion and exclusion."""
    total = 0.0
    for count in range(1, len(points) + 1):
        for some in itertools.combinations(points, count):
            corner = np.max(some, axis=0)
            total += (-1) ** (count + 1) * float(np.prod(np.maximum(0, np.array(reference) - corner)))
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_hypervolume_is_the_volume_of_the_union_of_boxes(objectives: int):
    random = np.random.default_rng(objectives)
    points = [tuple(p) for p in random.uniform(0, 1.2, (7, objectives)).tolist()]
    inside = [p for p in points if max(p) < 1]
    assert hypervolume(points, (1.0,) * objectives) == pytest.approx(
        _by_inclusion(inside, (1.0,) * objectives)
    )


def test_nothing_below_the_reference_has_no_volume():
    assert hypervolume([(2.0, 0.0)], (1.0, 1.0)) == 0.0


def test_the_front_is_what_no_other_point_beats():
    random = np.random.default_rng(0)
    points = [tuple(p) for p in random.integers(0, 8, (80, 3)).astype(float).tolist()]
    front = Front()
    for k, point in enumerate(points):
        front.add(k, point)
    best = {p for p in points if not any(dominates(q, p) for q in points)}
    assert set(front.points.values()) == best
    assert len(front.points) == len(best)  # of equal points one
