"""What a gate holds a run against. Standard library only."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the gate; None is no limit. All but `top1_agreement` are the largest allowed.

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

    Raises:
        ValueError: a limit is not positive and finite, or an agreement is above 1.
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

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the limit {name} must be positive and finite, not {value:g}")
        if self.top1_agreement is not None and self.top1_agreement > 1:
            raise ValueError(
                f"the limit top1_agreement is a share and cannot exceed 1, not {self.top1_agreement:g}"
            )

    def given(self) -> dict[str, float]:
        """The limits that are set, by name."""
        pairs = ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        return {name: value for name, value in pairs if value is not None}

    def over(self, defaults: Limits) -> Limits:
        """These limits where set, `defaults` elsewhere."""
        return dataclasses.replace(defaults, **self.given())
