"""Labels: which indices of which axes live or die together, and which may never be removed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Axes = tuple[Ints, ...]
"""One label array per axis of a tensor: axes[k] has shape (size of axis k,)."""

FIXED = 0
_FREE = np.iinfo(np.int64).max


class Labels:
    """A union-find over integer labels, vectorised over numpy arrays.

    A class of tied labels is *pinned* once any of its members was pinned; the reason that was
    given first is the one reported.
    """

    def __init__(self) -> None:
        self._parent: Ints = np.zeros(1, dtype=np.int64)
        self._reason: Ints = np.zeros(1, dtype=np.int64)
        self._size = 1
        self._settled = False
        self.reasons: list[str] = ["a size that the operation fixes"]
        self._known = {reason: k for k, reason in enumerate(self.reasons)}

    def fresh(self, count: int) -> Ints:
        """`count` new labels, each a class of its own."""
        end = self._size + count
        if end > len(self._parent):
            room = max(end, 2 * len(self._parent)) - len(self._parent)
            self._parent = np.concatenate(
                [self._parent, np.arange(len(self._parent), len(self._parent) + room)]
            )
            self._reason = np.concatenate([self._reason, np.full(room, _FREE)])
        new = np.arange(self._size, end, dtype=np.int64)
        self._size = end
        return new

    def find(self, labels: Ints) -> Ints:
        """The representative of each label's class (the smallest member), same shape."""
        roots = self._parent[labels]
        if self._settled:
            return roots
        above = self._parent[roots]
        if (above == roots).all():
            return roots
        while not (above == roots).all():
            roots, above = above, self._parent[above]
        self._parent[labels] = roots
        return roots

    def settle(self) -> Ints:
        """The representative of every label; until labels are tied again, finding one is one look-up."""
        every = np.arange(self._size, dtype=np.int64)
        found = self.find(every)
        self._settled = True
        return found

    def tie(self, first: Ints, second: Ints) -> None:
        """Make first[i] and second[i] live or die together, for every i."""
        if len(first) != len(second):
            raise ValueError(f"cannot tie {len(first)} labels to {len(second)}")
        while True:
            a, b = self.find(first), self.find(second)
            apart = a != b
            if not apart.any():
                return
            self._settled = False
            low, high = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
            np.minimum.at(self._parent, high, low)
            reasons = self._reason[high]
            if (reasons != _FREE).any():
                np.minimum.at(self._reason, self.find(high), reasons)
            if (self._parent[high] == low).all():
                return  # no class was tied to two others at once

    def pin(self, labels: Ints, reason: str) -> None:
        """Forbid the removal of these labels (and of all that is tied to them, now or later)."""
        roots = self.find(labels)
        free = roots[self._reason[roots] == _FREE]
        if len(free):
            if reason not in self._known:
                self._known[reason] = len(self.reasons)
                self.reasons.append(reason)
            self._reason[free] = self._known[reason]

    def pinned(self, labels: Ints) -> Bools:
        """Which of the labels may never be removed."""
        return np.asarray(self._reason[self.find(labels)] != _FREE)

    def reason(self, label: int) -> str:
        """Why a pinned label is pinned."""
        return self.reasons[int(self._reason[self.find(np.array([label]))[0]])]

    def __len__(self) -> int:
        return self._size


def is_single(axes: Axes | tuple[Axes | None, ...]) -> bool:
    """Whether these are the axes of one tensor, not of several."""
    return all(isinstance(axis, np.ndarray) for axis in axes)
