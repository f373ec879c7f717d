"""A crew on an existing Dask cluster: devices are resources of its workers.

A worker beside a device is started with the target's name as a resource (`dask worker tcp://host:8786
--nthreads 1
--resources "pixel8=1"`), so that the scheduler gives it one measurement at a time; workers without the
resource make nets. A task of a worker that dies is run again elsewhere by the scheduler; one that kills
worker after worker comes back as lost.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, Future, KilledWorker
from distributed.client import FutureCancelledError

from edgeprune.errors import TargetUnavailable, UsageError
from edgeprune.search.work import Draft, Package, Subject, measure, prepare
from edgeprune.search.workers import Done, Task

CONNECT_S = 10.0


@dataclass(slots=True)
class Cluster:
    """Workers of a Dask cluster."""

    address: str
    client: Client
    subject: Subject | None = None
    package: Any = None
    running: dict[str, tuple[Task, Future, float]] = field(default_factory=dict)
    ended: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    count: int = 0

    @staticmethod
    def reached(address: str, targets: Sequence[str], timeout_s: float = CONNECT_S) -> Cluster:
        """Connect, and see that every target has a device.

        Raises:
            UsageError: the address is malformed.
            TargetUnavailable: the scheduler cannot be reached, has no workers, or none has a device.
        """
        if "://" not in address:
            raise UsageError(f"--cluster {address}: is no address; give tcp://HOST:PORT of a Dask scheduler.")
        try:
            client = Client(address, timeout=timeout_s, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise TargetUnavailable(
                f"--cluster {address}: no scheduler answers there within {timeout_s:g} s "
                f"({type(error).__name__}); "
                "start one with `dask scheduler`, or check address and firewall."
            ) from error
        crew = Cluster(address, client)
        try:
            crew.check(targets)
        except TargetUnavailable:
            client.close()
            raise
        return crew

    def check(self, targets: Sequence[str]) -> None:
        """See that there are workers, and for every target one with its device.

        Raises:
            TargetUnavailable: there are none.
        """
        workers = self._workers()
        if not workers:
            raise TargetUnavailable(
                f"--cluster {self.address}: has no workers; start some with `dask worker`."
            )
        for target in targets:
            if not self.units(target):
                offered = sorted(
                    {name for worker in workers.values() for name in worker.get("resources", {})}
                )
                raise TargetUnavailable(
                    f"--cluster {self.address}: none of its {len(workers)} workers has the device '{target}' "
                    f"(they offer {', '.join(offered) or 'no resources'}); start one beside it with `dask "
                    "worker "
                    f'{self.address} --nthreads 1 --resources "{target}=1"`.'
                )

    def _workers(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = self.client.scheduler_info(n_workers=-1)["workers"]
        return found

    def makers(self) -> int:
        """How many nets can be made at once: threads of the workers without devices, or of all."""
        workers = self._workers().values()
        plain = [w for w in workers if not w.get("resources")] or list(workers)
        return max(1, sum(int(w.get("nthreads", 1)) for w in plain))

    def units(self, target: str) -> int:
        """How many devices of a target there are now."""
        return int(sum(w.get("resources", {}).get(target, 0) for w in self._workers().values()))

    def begin(self, subject: Subject, package: Package) -> None:
        """What all tasks need, told once; it is made again where the worker that holds it dies."""
        self.subject = subject
        self.package = self.client.submit(_held, package, pure=False)

    def submit(self, task: Task) -> None:
        """Take a task."""
        self.count += 1
        name = f"edgeprune-{'measure' if task.device else 'prepare'}-{task.trial}-{self.count}"
        if isinstance(task.job, Draft):
            workers = [a for a, w in self._workers().items() if not w.get("resources")]
            future = self.client.submit(
                _prepared, self.subject, task.job, key=name, pure=False, priority=0,
                workers=workers or None, allow_other_workers=True,
            )  # fmt: skip
        else:
            future = self.client.submit(
                measure, task.job, self.package, key=name, pure=False, priority=10, resources={task.device: 1}
            )
        self.running[name] = (task, future, time.time())
        future.add_done_callback(lambda done: self.ended.put(done.key))

    def cancel(self, trial: int) -> None:
        """Forget what still waits for a trial."""
        for name, (task, future, _) in list(self.running.items()):
            if task.trial == trial:
                del self.running[name]
                future.cancel()

    def finished(self, timeout_s: float) -> list[Done]:
        """Tasks that ended; waits for one."""
        found: list[Done] = []
        while True:
            try:
                name = self.ended.get(timeout=timeout_s) if timeout_s else self.ended.get_nowait()
            except queue.Empty:
                return found
            if name in self.running:
                found.append(self._taken(name))
            timeout_s = 0.0

    def _taken(self, name: str) -> Done:
        task, future, began = self.running.pop(name)
        try:
            if future.status == "finished":
                result = future.result()
                return Done(task, result, None, False, result.where, began, time.time())
            error = (
                future.exception() if future.status == "error" else FutureCancelledError(name, "cancelled")
            )
        except Exception as raised:  # the scheduler's own failures are told like a task's
            error = raised
        lost = isinstance(error, KilledWorker | FutureCancelledError | OSError | TimeoutError)
        return Done(task, None, error, lost, "a worker", began, time.time())

    def close(self) -> None:
        """Give back what still waits, and leave the cluster."""
        for _, future, _ in self.running.values():
            future.cancel()
        self.client.close(timeout=5)


def _held(package: Package) -> Package:
    return package


def _prepared(subject: Subject, draft: Draft) -> Any:
    return prepare(subject, draft)
