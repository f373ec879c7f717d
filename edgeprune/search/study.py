"""Trials by Optuna: a desk in memory where the sampler works, and a book where every trial is kept.

The sampler sees the front and the latest trials, so that asking takes as long after ten thousand trials as
after a hundred. The book is an Optuna study in a journal file, in PostgreSQL or behind a storage proxy; each
finished trial is one entry in it, written at once, and it opens in optuna-dashboard.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgeprune.errors import StorageError, UsageError
from edgeprune.records.search import State, TrialRecord
from edgeprune.search.front import Front
from edgeprune.search.space import Space
from edgeprune.search.storages import place, quiet, released, storage_of

ATTRIBUTE = "edgeprune"
SAMPLERS = ("tpe", "nsga2", "nsga3", "gp", "random")
WINDOW = 300
"""Trials that the sampler sees beside the front."""
MOST_OF_FRONT = 200
"""Points of the front that the sampler sees."""

STATES: dict[State, TrialState] = {
    "measured": TrialState.COMPLETE,
    "repeated": TrialState.COMPLETE,
    "ruled out": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space, as Optuna says it."""
    found: dict[str, BaseDistribution] = {
        name: FloatDistribution(low, high, log=log) for name, (low, high, log) in space.numbers().items()
    }
    return found | {name: CategoricalDistribution(options) for name, options in space.choices().items()}


def sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """One of Optuna's samplers.

    Raises:
        UsageError: it needs a package that is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some options are marked experimental
        match name:
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=24)
            case "nsga3":
                return optuna.samplers.NSGAIIISampler(seed=seed, population_size=24)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case _:
                return optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, constant_liar=True, gamma=_good
                )


def _good(count: int) -> int:
    """How many of the best trials TPE draws near to: with several objectives a front, not a tenth."""
    return min(math.ceil(0.3 * count), 50)


@dataclass(slots=True)
class Desk:
    """Where the sampler works: a study in memory, made anew now and then from front and latest trials.

    Attributes:
        first: points to begin with.
    """

    space: Space
    objectives: int
    name: str
    seed: int
    first: list[dict[str, Any]]
    study: optuna.Study = field(init=False)
    open: dict[int, optuna.trial.Trial] = field(init=False, default_factory=dict)
    front: Front = field(init=False, default_factory=Front)
    latest: list[TrialRecord] = field(init=False, default_factory=list)
    best: dict[int, TrialRecord] = field(init=False, default_factory=dict)
    worst: list[float] = field(init=False)
    renewed: int = field(init=False, default=0)
    told: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.worst = [1.0] * self.objectives
        self._renew()

    def ask(self, number: int) -> dict[str, Any]:
        """The next point to try."""
        with quiet():
            if self.first:
                self.study.enqueue_trial(self.first.pop(0))
            trial = self.study.ask(distributions(self.space))
        self.open[number] = trial
        return dict(trial.params)

    def tell(
        self, record: TrialRecord, excess: Mapping[str, float], partly: Sequence[float | None] = ()
    ) -> None:
        """What became of a point that was asked for.

        Args:
            partly: the objectives of a trial that was ruled out, as far as they are known.
            excess: by constraint, by how much it is broken; at most 0 where it is kept.
        """
        self.learn(record)
        trial = self.open.pop(record.number)
        with quiet():
            if record.state == "failed":
                self.study.tell(trial, state=TrialState.FAIL)
                return
            for name, value in excess.items():
                trial.set_constraint(name, value)
            # what was ruled out is not measured: it counts as the worst seen, and as broken by its constraint
            known = list(partly) or [None] * self.objectives
            filled = [w if value is None else value for value, w in zip(known, self.worst, strict=True)]
            self.study.tell(trial, list(record.values) or filled)
        self.told += 1
        if not self.open and self.told > WINDOW:
            self._renew()

    def learn(self, record: TrialRecord) -> None:
        """Take in a trial that was made before, or elsewhere."""
        if record.values:
            self.worst = [max(a, b) for a, b in zip(self.worst, record.values, strict=True)]
            if record.feasible and self.front.add(record.number, record.values):
                self.best = {
                    n: t for n, t in {**self.best, record.number: record}.items() if n in self.front.points
                }
        self.latest.append(record)
        if len(self.latest) > 2 * WINDOW:
            del self.latest[:-WINDOW]

    def _renew(self) -> None:
        """A fresh study that knows the front and the latest trials."""
        with quiet():
            self.study = optuna.create_study(
                storage=InMemoryStorage(),
                sampler=sampler(self.name, self.seed + self.renewed),
                directions=["minimize"] * self.objectives,
            )
            self.renewed, self.told = self.renewed + 1, 0
            best = sorted(self.best.values(), key=lambda t: t.values)
            best = best[:: math.ceil(len(best) / MOST_OF_FRONT) or 1]
            known = {t.number: t for t in (*best, *self.latest[-WINDOW:]) if t.values}
            self.study.add_trials([_frozen(t, self.space) for t in known.values()])

    def resume(self, records: Iterator[TrialRecord]) -> dict[str, int]:
        """Take in all trials of the book; tells how many there are, by state."""
        counts: dict[str, int] = {}
        for record in records:
            self.learn(record)
            counts[record.state] = counts.get(record.state, 0) + 1
        if counts:
            del self.first[: sum(counts.values())]
            self._renew()
        return counts


def _frozen(record: TrialRecord, space: Space) -> FrozenTrial:
    """A finished trial as the sampler needs it."""
    known = distributions(space)
    return create_trial(
        params={k: v for k, v in record.params.items() if k in known},
        distributions={k: v for k, v in known.items() if k in record.params},
        values=list(record.values),
        constraints={"feasible": 0.0 if record.feasible else 1.0},
    )


# --------------------------------------------------------------------------------------- the book


@dataclass(slots=True)
class Book:
    """Where every finished trial is kept."""

    study: optuna.Study
    space: Space
    storage: BaseStorage
    seen: int = 0

    @staticmethod
    def open(storage: str | Path, name: str, minimized: Sequence[str], space: Space, digest: str) -> Book:
        """Open a study, or begin one.

        Args:
            storage: a journal file, or the URL of a database or of a storage proxy (`grpc://host:port`).
            digest: of everything that decides what a trial gives; a study of another search is refused.

        Raises:
            UsageError: the study belongs to another search, or the URL is malformed.
            StorageError: the storage cannot be reached or written.
        """
        where = place(storage)
        used: BaseStorage | None = None
        try:
            with quiet():
                used = storage_of(storage)
                study = optuna.create_study(
                    storage=used,
                    study_name=name,
                    directions=["minimize"] * len(minimized),
                    load_if_exists=True,
                )
                known = study.user_attrs.get(f"{ATTRIBUTE}:digest")
                if known is None:
                    study.set_metric_names(list(minimized))
                    study.set_user_attr(f"{ATTRIBUTE}:digest", digest)
                elif known != digest:
                    raise UsageError(
                        f"{where}: holds a study '{name}' of another search (another model, settings, "
                        "objectives, "
                        "space or versions); name another with --study, or another folder with -o."
                    )
        except UsageError:
            released(used)
            raise
        except Exception as error:  # drivers raise their own; the reason is told
            released(used)
            raise StorageError(
                f"{where}: cannot be used as storage ({type(error).__name__}: "
                f"{str(error).splitlines()[0][:200]}); "
                "check the URL, the server and the rights."
            ) from error
        return Book(study, space, used)

    def close(self) -> None:
        """Give connections back."""
        released(self.storage)

    def records(self) -> Iterator[TrialRecord]:
        """The trials that were not read yet."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials[self.seen :]:
            if trial.state.is_finished() and ATTRIBUTE in trial.user_attrs:
                yield _record(trial)
        self.seen = len(trials)

    def kept(self) -> Iterator[tuple[TrialRecord, dict[str, float]]]:
        """Every finished trial, with what its constraints said."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.is_finished() and ATTRIBUTE in trial.user_attrs:
                yield _record(trial), dict(trial.constraints)

    def add(self, record: TrialRecord, excess: Mapping[str, float]) -> None:
        """Keep a finished trial.

        Raises:
            StorageError: it cannot be written.
        """
        known = distributions(self.space)
        kept = {
            "state": record.state,
            "found": dict(record.found),
            "reason": record.reason,
            "feasible": record.feasible,
        }
        state = STATES[record.state]
        trial = create_trial(
            state=state,
            params={k: v for k, v in record.params.items() if k in known},
            distributions=known,
            values=list(record.values) if state == TrialState.COMPLETE else None,
            user_attrs={ATTRIBUTE: json.dumps(kept)},
            constraints=dict(excess) or None,
        )
        try:
            with quiet():
                self.study.add_trial(trial)
        except Exception as error:
            raise StorageError(
                f"the study cannot be written ({type(error).__name__}: {str(error).splitlines()[0][:200]}); "
                "what was "
                "finished stays, and the same command goes on from there."
            ) from error


def digest_of(journal: Path) -> str:
    """What the study in a journal was made from.

    Raises:
        UsageError: it holds no study of ours.
    """
    try:
        with quiet():
            studies = optuna.get_all_study_summaries(storage_of(journal))
        return str(studies[0].user_attrs[f"{ATTRIBUTE}:digest"])
    except (IndexError, KeyError, ValueError, OSError) as error:
        raise UsageError(f"{journal}: holds no study of a search ({error}).") from error


def _record(trial: FrozenTrial) -> TrialRecord:
    kept = json.loads(trial.user_attrs[ATTRIBUTE])
    values = tuple(trial.values) if trial.state == TrialState.COMPLETE and trial.values else ()
    return TrialRecord(
        trial.number,
        kept["state"],
        dict(trial.params),
        dict(kept["found"]),
        values,
        str(kept["reason"]),
        bool(kept["feasible"]),
    )
