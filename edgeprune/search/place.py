"""The folder of a search: `search.json`, `search.html`, the journal, the store, and the chosen run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprune.errors import StorageError, UsageError
from edgeprune.records.folder import LOCK, alone

JOURNAL = "study.journal"
STORE = "store"
CHOSEN = "chosen"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a search's folder alone; it is made if it is missing.

    Raises:
        UsageError: it holds something else, or another search is writing there.
        StorageError: it cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder}: is a file; name a folder.")
    try:
        held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if held - {LOCK} and not held & {JOURNAL, STORE, "search.json"}:
            raise UsageError(
                f"-o {folder}: exists and is not the folder of a search, so nothing was written there; name "
                "a new folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"-o {folder}: cannot be used ({error.strerror}); choose another folder."
        ) from error
    with alone(folder, "search"):
        yield
