"""What a coreset method may see of a group, and what it must answer.

A method never sees a layer. It sees *units* (neurons or channels): the rows of weights that make
them, how strongly each is read, and, where there is data, the second moments of what they say.
It answers with a `Selection`: which units stay, and how the readers are to be mixed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgeprune.plan import Selection

Floats = npt.NDArray[np.float64]
Response = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Hearing:
    """One reader of the group, seen as queries over its n units.

    Attributes:
        node: the reading operation.
        gram: (n, n) float64, WᵀW: the reader's weights against each other, summed over its
            outputs, taps and positions.
        peak: (n,) float64, max |W| over its outputs, taps and positions.
        outputs: number of the reader's outputs that are left (the paper's k).
        queries: (outputs, n) float64: the reader's weights where it has one tap; where it has more, the
            largest |W| over the taps.
        taps: number of kernel taps and positions through which the reader hears a unit.
        moment: (n, n) float64, E[h hᵀ] of the units as heard, averaged over samples and
            positions; None without data.
        mean: (n,) float64, E[h]; None without data.
        shiftable: whether a constant can be added to what the reader computes.
        load: (n,) float64, the sum over taps and positions of max |W| over outputs; None counts as
            `peak` at each tap.
        share: (n,) float64, the largest part that a unit has of any output's positive or negative sum, over
            samples; only for methods that ask for it (`needs_shares`).
    """

    node: str
    gram: Floats
    peak: Floats
    outputs: int
    moment: Floats | None = None
    mean: Floats | None = None
    shiftable: bool = False
    queries: Floats | None = None
    taps: int = 1
    share: Floats | None = None
    load: Floats | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a group of n units.

    Attributes:
        rows: for each layer that makes the units, (n, fan-in + 1) float64: incoming weights
            with the bias appended (p̃ = [p; b]), batch norm folded in.
        activations: for each of those layers the name of the activation that follows, '' if
            there is none, or no single one.
        radii: for each of those layers β, a bound on the l2 norm of what it hears at one
            position, over the whole domain; None where none is known.
        hearings: the readers.
        scales: for each of those layers (n,) the factors γ of the batch norm that alone follows it, None
            if there is none.
        gradients: (n,) float64, E(h ∂L/∂h)² of each unit; only for methods that ask for it.
        raw: the rows as they are stored, no batch norm folded in; empty where they are the same.
        responses: for each of those layers the activation itself, where it is known; else its name tells.
        count: number of units, for methods that do not look at rows.
        summed: what `powers` answers where there are no rows.
    """

    name: str
    rows: tuple[Floats, ...]
    activations: tuple[str, ...]
    radii: tuple[float | None, ...]
    hearings: tuple[Hearing, ...]
    scales: tuple[Floats | None, ...] = ()
    gradients: Floats | None = None
    raw: tuple[Floats, ...] = ()
    responses: tuple[Response | None, ...] = ()
    count: int = 0
    summed: Callable[[int], tuple[Floats, ...]] | None = None

    @property
    def stored(self) -> tuple[Floats, ...]:
        """Incoming weights as they are stored: what magnitudes are taken of."""
        return self.raw or self.rows

    @property
    def size(self) -> int:
        """Number of units, n."""
        return self.count or len(self.rows[0])

    def powers(self, order: int) -> tuple[Floats, ...]:
        """For each layer that makes the units, (n,) Σ |p|^order over their weights as they are stored."""
        if self.summed is not None:
            return self.summed(order)
        return tuple(powers(rows, order) for rows in self.stored)


def powers(rows: Floats, order: int) -> Floats:
    """Σ |x|^order of each row, (n,)."""
    if order == 2:
        return np.asarray(np.einsum("ij,ij->i", rows, rows))
    return np.asarray((np.abs(rows) ** order).sum(axis=1))


class Coreset(ABC):
    """A method that chooses units.

    Attributes:
        name: what users type after --method.
        hears: whether it looks at the readers at all; without, the evidence has no hearings.
        needs_rows: whether it looks at the weights that make the units, not only at their `powers`.
        needs_data: whether the hearings must carry moments.
        needs_samples: whether those moments, or what else it needs, must come from inputs that can be run.
        needs_shares: whether the hearings must carry shares.
        needs_gradients: whether the evidence must carry gradients.
        refits: whether the readers kept weights are refitted by least squares on samples,
            after the choice, against what the original net computes there.
        matches: whether all layers of the shrunk net are then matched to the original's outputs.
        random: whether the choice depends on the seed.
        source: the paper.
    """

    name: ClassVar[str]
    hears: ClassVar[bool] = True
    needs_rows: ClassVar[bool] = True
    needs_data: ClassVar[bool] = False
    needs_samples: ClassVar[bool] = False
    needs_shares: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False
    refits: ClassVar[bool] = False
    matches: ClassVar[bool] = False
    random: ClassVar[bool] = False
    source: ClassVar[str] = ""

    @property
    def data(self) -> bool:
        """Whether the method can do nothing without samples or moments."""
        return self.needs_data or self.needs_samples or self.needs_shares or self.needs_gradients

    @abstractmethod
    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        """Choose `size` of the group's n units, 1 ≤ size ≤ n.

        Raises:
            UnsupportedModel: an assumption of the method fails for this group.
        """
