"""What targets measured, as it is written to `run.json`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the pruned net's outputs on a target are from the original torch net's.

    Attributes:
        linf_max: largest absolute difference over all inputs and outputs.
        linf_mean: mean over inputs of the largest absolute difference.
        relative_l2: mean over inputs of ‖difference‖₂ ÷ ‖original‖₂.
        top1_agreement: share of inputs whose largest output is the same one.
        n: inputs measured.
        accuracy: (original, pruned) share of inputs classified as their label says, where
            the calibration set has labels.
        quantiles: (share, error) pairs, ascending: that share of the inputs differs by at most
            that error; order statistics, nothing between them is interpolated.
    """

    linf_max: float
    linf_mean: float
    relative_l2: float
    top1_agreement: float | None
    n: int
    accuracy: tuple[float, float] | None = None
    quantiles: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class OperationTime:
    """A node's mean microseconds before and after, traced apart; None where a file has no such node."""

    name: str
    operation: str
    original_us: float | None
    pruned_us: float | None


@dataclass(frozen=True, slots=True)
class Latency:
    """A paired comparison of the two models' latencies on one target.

    Attributes:
        original_ms: median latency of the original, one batch.
        pruned_ms: the same of the pruned model.
        ratio: pruned ÷ original, the geometric mean over launches of the medians of the
            paired ratios; below 1 is faster.
        ratio_low: lower end of the confidence interval over launches.
        ratio_high: upper end.
        confidence: of that interval.
        launches: fresh processes measured.
        noise_floor: half-width of the same interval for the original paired with itself.
        quality: settled, or inconclusive when the interval was still wider than asked
            for at the end of the budget.
        raw: for each launch the median paired ratio.
    """

    original_ms: float
    pruned_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    confidence: float
    launches: int
    noise_floor: float
    quality: Literal["settled", "inconclusive"]
    p95_ms: float | None = None
    raw: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Validation:
    """What one target did with the two models."""

    target: str
    reached: bool
    provider: str
    placement: dict[str, int]
    precision: str
    drift: Drift | None = None
    latency: Latency | None = None
    memory_mb: tuple[float, float] | None = None
    load_ms: tuple[float, float] | None = None
    first_ms: tuple[float, float] | None = None
    runtime_version: str = ""
    reason: str = ""
    warnings: tuple[str, ...] = ()
    operations: tuple[OperationTime, ...] = ()
