"""Writing and digesting files so that a half-written one is never seen."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprune.errors import StorageError

PART = ".part"
"""How the name of a file ends that is still being written."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place when the block succeeds.

    Raises:
        StorageError: the folder is missing or not writable, or the disk is full.
    """
    # named before it is made, so that an interrupt at any moment finds it
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}{PART}"
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); nothing was left behind. "
            "Free some space or choose another folder with -o."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, all or nothing.

    Raises:
        StorageError: it cannot be written; what stood there before still stands.
    """
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, all or nothing.

    Raises:
        StorageError: it cannot be written; what stood there before still stands.
    """
    write_bytes(path, content.encode("utf-8"))
