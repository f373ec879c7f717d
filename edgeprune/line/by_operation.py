"""Where the time goes before and after: both files traced on a target, their nodes paired by name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgeprune.errors import TargetUnavailable
from edgeprune.records.run import OperationTime
from edgeprune.runtimes.jobs import Operation
from edgeprune.stages.profile import operations_of
from edgeprune.target import Target

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
MOST = 24
"""Nodes that are told by name; the others are summed."""
TRACE_S = 1.0
"""Seconds of tracing a file: shares are wanted, not latencies."""


def by_operation(
    original: Path, pruned: Path, inputs: tuple[Array, ...], target: Target, work: Path
) -> tuple[OperationTime, ...]:
    """Mean microseconds of each node of both files, the longest first.

    Args:
        original: an ONNX file.
        pruned: the other.
        inputs: one array per model input, first axis the samples.
        target: where to run.
        work: a scratch folder.

    Returns:
        At most `MOST` nodes and the sum of the others; nothing where the target cannot trace.
    """
    if not target.measure.latency:
        return ()
    found = []
    for name, path in (("original", original), ("pruned", pruned)):
        try:
            found.append(operations_of(path, inputs, target, work / f"trace-{name}", TRACE_S))
        except TargetUnavailable as error:
            logger.info("%s: no time by operation: %s", target.name, error)
            return ()
    return paired(*found)


def paired(original: Sequence[Operation], pruned: Sequence[Operation]) -> tuple[OperationTime, ...]:
    """Nodes of the same name beside each other; what is not among the longest is summed."""
    before, after = ({o.name: o for o in side} for side in (original, pruned))
    rows = [
        OperationTime(
            name,
            (after.get(name) or before[name]).operation,
            before[name].us if name in before else None,
            after[name].us if name in after else None,
        )
        for name in dict.fromkeys((*before, *after))
    ]
    rows.sort(key=lambda row: -max(row.original_us or 0.0, row.pruned_us or 0.0))
    rest = rows[MOST:]
    if not rest:
        return tuple(rows)
    sums = (sum(row.original_us or 0.0 for row in rest), sum(row.pruned_us or 0.0 for row in rest))
    return (*rows[:MOST], OperationTime(f"{len(rest)} other nodes", "", *sums))
