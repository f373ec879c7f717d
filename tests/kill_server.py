"""Ends runs badly and takes them up again: a program of its own, since only a young process may be forked.

It reads chains of cases and the command of each chain as JSON from its input and writes what became of each.
The cases of a chain end the same command in the same folder one after another, each a little later:

    kill     the name of a file; SIGKILL when half of it is written; with `stage` that record of the
             run which marks this stage as finished
    signal   SIGINT, sent from outside once the record marks this stage as finished
    limit    bytes that a file may have (RLIMIT_FSIZE, as a full disk gives an error amid a write)

At the end of a chain the command is given with nothing in its way.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE_S = 600.0


def forked(arguments: list[str], before: Callable[[], None]) -> tuple[int, int]:
    """The process id of a child that gives a command, and a pipe with what it says (a few kB)."""
    said, says = os.pipe()
    child = os.fork()
    if child:
        os.close(says)
        return child, said
    for number in (1, 2):
        os.dup2(says, number)
    from edgeprune.cli import entry

    sys.argv = ["edgeprune", *arguments]
    code = 99
    try:
        # a program started in the background of a shell inherits that interrupts are ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        before()
        entry()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 98
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def deadly(name: str, stage: str | None) -> Callable[[], None]:
    """Kills this process when half of a file is written."""

    def before() -> None:
        replace = Path.replace

        def half(self: Path, target: Any) -> Path:
            if Path(target).name == name and (stage is None or _newest(self) == stage):
                os.truncate(self, self.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = half  # type: ignore[method-assign]

    return before


def _newest(record: Path) -> str | None:
    seconds = json.loads(record.read_text(encoding="utf-8")).get("seconds") or {}
    return list(seconds)[-1] if seconds else None


def limited(most: int) -> Callable[[], None]:
    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return before


def ended(child: int, watch: Callable[[], bool] | None = None) -> int:
    """The exit code, or the signal's number below 0."""
    end = time.monotonic() + DEADLINE_S
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if watch is not None and watch():
            os.kill(child, signal.SIGINT)
            watch = None
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def marked(folder: Path, stage: str) -> Callable[[], bool]:
    def look() -> bool:
        try:
            return stage in json.loads((folder / "run.json").read_text(encoding="utf-8"))["seconds"]
        except (OSError, ValueError, KeyError):
            return False

    return look


def ending(arguments: list[str], case: dict[str, Any], folder: Path) -> dict[str, Any]:
    watch, before = None, lambda: None
    if "kill" in case:
        before = deadly(case["kill"], case.get("stage"))
    elif "limit" in case:
        before = limited(case["limit"])
    elif "signal" in case:
        watch = marked(folder, case["signal"])
    child, said = forked([*arguments, "-o", str(folder)], before)
    code = ended(child, watch)
    os.set_blocking(said, False)
    with os.fdopen(said, "rb") as stream:
        words = (stream.read() or b"").decode()
    left = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {"code": code, "said": words, "left": left}


def main() -> None:
    import edgeprune.cli.model
    import edgeprune.cli.run
    import edgeprune.inputs.measures
    import edgeprune.inputs.models
    import edgeprune.pipeline
    import edgeprune.report.terminal  # noqa: F401  # imported before a fork, paid for once

    asked = json.load(sys.stdin)
    os.chdir(asked["folder"])
    told = {
        f"{chain}: {name}": ending(asked["arguments"][chain], case, Path(asked["folder"]) / chain)
        for chain, cases in asked["chains"].items()
        for name, case in {**cases, "then": {}}.items()
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
