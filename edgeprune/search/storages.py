"""Where studies are kept: a journal file, a database, or Optuna's storage proxy."""

from __future__ import annotations

import contextlib
import fcntl
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from edgeprune.errors import UsageError

WAIT_S = 10.0


class FileLock(BaseJournalFileLock):
    """A lock that goes with the process that holds it, so that a killed one blocks nobody."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: IO[str] | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._stream = self._path.open("w")
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give it back."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def place(storage: str | Path) -> str:
    """A storage in words: no password is told."""
    text = str(storage)
    head, at, tail = text.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at and "://" in head else text


def storage_of(storage: str | Path) -> BaseStorage:
    """Open a storage: a journal at a path, else what the URL names.

    Raises:
        UsageError: the URL is malformed.
    """
    if isinstance(storage, Path):
        mended(storage)
        return JournalStorage(
            JournalFileBackend(str(storage), lock_obj=FileLock(storage.with_suffix(".lock")))
        )
    scheme, separator, rest = storage.partition("://")
    if scheme == "grpc" and separator:
        host, _, port = rest.rstrip("/").rpartition(":")
        if not host or not port.isdigit():
            raise UsageError(f"--storage {storage}: a storage proxy is grpc://HOST:PORT.")
        proxy = GrpcStorageProxy(host=host, port=int(port))
        proxy.wait_server_ready(timeout=WAIT_S)
        return proxy
    if not separator:
        raise UsageError(
            f"--storage {storage}: is no URL; give postgresql://USER@HOST/DATABASE or grpc://HOST:PORT. "
            "Without it "
            "the study is a journal file in the search's folder."
        )
    if scheme in ("postgres", "postgresql"):
        storage = f"postgresql+psycopg://{rest}"
    return RDBStorage(storage, engine_kwargs={"pool_pre_ping": True})


def released(storage: BaseStorage | None) -> None:
    """Close what a storage holds open."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()
    elif isinstance(storage, GrpcStorageProxy):
        storage.close()


def mended(path: Path) -> None:
    """Cut off the line that a killed process left half-written at the end of a journal."""
    if not path.is_file():
        return
    with path.open("rb+") as stream:
        size = stream.seek(0, os.SEEK_END)
        while size:
            start = max(0, size - 65536)
            stream.seek(start)
            block = stream.read(size - start)
            if (end := block.rfind(b"\n")) >= 0:
                stream.truncate(start + end + 1)
                return
            size = start
        stream.truncate(0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna tells by exceptions and results; its log lines and marks of experiments are not for users."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
