"""Where things lie on this machine, and the words in braces that a target may use for them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from edgeprune.errors import ConfigError

_WORD = re.compile(r"\{([^{}]*)\}")


def cache() -> Path:
    """The folder of what was built or measured once: $XDG_CACHE_HOME/edgeprune."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeprune"


def inventory() -> Path:
    """The user's own file of machines: $EDGEPRUNE_INVENTORY, or ~/.config/edgeprune/inventory.toml."""
    given = os.environ.get("EDGEPRUNE_INVENTORY")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgeprune/inventory.toml"


def filled(text: str, words: Mapping[str, str], where: str) -> str:
    """`text` with each `{word}` replaced; `{cache}` and `{python}` are always known.

    What is filled in is not looked at again, so a path with braces in it does no harm.

    Raises:
        ConfigError: there is no such word.
    """
    known = {"cache": str(cache()), "python": sys.executable, **words}

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ConfigError(
                f"{where}: there is no '{{{match[1]}}}' to fill in; the words are "
                f"{', '.join(sorted('{' + word + '}' for word in known))}."
            )
        return known[match[1]]

    return _WORD.sub(value, text)
