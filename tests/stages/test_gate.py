from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from edgeprune.records.run import (
    Artifact,
    Certificate,
    Check,
    Drift,
    Environment,
    Latency,
    ModelRecord,
    PlanRecord,
    Run,
    Validation,
    Verdict,
)
from edgeprune.stages.gate import exit_code, gate
from edgeprune.verdict.limits import NAMES, Limits, UserMetric

DRIFT = Drift(linf_max=0.2, linf_mean=0.1, relative_l2=0.05, top1_agreement=0.97, n=100)
LATENCY = Latency(
    original_ms=2.0,
    pruned_ms=1.2,
    ratio=0.6,
    ratio_low=0.55,
    ratio_high=0.65,
    confidence=0.95,
    launches=8,
    noise_floor=0.01,
    quality="settled",
    p95_ms=1.5,
)
REACHED = Validation(
    target="cpu",
    reached=True,
    provider="CPUExecutionProvider",
    placement={"CPUExecutionProvider": 5},
    precision="fp32",
    drift=DRIFT,
    latency=LATENCY,
    memory_mb=(120.0, 80.0),
)
LOST = Validation("board", False, "XProvider", {}, "fp32", reason="board: nobody answers")
GLOBAL = Certificate("differential", "global", "[0, 1]^784", "linf", 0.4, "proved-modulo-rounding-model")
QUANTILE = Certificate("quantile-95", "distribution", "holdout", "linf", 0.3, "statistical", confidence=0.95)
RUN = Run(
    model=ModelRecord("net", "net:make", "0" * 64, (), ()),
    environment=Environment("0", "3", "2", "1", "1", "0", "linux", "cpu", 1, (), 0),
    plan=PlanRecord("uniform", (), params=(1000, 250), macs=(4000, 2000)),
    artifacts={"original": Artifact("o", "0", 800, 20), "pruned": Artifact("p", "0", 200, 20)},
    certificates=(GLOBAL, QUANTILE),
    validations=(REACHED,),
)


def only(run: Run, **limits: float) -> Check:
    """The one check that these limits make."""
    (check,) = gate(run, Limits(**limits)).checks
    return check


@pytest.mark.parametrize(
    ("limit", "measured", "inside", "outside"),
    [
        ("certified_error", 0.4, 0.4, 0.399),
        ("observed_error", 0.2, 0.2, 0.199),
        ("statistical_error", 0.3, 0.3, 0.299),
        ("top1_agreement", 0.97, 0.97, 0.971),
        ("p95_ms", 1.5, 1.5, 1.499),
        ("size_ratio", 0.25, 0.25, 0.249),
        ("params_ratio", 0.25, 0.25, 0.249),
        ("macs_ratio", 0.5, 0.5, 0.499),
        ("memory_mb", 80.0, 80.0, 79.9),
        ("compression", 4.0, 4.0, 4.1),
    ],
)
def test_each_limit_passes_at_the_limit_and_fails_beyond(
    limit: str, measured: float, inside: float, outside: float
) -> None:
    passed, failed = only(RUN, **{limit: inside}), only(RUN, **{limit: outside})
    assert (passed.name, passed.measured, passed.outcome) == (limit, measured, "pass")
    assert (failed.measured, failed.limit, failed.outcome) == (measured, outside, "fail")


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [(0.65, "pass"), (0.649, "inconclusive"), (0.55, "inconclusive"), (0.549, "fail")],
)
def test_latency_is_held_by_its_interval(limit: float, outcome: str) -> None:
    check = only(RUN, latency_ratio=limit)
    assert check.outcome == outcome
    assert "0.55 to 0.65 over 8 launches" in check.reason


def test_every_limit_has_its_check() -> None:
    names = list(NAMES)
    verdict = gate(RUN, Limits(**dict.fromkeys(names, 0.9)))
    assert sorted(c.name for c in verdict.checks) == sorted(names)


def test_no_limit_is_no_verdict() -> None:
    verdict = gate(RUN, Limits())
    assert verdict == Verdict(passed=None, checks=())
    assert exit_code(verdict) == 0


def emptied(**changes: Any) -> Run:
    return replace(RUN, **changes)


