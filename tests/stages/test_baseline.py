from __future__ import annotations

from dataclasses import replace

import pytest
from test_gate import DRIFT, GLOBAL, LATENCY, LOST, QUANTILE, REACHED, RUN

from edgeprune.records.run import Artifact, Check, Run, SettingRecord
from edgeprune.stages.gate import exit_code, gate
from edgeprune.verdict.limits import Limits, Regressions


def held(now: Run, baseline: Run | None, **limits: float) -> dict[tuple[str, str | None], Check]:
    verdict = gate(now, Limits(regression=Regressions(**limits)), baseline=baseline)
    return {(c.name, c.target): c for c in verdict.checks}


def test_a_run_is_no_worse_than_itself() -> None:
    checks = held(RUN, RUN, all=0)
    assert {c.outcome for c in checks.values()} == {"pass"}
    assert {name.partition(":")[2] for name, _ in checks} == {
        "size",
        "params",
        "macs",
        "certified_error",
        "observed_error",
        "top1_agreement",
        "statistical_error",
        "memory",
    }


def test_worse_is_per_cent_of_the_baseline() -> None:
    grown = replace(RUN, artifacts={**RUN.artifacts, "pruned": Artifact("p", "0", 210, 20)})
    check = held(grown, RUN, all=5)["regression:size", None]
    assert (check.measured, check.limit, check.outcome) == (5.0, 5.0, "pass")
    assert held(grown, RUN, all=4)["regression:size", None].outcome == "fail"
    assert held(grown, RUN, all=0, size=6)["regression:size", None].outcome == "pass"
    assert held(RUN, grown, all=0)["regression:size", None].outcome == "pass"


def test_fewer_same_answers_are_worse() -> None:
    worse = replace(RUN, validations=(replace(REACHED, drift=replace(DRIFT, top1_agreement=0.9)),))
    assert held(worse, RUN, all=5)["regression:top1_agreement", "cpu"].outcome == "fail"
    assert held(RUN, worse, all=0)["regression:top1_agreement", "cpu"].outcome == "pass"


def test_there_is_no_per_cent_of_nothing() -> None:
    exact = replace(RUN, validations=(replace(REACHED, drift=replace(DRIFT, linf_max=0.0)),))
    check = held(RUN, exact, observed_error=50)["regression:observed_error", "cpu"]
    assert (check.outcome, check.measured) == ("fail", None)
    assert held(exact, exact, all=0)["regression:observed_error", "cpu"].outcome == "pass"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("calibration", "other", "calibration"), ("domain", [0.0, 1.0], "domain")],
)
def test_errors_on_other_inputs_are_not_compared(name: str, value: object, said: str) -> None:
    other = replace(RUN, settings=(SettingRecord(name, value, "flag"),))
    checks = held(RUN, other, all=5)
    assert checks["regression:observed_error", "cpu"].outcome == "unavailable"
    assert said in checks["regression:certified_error", None].reason
    assert checks["regression:size", None].outcome == "pass"


def test_bounds_of_other_odds_are_not_compared() -> None:
    other = replace(RUN, settings=(SettingRecord("quantile", 0.9, "flag"),))
    assert (
        held(RUN, other, statistical_error=5)["regression:statistical_error", "cpu"].outcome == "unavailable"
    )


def test_latencies_of_two_runs_are_never_compared() -> None:
    check = held(RUN, RUN, latency=5)["regression:latency", "cpu"]
    assert check.outcome == "unavailable"
    assert "--remeasure" in check.reason
    assert not any("latency" in name for name, _ in held(RUN, RUN, all=5))


@pytest.mark.parametrize(("limit", "outcome"), [(10, "pass"), (5, "inconclusive"), (1, "fail")])
def test_a_latency_measured_again_is_held_by_its_interval(limit: float, outcome: str) -> None:
    again = replace(LATENCY, ratio=1.05, ratio_low=1.02, ratio_high=1.08)
    limits = Limits(regression=Regressions(latency=limit))
    (check,) = gate(RUN, limits, baseline=RUN, remeasured={"cpu": again}).checks
    assert check.outcome == outcome
    (check,) = gate(RUN, limits, baseline=RUN, remeasured={"cpu": "the board is away"}).checks
    assert (check.outcome, check.reason) == ("unavailable", "the board is away")


def test_without_a_baseline_nothing_passes() -> None:
    verdict = gate(RUN, Limits(regression=Regressions(size=5)))
    assert exit_code(verdict) == 5


def test_a_target_that_the_baseline_did_not_reach_is_unavailable() -> None:
    before = replace(RUN, validations=(replace(LOST, target="cpu"),))
    assert held(RUN, before, all=5)["regression:observed_error", "cpu"].outcome == "unavailable"
    assert (
        held(replace(RUN, certificates=(GLOBAL,)), replace(RUN, certificates=(QUANTILE,)), all=5)[
            "regression:certified_error", None
        ].outcome
        == "unavailable"
    )


def test_a_regression_may_only_warn() -> None:
    grown = replace(RUN, artifacts={**RUN.artifacts, "pruned": Artifact("p", "0", 400, 20)})
    limits = Limits(regression=Regressions(all=5), level={"regression": "warn"})
    verdict = gate(grown, limits, baseline=RUN)
    assert verdict.passed
    assert any(c.outcome == "fail" for c in verdict.checks)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_per_cents_are_checked(value: float) -> None:
    with pytest.raises(ValueError, match="per cent"):
        Regressions(size=value)
