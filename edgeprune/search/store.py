"""Results by what they were made from: an entry's name is the SHA-256 of inputs, settings and versions.

Layout: `ROOT/ab/abcdef…/entry.json`, with files of the entry beside it. An entry appears whole or not at all:
it is written aside and renamed. Who asks for a result that is there gets it; who makes one that another
process has made meanwhile keeps the other's.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import StorageError
from edgeprune.files import sha256_of
from edgeprune.records.folder import key_of

ENTRY = "entry.json"


def key(step: str, **made_from: Any) -> str:
    """The name of what a step gives from these inputs, settings and versions; all must be JSON."""
    return key_of({"step": step, **made_from})


@dataclass(frozen=True, slots=True)
class Entry:
    """A result.

    Attributes:
        folder: where its files lie.
        content: what was found, JSON.
        files: SHA-256 by file name.
    """

    folder: Path
    content: dict[str, Any]
    files: dict[str, str]

    def path(self, name: str) -> Path:
        """One of its files."""
        return self.folder / name


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of results."""

    root: Path

    def get(self, name: str, files: Sequence[str] = ()) -> Entry | None:
        """The result of that name, if it is there with these files, undamaged."""
        folder = self._folder(name)
        try:
            stored = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
            entry = Entry(folder, dict(stored["content"]), dict(stored["files"]))
            if all(sha256_of(entry.path(f)) == entry.files[f] for f in files):
                return entry
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return None

    def put(self, name: str, content: Mapping[str, Any], files: Mapping[str, Path | bytes]) -> Entry:
        """Keep a result; files are copied.

        Raises:
            StorageError: it cannot be written.
        """
        folder = self._folder(name)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
            try:
                digests = {}
                for file, source in files.items():
                    if isinstance(source, bytes):
                        (aside / file).write_bytes(source)
                    else:
                        shutil.copyfile(source, aside / file)
                    digests[file] = sha256_of(aside / file)
                stored = {"content": dict(content), "files": digests}
                (aside / ENTRY).write_text(json.dumps(stored, allow_nan=False), encoding="utf-8")
                self._settle(aside, folder, name, list(files))
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot be written ({error.strerror or error}); free some space or choose another "
                "folder with -o."
            ) from error
        return Entry(folder, dict(content), digests)

    def _settle(self, aside: Path, folder: Path, name: str, files: Sequence[str]) -> None:
        with contextlib.suppress(OSError):
            aside.replace(folder)
            return
        if self.get(name, files) is None:  # damaged, or without its files
            shutil.rmtree(folder, ignore_errors=True)
            aside.replace(folder)

    def drop(self, name: str, files: Sequence[str]) -> None:
        """Remove files that can be made again from an entry; what was found stays."""
        for file in files:
            self._folder(name).joinpath(file).unlink(missing_ok=True)

    def _folder(self, name: str) -> Path:
        return self.root / name[:2] / name
