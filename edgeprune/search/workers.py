"""Who does the work of a search: a crew takes tasks and gives back what became of them, in any order.

Two kinds of tasks: a net to be made, which any worker can do, and a measurement, which needs a device. A
device measures one thing at a time. A worker that dies loses its task, not the search: the task comes back
as lost.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import queue
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from edgeprune.search.work import Draft, MeasuredTrial, Measurement, Package, Subject, measure, prepare


@dataclass(frozen=True, slots=True)
class Task:
    """Something to be done for a trial.

    Attributes:
        device: the target whose device it needs, '' for a net to be made.
    """

    trial: int
    device: str
    job: Draft | Measurement


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a task.

    Attributes:
        result: `Prepared` or `MeasuredTrial`; None where it failed.
        error: what was raised.
        lost: whether the worker died rather than the task failed.
        began: seconds since the epoch.
    """

    task: Task
    result: Any = None
    error: BaseException | None = None
    lost: bool = False
    where: str = ""
    began: float = 0.0
    ended: float = 0.0


class Crew(Protocol):
    """Workers."""

    def makers(self) -> int:
        """How many nets can be made at once."""

    def units(self, target: str) -> int:
        """How many devices of a target there are."""

    def begin(self, subject: Subject, package: Package) -> None:
        """What all tasks need, told once."""

    def submit(self, task: Task) -> None:
        """Take a task; it waits until somebody can do it."""

    def cancel(self, trial: int) -> None:
        """Forget what still waits for a trial."""

    def finished(self, timeout_s: float) -> list[Done]:
        """Tasks that ended since the last call; waits for one, but no longer than `timeout_s`."""

    def close(self) -> None:
        """Stop whatever still runs."""


@dataclass(slots=True)
class _Seat:
    """One worker process, or one device with the thread that waits for it."""

    name: str
    executor: Executor | None = None
    task: Task | None = None
    future: Future[Any] | None = None
    began: float = 0.0
    unit: str = ""
    failures: int = 0
    rests_until: float = 0.0


@dataclass(slots=True)
class Local:
    """Workers on this machine: processes that make nets, and a thread for each device.

    Every process stands alone, so that one which dies takes only its own task along; another is started in
    its place. A device that failed rests a while, so that its equals take what waits.

    Attributes:
        processes: that make nets; 0 makes nets in this very process.
        devices: by target, how many equal ones there are here.
    """

    processes: int
    devices: Mapping[str, int]
    subject: Subject | None = None
    package: Package | None = None
    waiting: dict[str, deque[Task]] = field(default_factory=dict)
    seats: dict[str, list[_Seat]] = field(default_factory=dict)
    ended: queue.SimpleQueue[tuple[_Seat, Future[Any]]] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.seats[""] = [_Seat(f"worker {k + 1}") for k in range(max(self.processes, 1))]
        for target, count in self.devices.items():
            units = [""] if count == 1 else [str(k + 1) for k in range(count)]
            self.seats[target] = [_Seat(f"{target}-{unit}" if unit else target, unit=unit) for unit in units]
        self.waiting = {place: deque() for place in self.seats}

    def makers(self) -> int:
        """How many nets can be made at once."""
        return len(self.seats[""])

    def units(self, target: str) -> int:
        """How many devices of a target there are."""
        return len(self.seats.get(target, ()))

    def begin(self, subject: Subject, package: Package) -> None:
        """What all tasks need, told once."""
        self.subject, self.package = subject, package

    def submit(self, task: Task) -> None:
        """Take a task."""
        self.waiting[task.device].append(task)
        self._hand_out(task.device)

    def cancel(self, trial: int) -> None:
        """Forget what still waits for a trial."""
        for place, tasks in self.waiting.items():
            self.waiting[place] = deque(task for task in tasks if task.trial != trial)

    def finished(self, timeout_s: float) -> list[Done]:
        """Tasks that ended; waits for one."""
        found: list[Done] = []
        with_wait = timeout_s
        for place in self.waiting:
            self._hand_out(place)
        while True:
            try:
                seat, future = self.ended.get(timeout=with_wait) if with_wait else self.ended.get_nowait()
            except queue.Empty:
                return found
            found.append(self._taken(seat, future))
            with_wait = 0.0

    def close(self) -> None:
        """Stop the processes."""
        for seats in self.seats.values():
            for seat in seats:
                if isinstance(seat.executor, ProcessPoolExecutor) and seat.task is not None:
                    for process in list((getattr(seat.executor, "_processes", None) or {}).values()):
                        process.terminate()
                if seat.executor is not None:
                    seat.executor.shutdown(wait=True, cancel_futures=True)

    def _hand_out(self, place: str) -> None:
        for seat in self.seats[place]:
            rests = seat.rests_until > time.time() and len(self.seats[place]) > 1
            if seat.task is None and not rests and self.waiting[place]:
                self._start(seat, self.waiting[place].popleft())

    def _start(self, seat: _Seat, task: Task) -> None:
        assert self.subject is not None
        assert self.package is not None
        seat.task, seat.began = task, time.time()
        if seat.executor is None:
            context = multiprocessing.get_context("spawn")
            apart = self.processes > 0 and not task.device
            seat.executor = ProcessPoolExecutor(1, context) if apart else ThreadPoolExecutor(1)
        if isinstance(task.job, Draft):
            future: Future[Any] = seat.executor.submit(prepare, self.subject, task.job)
        else:
            job = dataclasses.replace(task.job, unit=seat.unit)
            future = seat.executor.submit(measure, job, self.package)
        seat.future = future
        future.add_done_callback(partial(self._ended, seat))

    def _ended(self, seat: _Seat, future: Future[Any]) -> None:
        self.ended.put((seat, future))

    def _taken(self, seat: _Seat, future: Future[Any]) -> Done:
        task, began = seat.task, seat.began
        assert task is not None
        seat.task = seat.future = None
        error = future.exception() if not future.cancelled() else concurrent.futures.CancelledError()
        lost = isinstance(error, BrokenProcessPool | concurrent.futures.CancelledError)
        if lost and seat.executor is not None:
            seat.executor.shutdown(wait=False)
            seat.executor = None
        result = None if error is not None else future.result()
        failed = error is not None or (isinstance(result, MeasuredTrial) and not result.reached)
        seat.failures = seat.failures + 1 if failed else 0
        seat.rests_until = time.time() + min(60.0, 2.0**seat.failures) if failed else 0.0
        self._hand_out(task.device)
        return Done(task, result, error, lost, seat.name, began, time.time())
