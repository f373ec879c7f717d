"""A run's folder: claimed by one process at a time, resumed where the last one stopped.

Layout (a public format, see `docs/run-folder.md`):

    run.json  original.onnx  pruned.onnx  pruned.safetensors  plan.json  report.html  logs/

`run.json` is written after every stage; the stages that are finished are the keys of its
`seconds`. A run may be resumed when its *key* is the same: digests of the model's weights, the
settings, the calibration set and the versions of the tools.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeprune.errors import StorageError, UsageError
from edgeprune.files import PART, write_text
from edgeprune.records.run import Run

logger = logging.getLogger(__name__)

MARK = "edgeprune-run.json"
LOCK = ".lock"


def key_of(content: Mapping[str, Any]) -> str:
    """A digest of everything that decides what a run gives."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(slots=True)
class RunFolder:
    """The folder of one run, and how far the run has come.

    Attributes:
        run: the record so far.
    """

    path: Path
    run: Run

    def finished(self, stage: str) -> bool:
        """Whether a stage was finished, now or by the run that is resumed."""
        return stage in self.run.seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; when it succeeds, the record is saved with it marked as finished."""
        started = time.monotonic()
        yield
        self.update(seconds={**self.run.seconds, name: round(time.monotonic() - started, 3)})

    def update(self, **changes: Any) -> None:
        """Replace fields of the record, and save it.

        Raises:
            StorageError: it cannot be written.
        """
        self.run = dataclasses.replace(self.run, **changes)
        self.run.save(self.path)

    def forget(self, stages: Iterable[str]) -> None:
        """Mark stages as not finished, so that they are done again."""
        gone = set(stages)
        seconds = {name: spent for name, spent in self.run.seconds.items() if name not in gone}
        self.run = dataclasses.replace(self.run, seconds=seconds)

    def log(self, name: str) -> Path:
        """A folder for what a stage leaves behind, made if it is missing.

        Raises:
            StorageError: it cannot be made.
        """
        folder = self.path / "logs" / name
        _make(folder)
        return folder


@contextmanager
def claim(
    path: Path, run: Run, key: Mapping[str, str] | None, *, overwrite: bool = False
) -> Iterator[RunFolder]:
    """Open a folder for a run, alone.

    Args:
        run: the record to begin with, if the folder holds none that can be resumed.
        key: digests of all that decides what the run gives, by name. None takes up the run that
            lies there, whatever its key.
        overwrite: start anew even where a run lies already.

    Raises:
        UsageError: the folder holds something else, or a run with another key, or is in use.
        StorageError: it cannot be made or written to.
    """
    mark = path / MARK
    if path.exists() and not path.is_dir():
        raise UsageError(f"-o {path}: is a file; name a folder.")
    if path.is_dir() and not mark.is_file() and not all(map(_unfinished, path.iterdir())):
        raise UsageError(
            f"-o {path}: exists and is not the folder of a run, so nothing was written there; "
            "name a new folder."
        )
    _make(path)
    with alone(path, "run"):
        _sweep(path)
        previous = _key(mark)
        if key is None and previous is None:
            raise UsageError(f"{path}: there is no run here; make one with `edgeprune run`.")
        found = _resumable(path) if previous is not None else None
        if found is not None and found.seconds and key is not None and previous != key and not overwrite:
            raise UsageError(
                f"-o {path}: holds a run that differs in {_differing(previous or {}, key)}; name a new "
                "folder, or give --overwrite to replace it."
            )
        resumed = None if overwrite or (key is not None and previous != key) else found
        if resumed is None:
            _clear(path, logs=overwrite or previous != key)
            resumed = run
        if key is not None:
            write_text(mark, json.dumps({"key": dict(key)}) + "\n")
        folder = RunFolder(path, resumed)
        if resumed.seconds:
            logger.info("resumed behind: %s", ", ".join(resumed.seconds))
        try:
            yield folder
        except BaseException:
            if not folder.run.seconds and not _checkpoints(path):
                _undo(path)  # nothing was finished, so nothing is left behind
            raise
        finally:
            _sweep(path)


def _sweep(path: Path) -> None:
    """Remove what a run left that was killed or interrupted amid a write."""
    for cut_off in path.rglob(f".*{PART}"):
        cut_off.unlink(missing_ok=True)


def _unfinished(path: Path) -> bool:
    """Whether a file is what a run leaves that is killed in its first moment."""
    return path.name == LOCK or (path.name.startswith(f".{MARK}.") and path.suffix == PART)


def _checkpoints(path: Path) -> bool:
    """Whether a training that was stopped can go on from here."""
    return any((path / "logs").rglob("*.safetensors"))


def _undo(path: Path) -> None:
    _clear(path)
    (path / MARK).unlink(missing_ok=True)
    (path / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()


def _key(mark: Path) -> dict[str, str] | None:
    """The key that a folder was claimed with; empty if it is damaged, None if there is none."""
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))["key"]
        return {str(name): str(digest) for name, digest in found.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [name for name in now if before.get(name) != now[name]]
    hint = " (random ones? give --weights, or seed the factory)" if "the model's weights" in names else ""
    return " and ".join(names) + hint


def _resumable(path: Path) -> Run | None:
    try:
        return Run.load(path)
    except UsageError:
        return None


def _clear(path: Path, *, logs: bool = True) -> None:
    """Remove what an earlier run left; only what runs write is touched.

    Args:
        logs: also what stages left for themselves; they keep the checkpoints of a stopped training.
    """
    for name in (
        "run.json",
        "original.onnx",
        "pruned.onnx",
        "masked.onnx",
        "pruned.safetensors",
        "plan.json",
        "report.html",
        "counterexample.npz",
        "SHA256SUMS",
        "model.sig",
    ):
        (path / name).unlink(missing_ok=True)
        (path / f"{name}.data").unlink(missing_ok=True)
    if logs:
        shutil.rmtree(path / "logs", ignore_errors=True)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: cannot be made ({error.strerror}); choose another folder with -o."
        ) from error


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold a lock on the folder of a `what` (run, search); it goes with the process, however that ends.

    Raises:
        StorageError: the folder cannot be written to.
        UsageError: another process holds it.
    """
    lock = path / LOCK
    try:
        stream = lock.open("w")
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written to ({error.strerror}); choose another folder."
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"-o {path}: another {what} is writing there; wait for it, or name a new folder."
            ) from None
        yield