@pytest.mark.parametrize(
    ("run", "limit", "reason"),
    [
        (emptied(certificates=()), "certified_error", "no proved global certificate"),
        (emptied(certificates=()), "statistical_error", "no quantile certificate"),
        (
            emptied(certificates=(replace(GLOBAL, bound=None, reason="an op has no rule"),)),
            "certified_error",
            "an op has no rule",
        ),
        (
            emptied(certificates=(replace(GLOBAL, bound=None, label="observed", reason="too wide"),)),
            "certified_error",
            "too wide",
        ),
        (emptied(certificates=(replace(GLOBAL, bound=float("inf")),)), "certified_error", "not measured"),
        (emptied(certificates=(replace(GLOBAL, label="statistical"),)), "certified_error", "no proved"),
        (emptied(certificates=(replace(GLOBAL, scope="local"),)), "certified_error", "no proved"),
        (emptied(certificates=(replace(GLOBAL, norm="relative-l2"),)), "certified_error", "no proved"),
        (emptied(certificates=(replace(QUANTILE, name="mean"),)), "statistical_error", "no quantile"),
        (
            emptied(certificates=(replace(QUANTILE, bound=None, reason="58 samples"),)),
            "statistical_error",
            "58 samples",
        ),
        (emptied(validations=()), "observed_error", "validated on no target"),
        (emptied(validations=()), "latency_ratio", "validated on no target"),
        (emptied(validations=(LOST,)), "observed_error", "nobody answers"),
        (emptied(validations=(LOST,)), "latency_ratio", "nobody answers"),
        (emptied(validations=(LOST,)), "p95_ms", "nobody answers"),
        (emptied(validations=(LOST,)), "memory_mb", "nobody answers"),
        (emptied(validations=(LOST,)), "top1_agreement", "nobody answers"),
        (emptied(validations=(replace(REACHED, drift=None),)), "observed_error", "not measured"),
        (
            emptied(validations=(replace(REACHED, drift=replace(DRIFT, top1_agreement=None)),)),
            "top1_agreement",
            "no classes",
        ),
        (
            emptied(validations=(replace(REACHED, latency=None, reason="an emulator"),)),
            "latency_ratio",
            "an emulator",
        ),
        (
            emptied(validations=(replace(REACHED, latency=replace(LATENCY, p95_ms=None)),)),
            "p95_ms",
            "too few",
        ),
        (emptied(validations=(replace(REACHED, memory_mb=None),)), "memory_mb", "not measured"),
        (emptied(artifacts={}), "size_ratio", "lacks one of the two"),
        (emptied(plan=None), "params_ratio", "no plan"),
        (emptied(plan=None), "macs_ratio", "no plan"),
        (emptied(plan=replace(RUN.plan, macs=(0, 0))), "macs_ratio", "counts 0"),
    ],
)
def test_what_was_not_measured_is_never_passed(run: Run, limit: str, reason: str) -> None:
    generous = 1.0 if limit == "top1_agreement" else 1e9
    verdict = gate(run, Limits(**{limit: generous}))
    (check,) = verdict.checks
    assert (check.name, check.outcome, check.measured) == (limit, "unavailable", None)
    assert reason in check.reason
    assert verdict.passed is False
    assert exit_code(verdict, "pass") == 5


def test_of_several_bounds_on_one_domain_the_smallest_counts() -> None:
    other = replace(GLOBAL, name="a-priori", bound=7.0)
    none = replace(GLOBAL, name="third", bound=None, reason="does not apply")
    assert only(emptied(certificates=(other, GLOBAL, none)), certified_error=0.5).measured == 0.4


def test_bounds_on_other_domains_or_targets_must_hold_too() -> None:
    wide = replace(GLOBAL, domain="[-1, 1]^784", bound=7.0)
    on_target = replace(GLOBAL, target="cpu", bound=0.6)
    verdict = gate(emptied(certificates=(GLOBAL, wide, on_target)), Limits(certified_error=0.5))
    assert [(c.measured, c.outcome, c.target) for c in verdict.checks] == [
        (0.4, "pass", None), (7.0, "fail", None), (0.6, "fail", "cpu"),
    ]  # fmt: skip


def test_every_quantile_must_hold() -> None:
    higher = replace(QUANTILE, name="quantile 0.99", bound=0.9)
    verdict = gate(emptied(certificates=(QUANTILE, higher)), Limits(statistical_error=0.5))
    assert [c.outcome for c in verdict.checks] == ["pass", "fail"]


def test_a_target_that_no_quantile_speaks_of_is_unavailable() -> None:
    on_cpu = replace(QUANTILE, target="cpu")
    other = replace(REACHED, target="other")
    run = emptied(certificates=(on_cpu,), validations=(REACHED, LOST, other))
    verdict = gate(run, Limits(statistical_error=0.5))
    assert [(c.target, c.outcome) for c in verdict.checks] == [
        ("cpu", "pass"), ("board", "unavailable"), ("other", "unavailable"),
    ]  # fmt: skip
    assert "nobody answers" in verdict.checks[1].reason
    assert exit_code(verdict) == 5


def test_every_target_is_held() -> None:
    slow = replace(REACHED, target="slow", latency=replace(LATENCY, ratio_low=1.1, ratio=1.2, ratio_high=1.3))
    verdict = gate(emptied(validations=(REACHED, slow, LOST)), Limits(latency_ratio=1.0))
    assert {c.target: c.outcome for c in verdict.checks} == {
        "cpu": "pass", "slow": "fail", "board": "unavailable",
    }  # fmt: skip
    assert exit_code(verdict) == 1


def test_a_targets_own_limits_fill_in() -> None:
    own = {"cpu": Limits(p95_ms=1.0, latency_ratio=0.1, params_ratio=0.01)}
    verdict = gate(RUN, Limits(latency_ratio=0.9), own)
    assert {c.name: c.outcome for c in verdict.checks} == {"latency_ratio": "pass", "p95_ms": "fail"}
    assert all(c.target == "cpu" for c in verdict.checks)


