"""The record of a search: what `search.json` holds, for the report and for other programs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeprune.errors import UsageError
from edgeprune.files import write_text
from edgeprune.records.run import Environment, ModelRecord, from_json, to_json

SEARCH_VERSION = 1
RECORD = "search.json"
"""In the folder of a search; the run that was chosen keeps a copy, without what workers did and when."""
State = Literal["measured", "ruled out", "failed", "repeated"]
"""measured: everything is known; ruled out: given up as soon as a bound allowed; failed: could not be made or
measured; repeated: the same net as an earlier trial, known at no cost."""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial.

    Attributes:
        params: what the sampler said.
        found: what is known of it, by quantity.
        values: of the objectives; empty where they are not all known.
        reason: why it was ruled out, or failed.
        feasible: whether it keeps every constraint.
    """

    number: int
    state: State
    params: dict[str, Any]
    found: dict[str, float]
    values: tuple[float, ...] = ()
    reason: str = ""
    feasible: bool = True


@dataclass(frozen=True, slots=True)
class Activity:
    """What a worker or a device did, in seconds since the search began."""

    where: str
    step: str
    trial: int
    began_s: float
    ended_s: float
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The point of the front that became a run.

    Attributes:
        why: the expression that chose it.
        run: the run's folder, relative to the search's.
    """

    number: int
    why: str
    run: str


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """A search.

    Attributes:
        minimized: keys of the objectives, in the order of the trials' values.
        counts: trials by state.
        seconds: spent by step, over all workers.
        front: numbers of the trials that no other beats, by their first value.
        trials: the front, and the latest others.
        activities: the latest.
    """

    model: ModelRecord
    environment: Environment
    targets: tuple[str, ...]
    minimized: tuple[str, ...]
    constraints: tuple[str, ...]
    space: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)
    measurements: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    front: tuple[int, ...] = ()
    trials: tuple[TrialRecord, ...] = ()
    activities: tuple[Activity, ...] = ()
    chosen: Chosen | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    search_version: int = SEARCH_VERSION

    def save(self, folder: Path) -> Path:
        """Write `search.json`, atomically.

        Raises:
            StorageError: it cannot be written.
        """
        path = folder / RECORD
        write_text(path, json.dumps(to_json(self), indent=1, allow_nan=False) + "\n")
        return path

    @staticmethod
    def load(folder: Path) -> SearchRecord:
        """Read what `save` wrote.

        Raises:
            UsageError: missing, damaged, or of another version.
        """
        path = folder / RECORD
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("search_version") != SEARCH_VERSION:
                raise UsageError(f"{path}: is of another version of edgeprune; make the search again.")
            return from_json(SearchRecord, content)
        except FileNotFoundError:
            raise UsageError(
                f"{folder}: holds no search (no search.json); give the folder of a search that ended."
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: is damaged ({error}); run the search again.") from error
