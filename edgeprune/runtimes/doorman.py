"""The other end of an ssh connection: takes a job, runs it, gives the answer, leaves nothing.

Stands alone: its source is handed to `python -c` on the device (Python 3.8 or newer, standard
library only), as `python -c SOURCE MARK LIMIT_S FOLDER PYTHON…`. It reads one line of JSON
({"files": {name: bytes}}) and the files' content from standard input, and writes the same to
standard output, after the line MARK. When its input ends early (the connection is gone), when it
is told to stop, or when the time is over, it stops the agent and removes the job all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

ANSWER = ("result.json", "outputs.npz", "agent.log")


def main(mark: str, limit_s: float, parent: str, python: list[str]) -> int:
    """Do one job. Returns the exit status."""
    os.umask(0o077)
    folder = Path(tempfile.mkdtemp(prefix="edgeprune-", dir=parent or None))
    running: list[subprocess.Popen[bytes]] = []

    def clean() -> None:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    def leave(number: int = 0, frame: FrameType | None = None) -> None:
        clean()
        os._exit(3)

    def watch() -> None:
        if not os.read(0, 1):
            leave()

    for name in ("SIGTERM", "SIGHUP", "SIGINT"):
        signal.signal(getattr(signal, name), leave)
    try:
        take(sys.stdin.buffer, folder)
        with (folder / "agent.log").open("wb") as log:
            running.append(
                subprocess.Popen(
                    [*python, str(folder / "agent.pyz"), str(folder)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                )
            )  # fmt: skip
            threading.Thread(target=watch, daemon=True).start()
            try:
                status: int | None = running[0].wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                status = None
        give(sys.stdout.buffer, folder, mark, status)
    finally:
        clean()
    return 0


def take(source: BinaryIO, folder: Path) -> None:
    """Write the files that come from `source` into `folder`."""
    header = json.loads(source.readline())
    for name, size in header["files"].items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            left = size
            while left:
                block = source.read(min(left, 1 << 20))
                if not block:
                    raise EOFError("the job ended early")
                stream.write(block)
                left -= len(block)


def give(sink: BinaryIO, folder: Path, mark: str, status: int | None) -> None:
    """Write the mark, a line about the answer, and its files to `sink`."""
    files = [folder / name for name in ANSWER if (folder / name).is_file()]
    header: dict[str, Any] = {"status": status, "files": {path.name: path.stat().st_size for path in files}}
    sink.write((mark + "\n" + json.dumps(header) + "\n").encode())
    for path in files:
        with path.open("rb") as stream:
            shutil.copyfileobj(stream, sink)
    sink.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
