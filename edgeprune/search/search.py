"""A search from beginning to end: opened, conducted, written down, and one point of its front made a run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeprune.config import Resolved
from edgeprune.errors import BrokenPromise, UsageError
from edgeprune.files import write_text
from edgeprune.inputs.models import Loaded
from edgeprune.inputs.preparation import empty_run
from edgeprune.pipeline import run
from edgeprune.plan import Cuts
from edgeprune.profiles import find_target
from edgeprune.progress import Progress
from edgeprune.records import environment
from edgeprune.records.folder import key_of
from edgeprune.records.provenance import write_digests
from edgeprune.records.run import Run, to_json
from edgeprune.records.search import Chosen, SearchRecord, TrialRecord
from edgeprune.report.html import of
from edgeprune.report.search_page import render
from edgeprune.search import begin
from edgeprune.search.begin import ORIGINAL, SAMPLES, Wishes
from edgeprune.search.conduct import Conductor
from edgeprune.search.ground import closest
from edgeprune.search.objectives import Pick
from edgeprune.search.place import CHOSEN, JOURNAL, STORE, claimed
from edgeprune.search.space import shared
from edgeprune.search.store import Entry, Store
from edgeprune.search.study import Book, Desk
from edgeprune.search.work import File, Package
from edgeprune.search.workers import Crew, Local

EVERY_S = 15.0
"""Seconds between two writings of the record while a search runs."""
SHOWN = 1000
"""Trials beside the front that the record keeps."""


@dataclass(slots=True)
class Search:
    """A search that is open.

    Attributes:
        written: when the record was last written, monotonic seconds.
    """

    conductor: Conductor
    folder: Path
    resolved: Resolved
    loaded: Loaded
    chosen: Pick | None
    written: float = 0.0

    def keep(self, chosen: Chosen | None = None) -> SearchRecord:
        """Write the record and the page.

        Raises:
            StorageError: they cannot be written.
        """
        record = recorded(self, chosen)
        record.save(self.folder)
        write_text(self.folder / "search.html", render(record))
        self.written = time.monotonic()
        return record


@contextmanager
def opened(
    loaded: Loaded,
    resolved: Resolved,
    wishes: Wishes,
    folder: Path,
    watch: Callable[[Conductor], None],
    progress: Progress,
    method_given: bool = False,
) -> Iterator[Search]:
    """Open a search in a folder, or go on with the one that lies there.

    Raises:
        EdgepruneError: something that is needed is wrong, missing or out of reach.
    """
    settings = resolved.settings
    names = tuple(target.name for target in map(find_target, settings.target))
    told, chosen = begin.rules(wishes, names)
    units = begin.units_of(wishes.units, names)
    crew = _crew(wishes, names, units)
    try:
        with claimed(folder):
            store = Store(folder / STORE)
            found, original, samples = begin.ground(loaded, settings, told, store, progress)
            space = begin.space(found, settings, wishes, method_given)
            minimized = [objective.key for objective in told.minimized]
            digest = key_of(
                {
                    "subject": found.subject.digest,
                    "measured": found.fixed,
                    "minimized": minimized,
                    "constraints": [c.text for c in told.conditions],
                    "space": space.describe(),
                }
            )
            storage = wishes.storage or folder / JOURNAL
            book = Book.open(storage, wishes.study, minimized, space, digest)
            index, count = wishes.shard
            first = shared(space.first(wishes.trials), index, count)
            desk = Desk(space, len(minimized), wishes.sampler, settings.seed * count + index - 1, first)
            counts = desk.resume(book.records())
            crew.begin(found.subject, _package(original, samples, told.carried))
            conductor = Conductor(found, told, space, desk, book, store, crew, watch, counts)
            try:
                yield Search(conductor, folder, resolved, loaded, chosen)
            finally:
                book.close()
    finally:
        crew.close()


def _crew(wishes: Wishes, names: Sequence[str], units: dict[str, int]) -> Crew:
    if not wishes.cluster:
        return Local(wishes.workers, units)
    from edgeprune.search.cluster import Cluster

    return Cluster.reached(wishes.cluster, names)


def _package(original: Entry, samples: Entry, carried: bool) -> Package:
    paths = original.path(ORIGINAL), samples.path(SAMPLES)
    if carried:
        return Package(*(File(content=path.read_bytes()) for path in paths))
    return Package(*(File(str(path.resolve())) for path in paths))


def conducted(search: Search) -> SearchRecord:
    """Run the search to its end; what it has found is written down whatever happens.

    Raises:
        EdgepruneError: see `Conductor.run`.
    """
    watch = search.conductor.watch

    def watched(conductor: Conductor) -> None:
        watch(conductor)
        if time.monotonic() - search.written > EVERY_S:
            search.keep()

    search.conductor.watch = watched
    try:
        search.conductor.run()
    finally:
        search.keep()
    if not search.conductor.desk.best:
        raise UsageError(_nothing(search.conductor))
    return search.keep()


def _nothing(conductor: Conductor) -> str:
    """Why a front is empty."""
    latest, rules = conductor.desk.latest, conductor.rules
    near = closest(latest, rules.conditions, conductor.names)
    failed = next((t.reason for t in reversed(latest) if t.state == "failed"), "")
    counts = ", ".join(f"{count} {state}" for state, count in sorted(conductor.counts.items()))
    why = near or (f"the last failure: {failed}" if failed else "")
    return (
        f"search: the front is empty: no trial keeps every constraint ({counts or 'no trial was finished'}"
        f"{'; ' + why if why else ''}). Loosen a --constraint, or give more --trials."
    )


def recorded(search: Search, chosen: Chosen | None) -> SearchRecord:
    """What a search knows so far."""
    conductor = search.conductor
    desk, settings = conductor.desk, search.resolved.settings
    about = environment.describe(settings.seed)
    front = sorted(desk.best.values(), key=lambda t: t.values)
    numbers = {t.number for t in front}
    others = [t for t in desk.latest if t.number not in numbers][-SHOWN:]
    return SearchRecord(
        model=empty_run(conductor.ground.bench.line, search.resolved, about).model,
        environment=about,
        targets=conductor.names,
        minimized=tuple(o.key for o in conductor.rules.minimized),
        constraints=tuple(c.text for c in conductor.rules.conditions),
        space=conductor.space.describe(),
        counts=dict(conductor.counts),
        measurements=dict(conductor.measurements),
        seconds={name: round(spent, 3) for name, spent in conductor.seconds.items()},
        wall_s=round(time.time() - conductor.began, 3),
        front=tuple(t.number for t in front),
        trials=tuple(sorted((*front, *others), key=lambda t: t.number)),
        activities=tuple(conductor.activities),
        chosen=chosen,
        settings=to_json(dataclasses.replace(settings, limits=type(settings.limits)())),
    )


def taken(front: Sequence[TrialRecord], wanted: Pick, targets: Sequence[str]) -> TrialRecord:
    """The point of a front that is asked for.

    Raises:
        UsageError: no point keeps the conditions.
    """
    kept = [
        trial
        for trial in front
        if all((c.excess(trial.found, targets) or 0.0) <= 0 for c in wanted.conditions)
        and all(c.excess(trial.found, targets) is not None for c in wanted.conditions)
        and wanted.least.key in trial.found
    ]
    if not kept:
        near = closest(front, wanted.conditions, targets)
        raise UsageError(
            f"--pick {wanted.text!r}: none of the {len(front)} points of the front is "
            f"so{'; ' + near if near else ''}. "
            "What was found stays: give the same command with another --pick."
        )
    return min(kept, key=lambda trial: (trial.found[wanted.least.key], trial.number))


def made_run(search: Search, trial: TrialRecord, progress: Progress) -> Run:
    """A point of the front as a normal run folder, `chosen` in the search's folder.

    Raises:
        EdgepruneError: see `pipeline.run`.
        BrokenPromise: the run gave other widths than the trial had.
    """
    conductor = search.conductor
    settings = conductor.space.settings(search.resolved.settings, trial.params)
    origin = f"trial {trial.number} of {search.folder}"
    changed = [
        f.name
        for f in dataclasses.fields(settings)
        if getattr(settings, f.name) != getattr(search.resolved.settings, f.name)
    ]
    resolved = Resolved(settings, {**search.resolved.origins, **dict.fromkeys(changed, origin)})
    output = search.folder / CHOSEN
    result = run(search.loaded, resolved, output, overwrite=True, progress=progress)
    widths = {name: len(kept) for name, kept in Cuts.load(output / "plan.json").keep.items()}
    expected = dict(conductor.draft(trial.params).widths)
    if any(widths.get(name, width) != width for name, width in expected.items()):
        raise BrokenPromise(f"{output}: has other widths than trial {trial.number}; please report it.")
    why = search.chosen.text if search.chosen else ""
    record = search.keep(Chosen(trial.number, why, output.name))
    dataclasses.replace(record, activities=()).save(output)
    write_text(output / "report.html", of(output))
    write_digests(output)
    return result
