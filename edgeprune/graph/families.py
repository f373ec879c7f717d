"""Families of groups: kinds of layers that are weighed alike when widths are allocated.

A family is named by what its groups are and how wide: `conv-64`, `linear-300`, or `stream-32` for a
residual stream that several layers make. A weight above 1 makes the error of a family's groups count for
more, so that others are narrowed first.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.graph.emphasis import parsed
from edgeprune.graph.groups import Coupling, Group
from edgeprune.registry import suggestion


def family(group: Group) -> str:
    """The family that a group belongs to."""
    kind = "stream" if len(group.producers) > 1 else "conv" if group.convolutional else "linear"
    return f"{kind}-{group.size}"


def families(coupling: Coupling) -> tuple[str, ...]:
    """All families of a net, in the order of their first groups."""
    return tuple(dict.fromkeys(family(group) for group in coupling.groups))


def emphasised(
    coupling: Coupling, errors: Mapping[str, npt.NDArray[np.float64]], emphasis: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Error curves times the weights of their families; where several match, the last one counts.

    Args:
        errors: by group, float64 (n + 1,): the expected error by units kept.

    Raises:
        UsageError: a weight is for a family that the net has not.
    """
    weights = parsed(emphasis)
    known = families(coupling)
    for pattern in weights:
        if not fnmatch.filter(known, pattern):
            raise UsageError(
                f"--emphasis {pattern}: the net has no such family; {suggestion(pattern, list(known))}"
            )
    found = {}
    for group in coupling.groups:
        factor = 1.0
        for pattern, weight in weights.items():
            if fnmatch.fnmatchcase(family(group), pattern):
                factor = weight
        found[group.name] = errors[group.name] * factor
    return found
