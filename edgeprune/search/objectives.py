"""What a search makes small, what it must keep to, and which point of the front is taken.

    --minimize latency,error      --constraint certified_error<=0.5      --pick "latency<=8ms least error"

One small grammar, and nothing is ever evaluated as code:

    condition = QUANTITY [ "@" TARGET ] ( "<=" | ">=" ) NUMBER [ UNIT ]
    pick      = condition { "," condition } [ "least" QUANTITY [ "@" TARGET ] ]

A quantity without a unit is a share of the original's (latency, size, params, macs), and one with a unit is
the pruned net's own. Errors are in units of the outputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.errors import UsageError
from edgeprune.registry import suggestion

Found = Mapping[str, float]
"""What is known of a trial, by key: `latency@cpu`, `latency_ms@cpu`, `observed_error`, `size_bytes` …"""

ERRORS = {"certified": "certified_error", "statistical": "statistical_error", "observed": "observed_error"}
"""What the plain word `error` stands for, by the kind that is asked for."""

PER_TARGET = ("latency", "p95", "memory")
SMALLER_IS_BETTER = (
    "latency", "p95", "memory", "certified_error", "statistical_error", "observed_error", "expected_error",
    "disagreement", "size", "params", "macs",
)  # fmt: skip
LARGER_IS_BETTER = ("top1_agreement", "accuracy")
QUANTITIES = (*SMALLER_IS_BETTER, *LARGER_IS_BETTER)
SHARES = ("top1_agreement", "accuracy", "disagreement")

UNITS: dict[str, dict[str, tuple[str, float]]] = {
    "latency": {"": ("latency", 1), "x": ("latency", 1), "ms": ("latency_ms", 1), "s": ("latency_ms", 1e3)},
    "p95": {"ms": ("p95_ms", 1), "s": ("p95_ms", 1e3)},
    "memory": {"MB": ("memory_mb", 1), "GB": ("memory_mb", 1e3)},
    "size": {
        "": ("size", 1), "x": ("size", 1), "B": ("size_bytes", 1), "kB": ("size_bytes", 1e3),
        "MB": ("size_bytes", 1e6), "GB": ("size_bytes", 1e9),
    },
    "params": {"": ("params", 1), "x": ("params", 1), "k": ("params_count", 1e3), "M": ("params_count", 1e6)},
    "macs": {
        "": ("macs", 1), "x": ("macs", 1), "k": ("macs_count", 1e3), "M": ("macs_count", 1e6),
        "G": ("macs_count", 1e9),
    },
}  # fmt: skip
"""By quantity: unit → (key, factor). Quantities that are not named take a plain number, and shares also %."""

_CONDITION = re.compile(
    r"\s*(?P<name>[a-z][a-z0-9_]*)\s*(?:@\s*(?P<target>[\w.\-]+))?\s*(?P<sign><=|>=)\s*"
    r"(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>[A-Za-z%]*)\s*"
)
_LEAST = re.compile(r"\s*(?P<rest>.*?)\s*\bleast\s+(?P<name>[a-z][a-z0-9_]*)(?:@(?P<target>[\w.\-]+))?\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """One quantity held against one number.

    Attributes:
        text: as it was written.
        key: of `Found`, without the target.
        target: None for every target, or for a quantity that has none.
        upper: whether the limit is the largest allowed value; else the smallest.
    """

    text: str
    name: str
    key: str
    target: str | None
    upper: bool
    limit: float

    def excess(self, found: Found, targets: Sequence[str], *, certain: bool = False) -> float | None:
        """By how much it is broken: at most 0 where it is kept; None where that is not known yet.

        Args:
            certain: hold the end of a latency's interval against the limit that is kinder to it, so that
                what is broken is broken for sure; else the other end, so that what is kept is kept.
        """
        per_target = self.name in PER_TARGET
        places = ([self.target] if self.target else list(targets)) if per_target else [""]
        worst: float | None = None
        complete = True
        for place in places:
            value = self._value(found, f"{self.key}@{place}" if place else self.key, certain)
            if value is None:
                complete = False
                continue
            away = value - self.limit if self.upper else self.limit - value
            worst = away if worst is None else max(worst, away)
        return worst if complete or (worst is not None and worst > 0) else None

    def _value(self, found: Found, key: str, certain: bool) -> float | None:
        if self.key == "latency":
            end = "low" if certain == self.upper else "high"
            return found.get(key.replace("latency@", f"latency_{end}@"), found.get(key))
        if self.key == "certified_error" and self.upper and key not in found:
            # a bound is at least what was seen inside its domain, so that can rule it out before it is made
            seen = found.get("seen_in_domain")
            return seen if seen is not None and seen > self.limit else None
        return found.get(key)


@dataclass(frozen=True, slots=True)
class Objective:
    """One number that is made small."""

    name: str
    target: str | None

    @property
    def key(self) -> str:
        """Where it stands in `Found`."""
        plain = {"p95": "p95_ms", "memory": "memory_mb"}.get(self.name, self.name)
        return f"{plain}@{self.target}" if self.target else plain

    def floor(self, found: Found) -> float:
        """What it will be at least, whatever is still to be found: 0 where nothing is known.

        The largest error seen only grows when devices are asked too, and a certified error is at least one
        that was seen inside its domain. What is counted stays. Of what devices tell nothing is assumed.
        """
        if self.name == "certified_error":
            return found.get(self.key, found.get("seen_in_domain", 0.0))
        if self.name in ("observed_error", "expected_error", "params", "macs", "size"):
            return found.get(self.key, 0.0)
        return 0.0


def beaten(minimized: Sequence[Objective], points: Sequence[Sequence[float]], found: Found) -> bool:
    """Whether a point is nowhere above what a trial will be at least: it cannot add to the front."""
    floors = [objective.floor(found) for objective in minimized]
    return all(floors) and any(
        all(value <= floor for value, floor in zip(point, floors, strict=True)) for point in points
    )


@dataclass(frozen=True, slots=True)
class Pick:
    """Which point of a front is taken: the one with the least `least` among those that keep conditions."""

    text: str
    conditions: tuple[Condition, ...]
    least: Objective


def objectives(minimize: Sequence[str], error: str, targets: Sequence[str]) -> tuple[Objective, ...]:
    """What is made small; what each target has of its own counts once for each.

    Raises:
        UsageError: an unknown quantity, one that grows when it gets better, or one named twice.
    """
    found: list[Objective] = []
    for word in [word.strip() for text in minimize for word in text.split(",")]:
        name = _named(word, error, "--minimize")
        if name in LARGER_IS_BETTER:
            raise UsageError(
                f"--minimize {word}: is better when it is larger; name disagreement or an error, or give it "
                "as "
                f"--constraint {word}>=0.99."
            )
        found += [Objective(name, t) for t in targets] if name in PER_TARGET else [Objective(name, None)]
    if len(set(found)) != len(found):
        raise UsageError(f"--minimize {','.join(minimize)}: names a quantity twice; name each once.")
    return tuple(found)


def _named(word: str, error: str, where: str) -> str:
    name = ERRORS[error] if word == "error" else word
    if name not in QUANTITIES:
        raise UsageError(
            f"{where} {word or '(nothing)'}: there is no such quantity; "
            f"{suggestion(word, ['error', *QUANTITIES])}"
        )
    return name


def condition(text: str, error: str, targets: Sequence[str], where: str = "--constraint") -> Condition:
    """Read one condition.

    Raises:
        UsageError: it is no condition, or names an unknown quantity, target or unit.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{where} {text!r}: is not QUANTITY<=NUMBER or QUANTITY>=NUMBER, such as latency<=8ms, "
            "certified_error<=0.5 or size@cpu<=1MB."
        )
    name = _named(match["name"], error, where)
    target = match["target"]
    if target is not None and (name not in PER_TARGET or target not in targets):
        known = f"the targets are {', '.join(targets)}" if name in PER_TARGET else f"{name} has no target"
        raise UsageError(f"{where} {text!r}: '@{target}' does not fit; {known}.")
    units = UNITS.get(name, {"": (name, 1.0)} | ({"%": (name, 0.01)} if name in SHARES else {}))
    if match["unit"] not in units:
        allowed = ", ".join(unit or "none" for unit in units)
        raise UsageError(f"{where} {text!r}: {name} takes these units: {allowed}.")
    key, factor = units[match["unit"]]
    limit = float(match["number"]) * factor
    upper = match["sign"] == "<="
    if not math.isfinite(limit) or (upper and limit < 0) or (name in SHARES and limit > 1 and not upper):
        raise UsageError(f"{where} {text!r}: nothing can meet it; give a limit that a net can reach.")
    return Condition(text.strip(), name, key, target, upper, limit)


