"""Which inputs certificates speak about, as it is written: in `[domain]` of a calibration set, or in a flag.

As a flag, a domain is KIND:NUMBERS@CENTRE, and may be cut by a second one behind `&`:

    box:LOW,HIGH            every input value lies between LOW and HIGH (the kind may be left out)
    raw:LOW,HIGH,MEAN,STD   the same of raw values, which the model receives as (value − MEAN) ÷ STD
    linf:RADIUS             every value is within ±RADIUS of the centre (held-out sample 0 if none is named)
    l2:RADIUS               the l2 distance to the centre is at most RADIUS (zero if none is named)
    frames or frames:RADIUS frames of mean 0 along the last axis, l2 norm at most RADIUS (√n: variance 1)
    ellipsoid:REACH,N       REACH standard deviations along the N main directions of the fitting samples
    points or points:N      the first N held-out samples and nothing else (16 if not said)

A number can be one per channel, with `/` between: `raw:0,1,.485/.456/.406,.229/.224/.225`. The centre is
`zero`, `mean` (of the fitting samples), `sampleK` (the K-th held-out one, from 0) or a `.npy` file. Cut can
be `linf` by `box`, and `l2` by `box` or `linf`: `linf:0.05@sample3&box:0,1`. For several inputs there is one
domain each, `;` between; a single one counts for all.

Only the standard library is used; `edgeprune.domains.declarations` makes sets of tensors from this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

Number = float | tuple[float, ...]
Kind = Literal["box", "linf", "l2", "frames", "ellipsoid", "points"]

CUTS: dict[str, tuple[str, ...]] = {"linf": ("box",), "l2": ("box", "linf")}
"""What can be cut by what."""

_CENTRE = re.compile(r"zero|mean|sample\d+|.+\.npy")


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """`[domain]` of a calibration set, or one domain of a flag.

    Attributes:
        kind: `box`, `linf`, `l2`, `frames`, `ellipsoid` or `points`.
        low: of every input value (box), after scale and offset; or one per channel.
        high: the same.
        mean: per channel: the box is of raw values, the model receives (value − mean) ÷ std.
        std: the same.
        radius: of a ball, in the units of what the model receives.
        around: the ball's centre: `zero`, `mean`, `sampleK` or a `.npy` file.
        reach: of an ellipsoid, in standard deviations of the fitting samples.
        directions: of an ellipsoid.
        count: of held-out samples that are the domain (points).
        within: a second domain that cuts this one.
    """

    kind: Kind = "box"
    low: Number | None = None
    high: Number | None = None
    mean: Number | None = None
    std: Number | None = None
    radius: float | None = None
    around: str | None = None
    reach: float | None = None
    directions: int | None = None
    count: int | None = None
    within: DomainSpec | None = None

    def __post_init__(self) -> None:
        _only(self)
        if self.kind == "box":
            _box(self)
        for name in ("radius", "reach"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, not {value:g}")
        if self.kind in ("linf", "l2") and self.radius is None:
            raise ValueError(f"a domain of kind {self.kind} needs a radius")
        if self.kind == "ellipsoid" and self.reach is None:
            raise ValueError("a domain of kind ellipsoid needs a reach in standard deviations")
        for name in ("directions", "count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.around is not None and not _CENTRE.fullmatch(self.around):
            raise ValueError(f"the centre is zero, mean, sampleK or a .npy file, not '{self.around}'")
        if self.within is not None and self.within.kind not in CUTS.get(self.kind, ()):
            able = "; ".join(f"{a} by {' or '.join(b)}" for a, b in CUTS.items())
            raise ValueError(
                f"a domain of kind {self.kind} cannot be cut by {self.within.kind} (only {able})"
            )
        if self.within is not None and self.within.within is not None:
            raise ValueError("at most two domains can be met")

    @property
    def local(self) -> bool:
        """Whether it speaks about the neighbourhood of single inputs only."""
        own = self.kind == "points" or (self.kind in ("linf", "l2") and self.centre not in ("zero", "mean"))
        return own or (self.within is not None and self.within.local)

    @property
    def centre(self) -> str:
        """Of a ball; what is meant where none is named."""
        return self.around or ("sample0" if self.kind == "linf" else "zero")

    def toml(self, table: str = "domain") -> list[str]:
        """The lines of its table."""
        lines = [f"[{table}]", f'kind = "{self.kind}"']
        for name in self.__slots__:
            value = getattr(self, name)
            if name in ("kind", "within") or value is None:
                continue
            shown = (
                f'"{value}"'
                if isinstance(value, str)
                else f"{list(value) if isinstance(value, tuple) else value}"
            )
            lines.append(f"{name} = {shown}")
        return lines + ([] if self.within is None else ["", *self.within.toml(f"{table}.within")])


_FIELDS: dict[str, tuple[str, ...]] = {
    "box": ("low", "high", "mean", "std"),
    "linf": ("radius", "around"),
    "l2": ("radius", "around"),
    "frames": ("radius",),
    "ellipsoid": ("reach", "directions"),
    "points": ("count",),
}


def _only(spec: DomainSpec) -> None:
    fields = {name for names in _FIELDS.values() for name in names}
    strange = [n for n in sorted(fields - set(_FIELDS[spec.kind])) if getattr(spec, n) is not None]
    if strange:
        raise ValueError(
            f"{strange[0]} means nothing for a domain of kind {spec.kind}, which takes "
            f"{', '.join(_FIELDS[spec.kind])}"
        )


def _box(spec: DomainSpec) -> None:
    for name in ("low", "high"):
        if getattr(spec, name) is None:
            raise ValueError(
                f"the field '{name}' is missing; it must be a number, or a list of one per channel"
            )
    if (spec.mean is None) != (spec.std is None):
        raise ValueError("mean and std go together")
    given = {n: getattr(spec, n) for n in _FIELDS["box"] if getattr(spec, n) is not None}
    sizes = {len(value) for value in given.values() if isinstance(value, tuple)}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"the lists of low, high, mean and std must be equally long, not {sorted(sizes)}")
    for name, value in given.items():
        for number in listed(value):
            if not math.isfinite(number) or (name == "std" and not number > 0):
                raise ValueError(f"{name} must be finite{' and positive' * (name == 'std')}, not {number:g}")
    size = max(sizes, default=1)
    for low, high in zip(_spread(given["low"], size), _spread(given["high"], size), strict=True):
        if not low < high:
            raise ValueError(f"low must be below high, not {low:g} and {high:g}")


def listed(value: Number) -> tuple[float, ...]:
    """One number as a list of one."""
    return value if isinstance(value, tuple) else (float(value),)


def _spread(value: Number, size: int) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (float(value),) * size


def parse_domains(text: str) -> tuple[DomainSpec, ...]:
    """The domains of a flag: one, or one for each input of the model.

    Raises:
        ValueError: a part is no domain; the message says what is wrong.
    """
    return tuple(_met(part.strip()) for part in text.split(";"))


def _met(text: str) -> DomainSpec:
    first, *others = (_single(part.strip()) for part in text.split("&"))
    if not others:
        return first
    if len(others) > 1:
        raise ValueError("at most two domains can be met")
    second = others[0]
    if first.kind in CUTS.get(second.kind, ()):  # written the other way round
        first, second = second, first
    return replace(first, within=second)


def _single(text: str) -> DomainSpec:
    kind, colon, rest = text.partition(":")
    if not colon and "," in text:
        kind, rest = "box", text
    numbers, _, around = rest.partition("@")
    if not colon and kind != "box":
        kind, _, around = text.partition("@")
    made = dict(_read(kind, [part for part in numbers.split(",") if part.strip()], text))
    return DomainSpec(**made, around=around or None)  # type: ignore[arg-type]


_NUMBERS: dict[str, tuple[tuple[str, ...], int]] = {
    "box": (("low", "high"), 2),
    "raw": (("low", "high", "mean", "std"), 4),
    "linf": (("radius",), 1),
    "l2": (("radius",), 1),
    "frames": (("radius",), 0),
    "ellipsoid": (("reach", "directions"), 1),
    "points": (("count",), 0),
}
"""By kind what its numbers are, and how many are needed."""


def _read(kind: str, parts: list[str], text: str) -> Iterator[tuple[str, object]]:
    if kind not in _NUMBERS:
        raise ValueError(
            f"'{text}' is no domain; write LOW,HIGH, or one of {', '.join(_NUMBERS)} and its numbers"
        )
    names, needed = _NUMBERS[kind]
    if not needed <= len(parts) <= len(names):
        raise ValueError(
            f"'{text}': {kind} takes {':' * bool(needed)}{','.join(names).upper()}, not {len(parts)} numbers"
        )
    yield "kind", "box" if kind == "raw" else kind
    for name, part in zip(names, parts, strict=False):
        try:
            if name in ("directions", "count"):
                yield name, int(part)
            else:
                values = tuple(float(number) for number in part.split("/"))
                yield name, values[0] if len(values) == 1 else values
        except ValueError:
            raise ValueError(f"'{text}': {name} is a number, not '{part.strip()}'") from None


__all__ = ["DomainSpec", "Kind", "Number", "listed", "parse_domains"]
