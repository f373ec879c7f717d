"""The parts of a search that was split, put together."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from edgeprune.errors import UsageError
from edgeprune.files import write_text
from edgeprune.records.search import Activity, SearchRecord, TrialRecord
from edgeprune.report.search_page import render
from edgeprune.search.front import Front
from edgeprune.search.place import JOURNAL, STORE, claimed
from edgeprune.search.space import Space
from edgeprune.search.store import ENTRY, Store
from edgeprune.search.study import Book, digest_of


def merged(shards: Sequence[Path], output: Path) -> SearchRecord:
    """One search folder out of several; trials are numbered anew.

    Raises:
        UsageError: a folder holds no search, or they are parts of different searches.
    """
    records = [SearchRecord.load(shard) for shard in shards]
    for shard in shards:
        if not (shard / JOURNAL).is_file():
            raise UsageError(
                f"{shard}: keeps its study elsewhere (--storage), where its parts are together already; "
                "merge is for "
                "folders with a journal."
            )
    digests = [digest_of(shard / JOURNAL) for shard in shards]
    if len(set(digests)) != 1:
        odd = next(shard for shard, digest in zip(shards, digests, strict=True) if digest != digests[0])
        raise UsageError(
            f"{odd}: is part of another search than {shards[0]} (another model, settings, objectives, space "
            "or versions), "
            "so their trials cannot stand side by side."
        )
    first = records[0]
    with claimed(output):
        if (output / JOURNAL).exists():
            raise UsageError(f"-o {output}: holds a search already; name a new folder.")
        space = _space(first)
        book = Book.open(output / JOURNAL, "edgeprune", first.minimized, space, digests[0])
        trials: list[TrialRecord] = []
        for shard in shards:
            part = Book.open(shard / JOURNAL, "edgeprune", first.minimized, space, digests[0])
            for record, constraints in part.kept():
                numbered = dataclasses.replace(record, number=len(trials))
                book.add(numbered, constraints)
                trials.append(numbered)
            _copied(shard / STORE, Store(output / STORE))
        whole = _together(records, shards, trials)
        whole.save(output)
        write_text(output / "search.html", render(whole))
        return whole


NumberT = TypeVar("NumberT", int, float)


def _space(record: SearchRecord) -> Space:
    told = record.space
    return Space(
        tuple(told["families"]),
        tuple(told["methods"]),
        tuple(told["free_order"]),
        bool(told["weighed"]),
        float(told["least_share"]),
    )


def _copied(source: Path, store: Store) -> None:
    """Entries that the whole has not got yet."""
    for entry in source.glob(f"??/*/{ENTRY}"):
        there = store.root / entry.parent.parent.name / entry.parent.name
        if not there.exists():
            shutil.copytree(entry.parent, there)


def _together(
    records: Sequence[SearchRecord], shards: Sequence[Path], trials: Sequence[TrialRecord]
) -> SearchRecord:
    front = Front()
    for trial in trials:
        if trial.values and trial.feasible:
            front.add(trial.number, trial.values)
    counts: dict[str, int] = {}
    for trial in trials:
        counts[trial.state] = counts.get(trial.state, 0) + 1
    activities = tuple(
        Activity(f"{shard.name}: {a.where}", a.step, a.trial, a.began_s, a.ended_s, a.outcome)
        for record, shard in zip(records, shards, strict=True)
        for a in record.activities
    )
    best = sorted((t for t in trials if t.number in front.points), key=lambda t: t.values)
    others = [t for t in trials if t.number not in front.points][-1000:]
    return dataclasses.replace(
        records[0],
        counts=counts,
        measurements=_sum([r.measurements for r in records]),
        seconds=_sum([r.seconds for r in records]),
        wall_s=max(r.wall_s for r in records),
        front=tuple(t.number for t in best),
        trials=tuple(sorted((*best, *others), key=lambda t: t.number)),
        activities=activities,
        chosen=None,
    )


def _sum(parts: Sequence[dict[str, NumberT]]) -> dict[str, NumberT]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum((p[name] for p in parts if name in p), type(parts[0].get(name, 0))()) for name in names}