def test_a_target_with_limits_that_was_left_out_is_unavailable() -> None:
    verdict = gate(RUN, Limits(), {"board": Limits(p95_ms=1.0)})
    (check,) = verdict.checks
    assert (check.target, check.outcome) == ("board", "unavailable")
    assert "did not validate on board" in check.reason


@pytest.mark.parametrize(
    ("outcomes", "codes"),
    [
        ((), (0, 0, 0)),
        (("pass",), (0, 0, 0)),
        (("pass", "fail"), (1, 1, 1)),
        (("inconclusive", "pass"), (6, 0, 1)),
        (("unavailable", "pass"), (5, 5, 5)),
        (("inconclusive", "unavailable"), (5, 5, 1)),
        (("inconclusive", "unavailable", "fail"), (1, 1, 1)),
    ],
)
def test_exit_codes(outcomes: tuple[Any, ...], codes: tuple[int, int, int]) -> None:
    checks = tuple(Check("latency_ratio", 1.0, 1.0, outcome) for outcome in outcomes)
    verdict = Verdict(passed=None, checks=checks)
    assert (exit_code(verdict), exit_code(verdict, "pass"), exit_code(verdict, "fail")) == codes


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_is_positive_and_finite(value: float) -> None:
    with pytest.raises(ValueError, match="the limit p95_ms must be positive and finite"):
        Limits(p95_ms=value)


def test_limits_over_defaults() -> None:
    assert Limits(p95_ms=1.0).over(Limits(p95_ms=2.0, macs_ratio=0.5)) == Limits(p95_ms=1.0, macs_ratio=0.5)


def test_the_gate_needs_the_standard_library_only() -> None:
    code = (
        "import sys, edgeprune.stages.gate; "
        "sys.exit(' '.join({'numpy', 'torch', 'onnx', 'scipy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_limit_of_level_warn_is_told_and_lets_the_gate_pass() -> None:
    limits = Limits(observed_error=0.1, params_ratio=0.5, level={"observed_error": "warn"})
    verdict = gate(RUN, limits)
    assert verdict.passed is True
    assert {c.name: (c.outcome, c.level) for c in verdict.checks} == {
        "observed_error": ("fail", "warn"),
        "params_ratio": ("pass", "error"),
    }
    assert exit_code(verdict) == 0


def test_what_was_not_measured_only_warns_where_it_says_so() -> None:
    run = replace(RUN, validations=(LOST,))
    assert exit_code(gate(run, Limits(observed_error=1, level={"observed_error": "warn"}))) == 0
    assert exit_code(gate(run, Limits(observed_error=1))) == 5


def test_a_limit_that_is_off_is_not_looked_at() -> None:
    assert gate(RUN, Limits(observed_error=0.1, level={"observed_error": "off"})) == Verdict(None)


def test_a_target_may_turn_a_limit_into_a_warning() -> None:
    own = {"cpu": Limits(level={"observed_error": "warn"})}
    (check,) = gate(RUN, Limits(observed_error=0.1), own).checks
    assert check.level == "warn"


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ({"observd_error": "warn"}, "no limit 'observd_error'"),
        ({"p95_ms": "fatal"}, "one of error, warn, off"),
    ],
)
def test_levels_are_checked(level: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Limits(level=level)


WER = UserMetric("wer", "metrics:wer", at_most=0.1)


@pytest.mark.parametrize(
    ("value", "outcome", "reason"),
    [
        (0.1, "pass", ""),
        (0.11, "fail", ""),
        ("its function raised ValueError: no", "unavailable", "no"),
        (float("nan"), "unavailable", ""),
    ],
)
def test_a_metric_of_the_users_own(value: Any, outcome: str, reason: str) -> None:
    (check,) = gate(RUN, Limits(metrics=(WER,)), measures={"wer": {"cpu": value}}).checks
    assert (check.name, check.target, check.outcome) == ("metric:wer", "cpu", outcome)
    assert reason in check.reason


def test_a_metric_that_is_not_computed_now_is_taken_from_the_run() -> None:
    earlier = Verdict(True, (Check("metric:wer", 0.2, 0.5, "pass", "", "cpu"),))
    (check,) = gate(replace(RUN, verdict=earlier), Limits(metrics=(WER,))).checks
    assert (check.measured, check.limit, check.outcome) == (0.2, 0.1, "fail")
    (check,) = gate(RUN, Limits(metrics=(WER,))).checks
    assert check.outcome == "unavailable"
    (check,) = gate(replace(RUN, validations=(LOST,)), Limits(metrics=(WER,))).checks
    assert (check.outcome, check.reason) == ("unavailable", "board: nobody answers")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b", "function": "m:f", "at_most": 1.0},
        {"name": "a", "function": "f", "at_most": 1.0},
        {"name": "a", "function": "m:f"},
        {"name": "a", "function": "m:f", "at_most": 1.0, "at_least": 0.0},
    ],
)
def test_metrics_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="metric"):
        UserMetric(**wrong)
