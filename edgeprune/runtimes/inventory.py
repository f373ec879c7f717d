"""The user's own machines: addresses, logins and keys, kept out of targets.

`~/.config/edgeprune/inventory.toml`, or the file that $EDGEPRUNE_INVENTORY names, has one table a
machine; a target says only `machine = "board"`:

    [board]
    host = "192.168.1.20"
    user = "pi"
    key = "~/.ssh/board"
    known_hosts = "~/.config/edgeprune/known_hosts"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import ConfigError
from edgeprune.registry import suggestion
from edgeprune.runtimes import places
from edgeprune.tables import read_table, read_toml

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
_STRANGE = set('"%$\\\r\n\0')
"""What ssh would read as something else in the name of a file."""


@dataclass(frozen=True, slots=True)
class Machine:
    """How one machine is reached by ssh.

    Attributes:
        host: name or address.
        user: who to log in as.
        key: file of the private key; no other key and no password is tried.
        known_hosts: file that holds the machine's host key; another key is refused.
        port: of its ssh server.
        python: the program that runs Python there, and its arguments.
        folder: where job folders are made there; empty is the system's temporary folder.
        connect_s: seconds to wait for a connection.
        answer_mb: an answer larger than this is not taken, MiB.
    """

    host: str
    user: str
    key: str
    known_hosts: str = "~/.ssh/known_hosts"
    port: int = 22
    python: tuple[str, ...] = ("python3",)
    folder: str = ""
    connect_s: int = 10
    answer_mb: int = 1024

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise ValueError(f"host must be a name or an address, not '{self.host}'")
        if not _USER.fullmatch(self.user):
            raise ValueError(f"user must be a login name, not '{self.user}'")
        for name in ("key", "known_hosts"):
            if not getattr(self, name) or _STRANGE & set(getattr(self, name)):
                raise ValueError(
                    f"{name} must be a file's path without \" % $ \\, not {getattr(self, name)!r}"
                )
        if not 0 < self.port < 65536:
            raise ValueError(f"port must be in 1 … 65535, not {self.port}")
        if not self.python or not all(self.python):
            raise ValueError('python must be a program and its arguments, such as ["python3"]')
        if self.connect_s < 1 or self.answer_mb < 1:
            raise ValueError("connect_s and answer_mb must be at least 1")


def find_machine(name: str, target: str) -> Machine:
    """The machine of that name in the user's inventory, its files checked.

    Raises:
        ConfigError: there is no inventory, no such machine, or a file of it is missing.
    """
    path = places.inventory()
    if not path.is_file():
        raise ConfigError(
            f"{target}: runs on the machine '{name}', but there is no inventory {path}; write one with a "
            f"table [{name}] (host, user, key, known_hosts), or name yours in EDGEPRUNE_INVENTORY."
        )
    content = read_toml(path)
    if name not in content:
        hint = suggestion(name, list(content)) if content else "it is empty"
        raise ConfigError(f"{target}: {path}: there is no machine '{name}'; {hint}")
    machine = read_table(Machine, content[name], f"{path}: [{name}]")
    for field in ("key", "known_hosts"):
        if not expanded(getattr(machine, field)).is_file():
            raise ConfigError(
                f"{path}: [{name}]: {field}: there is no file {getattr(machine, field)}; "
                + (
                    "make one with ssh-keygen."
                    if field == "key"
                    else "write the host key of the machine there."
                )
            )
    return machine


def expanded(path: str) -> Path:
    """A path with `~` written out."""
    return Path(path).expanduser()
