"""How much families of groups count in an allocation, as users write it."""

from __future__ import annotations

import math
from collections.abc import Sequence


def parsed(emphasis: Sequence[str]) -> dict[str, float]:
    """Weights by family, out of `FAMILY=WEIGHT`; a family may hold wildcards (`conv-*`).

    Raises:
        ValueError: one of them is malformed, or no positive finite number.
    """
    found = {}
    for text in emphasis:
        name, separator, number = text.partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not separator or not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"emphasis is FAMILY=WEIGHT with a positive weight (conv-64=2), not '{text}'")
        found[name] = weight
    return found
