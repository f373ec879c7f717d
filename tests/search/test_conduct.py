"""The order of a search, with workers that are scripted: what is asked of whom, and what becomes of it."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch

from edgeprune.config import Settings
from edgeprune.errors import BoundViolated, TargetUnavailable, UnsupportedModel
from edgeprune.search.conduct import Conductor
from edgeprune.search.ground import Ground, Rules
from edgeprune.search.objectives import conditions, objectives
from edgeprune.search.space import Space
from edgeprune.search.store import Store
from edgeprune.search.study import Book, Desk
from edgeprune.search.work import MODEL, Draft, MeasuredTrial, Package, Prepared, Subject
from edgeprune.search.workers import Done, Task
from edgeprune.stages.couple import couple
from edgeprune.stages.distribute import Curve
from edgeprune.stages.trace import trace
from edgeprune.target import Grid, Target
from edgeprune.widths.budget import Multiples, cost
from edgeprune.widths.pricing import Prices

TARGETS = (Target("phone", grid=Grid(4)), Target("board", grid=Grid(4)))
SUBJECT = Subject("{}", "w", "0", "", "digest", False)


class Crew:
    """Workers that do at once what they are told, and remember what they were asked."""

    def __init__(self, store: Store, make: Callable[[Draft], Any], measure: Callable[[Task], Any]) -> None:
        self.store, self.make, self.measure = store, make, measure
        self.asked: list[Task] = []
        self.waiting: list[Task] = []
        self.stuck: set[str] = set()

    def makers(self) -> int:
        return 1

    def units(self, target: str) -> int:
        return 1

    def begin(self, subject: Subject, package: Package) -> None: ...

    def submit(self, task: Task) -> None:
        self.asked.append(task)
        self.waiting.append(task)

    def cancel(self, trial: int) -> None:
        self.waiting = [task for task in self.waiting if task.trial != trial]

    def close(self) -> None: ...

    def finished(self, timeout_s: float) -> list[Done]:
        ready = next((t for t in self.waiting if t.device not in self.stuck), None)
        if ready is None:
            self.stuck.clear()  # the slow one is done at last
            return []
        self.waiting.remove(ready)
        try:
            result = self.make(ready.job) if isinstance(ready.job, Draft) else self.measure(ready)
        except Exception as error:
            return [Done(ready, None, error, isinstance(error, ConnectionError), "w", 0.0, 1.0)]
        return [Done(ready, result, None, False, "w", 0.0, 1.0)]


class Scene:
    def __init__(
        self,
        folder: Path,
        constraints: tuple[str, ...] = (),
        trials: int = 6,
        retries: int = 2,
        minimize: str = "latency,error",
    ) -> None:
        coupling = couple(trace(small.build(), (torch.randn(1, 8),)), ())
        self.names = tuple(t.name for t in TARGETS)
        minimized = objectives((minimize,), "observed", self.names)
        rules = Rules(
            minimized, conditions(constraints, "observed", self.names), trials, retries=retries, carried=True
        )
        curves = {g.name: Curve(g.name, np.linspace(1, 0, g.size + 1) ** 2) for g in coupling.groups}
        bench: Any = types.SimpleNamespace(coupling=coupling)
        whole = cost(coupling, {})
        ground = Ground(
            bench,
            Settings(),
            TARGETS,
            curves,
            Prices.of(coupling),
            whole,
            Multiples(1, 1),
            ("o", 1000),
            "fixed",
            SUBJECT,
        )
        space = Space(("linear-16", "linear-12"), ("gram",))
        self.store = Store(folder / "store")
        self.crew = Crew(self.store, self.make, self.measure)
        book = Book.open(folder / "study.journal", "edgeprune", [o.key for o in minimized], space, "abc")
        desk = Desk(space, len(minimized), "random", 0, space.first()[:3])
        counts = desk.resume(book.records())
        self.conductor = Conductor(
            ground, rules, space, desk, book, self.store, self.crew, lambda _: None, counts
        )

    def make(self, draft: Draft) -> Any:
        widths = dict(draft.widths)
        found = {
            **dict(draft.known),
            "observed_error": 1.0 / sum(widths.values()),
            "size_bytes": 10.0,
            "size": 0.5,
        }
        return Prepared(found, {"net": 0.1}, model=repr(draft.widths).encode(), sha256=repr(draft.widths))

    def measure(self, task: Task) -> Any:
        size = len(task.job.pruned.content or b"") / 100 + task.trial / 1000
        found = {f"latency@{task.device}": size, f"observed_error@{task.device}": 0.01}
        return MeasuredTrial(found, {}, True, "", f"w {task.device}", 0.0, 1.0)

    def records(self) -> list[Any]:
        return list(self.conductor.desk.latest)


def test_every_trial_is_made_once_and_measured_once_on_every_device(tmp_path: Path):
    scene = Scene(tmp_path)
    scene.conductor.run()
    made = [task.job for task in scene.crew.asked if isinstance(task.job, Draft)]
    assert len({draft.widths for draft in made}) == len(made)
    assert sum(1 for task in scene.crew.asked if task.device == "phone") == len(made)
    assert scene.conductor.done == 6
    assert set(scene.conductor.counts) <= {"measured", "repeated"}
    assert scene.conductor.measurements == {"phone": len(made), "board": len(made)}


def test_what_is_known_for_nothing_rules_out_before_anything_is_made(tmp_path: Path):
    scene = Scene(tmp_path, ("macs<=0.3",))
    scene.conductor.run()
    for record in scene.records():
        assert (record.state == "ruled out") == (record.found["macs"] > 0.3)
    assert all(dict(t.job.known)["macs"] <= 0.3 for t in scene.crew.asked if isinstance(t.job, Draft))


def test_a_net_that_a_worker_rules_out_is_never_measured(tmp_path: Path):
    scene = Scene(tmp_path)
    scene.crew.make = lambda draft: Prepared(dict(draft.known), ruled_out="breaks it")
    scene.conductor.run()
    assert not [task for task in scene.crew.asked if task.device]
    assert {record.reason for record in scene.records()} == {"breaks it"}
    assert scene.conductor.desk.best == {}


def test_one_target_that_is_too_slow_spares_the_other(tmp_path: Path):
    scene = Scene(tmp_path, ("latency<=0.0001",), trials=3)
    scene.conductor.run()
    assert {record.state for record in scene.records()} == {"ruled out"}
    devices = [task.device for task in scene.crew.asked if task.device]
    assert len(devices) == 2 * len({t.trial for t in scene.crew.asked})  # both are asked at once …
    assert sum(scene.conductor.measurements.values()) == len(devices) / 2  # … and the second is called off


@pytest.mark.parametrize("error", [TargetUnavailable("gone"), ConnectionError("the worker died")])
def test_a_worker_or_device_that_dies_costs_a_retry(tmp_path: Path, error: Exception):
    scene = Scene(tmp_path, trials=2)
    deaths = [error]

    def measure(task: Task) -> Any:
        if deaths:
            raise deaths.pop()
        return scene.measure(task)

    scene.crew.measure = measure
    scene.conductor.run()
    assert "failed" not in scene.conductor.counts
    assert [a.outcome for a in scene.conductor.activities].count("") == len(scene.conductor.activities) - 1


def test_a_device_that_answers_that_it_is_gone_costs_a_retry(tmp_path: Path):
    scene = Scene(tmp_path, trials=1)
    answers = [MeasuredTrial({}, {}, False, "unplugged", "w phone", 0.0, 1.0)]
    scene.crew.measure = lambda task: answers.pop() if answers else scene.measure(task)
    scene.conductor.run()
    assert scene.conductor.counts == {"measured": 1}


def test_a_search_that_cannot_succeed_ends_with_the_reason(tmp_path: Path):
    scene = Scene(tmp_path, trials=50, retries=0)

    def measure(task: Task) -> Any:
        raise TargetUnavailable("the cable is out")

    scene.crew.measure = measure
    with pytest.raises(TargetUnavailable, match="the cable is out"):
        scene.conductor.run()
    assert scene.conductor.done < 10


def test_a_net_that_cannot_be_made_fails_alone(tmp_path: Path):
    scene = Scene(tmp_path, trials=4)
    made = []

    def make(draft: Draft) -> Any:
        made.append(draft)
        if len(made) == 2:
            raise UnsupportedModel("no such cut")
        return scene.make(draft)

    scene.crew.make = make
    scene.conductor.run()
    assert scene.conductor.counts["failed"] == 1


def test_a_broken_bound_stops_everything(tmp_path: Path):
    scene = Scene(tmp_path)

    def make(draft: Draft) -> Any:
        raise BoundViolated("seen above its bound")

    scene.crew.make = make
    with pytest.raises(BoundViolated):
        scene.conductor.run()


def test_a_slow_device_does_not_hold_up_the_other(tmp_path: Path):
    scene = Scene(tmp_path, trials=6)
    scene.crew.stuck = {"board"}
    seen: list[int] = []
    plain = scene.crew.finished

    def finished(timeout_s: float) -> list[Done]:
        if "board" not in scene.crew.stuck and not seen:
            seen.append(scene.conductor.measurements.get("phone", 0))
        return plain(timeout_s)

    scene.crew.finished = finished  # type: ignore[method-assign]
    scene.conductor.run()
    assert seen[0] == len(
        {t.trial for t in scene.crew.asked}
    )  # the phone was done with all before the board began


def test_a_resumed_search_asks_nothing_twice(tmp_path: Path):
    first = Scene(tmp_path, trials=3)
    first.conductor.run()
    second = Scene(tmp_path, trials=3)
    second.conductor.run()
    assert second.crew.asked == []
    assert second.conductor.done == 3
    third = Scene(tmp_path, trials=5)
    third.conductor.run()
    before = {t.job.widths for t in first.crew.asked if isinstance(t.job, Draft)}
    after = {t.job.widths for t in third.crew.asked if isinstance(t.job, Draft)}
    assert not before & after
    assert third.conductor.done == 5


def test_a_search_killed_between_two_devices_measures_the_second_only(tmp_path: Path):
    first = Scene(tmp_path, trials=1)

    def measure(task: Task) -> Any:
        if task.device == "board":
            raise KeyboardInterrupt
        return first.measure(task)

    first.crew.measure = measure
    with pytest.raises(KeyboardInterrupt):
        first.conductor.run()
    second = Scene(tmp_path, trials=1)
    second.conductor.run()
    assert [task.device for task in second.crew.asked] == ["", "board"]


def test_settings_of_the_ground_are_not_what_is_varied():
    assert dataclasses.replace(Settings(), macs=0.5).price_mix is None
    assert MODEL.endswith(".onnx")


def test_what_cannot_beat_the_front_any_more_is_not_measured(tmp_path: Path):
    scene = Scene(tmp_path, trials=40, minimize="macs,certified_error")
    plain = scene.make

    def make(draft: Draft) -> Any:
        made = plain(draft)
        # the first net has the best certificate; every other was seen to be worse inside the domain, and
        # among themselves the larger are the better ones
        first = draft.widths == scene.crew.asked[0].job.widths
        made.found |= {"seen_in_domain": 0.0 if first else 0.2}
        made.found |= {"certified_error": 0.1 if first else 0.3 / made.found["macs"]}
        return made

    scene.crew.make = make
    scene.conductor.run()
    least = dict(scene.crew.asked[0].job.known)["macs"]
    out = [r for r in scene.records() if r.state == "ruled out"]
    assert out
    assert all(r.found["macs"] >= least and "front" in r.reason for r in out)
    measured = {task.trial for task in scene.crew.asked if task.device}
    assert not measured & {r.number for r in out}
    larger = {r.number for r in scene.records() if r.found.get("macs", 0) >= least and r.state != "repeated"}
    assert larger == {0, *(r.number for r in out)}
    # to lose against the front breaks no constraint, and the book says why
    kept = [(r, c) for r, c in scene.conductor.book.kept() if r.state == "ruled out"]
    assert len(kept) == len(out)
    assert all(not any(value > 0 for value in constraints.values()) for _, constraints in kept)


def test_a_net_is_made_where_a_device_may_still_tell_something_new(tmp_path: Path):
    scene = Scene(tmp_path, trials=20)
    scene.conductor.run()
    assert "ruled out" not in scene.conductor.counts
