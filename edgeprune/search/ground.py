"""What a search stands on: its rules, the opened model, and a trial on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeprune.config import Settings
from edgeprune.line.planning import counted_budget, spread
from edgeprune.records.search import TrialRecord
from edgeprune.search.bench import Bench
from edgeprune.search.objectives import Condition, Objective
from edgeprune.search.space import Space
from edgeprune.search.work import Draft, Subject
from edgeprune.stages.allocate import allocate
from edgeprune.stages.distribute import Curve
from edgeprune.target import Target
from edgeprune.widths.budget import Cost, Multiples, cost
from edgeprune.widths.pricing import Prices


@dataclass(frozen=True, slots=True)
class Rules:
    """What a search is told.

    Attributes:
        trials: of all kinds, of this and earlier calls together.
        seconds: after which no further trial is begun; None for no limit.
        retries: of a task whose worker or device died.
        carried: whether files travel to the workers, which do not see this machine's folders.
    """

    minimized: tuple[Objective, ...]
    conditions: tuple[Condition, ...]
    trials: int
    seconds: float | None = None
    retries: int = 2
    cool_down_s: float = 0.0
    carried: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What a search stands on: the opened model, and what is known before the first trial.

    Attributes:
        curves: error curves by group; empty where nothing is known of the inputs.
        original: digest and size in bytes of the original's ONNX file.
        fixed: digest of everything that decides a measurement, beside the nets.
    """

    bench: Bench
    settings: Settings
    targets: tuple[Target, ...]
    curves: Mapping[str, Curve]
    prices: Prices
    whole: Cost
    multiples: Multiples
    original: tuple[str, int]
    fixed: str
    subject: Subject

    @property
    def names(self) -> tuple[str, ...]:
        """Of the targets."""
        return tuple(target.name for target in self.targets)


@dataclass(slots=True)
class Trial:
    """A trial that is under way."""

    number: int
    params: dict[str, Any]
    draft: Draft
    found: dict[str, float]
    sha256: str = ""
    waiting: set[str] = field(default_factory=set)
    tries: int = 0
    follows: bool = False
    followers: list[Trial] = field(default_factory=list)


def drafted(ground: Ground, space: Space, rules: Rules, params: Mapping[str, Any]) -> Draft:
    """A trial on paper: widths on the grid, and what is known without making the net.

    Raises:
        UsageError: the grid allows no net as small as that.
    """
    settings = space.settings(ground.settings, params)
    coupling = ground.bench.coupling
    if space.weighed:
        widths = spread(coupling, settings, ground.multiples, ground.curves, ground.prices)
    else:
        widths = allocate(coupling, counted_budget(settings), ground.multiples)
    left = cost(coupling, {name: np.arange(width) for name, width in widths.items()})
    known = {
        "macs": left.macs / max(ground.whole.macs, 1),
        "macs_count": float(left.macs),
        "params": left.params / max(ground.whole.params, 1),
        "params_count": float(left.params),
        "original_bytes": float(ground.original[1]),
    }
    if ground.curves:
        known["expected_error"] = float(sum(ground.curves[n].error[w] for n, w in widths.items()))
    return Draft(
        settings.method,
        settings.direction,
        tuple(sorted(widths.items())),
        tuple(known.items()),
        rules.conditions,
        ground.names,
        rules.minimized,
    )


def closest(records: Sequence[TrialRecord], conditions: Sequence[Condition], targets: Sequence[str]) -> str:
    """Which trial came nearest to keeping all conditions, in words; '' where nothing is known."""
    best: tuple[float, str] | None = None
    for record in records:
        away = [(c, c.excess(record.found, targets)) for c in conditions]
        over = [(c, value) for c, value in away if value is not None and value > 0]
        if not over:
            continue
        worst = max(value / max(abs(c.limit), 1e-12) for c, value in over)
        words = ", ".join(f"{c.text} by {value:.4g}" for c, value in over)
        if best is None or worst < best[0]:
            best = (worst, f"trial {record.number} came closest and breaks {words}")
    return best[1] if best else ""
