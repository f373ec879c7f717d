"""Leases: one measurement on a device at a time, with a pause between two, over all processes of a machine.

A lease is a file lock, so it goes with the process that holds it, however that ends. The end of the last
measurement stands in the file, and the next one waits until the device has cooled down. What is measured on
this very machine also has the machine to itself: work that computes holds a shared lock meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeprune.errors import StorageError
from edgeprune.target import Target

MACHINE = "machine"


def _file(name: str) -> Path:
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"edgeprune-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror}); set XDG_RUNTIME_DIR.") from error
    return folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.lease"


@contextmanager
def lease(device: str, cool_down_s: float = 0.0) -> Iterator[float]:
    """Hold a device alone; yields the seconds that were spent waiting for it."""
    began = time.monotonic()
    with _file(device).open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        with contextlib.suppress(ValueError):
            last = float(stream.read() or "-inf")
            time.sleep(min(max(0.0, last + cool_down_s - time.time()), cool_down_s))
        try:
            yield time.monotonic() - began
        finally:
            stream.truncate(0)
            stream.write(repr(time.time()))
            stream.flush()


@contextmanager
def computing() -> Iterator[None]:
    """Compute beside others, while nothing is measured on this machine."""
    with _file(MACHINE).open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


@contextmanager
def measuring(target: Target, cool_down_s: float) -> Iterator[float]:
    """Hold a target's device, and the machine itself where that is the device."""
    with lease(target.name, cool_down_s) as waited:
        if target.transport != "local":
            yield waited
            return
        began = time.monotonic()
        with _file(MACHINE).open("a+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield waited + time.monotonic() - began
