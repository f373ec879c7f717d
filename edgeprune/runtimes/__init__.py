"""Transports: how the measuring agent is started where a model is meant to run.

A transport carries a job folder to a device, starts the agent on it (or its equal) and brings
back a folder with the answer. It need not know what a job is. To add one, write one file with a
class like `Local`, and list an instance below or in the entry-point group `edgeprune.runtimes`.

Beside them:

    conditions    What disturbed a measurement, as far as the machine tells: heat, throttling, stolen …
    doorman       The other end of an ssh connection: takes a job, runs it, gives the answer, leaves …
    inventory     The user's own machines: addresses, logins and keys, kept out of targets.
    pairs         The statistics of paired latencies.
    places        Where things lie on this machine, and the words in braces that a target may use for …
    processes     A process of a transport: started, waited for, and ended with whatever it …
    reference     ONNX files on the reference runtime: this machine's CPU, one thread, nothing optimised.
    shipping      The agent as one file that a device can run: a Python zip application.
    timing        Two models timed in pairs over fresh processes, until the interval of their ratio …
    soundness     Answers that are no answers: too large, packed, or of the wrong kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgeprune.profiles import Target
from edgeprune.registry import Registry
from edgeprune.runtimes.browser import Browser
from edgeprune.runtimes.command import Command
from edgeprune.runtimes.jobs import Answer, read_probe, write_job
from edgeprune.runtimes.local import Local
from edgeprune.runtimes.ssh import Ssh


class Runtime(Protocol):
    """A transport."""

    @property
    def name(self) -> str:
        """What a target writes as `transport`."""

    def run(self, job: Path, target: Target, limit_s: float) -> Path:
        """Do the job in folder `job` on `target`.

        Args:
            job: written by `jobs.write_job`; may be written to.
            target: its `connection` says how the device is reached.
            limit_s: seconds after which everything that was started is stopped.

        Returns:
            The folder that holds `result.json` (and `outputs.npz`); may be `job` itself.

        Raises:
            TargetUnavailable: the device cannot be reached, or gave no answer in time.
            ConfigError: the target's `connection` does not suit this transport.
        """


RUNTIMES: Registry[Runtime] = Registry("runtimes", (Local(), Ssh(), Command(), Browser()))


def probe(target: Target, folder: Path) -> Answer:
    """Ask a target whether it is there and has its provider, running nothing.

    Raises:
        TargetUnavailable: it is not, or has not.
        UsageError: its transport does not exist.
    """
    job = write_job(folder, target, "probe", {})
    return read_probe(job, RUNTIMES[target.transport].run(job.folder, target, target.measure.limit_s), target)
