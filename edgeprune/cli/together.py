"""Several options as one decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class together:  # noqa: N801  # used as a decorator, like those it gathers
    """Several options as one decorator, in the order of the help."""

    def __init__(self, *options: Callable[[Any], Any]) -> None:
        self.options = options

    def __call__(self, command: CommandT) -> CommandT:
        """The command with all the options."""
        for option in reversed(self.options):
            command = option(command)
        return command
