"""The price of a net as a quadratic form of its widths, so that pricing one takes microseconds.

A layer's parameters and multiply-accumulates are products of what it reads and what it makes, so for
widths m both are

    price(m) = c + bᵀm + mᵀQm .

The coefficients follow from the counts at G(G + 3)/2 + 1 points. They are checked at random widths, and
where the form does not tell the counts exactly (an operation of higher degree), the counts themselves are
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeprune.graph.groups import Coupling
from edgeprune.widths.budget import cost

Floats = npt.NDArray[np.float64]
MOST_GROUPS = 48
"""Above this the points to count at are too many to be worth it."""
CHECKS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Quadratic:
    """price(m) = constant + linear·m + mᵀ square m, over the widths of `groups` in that order.

    Attributes:
        sizes: full widths; a group that is not named is whole.
        linear: float64 (G,).
        square: float64 (G, G), symmetric.
    """

    groups: tuple[str, ...]
    sizes: Floats
    constant: float
    linear: Floats
    square: Floats

    def __call__(self, widths: Mapping[str, int]) -> float:
        """The price at these widths."""
        m = np.array([widths.get(name, size) for name, size in zip(self.groups, self.sizes, strict=True)])
        return float(self.constant + self.linear @ m + m @ self.square @ m)


Price = Callable[[Mapping[str, int]], float]


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """The two counts of a net as prices, each 1 for the whole net."""

    macs: Price
    params: Price

    @staticmethod
    def of(coupling: Coupling) -> Prices:
        """Quadratic forms where they tell the counts exactly, else the counts."""
        return Prices(_price(coupling, "macs"), _price(coupling, "params"))

    def mixed(self, share: float) -> Price:
        """(1 − λ)·MACs/MACs₀ + λ·parameters/parameters₀, with λ = `share` in [0, 1]."""
        first, second = self.macs, self.params
        if isinstance(first, Quadratic) and isinstance(second, Quadratic):
            return Quadratic(
                first.groups,
                first.sizes,
                (1 - share) * first.constant + share * second.constant,
                (1 - share) * first.linear + share * second.linear,
                (1 - share) * first.square + share * second.square,
            )
        return lambda widths: (1 - share) * first(widths) + share * second(widths)


def _price(coupling: Coupling, kind: str) -> Price:
    whole = max(getattr(cost(coupling, {}), kind), 1)
    sizes = {group.name: group.size for group in coupling.groups}

    def counted(widths: Mapping[str, int]) -> float:
        keep = {name: np.arange(widths.get(name, size)) for name, size in sizes.items()}
        return float(getattr(cost(coupling, keep), kind) / whole)

    if not sizes or len(sizes) > MOST_GROUPS:
        return counted
    form = fitted(counted, sizes)
    return form if _tells(form, counted, sizes) else counted


def fitted(price: Price, sizes: Mapping[str, int]) -> Quadratic:
    """The quadratic form through the prices of the whole net and of nets with one or two narrower groups.

    Second differences with steps of a third of each width give Q. A group of one unit is whole.
    """
    names = tuple(sizes)
    full = np.array([float(sizes[name]) for name in names])
    step = np.maximum(1.0, np.floor(full / 3)) * (full > 1)
    count = len(names)
    at = _Points(price, names, full)
    base = at(np.zeros(count))
    one = np.array([at(step * (np.arange(count) == i)) for i in range(count)])
    two = 2 * one - base  # of two units nothing but the first difference can be seen
    for k in np.flatnonzero(full > 2):
        two[k] = at(2 * step * (np.arange(count) == k))
    safe = np.where(step > 0, step, 1.0)
    square = np.zeros((count, count))
    np.fill_diagonal(square, np.where(step > 0, (two - 2 * one + base) / (2 * safe**2), 0.0))
    for i in range(count):
        for j in range(i):
            if step[i] and step[j]:
                both = at(step * ((np.arange(count) == i) | (np.arange(count) == j)))
                cross = (both - one[i] - one[j] + base) / (safe[i] * safe[j]) / 2
                square[i, j] = square[j, i] = cross
    # price(full − d) = base + gradient·d + dᵀQd; written in m = full − d
    gradient = np.where(step > 0, (one - base) / safe - np.diagonal(square) * safe, 0.0)
    linear = -gradient - 2 * square @ full
    constant = base + gradient @ full + full @ square @ full
    return Quadratic(names, full, float(constant), linear, square)


@dataclass(frozen=True, slots=True)
class _Points:
    price: Price
    names: tuple[str, ...]
    full: Floats

    def __call__(self, down: Floats) -> float:
        widths = {name: int(size - d) for name, size, d in zip(self.names, self.full, down, strict=True)}
        return self.price(widths)


def _tells(form: Quadratic, price: Price, sizes: Mapping[str, int]) -> bool:
    """Whether the form gives the price at random widths, to the rounding of float64."""
    random = np.random.default_rng(0)
    for _ in range(CHECKS):
        widths = {name: int(random.integers(1, size + 1)) for name, size in sizes.items()}
        if abs(form(widths) - price(widths)) > 1e-9:
            return False
    return True
