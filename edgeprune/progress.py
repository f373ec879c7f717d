"""How long work shows how far it has come: a parameter of the library, drawn by the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, runtime_checkable

ItemT = TypeVar("ItemT")


class Progress(Protocol):
    """Hands items on and shows how far it has come."""

    def __call__(self, iterable: Iterable[ItemT], description: str, total: int | None) -> Iterable[ItemT]:
        """The same items; `total` is how many there are, None if that is not known."""


Tell = Callable[[str], None]
"""Hears, now and then, how far a work has come; may be called from any thread."""


@runtime_checkable
class Telling(Protocol):
    """A `Progress` that shows words between two items, too."""

    def tell(self, said: str) -> None:
        """Show how far the present item has come."""


def teller(progress: Progress) -> Tell:
    """What shows words between two items of a progress; nothing where it cannot."""
    return progress.tell if isinstance(progress, Telling) else unheard


def unheard(said: str) -> None:
    """Shows nothing."""


def silent(iterable: Iterable[ItemT], description: str, total: int | None) -> Iterable[ItemT]:
    """Shows nothing."""
    return iterable
