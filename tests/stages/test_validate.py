from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeprune.errors import BrokenPromise, CalibrationError, TargetUnavailable
from edgeprune.profiles import Measure, Target, find_target
from edgeprune.records.run import Environment, ModelRecord, Run, from_json, to_json
from edgeprune.runtimes import local, timing
from edgeprune.runtimes.jobs import Answer, PairsAnswer
from edgeprune.runtimes.timing import notes_of, sample, summarise
from edgeprune.stages.gate import exit_code, gate
from edgeprune.stages.validate import Measured, measure_drift, validate
from edgeprune.verdict.limits import Limits

QUICK = Measure(launches_min=2, launches_max=3, pairs=8, warm_up=2, half_width=1e-9, limit_s=60)


def here(**changes: Any) -> Target:
    target = find_target("cpu-1t")
    return replace(target, measure=replace(QUICK, **changes))


def quiet(iterable: Iterable[Any], description: str, total: int | None) -> Iterable[Any]:
    return iterable


def linear(path: Path, weight: np.ndarray) -> Path:
    """y = x W, float32."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


WEIGHT = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
INPUTS = np.array([[2.0, 1.0], [1.0, 2.0], [3.0, -1.0], [0.5, 4.0]], np.float32)
REFERENCE = INPUTS.astype(np.float64) @ WEIGHT


def run(folder: Path, target: Target, pruned_weight: np.ndarray = WEIGHT, **changes: Any) -> Measured:
    arguments: dict[str, Any] = {
        "reference": (REFERENCE,),
        "inputs": (INPUTS,),
        "seed": 0,
        "work": folder / "work",
        "progress": quiet,
    } | changes
    original, pruned = folder / "original.onnx", folder / "pruned.onnx"
    return validate(linear(original, WEIGHT), linear(pruned, pruned_weight), target=target, **arguments)


def run_record(measured: Measured) -> Run:
    environment = Environment("0", "3", "2", "1", "1", "0", "linux", "cpu", 1, (), 0)
    model = ModelRecord("net", "net:make", "0" * 64, (), ())
    return Run(model=model, environment=environment, validations=(measured.validation,))


# ------------------------------------------------------------------------------ the whole stage


def test_two_models_on_this_machine(tmp_path: Path) -> None:
    shifted = WEIGHT + np.array([[0.0, 0.25, 0.0], [0.0, 0.0, 0.0]])
    labels = np.array([0, 1, 0, 0])
    measured = run(tmp_path, here(), shifted, labels=labels)
    validation = measured.validation
    assert validation.reached
    assert validation.placement == {"CPUExecutionProvider": 1}
    assert validation.runtime_version == onnxruntime.__version__
    np.testing.assert_allclose(measured.original_outputs[0], REFERENCE, atol=1e-6)
    np.testing.assert_allclose(measured.pruned_outputs[0], INPUTS @ shifted, atol=1e-6)
    drift = validation.drift
    assert drift is not None
    assert drift.linf_max == pytest.approx(0.75, abs=1e-6)  # a quarter of the largest x_0, which is 3
    assert drift.linf_mean == pytest.approx(0.25 * INPUTS[:, 0].mean(), abs=1e-6)
    assert drift.n == 4
    assert drift.accuracy == (0.75, 0.75)
    latency = validation.latency
    assert latency is not None
    assert latency.launches == len(latency.raw) == 3  # as narrow as 1e-9 is never reached
    assert latency.quality == "inconclusive"
    assert 0 < latency.ratio_low <= latency.ratio <= latency.ratio_high
    assert latency.ratio == pytest.approx(math.exp(np.log(latency.raw).mean()))
    assert latency.noise_floor > 0
    assert latency.p95_ms is None  # 24 pairs cannot bound a 95th percentile
    assert validation.memory_mb is not None
    assert min(validation.memory_mb) > 10
    assert from_json(type(validation), to_json(validation)) == validation


def test_without_latency_nothing_is_timed(tmp_path: Path) -> None:
    validation = run(tmp_path, here(), latency=False).validation
    assert validation.latency is None
    assert not list((tmp_path / "work").glob("*/pairs-*"))
    refused = run(tmp_path, here(latency=False)).validation
    assert refused.latency is None
    assert "its times mean nothing" in refused.reason


def test_a_missing_provider_is_unavailable_and_the_gate_says_so(tmp_path: Path) -> None:
    cuda = find_target("cuda")
    if cuda.runtime.provider in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    measured = run(tmp_path, cuda)
    assert not measured.validation.reached
    assert measured.validation.drift is None
    assert measured.pruned_outputs == ()
    assert "has no CUDAExecutionProvider" in measured.validation.reason
    limits = Limits(observed_error=1e9, latency_ratio=1e9)
    verdict = gate(run_record(measured), limits)
    assert verdict.passed is False
    assert {(c.outcome, c.target) for c in verdict.checks} == {("unavailable", "cuda")}
    assert all("has no CUDAExecutionProvider" in c.reason for c in verdict.checks)
    assert exit_code(verdict, "pass") == 5


def test_a_corrupt_model_is_not_reached(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    original = linear(tmp_path / "original.onnx", WEIGHT)
    measured = validate(
        original, broken, (REFERENCE,), (INPUTS,), here(), seed=0, work=tmp_path / "work", progress=quiet
    )
    assert not measured.validation.reached
    assert "broken.onnx" in measured.validation.reason


def test_an_endless_target_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "agent.py"
    script.write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    monkeypatch.setattr(local, "write_agent", lambda _: script)
    validation = run(tmp_path, here(limit_s=0.5)).validation
    assert not validation.reached
    assert "did not finish within 0.5 s" in validation.reason


def test_latency_that_fails_leaves_the_drift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise TargetUnavailable("the board caught fire")

    monkeypatch.setattr(timing, "read_pairs", fail)
    measured = run(tmp_path, here())
    assert measured.validation.reached
    assert measured.validation.drift is not None
    assert measured.validation.latency is None
    verdict = gate(run_record(measured), Limits(observed_error=1.0, latency_ratio=1.0))
    assert [c.outcome for c in verdict.checks] == ["pass", "unavailable"]
    assert "the board caught fire" in verdict.checks[1].reason


def test_other_shapes_than_the_torch_nets_break_a_promise(tmp_path: Path) -> None:
    with pytest.raises(BrokenPromise, match=r"the pruned model gives outputs of shapes \[\(4, 2\)\]"):
        run(tmp_path, here(), WEIGHT[:, :2])


@pytest.mark.parametrize(
    "changes",
    [{"inputs": (INPUTS[:3],)}, {"labels": np.zeros(3, np.int64)}, {"reference": (REFERENCE[:2],)}],
)
def test_numbers_of_samples_must_agree(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError, match="differ in number"):
        run(tmp_path, here(), **changes)


def test_no_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="there is no input to validate on"):
        run(tmp_path, here(), inputs=(INPUTS[:0],))


def test_a_zero_net_proves_little(tmp_path: Path) -> None:
    zero = np.zeros_like(WEIGHT)
    original = linear(tmp_path / "original.onnx", zero)
    validation = validate(
        original, original, (np.zeros((4, 3)),), (INPUTS,), here(),
        latency=False, seed=0, work=tmp_path / "work", progress=quiet,
    ).validation  # fmt: skip
    assert validation.drift is not None
    assert validation.drift.relative_l2 == 0
    assert any("proves little" in warning for warning in validation.warnings)


# ---------------------------------------------------------------------------------------- drift


def test_drift_by_hand() -> None:
    reference = (np.array([[3.0, 4.0], [0.0, 0.0]]),)
    outputs = (np.array([[3.0, 3.0], [0.0, 1.0]], np.float32),)
    drift = measure_drift(reference, outputs, np.array([1, 1]))
    assert drift.linf_max == drift.linf_mean == 1.0
    # 1 ÷ 5 for the first; the second has a zero reference, so the mean norm 2.5 measures it
    assert drift.relative_l2 == pytest.approx((1 / 5 + 1 / 2.5) / 2)
    assert drift.top1_agreement == 0.0
    assert drift.accuracy == (0.5, 0.5)


def test_drift_over_several_outputs() -> None:
    reference = (np.zeros((3, 1)), np.arange(12.0).reshape(3, 2, 2))
    drift = measure_drift(reference, (np.zeros((3, 1)), reference[1] + [[0, 0], [0, 2]]))
    assert drift.linf_max == 2.0
    assert drift.top1_agreement is None  # one column is no classes


# ------------------------------------------------------------------------------------- sampling


def launches(log_ratios: Iterable[float], control: float = 0.0) -> list[PairsAnswer]:
    ran = Answer({"CPUExecutionProvider": 1}, "1", {}, ())
    return [
        PairsAnswer(ran, np.array([[1.0, math.exp(r)]]), np.array([[1.0, math.exp(control)]]), settled=True)
        for r in log_ratios
    ]


def machine(answers: list[PairsAnswer]) -> Callable[[int], PairsAnswer]:
    return lambda number: answers[number]


def still() -> float:
    return 0.0


def test_sampling_ends_when_the_interval_is_narrow() -> None:
    measure = Measure(launches_min=4, launches_max=24, half_width=0.02)
    steady = launches([0.0, 0.001] * 12)
    assert len(sample(machine(steady), measure, still)) == 4
    # the first four disagree: the interval becomes narrow only with more of them
    late = launches([-0.03, 0.03, -0.03, 0.03] + [0.0] * 20)
    taken = sample(machine(late), measure, still)
    assert 4 < len(taken) < 24
    assert summarise(taken, measure).quality == "settled"
    assert summarise(taken[:-1], measure).quality == "inconclusive"


def test_sampling_ends_when_no_verdict_can_change() -> None:
    """A tiny net's times scatter far more than 2 %, and still it is three times as fast."""
    measure = Measure(launches_min=4, launches_max=24, half_width=0.02)
    tiny = launches([math.log(0.33) + 0.06, math.log(0.33) - 0.06] * 12)
    taken = sample(machine(tiny), measure, still, against=(1.0, 0.8))
    assert len(taken) == 4
    assert summarise(taken, measure, (1.0, 0.8)).quality == "settled"
    # the same scatter around the gate's limit says nothing, and goes on to the end
    assert len(sample(machine(tiny), measure, still, against=(1.0, 0.33))) == 24
    assert summarise(taken, measure, (1.0, 0.33)).quality == "inconclusive"


