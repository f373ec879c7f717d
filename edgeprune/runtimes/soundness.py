"""Answers that are no answers: too large, packed, or of the wrong kind. A device may be anybody's."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from edgeprune.errors import TargetUnavailable

MOST_RESULT_BYTES = 256 << 20
"""A result.json larger than this is not read."""


def check_size(path: Path, target: str) -> None:
    """Raises TargetUnavailable for a file that is there and too large to be a result."""
    if path.is_file() and path.stat().st_size > MOST_RESULT_BYTES:
        raise TargetUnavailable(
            f"{target}: its {path.name} has {path.stat().st_size >> 20} MiB; that is no result."
        )


def check_packed(path: Path, target: str) -> None:
    """The agent stores arrays as they are; a packed one could unfold to more than memory holds.

    Raises:
        TargetUnavailable: an array is packed.
        BadZipFile: it is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        packed = [item.filename for item in archive.infolist() if item.file_size > item.compress_size]
    if packed:
        raise TargetUnavailable(f"{target}: its {path.name} holds packed arrays ({packed[0]}).")


def are_counts(placement: Any) -> bool:
    """Whether these are numbers of nodes by provider."""
    return isinstance(placement, dict) and all(
        isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in placement.values()
    )


def told(warnings: Any) -> tuple[str, ...]:
    """The device's warnings as text; what is no list of them is none."""
    return tuple(str(words)[:1000] for words in warnings[:100]) if isinstance(warnings, list) else ()
