"""The search itself: ask for a trial, find out what it is worth, cheap before dear, and tell.

    expected error, size of the net   milliseconds, here, from the error curves and counts
    the net, its drift                seconds, a worker
    certificates                      where they are asked for
    the ONNX file, then each device   a worker, and the devices at the same time

After every step the trial ends if a constraint is broken for sure. What is found is kept by what it was made
from; a net that was looked at before is known at no cost.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeprune.errors import BrokenPromise, EdgepruneError, TargetUnavailable, UsageError
from edgeprune.records.search import Activity, State, TrialRecord
from edgeprune.search.ground import Ground, Rules, Trial, drafted
from edgeprune.search.objectives import beaten
from edgeprune.search.space import Space
from edgeprune.search.store import Store, key
from edgeprune.search.study import Book, Desk
from edgeprune.search.work import (
    BEATEN,
    MODEL,
    PLAN,
    WEIGHTS,
    Draft,
    File,
    MeasuredTrial,
    Measurement,
    Prepared,
    broken,
)
from edgeprune.search.workers import Crew, Done, Task
from edgeprune.target import Target

logger = logging.getLogger(__name__)

MOST_IN_FLIGHT = 64
ACTIVITIES = 4000
"""The latest that are kept."""
HOPELESS = 6
"""Trials in a row that fail before one succeeds, after which the search gives up."""
AGGREGATED = {"observed_error": max, "statistical_error": max, "top1_agreement": min, "accuracy": min}
"""What is measured on every target and counts once: the worst."""


@dataclass(slots=True)
class Conductor:
    """A search under way.

    Attributes:
        watch: called whenever something has changed.
        counts: trials by state, of this and earlier calls.
    """

    ground: Ground
    rules: Rules
    space: Space
    desk: Desk
    book: Book
    store: Store
    crew: Crew
    watch: Callable[[Conductor], None]
    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    measurements: dict[str, int] = field(default_factory=dict)
    activities: list[Activity] = field(default_factory=list)
    running: dict[int, Trial] = field(default_factory=dict)
    began: float = field(default_factory=time.time)
    numbers: itertools.count[int] = field(init=False)
    hopeless: int = 0

    def __post_init__(self) -> None:
        self.numbers = itertools.count(self.book.seen)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the targets."""
        return self.ground.names

    @property
    def done(self) -> int:
        """Trials that are finished, now and before."""
        return sum(self.counts.values())

    def run(self) -> None:
        """Go on until the trials or the time are used up.

        Raises:
            EdgepruneError: a promise was broken, the study cannot be written, or nothing can be measured.
        """
        while True:
            while self._room():
                self._begin(next(self.numbers))
            if not self.running:
                return
            for done in self.crew.finished(timeout_s=1.0):
                self._take(done)
            self.watch(self)

    def _room(self) -> bool:
        """Whether another trial should be begun: somebody would have nothing to do without it."""
        if self.done + len(self.running) >= self.rules.trials or len(self.running) >= MOST_IN_FLIGHT:
            return False
        if self.rules.seconds is not None and time.time() - self.began > self.rules.seconds:
            return False
        alone = [trial for trial in self.running.values() if not trial.follows]
        making = sum(1 for trial in alone if not trial.waiting)
        if making >= self.crew.makers():
            return False
        backlog = dict.fromkeys(self.names, 0)
        for trial in alone:
            for name in trial.waiting or self.names:
                backlog[name] += 1
        return any(count <= self.crew.units(name) for name, count in backlog.items())

    # ---------------------------------------------------------------------------- one trial

    def _begin(self, number: int) -> None:
        started = time.monotonic()
        params = self.desk.ask(number)
        try:
            draft = self.draft(params)
        except UsageError as error:  # the grid allows no net as small as that
            self._finish(Trial(number, params, Draft("", "", ()), {}), "failed", str(error))
            return
        finally:
            self._spent("allocation", time.monotonic() - started)
        trial = Trial(number, params, draft, dict(draft.known))
        if reason := broken(draft.conditions, trial.found, self.names):
            self._finish(trial, "ruled out", reason)
            return
        name = self._outcome(draft)
        for other in self.running.values():
            if not other.follows and self._outcome(other.draft) == name:
                other.followers.append(trial)
                self.running[number] = trial
                trial.follows = True
                return
        if (known := self.store.get(name)) is not None:
            trial.found = dict(known.content["found"])
            self._settle(trial, repeated=True)
            return
        points = tuple(self.desk.front.points.values())
        if beaten(self.rules.minimized, points, trial.found):
            self._finish(trial, "ruled out", BEATEN)
            return
        self.running[number] = trial
        self.crew.submit(Task(number, "", dataclasses.replace(draft, front=points)))

    def draft(self, params: Mapping[str, Any]) -> Draft:
        """Widths on the grid, and what is known without making the net."""
        return drafted(self.ground, self.space, self.rules, params)

    def _outcome(self, draft: Draft) -> str:
        return key("outcome", net=draft.name("net", self.ground.subject), measured=self.ground.fixed)

    def _take(self, done: Done) -> None:
        """What became of a task."""
        trial = self.running.get(done.task.trial)
        step = done.task.device or "make"
        reached = getattr(done.result, "reached", True)
        outcome = "lost" if done.lost else "failed" if done.error or not reached else ""
        began = getattr(done.result, "began", 0.0) or done.began
        self._did(
            Activity(done.where, step, done.task.trial, began - self.began, done.ended - self.began, outcome)
        )
        if trial is None:
            return  # it was ruled out meanwhile
        if done.error is not None:
            self._failed(trial, done.task, done.error, done.lost)
        elif isinstance(done.result, Prepared):
            self._made(trial, done.result)
        elif isinstance(done.result, MeasuredTrial):
            self._measured(trial, done.task, done.result)

    def _failed(self, trial: Trial, task: Task, error: BaseException, lost: bool) -> None:
        if isinstance(error, BrokenPromise):
            raise error
        if lost or isinstance(error, TargetUnavailable):
            self._again(trial, task, f"{type(error).__name__}: {error}")
            return
        if not isinstance(error, EdgepruneError):
            logger.warning("trial %d: %s: %s", trial.number, type(error).__name__, error)
        self._finish(trial, "failed", str(error) or type(error).__name__)

    def _again(self, trial: Trial, task: Task, reason: str) -> None:
        """A worker or a device died: that costs a retry, not the search."""
        trial.tries += 1
        if trial.tries <= self.rules.retries:
            logger.info("trial %d: tried again (%s)", trial.number, reason)
            self.crew.submit(task)
        else:
            self._finish(trial, "failed", f"{task.device or 'a worker'} failed {trial.tries} times: {reason}")

    def _made(self, trial: Trial, made: Prepared) -> None:
        for step, spent in made.seconds.items():
            self._spent(step, spent)
        trial.found |= made.found
        trial.sha256 = made.sha256
        late = beaten(self.rules.minimized, tuple(self.desk.front.points.values()), trial.found)
        if made.ruled_out or late:
            self._finish(trial, "ruled out", made.ruled_out or BEATEN)
            return
        if made.model is not None:
            size = {"size_bytes": made.found["size_bytes"]}
            self.store.put(trial.draft.name("file", self.ground.subject), size, {MODEL: made.model})
        trial.waiting = set(self.names)
        for target in self.ground.targets:
            if (known := self.store.get(self._measurement(trial, target))) is not None:
                self._learned(trial, target.name, dict(known.content["found"]))
                if trial.number not in self.running:
                    return
            else:
                self.crew.submit(Task(trial.number, target.name, self._job(trial, target)))

    def _job(self, trial: Trial, target: Target) -> Measurement:
        entry = self.store.get(trial.draft.name("file", self.ground.subject), [MODEL])
        assert entry is not None
        path, settings = entry.path(MODEL), self.ground.settings
        file = File(content=path.read_bytes()) if self.rules.carried else File(str(path))
        return Measurement(
            target, file, settings.seed, settings.latency, cool_down_s=self.rules.cool_down_s,
            odds=(settings.confidence, settings.quantile),
        )  # fmt: skip

    def _measurement(self, trial: Trial, target: Target) -> str:
        return key("measurement", net=trial.sha256, measured=self.ground.fixed, target=target.name)

    def _measured(self, trial: Trial, task: Task, result: MeasuredTrial) -> None:
        self._spent("device", result.ended - result.began)
        if not result.reached:
            self._again(trial, task, result.reason)
            return
        self.measurements[task.device] = self.measurements.get(task.device, 0) + 1
        target = next(t for t in self.ground.targets if t.name == task.device)
        content = {"found": result.found, "validation": result.validation, "where": result.where}
        self.store.put(self._measurement(trial, target), content, {})
        self._learned(trial, task.device, result.found)

    def _learned(self, trial: Trial, target: str, found: Mapping[str, float]) -> None:
        """What a device told of a trial."""
        trial.found |= found
        trial.waiting.discard(target)
        for name, worst in AGGREGATED.items():
            values = [trial.found[f"{name}@{t}"] for t in self.names if f"{name}@{t}" in trial.found]
            if values and name != "observed_error":
                trial.found[name] = worst(values)
            elif values:
                trial.found[name] = worst([*values, trial.found.get(name, 0.0)])
        if "top1_agreement" in trial.found:
            trial.found["disagreement"] = 1 - trial.found["top1_agreement"]
        if not trial.waiting:
            self._settle(trial)
        elif reason := broken(trial.draft.conditions, trial.found, self.names):
            self._finish(trial, "ruled out", reason)

    def _settle(self, trial: Trial, repeated: bool = False) -> None:
        """Everything is known."""
        missing = [o.key for o in self.rules.minimized if o.key not in trial.found]
        if missing:
            self._finish(trial, "failed", f"{' and '.join(missing)} could not be had")
            return
        if not repeated:
            name = self._outcome(trial.draft)
            self.store.put(name, {"found": trial.found}, {})
            self.store.drop(trial.draft.name("net", self.ground.subject), [PLAN, WEIGHTS])
            self.store.drop(trial.draft.name("file", self.ground.subject), [MODEL])
        self._finish(trial, "repeated" if repeated else "measured")

    def _finish(self, trial: Trial, state: State, reason: str = "") -> None:
        excess: dict[str, float] = {}
        unknown = False
        for condition in self.rules.conditions:
            away = condition.excess(trial.found, self.names)
            if away is not None:
                excess[condition.text] = away
            elif state in ("measured", "repeated"):
                unknown = True
        if state == "ruled out" and reason != BEATEN and not any(value > 0 for value in excess.values()):
            excess[reason] = 1.0
        partly = [trial.found.get(o.key) for o in self.rules.minimized]
        values = tuple(v for v in partly if v is not None) if state in ("measured", "repeated") else ()
        feasible = (
            not unknown and state not in ("failed", "ruled out") and all(v <= 0 for v in excess.values())
        )
        if unknown:
            excess["not everything that is constrained could be had"] = 1.0
        record = TrialRecord(trial.number, state, trial.params, trial.found, values, reason, feasible)
        self.running.pop(trial.number, None)
        self.crew.cancel(trial.number)
        self.desk.tell(record, excess, partly)
        self.book.add(record, excess)
        self.counts[state] = self.counts.get(state, 0) + 1
        for follower in trial.followers:
            follower.found |= trial.found
            self._finish(follower, "repeated" if values else state, reason)
        self._despair(record)

    def _despair(self, record: TrialRecord) -> None:
        """Give up where nothing at all succeeds."""
        self.hopeless = self.hopeless + 1 if record.state == "failed" else 0
        if self.hopeless >= HOPELESS and not self.counts.get("measured"):
            raise TargetUnavailable(
                f"search: the first {self.hopeless} trials all failed, the last one because: {record.reason} "
                "What was finished stays; mend that and give the same command again."
            )

    def _spent(self, step: str, seconds: float) -> None:
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds

    def _did(self, activity: Activity) -> None:
        self.activities.append(activity)
        if len(self.activities) > 2 * ACTIVITIES:
            del self.activities[:-ACTIVITIES]