def conditions(texts: Sequence[str], error: str, targets: Sequence[str]) -> tuple[Condition, ...]:
    """Read constraints, and see that they do not contradict each other.

    Raises:
        UsageError: see `condition`; or two of them cannot both hold.
    """
    found = tuple(condition(text, error, targets) for text in texts)
    for upper in (c for c in found if c.upper):
        for lower in (c for c in found if not c.upper):
            same_place = upper.target is None or lower.target is None or upper.target == lower.target
            # an error that is seen is never above a bound on it
            below = upper.key == lower.key or (upper.key, lower.key) == ("certified_error", "observed_error")
            if same_place and below and lower.limit > upper.limit:
                raise UsageError(
                    f"--constraint {upper.text} and --constraint {lower.text} contradict each other: nothing "
                    "can meet both; drop one of them."
                )
    return found


def pick(text: str, error: str, targets: Sequence[str], minimized: Sequence[Objective]) -> Pick:
    """Read which point is to be taken.

    Without `least`, the first objective that no condition is about is made least.

    Raises:
        UsageError: see `condition`.
    """
    match, rest, least = _LEAST.fullmatch(text), text, None
    if match is not None:
        rest = match["rest"].rstrip(",")
        name = _named(match["name"], error, "--pick")
        place = match["target"] or (targets[0] if name in PER_TARGET else None)
        least = Objective(name, place)
        if name in LARGER_IS_BETTER or (place is not None and place not in targets):
            raise UsageError(f"--pick {text!r}: 'least {match['name']}' cannot be; name an objective.")
    kept = tuple(condition(part, error, targets, "--pick") for part in rest.split(",") if part.strip())
    if not kept and least is None:
        raise UsageError("--pick: says nothing; give a condition such as latency<=8ms, or least error.")
    free = [o for o in minimized if o.name not in {c.name for c in kept}]
    return Pick(text, kept, least or (free or list(minimized))[0])
