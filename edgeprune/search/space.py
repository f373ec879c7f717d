"""The space of a search: what an allocation is told, not hundreds of raw widths.

share     of the price to keep, on the target's channel grid
mix       λ: how much of the price is parameters, the rest multiply-accumulates
family:…  how much the error of each family of groups counts; the first family is the measure, 1
method    how units are chosen
order     bottom-up, or top-down for methods that look at weights only
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeprune.config import Settings

LEAST_SHARE = 0.02
HEAVIEST = 4.0
"""Families weigh between 1/4 and 4 times the first."""
MOST_FAMILIES = 10
FIRST = (8, 32)
"""A search begins with the allocation's own optimum at that many budgets, at least and at most."""

Params = Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class Space:
    """What can be varied.

    Attributes:
        families: of groups, the first with weight 1.
        methods: names of coresets.
        orders: by method, the orders it can be used in; no choice where there is one.
        weighed: whether error curves are known; without them groups are narrowed alike.
    """

    families: tuple[str, ...]
    methods: tuple[str, ...]
    free_order: tuple[str, ...] = ()
    weighed: bool = True
    least_share: float = LEAST_SHARE

    @property
    def varied(self) -> tuple[str, ...]:
        """The families whose weight is varied."""
        return self.families[1 : MOST_FAMILIES + 1] if self.weighed else ()

    def numbers(self) -> dict[str, tuple[float, float, bool]]:
        """Name → (low, high, logarithmic)."""
        found = {"share": (self.least_share, 1.0, True)}
        if self.weighed:
            found["mix"] = (0.0, 1.0, False)
        return found | {f"family:{name}": (1 / HEAVIEST, HEAVIEST, True) for name in self.varied}

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Name → what it can be."""
        found = {}
        if len(self.methods) > 1:
            found["method"] = self.methods
        if self.free_order:
            found["order"] = ("bottom-up", "top-down")
        return found

    def first(self, trials: int = 0) -> list[dict[str, float | str]]:
        """Where to begin: the allocation's own optimum, all families alike, from coarse to fine.

        Half of the trials, the methods by turns; small shares, where the error bends, lie closer together.
        """
        least, most = FIRST
        start: list[dict[str, float | str]] = []
        for k in range(min(max(trials // 2, least), most)):
            plain: dict[str, float | str] = {
                name: 1.0 for name in self.numbers() if name.startswith("family:")
            }
            plain["share"] = self.least_share + (1 - self.least_share) * _halved(k + 1) ** 1.5
            if self.weighed:
                plain["mix"] = 0.5
            turn = (k + 1).bit_count() - 1  # in no step with the shares
            start.append(
                plain | {name: options[turn % len(options)] for name, options in self.choices().items()}
            )
        return start

    def settings(self, base: Settings, params: Params) -> Settings:
        """The settings of a trial: a plain run with them gives the same net."""
        method = str(params.get("method", self.methods[0]))
        order = str(params.get("order", "bottom-up"))
        emphasis = tuple(f"{name}={float(params[f'family:{name}']):.6g}" for name in self.varied)
        return dataclasses.replace(
            base,
            method=method,
            direction=order if method in self.free_order else "bottom-up",
            allocation="global" if self.weighed else "uniform",
            keep=None,
            params=None,
            macs=float(f"{float(params['share']):.6g}"),
            price_mix=float(f"{float(params['mix']):.6g}") if self.weighed else None,
            emphasis=emphasis,
        )

    def describe(self) -> dict[str, Any]:
        """As JSON, to tell whether two searches have the same space."""
        return {
            "families": list(self.families),
            "methods": list(self.methods),
            "free_order": list(self.free_order),
            "weighed": self.weighed,
            "least_share": self.least_share,
        }


def _halved(index: int) -> float:
    """1/2, 1/4, 3/4, 1/8, 5/8 …: evenly spread wherever it ends (van der Corput, 1935)."""
    bits = f"{index:b}"[::-1]
    return math.fsum(math.ldexp(int(bit), -k - 1) for k, bit in enumerate(bits))


def shared(first: Sequence[Any], index: int, count: int) -> list[Any]:
    """What is left of a list for shard `index` (from 1) of `count`."""
    return list(first[index - 1 :: count])
