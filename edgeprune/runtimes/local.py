"""The transport to this very machine: the agent in a fresh process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from edgeprune.errors import ConfigError, TargetUnavailable
from edgeprune.runtimes import processes
from edgeprune.runtimes.shipping import write_agent
from edgeprune.target import Target


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
        agent = write_agent(job)
        # -P: the folder of the agent must not be searched for modules
        processes.run([sys.executable, "-P", str(agent), str(job)], log, limit_s, target.name)
        if not (job / "result.json").is_file():
            raise TargetUnavailable(
                f"{target.name}: the process {processes.death(0)}.{processes.last_words(log)}"
            )
        return job