def test_looking_often_finds_no_difference_that_is_none() -> None:
    """Stopping once the interval is clear: how often is a net said to be unlike itself?"""
    generator = np.random.default_rng(8)
    measure = Measure(launches_min=8, launches_max=24, half_width=1e-9)
    trials, early = 800, 0
    for _ in range(trials):
        early += len(sample(machine(launches(generator.normal(0, 0.05, 24))), measure, still)) < 24
    assert early / trials <= 0.05


def test_sampling_ends_with_its_launches() -> None:
    measure = Measure(launches_min=4, launches_max=6)
    taken = sample(machine(launches([-1.0, 1.0] * 6)), measure, still)
    assert len(taken) == 6
    assert summarise(taken, measure).quality == "inconclusive"


def test_sampling_ends_with_its_budget_but_not_before_an_interval() -> None:
    measure = Measure(launches_min=8, budget_s=10)
    for step_s, expected in ((100, 2), (3, 5)):
        now = iter(range(0, 10**6, step_s))
        taken = sample(machine(launches([0.1] * 24)), measure, lambda now=now: next(now))
        assert len(taken) == expected
        assert summarise(taken, measure).quality == "inconclusive"  # narrow, but of too few launches


def test_a_control_that_is_off_is_told() -> None:
    measure = Measure(launches_min=2, half_width=0.02)
    notes = notes_of(tuple(launches([0.0, 0.001], control=0.3)), measure)
    assert any("the original against itself came out at 1.350" in note for note in notes)
    assert not notes_of(tuple(launches([0.0, 0.001], control=0.01)), measure)


def test_sequential_stopping_keeps_its_promise() -> None:
    """Looking after every launch whether the interval is narrow enough costs little coverage."""
    generator = np.random.default_rng(5)
    measure = Measure(launches_min=8, launches_max=24, half_width=0.012)
    trials, missed, settled, alarms = 600, 0, 0, 0
    for _ in range(trials):
        latency = summarise(
            sample(machine(launches(generator.normal(0, 0.018, 24))), measure, still), measure
        )
        missed += not latency.ratio_low <= 1.0 <= latency.ratio_high
        alarms += latency.ratio_low > 1.025
        settled += latency.quality == "settled"
    assert settled / trials > 0.9
    assert missed / trials < 0.10
    assert alarms == 0
