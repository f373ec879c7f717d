"""The front: points that no other point beats in everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Point = tuple[float, ...]


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether `first` is nowhere larger and somewhere smaller."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and any(
        a < b for a, b in zip(first, second, strict=True)
    )


@dataclass(slots=True)
class Front:
    """The points that are not dominated, kept up to date one point at a time.

    Attributes:
        points: by trial.
    """

    points: dict[int, Point] = field(default_factory=dict)

    def add(self, number: int, point: Point) -> bool:
        """Take a point in; tells whether it belongs to the front now. Of equal points the first stays."""
        if any(p == point or dominates(p, point) for p in self.points.values()):
            return False
        self.points = {n: p for n, p in self.points.items() if not dominates(point, p)}
        self.points[number] = point
        return True


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume between a front and a reference point, all objectives made small.

    Points that are not below the reference everywhere add nothing. By slices along the last objective, which
    is exact and quick enough for the fronts of a search (Fonseca, Paquete and López-Ibáñez, CEC 2006).
    """
    inside = [p for p in points if all(a < r for a, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    inside.sort(key=lambda p: p[-1])
    total = 0.0
    for k, point in enumerate(inside):
        upper = inside[k + 1][-1] if k + 1 < len(inside) else reference[-1]
        if upper > point[-1]:
            total += (upper - point[-1]) * hypervolume([p[:-1] for p in inside[: k + 1]], reference[:-1])
    return total
