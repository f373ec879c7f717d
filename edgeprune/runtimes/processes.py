"""A process of a transport: started, waited for, and ended with whatever it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgeprune.errors import TargetUnavailable

_TAIL = 600


def run(argv: Sequence[str], log: Path, limit_s: float, who: str) -> None:
    """Run a program to its end; what it says goes to `log`.

    Args:
        argv: the program and its arguments; no shell sees them.
        log: written anew.
        limit_s: seconds after which it is stopped.
        who: the target, the beginning of every message.

    Raises:
        TargetUnavailable: it cannot be started, took too long, or did not end with status 0.
    """
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise TargetUnavailable(
                f"{who}: {argv[0]} cannot be started ({error.strerror or error}); install it or name "
                "another program in the target."
            ) from error
        with ended(process):
            try:
                status = process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                raise TargetUnavailable(
                    f"{who}: a process did not finish within {limit_s:g} s and was stopped; "
                    f"raise [measure] limit_s or measure fewer samples.{last_words(log)}"
                ) from None
    if status != 0:
        raise TargetUnavailable(f"{who}: the process {death(status)}.{last_words(log)}")


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Afterwards the process is gone, and whatever it started unless it ended by itself."""
    try:
        yield
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def death(status: int) -> str:
    """A process's exit status in words."""
    if status == -signal.SIGKILL:
        return "was killed, most likely because memory ran out; use a smaller [measure] batch_outputs"
    if status < 0:
        return f"crashed ({signal.Signals(-status).name}), most likely inside onnxruntime or its provider"
    return f"ended with status {status} and no result"


def last_words(log: Path) -> str:
    """The end of a log as a clause, '' when it is empty."""
    try:
        text = " ".join(log.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return ""
    return f" Its last words: …{text[-_TAIL:]}" if text else ""
