"""Names to members: the shipped members of a room, and those of plugins found by entry point."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeVar

from edgeprune.errors import ConfigError, UsageError

logger = logging.getLogger(__name__)


class Named(Protocol):
    """Anything with a name, which is how a member is asked for."""

    @property
    def name(self) -> str:
        """The name users type."""


MemberT = TypeVar("MemberT", bound=Named)


def suggestion(word: str, choices: list[str]) -> str:
    """A did-you-mean clause for `word`, or the list of choices when nothing is close."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose one of: {', '.join(sorted(choices))}"


class Registry(Mapping[str, MemberT], Generic[MemberT]):
    """A read-only mapping from name to member.

    Shipped members are listed by the room itself. Members of other distributions are found
    through the entry-point group `edgeprune.<room>`; each entry point must load to an *instance*
    of the room's interface. A name may be taken once.

    Raises:
        ConfigError: two members claim one name, or a plugin cannot be loaded.
    """

    def __init__(self, room: str, members: tuple[MemberT, ...]) -> None:
        self.room = room
        self._members: dict[str, MemberT] = {}
        for member in members:
            self._add(member, "edgeprune")
        self._plugins_loaded = False

    def _add(self, member: MemberT, origin: str) -> None:
        if member.name in self._members:
            raise ConfigError(
                f"{self.room}: two members are named '{member.name}' (the second from {origin}); "
                "uninstall one of the plugins or rename its member."
            )
        self._members[member.name] = member

    def _load_plugins(self) -> None:
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        for point in entry_points(group=f"edgeprune.{self.room}"):
            origin = point.dist.name if point.dist else point.value
            try:
                member = point.load()
            except Exception as error:
                raise ConfigError(
                    f"{self.room}: the plugin '{point.name}' of {origin} cannot be loaded: {error}. "
                    "Repair or uninstall it."
                ) from error
            logger.info("%s: '%s' comes from %s", self.room, point.name, origin)
            self._add(member, origin)

    def __getitem__(self, name: str) -> MemberT:
        self._load_plugins()
        try:
            return self._members[name]
        except KeyError:
            raise UsageError(
                f"there is no '{name}' among the {self.room}; {suggestion(name, list(self._members))}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        self._load_plugins()
        return iter(self._members)

    def __len__(self) -> int:
        self._load_plugins()
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        self._load_plugins()
        return name in self._members
