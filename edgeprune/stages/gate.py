"""Gate: hold a run against limits. Pure comparison of records; standard library only.

What was not measured is never passed: it is `unavailable`, with the reason. A latency ratio is
held against by its interval: it passes when the whole interval is inside the limit, fails when
the whole interval is outside, and is inconclusive between. A limit of level `warn` is held and told
like any other, and never fails the gate; one of level `off` is not looked at.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Literal

from edgeprune.records.run import Certificate, Check, Latency, PlanRecord, Run, Validation, Verdict
from edgeprune.verdict.baseline import regressions
from edgeprune.verdict.limits import USER_METRIC, Limits, UserMetric

Measures = Mapping[str, Mapping[str, float | str]]
"""Metric → target → its value, or the reason why it has none."""

FAILED, UNAVAILABLE, INCONCLUSIVE = 1, 5, 6
"""Exit codes; `edgeprune.errors` has the others."""


def gate(
    run: Run,
    limits: Limits,
    by_target: Mapping[str, Limits] | None = None,
    *,
    measures: Measures | None = None,
    baseline: Run | None = None,
    remeasured: Mapping[str, Latency | str] | None = None,
) -> Verdict:
    """Hold a run against limits.

    Args:
        run: the record of a run.
        limits: what must hold, on every target of the run.
        by_target: further limits for some targets, where `limits` sets none; of these only the
            ones that a target is measured for count (errors, agreement, latency, memory).
        measures: the user's own metrics, as computed now; those that were not are taken from the
            verdict that the run carries.
        baseline: another run, for the limits of regression.
        remeasured: for each target the latency of this run's pruned model against the baseline's,
            measured now, or the reason why it was not.

    Returns:
        The checks, and whether all of level `error` passed; `passed` is None when there was none.
    """
    checks = [
        *_certified(run, limits),
        *_measured(run, limits, by_target or {}),
        *_sizes(run, limits),
        *(check for metric in limits.metrics for check in _own(run, metric, measures or {})),
        *regressions(run, limits.regression, baseline, remeasured or {}),
    ]
    levelled = tuple(_levelled(checks, limits, by_target or {}))
    held = all(c.outcome == "pass" for c in levelled if c.level == "error")
    return Verdict(passed=held if levelled else None, checks=levelled)


def _levelled(checks: list[Check], limits: Limits, by_target: Mapping[str, Limits]) -> Iterator[Check]:
    """Each check with its level; those that are off are left out."""
    for check in checks:
        own = limits.over(by_target.get(check.target or "", Limits()))
        level = own.level_of(check.name)
        if level != "off":
            yield dataclasses.replace(check, level=level)


def exit_code(verdict: Verdict, inconclusive: Literal["error", "pass", "fail"] = "error") -> int:
    """The exit code of a verdict: 0, or 1 failed before 5 unavailable before 6 inconclusive.

    Args:
        verdict: what `gate` said.
        inconclusive: whether an inconclusive check counts as passed, as failed, or has its own code.
    """
    outcomes = {check.outcome for check in verdict.checks if check.level == "error"}
    if "fail" in outcomes or ("inconclusive" in outcomes and inconclusive == "fail"):
        return FAILED
    if "unavailable" in outcomes:
        return UNAVAILABLE
    if "inconclusive" in outcomes and inconclusive == "error":
        return INCONCLUSIVE
    return 0


def _held(
    name: str,
    value: float | None,
    limit: float,
    reason: str,
    target: str | None = None,
    at_least: bool = False,
) -> Check:
    """One number against its limit; without a number there is only the reason."""
    if value is None or not math.isfinite(value):
        return Check(name, None, limit, "unavailable", reason or "it was not measured", target)
    inside = value >= limit if at_least else value <= limit
    return Check(name, value, limit, "pass" if inside else "fail", "", target)


# ------------------------------------------------------------------------------- certificates


def _certified(run: Run, limits: Limits) -> Iterator[Check]:
    if limits.certified_error is not None:
        proved = [c for c in run.certificates if c.scope == "global" and c.norm == "linf"]
        sound = [c for c in proved if c.bound is None or c.label.startswith("proved")]
        yield from _best(sound, limits.certified_error, run)
    if limits.statistical_error is not None:
        quantiles = [
            c
            for c in run.certificates
            if c.scope == "distribution" and c.norm == "linf" and "quantile" in c.name
        ]
        yield from _every(quantiles, run.validations, limits.statistical_error)


def _best(certificates: list[Certificate], limit: float, run: Run) -> Iterator[Check]:
    """For each target and domain the smallest bound, since each of several bounds holds."""
    name = "certified_error"
    more, lacking = _of_float16(run)
    if not certificates:
        yield _held(name, None, limit, "the run has no proved global certificate of the outputs")
    groups: dict[tuple[str | None, str], list[Certificate]] = {}
    for certificate in certificates:
        groups.setdefault((certificate.target, certificate.domain), []).append(certificate)
    for (target, _), group in groups.items():
        bounds = [c.bound for c in group if c.bound is not None]
        reasons = "; ".join(c.reason or f"{c.name} has no bound" for c in group if c.bound is None)
        least = min(bounds, default=None)
        whole = None if least is None or more is None else least + more
        yield _held(name, whole, limit, reasons if least is None else lacking, target)


def _of_float16(run: Run) -> tuple[float | None, str]:
    """What a file in float16 adds to a bound on the pruned net: converted weights and rounded results.

    Zero for a file in float32; None, and why, where there is no bound on it.
    """
    terms = [term for term in run.terms if term.name in ("fp16", "rounding")]
    if not any(term.name == "fp16" for term in terms):
        return 0.0, ""
    for term in terms:
        if term.bound is None:
            what = "its weights" if term.name == "fp16" else "what is computed with it"
            return None, f"the file is in float16, and {what} has no bound ({'; '.join(term.assumptions)})"
    return sum(term.bound or 0.0 for term in terms), ""


def _every(
    certificates: list[Certificate], validations: tuple[Validation, ...], limit: float
) -> Iterator[Check]:
    """Certificates of different quantiles say different things: each must hold, on every target."""
    name = "statistical_error"
    if not certificates:
        yield _held(name, None, limit, "the run has no quantile certificate of the outputs")
    for certificate in certificates:
        reason = certificate.reason or f"{certificate.name} has no bound"
        yield _held(name, certificate.bound, limit, reason, certificate.target)
    spoken_of = {certificate.target for certificate in certificates}
    for validation in validations:
        if certificates and not spoken_of & {None, validation.target}:
            why = validation.reason or f"no quantile certificate speaks of {validation.target}"
            yield _held(name, None, limit, why, validation.target)


# -------------------------------------------------------------------------------- the targets

_ON_TARGETS = ("observed_error", "top1_agreement", "latency_ratio", "p95_ms", "memory_mb")


def _measured(run: Run, limits: Limits, by_target: Mapping[str, Limits]) -> Iterator[Check]:
    for validation in run.validations:
        yield from _on_target(validation, limits.over(by_target.get(validation.target, Limits())))
    seen = {validation.target for validation in run.validations}
    for target, own in by_target.items():
        if target not in seen:
            yield from _missing(limits.over(own), f"the run did not validate on {target}", target)
    if not seen and not by_target:
        yield from _missing(limits, "the run validated on no target", None)


def _missing(limits: Limits, reason: str, target: str | None) -> Iterator[Check]:
    for name, limit in limits.given().items():
        if name in _ON_TARGETS:
            yield _held(name, None, limit, reason, target)


def _on_target(validation: Validation, limits: Limits) -> Iterator[Check]:
    if not validation.reached:
        yield from _missing(limits, validation.reason or "the target was not reached", validation.target)
        return
    target, drift, latency = validation.target, validation.drift, validation.latency
    if limits.observed_error is not None:
        yield _held("observed_error", drift.linf_max if drift else None, limits.observed_error, "", target)
    if limits.top1_agreement is not None:
        agreement = drift.top1_agreement if drift else None
        why = "the outputs are no classes"
        yield _held("top1_agreement", agreement, limits.top1_agreement, why, target, at_least=True)
    if limits.latency_ratio is not None:
        yield _ratio(validation, limits.latency_ratio)
    if limits.p95_ms is not None:
        p95_ms = latency.p95_ms if latency else None
        why = validation.reason or "too few runs were timed for a bound of the 95th percentile"
        yield _held("p95_ms", p95_ms, limits.p95_ms, why, target)
    if limits.memory_mb is not None:
        memory = validation.memory_mb[1] if validation.memory_mb else None
        yield _held("memory_mb", memory, limits.memory_mb, "", target)


def _ratio(validation: Validation, limit: float) -> Check:
    """The whole interval inside passes, the whole interval outside fails."""
    name, target, latency = "latency_ratio", validation.target, validation.latency
    if latency is None:
        return _held(name, None, limit, validation.reason or "latency was not measured", target)
    ends = f"{latency.ratio_low:.4g} to {latency.ratio_high:.4g} over {latency.launches} launches"
    if latency.ratio_high <= limit:
        return Check(name, latency.ratio, limit, "pass", ends, target)
    if latency.ratio_low > limit:
        return Check(name, latency.ratio, limit, "fail", ends, target)
    why = f"{ends}: the limit lies inside; measure longer ([measure] budget_s, launches_max, half_width)"
    return Check(name, latency.ratio, limit, "inconclusive", why, target)


# -------------------------------------------------------------------------------------- sizes


def _sizes(run: Run, limits: Limits) -> Iterator[Check]:
    before, after = run.artifacts.get("original"), run.artifacts.get("pruned")
    sizes = (before.size_bytes, after.size_bytes) if before and after else None
    lacking = "the run lacks one of the two ONNX files"
    if limits.size_ratio is not None:
        yield _share("size_ratio", sizes, limits.size_ratio, lacking)
    if limits.compression is not None:
        times = sizes[0] / sizes[1] if sizes and sizes[1] > 0 else None
        yield _held("compression", times, limits.compression, lacking, at_least=True)
    plan: PlanRecord | None = run.plan
    why = "the run has no plan"
    if limits.params_ratio is not None:
        yield _share("params_ratio", plan.params if plan else None, limits.params_ratio, why)
    if limits.macs_ratio is not None:
        yield _share("macs_ratio", plan.macs if plan else None, limits.macs_ratio, why)


def _share(name: str, pair: tuple[int, int] | None, limit: float, reason: str) -> Check:
    if pair is None:
        return _held(name, None, limit, reason)
    before, after = pair
    if before <= 0:
        return _held(name, None, limit, f"the original counts {before}, so there is no ratio")
    return _held(name, after / before, limit, "")


# --------------------------------------------------------------------------- the user's metrics


def _own(run: Run, metric: UserMetric, measures: Measures) -> Iterator[Check]:
    """A number of the user's own on every target."""
    name = f"{USER_METRIC}{metric.name}"
    limit = metric.at_most if metric.at_most is not None else metric.at_least
    assert limit is not None
    earlier = {c.target: c for c in (run.verdict.checks if run.verdict else ()) if c.name == name}
    for validation in run.validations:
        target, value = validation.target, measures.get(metric.name, {}).get(validation.target)
        if not validation.reached:
            value = validation.reason or "the target was not reached"
        elif value is None and target in earlier:
            before = earlier[target]
            value = before.measured if before.measured is not None else before.reason
        why = value if isinstance(value, str) else "it was not computed when the run was made"
        number = None if isinstance(value, str) else value
        yield _held(name, number, limit, why, target, at_least=metric.at_most is None)
    if not run.validations:
        yield _held(name, None, limit, "the run validated on no target")
