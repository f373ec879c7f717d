"""Weights of a net while units are taken from it: zeros are written when a weight is looked at.

Who reads a removed unit reads zero. A choice that looks at no reader never asks for these weights, and
cutting takes the zeros away again, so that most of them need not be written at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from edgeprune.graph.labels import Ints


class Weights(Mapping[str, Tensor]):
    """Weights by qualified name, at original sizes: the original's but for those that were changed.

    A weight that is given out is not copied again when more of it falls silent.
    """

    def __init__(self, original: Mapping[str, Tensor]) -> None:
        self._original = original
        self._own: dict[str, Tensor] = {}
        self._zeros: dict[str, list[tuple[int, Ints]]] = {}

    def silence(self, name: str, axis: int, index: Ints) -> None:
        """Let some indices of an axis be zero."""
        self._zeros.setdefault(name, []).append((axis, index))

    def silent(self, name: str) -> tuple[tuple[int, Ints], ...]:
        """The axes and indices whose zeros are not written yet."""
        return tuple(self._zeros.get(name, ()))

    def loud(self, name: str) -> Tensor:
        """A weight without the zeros that are not written yet."""
        return self._own[name] if name in self._own else self._original[name]

    def changed(self) -> Weights:
        """Those that are no longer the original's."""
        found = Weights({name: self._original[name] for name in self if name in {*self._own, *self._zeros}})
        found._own, found._zeros = self._own, self._zeros
        return found

    def __getitem__(self, name: str) -> Tensor:
        if name in self._zeros:
            value = self._own[name] if name in self._own else self._original[name].clone()
            for axis, index in self._zeros.pop(name):
                value.index_fill_(axis, torch.from_numpy(index), 0.0)
            self._own[name] = value
        return self.loud(name)

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._zeros.pop(name, None)
        self._own[name] = value

    def __iter__(self) -> Iterator[str]:
        return iter(self._original)

    def __len__(self) -> int:
        return len(self._original)


def loud(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that differ from the original's by more than zeros where removed units were read."""
    if not isinstance(weights, Weights):
        return dict(weights)
    return {name: weights.loud(name) for name in weights if name in weights._own}
