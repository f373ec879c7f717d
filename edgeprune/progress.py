"""How long work shows how far it has come: a parameter of the library, drawn by the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

ItemT = TypeVar("ItemT")


class Progress(Protocol):
    """Hands items on and shows how far it has come."""

    def __call__(self, iterable: Iterable[ItemT], description: str, total: int | None) -> Iterable[ItemT]:
        """The same items; `total` is how many there are, None if that is not known."""


def silent(iterable: Iterable[ItemT], description: str, total: int | None) -> Iterable[ItemT]:
    """Shows nothing."""
    return iterable
