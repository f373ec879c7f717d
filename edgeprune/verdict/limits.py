"""What a gate holds a run against. Standard library only."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["error", "warn", "off"]
"""error: a broken limit fails the gate; warn: it is told and lets the gate pass; off: not looked at."""

LEVELS: tuple[Level, ...] = ("error", "warn", "off")

USER_METRIC = "metric:"
REGRESSION = "regression:"
_METRIC_NAME = re.compile(r"[A-Za-z][\w-]*")


@dataclass(frozen=True, slots=True)
class UserMetric:
    """A number of the user's own, computed from the outputs that a run saved for each target.

    Attributes:
        name: how it is called in the verdict, there as `metric:NAME`.
        function: `package.module:function` or `file.py:function`; it takes the pruned model's
            outputs, the original's and the labels (None without labels), and returns a number.
        at_most: the largest value that passes.
        at_least: the smallest value that passes.

    Raises:
        ValueError: the name or the function is malformed, or no limit is given.
    """

    name: str
    function: str
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if not _METRIC_NAME.fullmatch(self.name):
            raise ValueError(f"the metric '{self.name}' must be named with letters, digits, _ and -")
        if not all(self.function.rpartition(":")[::2]):
            raise ValueError(
                f"the metric {self.name} names no function: '{self.function}' is not module:function"
            )
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"the metric {self.name} needs one limit, at_most or at_least")


@dataclass(frozen=True, slots=True)
class Regressions:
    """How much worse than a baseline run a figure may be, in per cent of the baseline's; 0 is none.

    Attributes:
        all: for every figure that two runs can be compared in and that is not named here. Never for
            the latency, which has to be measured again for it.
        certified_error: smallest global bound of the outputs.
        statistical_error: bound of the quantile certificates.
        observed_error: largest output difference seen.
        top1_agreement: share of inputs with the same largest output; fewer is worse.
        accuracy: share of labels met; fewer is worse.
        size: bytes of the pruned ONNX file.
        params: parameters of the pruned model.
        macs: multiply-accumulates of the pruned model.
        memory: peak resident memory of the process that ran the pruned model.
        latency: ratio of the two pruned models' latencies, measured again, in pairs.

    Raises:
        ValueError: a value is negative or not finite.
    """

    all: float | None = None
    certified_error: float | None = None
    statistical_error: float | None = None
    observed_error: float | None = None
    top1_agreement: float | None = None
    accuracy: float | None = None
    size: float | None = None
    params: float | None = None
    macs: float | None = None
    memory: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"the regression limit {name} is per cent, 0 or more, not {value:g}")

    def given(self) -> dict[str, float]:
        """What is set, by name."""
        pairs = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {name: value for name, value in pairs if value is not None}

    def of(self, name: str) -> float | None:
        """The per cent for one figure: its own, or that of all."""
        own: float | None = getattr(self, name)
        return own if own is not None or name == "latency" else self.all


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the gate; None is no limit. All but two, which say so, are the largest allowed.

    Attributes:
        certified_error: bound of the certificates over a whole domain, linf of the outputs.
        observed_error: largest linf output difference measured on a target.
        statistical_error: bound of the quantile certificates, linf of the outputs.
        top1_agreement: smallest allowed share of inputs with the same largest output, in (0, 1].
        latency_ratio: pruned ÷ original latency, held against the ends of its interval.
        p95_ms: upper confidence bound of the pruned model's 95th percentile latency.
        size_ratio: pruned ÷ original ONNX file, bytes.
        params_ratio: pruned ÷ original parameters.
        macs_ratio: pruned ÷ original multiply-accumulates.
        memory_mb: peak resident memory of the process that ran the pruned model, MiB.
        compression: smallest allowed original ÷ pruned ONNX file: 2 is half the size.
        level: of each limit by its name: error (as if not named), warn or off. The names are those
            above, `metric:NAME`, `regression:NAME` and `regression`.
        metrics: numbers of the user's own.
        regression: how much worse than a baseline run is allowed.

    Raises:
        ValueError: a limit is not positive and finite, an agreement is above 1, or a level names
            something unknown.
    """

    certified_error: float | None = None
    observed_error: float | None = None
    statistical_error: float | None = None
    top1_agreement: float | None = None
    latency_ratio: float | None = None
    p95_ms: float | None = None
    size_ratio: float | None = None
    params_ratio: float | None = None
    macs_ratio: float | None = None
    memory_mb: float | None = None
    compression: float | None = None
    level: dict[str, str] = field(default_factory=dict)
    metrics: tuple[UserMetric, ...] = ()
    regression: Regressions = field(default_factory=Regressions)

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the limit {name} must be positive and finite, not {value:g}")
        if self.top1_agreement is not None and self.top1_agreement > 1:
            raise ValueError(
                f"the limit top1_agreement is a share and cannot exceed 1, not {self.top1_agreement:g}"
            )
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError("two metrics have the same name; name each differently")
        known = self.nameable()
        for name, level in self.level.items():
            if level not in LEVELS:
                raise ValueError(f"the level of {name} is one of {', '.join(LEVELS)}, not '{level}'")
            if name not in known and not name.startswith(USER_METRIC):
                raise ValueError(f"there is no limit '{name}' to give a level; known: {', '.join(known)}")

    def nameable(self) -> list[str]:
        """Every name that a level can be given to."""
        regressions = [f"{REGRESSION}{f.name}" for f in dataclasses.fields(Regressions) if f.name != "all"]
        own = [f"{USER_METRIC}{metric.name}" for metric in self.metrics]
        return [*NAMES, *own, REGRESSION.rstrip(":"), *regressions]

    def level_of(self, check: str) -> Level:
        """The level of a check, by its name; error where nothing is said."""
        named = check if check in self.level else check.partition(":")[0]
        return next((level for level in LEVELS if level == self.level.get(named)), "error")

    def given(self) -> dict[str, float]:
        """The plain limits that are set, by name."""
        pairs = ((name, getattr(self, name)) for name in NAMES)
        return {name: value for name, value in pairs if value is not None}

    def anything(self) -> bool:
        """Whether any limit, level, metric or regression is set."""
        return self != Limits()

    def over(self, defaults: Limits) -> Limits:
        """These limits where set, `defaults` elsewhere."""
        own = {metric.name for metric in self.metrics}
        return dataclasses.replace(
            defaults,
            **self.given(),
            level={**defaults.level, **self.level},
            metrics=(*(m for m in defaults.metrics if m.name not in own), *self.metrics),
            regression=dataclasses.replace(defaults.regression, **self.regression.given()),
        )


NAMES: tuple[str, ...] = tuple(
    f.name for f in dataclasses.fields(Limits) if f.name not in ("level", "metrics", "regression")
)
"""The plain limits: a number each."""
