"""The transport by commands: an emulator, a container, a phone on a cable.

A target writes programs and their arguments; no shell sees them. With a folder that both sides
see (qemu, `docker run -v`) one program is enough:

    [connection]
    command = ["docker", "run", "--rm", "-v", "{job}:{job}", "IMAGE", "python3", "{agent}", "{job}"]

A device without one gets the job by `push` and gives the answer back by `pull`, and `clean`
runs afterwards, whatever happened:

    push    = ["adb", "push", "{job}", "/data/local/tmp/{id}"]
    command = ["adb", "shell", "python3 /data/local/tmp/{id}/agent.pyz /data/local/tmp/{id}"]
    pull    = ["adb", "pull", "/data/local/tmp/{id}/.", "{answer}"]
    clean   = ["adb", "shell", "rm -rf /data/local/tmp/{id}"]

`{job}` is the job folder here, `{agent}` the agent in it, `{answer}` an empty folder for the
answer, `{id}` a name that no other job has.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import ConfigError, TargetUnavailable
from edgeprune.runtimes import processes
from edgeprune.runtimes.places import filled
from edgeprune.runtimes.shipping import write_agent
from edgeprune.target import Target

logger = logging.getLogger(__name__)

STEPS = ("push", "command", "pull", "clean")
CLEANING_S = 60.0


@dataclass(frozen=True, slots=True)
class Command:
    """Starts the agent by a program that the target names."""

    name: str = "command"

    def run(self, job: Path, target: Target, limit_s: float) -> Path:
        """Do a job by the target's commands; all of them together have `limit_s` seconds.

        Raises:
            TargetUnavailable: a command could not be started, failed or took too long, or there is
                no answer.
            ConfigError: `[connection]` names no command, or words that cannot be filled in.
        """
        job = job.resolve()
        agent = write_agent(job)
        answer = job / "answer"
        answer.mkdir(exist_ok=True)
        steps = _steps(target, {
            "job": str(job), "agent": str(agent), "answer": str(answer),
            "id": f"edgeprune-{os.getpid()}-{secrets.token_hex(4)}",
        })  # fmt: skip
        end = time.monotonic() + limit_s
        try:
            for step in STEPS[:3]:
                if step in steps:
                    left_s = max(end - time.monotonic(), 0.1)
                    log = job / ("agent.log" if step == "command" else f"{step}.log")
                    processes.run(steps[step], log, left_s, target.name)
        finally:
            if "clean" in steps:
                _clean(steps["clean"], job, target)
        folder = answer if "pull" in steps else job
        if not (folder / "result.json").is_file():
            words = processes.last_words(job / "agent.log")
            raise TargetUnavailable(f"{target.name}: the process {processes.death(0)}.{words}")
        return folder


def _steps(target: Target, words: dict[str, str]) -> dict[str, list[str]]:
    """The target's programs, filled in."""
    given = target.connection
    strange = sorted(set(given) - set(STEPS))
    if strange:
        raise ConfigError(
            f"{target.name}: the transport 'command' takes {', '.join(STEPS)} in [connection], "
            f"not {', '.join(strange)}."
        )
    steps = {}
    for step, argv in given.items():
        where = f"{target.name}: [connection] {step}"
        if isinstance(argv, str) or not argv:
            raise ConfigError(
                f'{where}: must be a list, ["program", "argument", …], not text: no shell runs.'
            )
        steps[step] = [filled(argument, words, where) for argument in argv]
    if "command" not in steps:
        raise ConfigError(
            f"{target.name}: [connection] names no command; it starts the agent, for example "
            '["qemu-aarch64-static", "python3", "{agent}", "{job}"].'
        )
    return steps


def _clean(argv: list[str], job: Path, target: Target) -> None:
    """What fails while cleaning does not hide the answer, nor what failed before."""
    try:
        processes.run(argv, job / "clean.log", CLEANING_S, target.name)
    except TargetUnavailable as error:
        logger.warning("%s: cleaning up failed, something may be left on the device: %s", target.name, error)
