"""The transport to this very machine: the agent in a fresh process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import ConfigError, TargetUnavailable
from edgeprune.profiles import Target

AGENT = Path(__file__).with_name("agent.py")
_TAIL = 600


@dataclass(frozen=True, slots=True)
class Local:
    """Starts the agent with this Python, here."""

    name: str = "local"

    def run(self, job: Path, target: Target, limit_s: float) -> Path:
        """Do a job in a process of its own; the answer lies in the job folder itself.

        Raises:
            TargetUnavailable: the process died or took longer than `limit_s` seconds.
            ConfigError: the target has a `[connection]`, which this transport does not take.
        """
        if target.connection:
            raise ConfigError(
                f"{target.name}: the transport 'local' takes no [connection], found "
                f"{', '.join(sorted(target.connection))}; remove it or name another transport."
            )
        log = job / "agent.log"
        with log.open("wb") as stream:
            # -P: the agent's folder holds modules that must not hide others
            process = subprocess.Popen(
                [sys.executable, "-P", str(AGENT), str(job)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(timeout=limit_s)
            except subprocess.TimeoutExpired:
                raise TargetUnavailable(
                    f"{target.name}: a process did not finish within {limit_s:g} s and was stopped; "
                    f"raise [measure] limit_s or measure fewer samples.{_last_words(log)}"
                ) from None
            finally:
                _end(process)
        if status != 0 or not (job / "result.json").is_file():
            raise TargetUnavailable(f"{target.name}: the process {_death(status)}.{_last_words(log)}")
        return job


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the process and whatever it started, unless it has ended by itself."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _death(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed, most likely because memory ran out; use a smaller [measure] batch_outputs"
    if status < 0:
        return f"crashed ({signal.Signals(-status).name}), most likely inside onnxruntime or its provider"
    return f"ended with status {status} and no result"


def _last_words(log: Path) -> str:
    text = " ".join(log.read_text(encoding="utf-8", errors="replace").split())
    return f" Its last words: …{text[-_TAIL:]}" if text else ""
