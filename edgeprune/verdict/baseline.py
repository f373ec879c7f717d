"""A run against an earlier one: how much worse it is, in per cent. Standard library only.

Only figures that two runs can be compared in are. Sizes and counts always can. Errors and agreement
can where both runs measured the same model interface on the same samples. Memory can on the same
runtime. Latencies of two runs never can: they were taken at different times on machines in different
states; the two models are measured again, in pairs, or the check is unavailable and says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgeprune.records.run import Check, Latency, Run, Validation
from edgeprune.verdict.limits import REGRESSION, Regressions

NOT_COMPARABLE = (
    "latencies of two runs are not comparable; measure both models now with `edgeprune gate --remeasure`"
)


@dataclass(frozen=True, slots=True)
class _Pair:
    """One figure in both runs. `apart` says why the two cannot be compared."""

    name: str
    before: float | None
    now: float | None
    target: str | None = None
    apart: str = ""
    more_is_better: bool = False


def regressions(
    run: Run, limits: Regressions, baseline: Run | None, remeasured: Mapping[str, Latency | str]
) -> Iterator[Check]:
    """Every figure that a limit is set for, held against the baseline's.

    Args:
        run: the run that is judged.
        limits: how much worse is allowed, in per cent.
        baseline: the run to compare with; without one every named limit is unavailable.
        remeasured: target → latency of `run`'s pruned model over the baseline's, or why not.
    """
    if baseline is None:
        for name, limit in limits.given().items():
            if name != "all":
                why = "no baseline was given (--baseline OTHER_RUN)"
                yield Check(f"{REGRESSION}{name}", None, limit, "unavailable", why)
        return
    for pair in _pairs(run, baseline):
        limit_ = limits.of(pair.name)
        if limit_ is not None and not (pair.before is None and pair.now is None and not _named(limits, pair)):
            yield _held(pair, limit_)
    if limits.latency is not None:
        for validation in run.validations:
            found = remeasured.get(validation.target, NOT_COMPARABLE)
            yield _latency(validation.target, found, limits.latency)


def _named(limits: Regressions, pair: _Pair) -> bool:
    return getattr(limits, pair.name) is not None


def _held(pair: _Pair, limit: float) -> Check:
    name = f"{REGRESSION}{pair.name}"
    if pair.apart:
        return Check(name, None, limit, "unavailable", pair.apart, pair.target)
    if pair.before is None or pair.now is None:
        where = "the baseline" if pair.before is None else "this run"
        return Check(name, None, limit, "unavailable", f"{where} has no such figure", pair.target)
    worse = pair.before - pair.now if pair.more_is_better else pair.now - pair.before
    words = f"{pair.before:.6g} before, {pair.now:.6g} now"
    if pair.before == 0:
        outcome = "fail" if worse > 0 else "pass"
        why = f"{words}; there is no per cent of 0, so only no growth passes"
        return Check(name, None, limit, outcome, why, pair.target)  # type: ignore[arg-type]
    percent = 100.0 * worse / abs(pair.before)
    if not math.isfinite(percent):
        return Check(name, None, limit, "unavailable", f"{words}: no finite per cent", pair.target)
    return Check(name, percent, limit, "pass" if percent <= limit else "fail", words, pair.target)


def _latency(target: str, found: Latency | str, limit: float) -> Check:
    name = f"{REGRESSION}latency"
    if isinstance(found, str):
        return Check(name, None, limit, "unavailable", found, target)
    slower, low, high = (100.0 * (x - 1.0) for x in (found.ratio, found.ratio_low, found.ratio_high))
    ends = f"{low:+.1f} to {high:+.1f} per cent over {found.launches} launches, measured now"
    if high <= limit:
        return Check(name, slower, limit, "pass", ends, target)
    if low > limit:
        return Check(name, slower, limit, "fail", ends, target)
    why = f"{ends}: the limit lies inside; measure longer ([measure] budget_s, launches_max, half_width)"
    return Check(name, slower, limit, "inconclusive", why, target)


# ----------------------------------------------------------------------------------- the figures


def _pairs(run: Run, baseline: Run) -> Iterator[_Pair]:
    yield _Pair("size", _size(baseline), _size(run))
    yield _Pair("params", _planned(baseline, "params"), _planned(run, "params"))
    yield _Pair("macs", _planned(baseline, "macs"), _planned(run, "macs"))
    apart = _other_samples(run, baseline)
    yield _certified(run, baseline, apart)
    before = {v.target: v for v in baseline.validations}
    for validation in run.validations:
        yield from _on_target(before.get(validation.target), validation, apart)
        yield _statistical(run, baseline, validation.target, apart)


def _size(run: Run) -> float | None:
    pruned = run.artifacts.get("pruned")
    return None if pruned is None else float(pruned.size_bytes)


def _planned(run: Run, name: str) -> float | None:
    return None if run.plan is None else float(getattr(run.plan, name)[1])


def _settings(run: Run, *names: str) -> dict[str, object]:
    found = {s.name: s.value for s in run.settings}
    return {name: found.get(name) for name in names}


def _other_samples(run: Run, baseline: Run) -> str:
    """Why errors of the two runs say nothing about each other, '' where they do."""
    if [(t.shape, t.dtype) for t in run.model.inputs] != [(t.shape, t.dtype) for t in baseline.model.inputs]:
        return "the two runs' models take other inputs"
    now, before = (_settings(r, "calibration", "domain") for r in (run, baseline))
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        return f"the two runs differ in {' and '.join(changed)}, so their errors are about other inputs"
    return ""


def _certified(run: Run, baseline: Run, apart: str) -> _Pair:
    before, now = (_smallest_bound(r, "global", None) for r in (baseline, run))
    return _Pair("certified_error", before, now, None, apart)


def _statistical(run: Run, baseline: Run, target: str, apart: str) -> _Pair:
    before, now = (_smallest_bound(r, "distribution", target) for r in (baseline, run))
    odds = [_settings(r, "confidence", "quantile") for r in (run, baseline)]
    if not apart and odds[0] != odds[1]:
        apart = "the two runs state bounds of other confidence or another quantile"
    return _Pair("statistical_error", before, now, target, apart)


def _smallest_bound(run: Run, scope: str, target: str | None) -> float | None:
    """The smallest proved bound over the domain, or the largest quantile bound on a target."""
    found = [
        c.bound
        for c in run.certificates
        if c.scope == scope and c.norm == "linf" and c.bound is not None and c.target in (None, target)
        if (c.label.startswith("proved") if scope == "global" else "quantile" in c.name)
    ]
    return (min if scope == "global" else max)(found, default=None)


def _on_target(before: Validation | None, now: Validation, apart: str) -> Iterator[_Pair]:
    old, new, target = before.drift if before else None, now.drift, now.target
    if old and new and old.n != new.n and not apart:
        apart = f"{old.n} samples were measured before and {new.n} now"
    values = (old.linf_max if old else None, new.linf_max if new else None)
    yield _Pair("observed_error", *values, target, apart)
    shares = (old.top1_agreement if old else None, new.top1_agreement if new else None)
    yield _Pair("top1_agreement", *shares, target, apart, more_is_better=True)
    met = (
        old.accuracy[1] if old and old.accuracy else None,
        new.accuracy[1] if new and new.accuracy else None,
    )
    yield _Pair("accuracy", *met, target, apart, more_is_better=True)
    memory = (
        before.memory_mb[1] if before and before.memory_mb else None,
        now.memory_mb[1] if now.memory_mb else None,
    )
    runtimes = (before.runtime_version if before else "", now.runtime_version)
    other = f"onnxruntime {runtimes[0]} before and {runtimes[1]} now" if runtimes[0] != runtimes[1] else ""
    yield _Pair("memory", *memory, target, other if None not in memory else "")
