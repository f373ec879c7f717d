"""Profile and compare, on real processes and tiny nets."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

from edgeprune.cli.measure import compare as compare_command
from edgeprune.cli.measure import profile as profile_command
from edgeprune.commands.side_by_side import compare
from edgeprune.errors import TargetUnavailable, UsageError
from edgeprune.profiles import Target, find_target
from edgeprune.progress import silent
from edgeprune.records.run import to_json
from edgeprune.runtimes.conditions import disturbances
from edgeprune.runtimes.jobs import Answer
from edgeprune.runtimes.pairs import percentile_lower, percentile_upper
from edgeprune.stages.profile import percentiles, profile


def target(**changes: object) -> Target:
    found = find_target("cpu-1t")
    quick = {"launches_min": 2, "launches_max": 2, "pairs": 60, "warm_up": 3, "budget_s": 10.0, **changes}
    return dataclasses.replace(found, measure=dataclasses.replace(found.measure, **quick))


def net(path: Path, width: int, *, seed: int = 0, outputs: int = 4) -> Path:
    """Two products with a ReLU between: x float32 (n, 64)."""
    random = np.random.default_rng(seed)
    weights = {"a": random.standard_normal((64, width)), "b": random.standard_normal((width, outputs))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="middle"),
        helper.make_node("MatMul", ["r", "b"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


INPUTS = (np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32),)


def test_a_profile_keeps_every_sample(tmp_path: Path) -> None:
    found = profile(
        net(tmp_path / "m.onnx", 512), INPUTS, target(), launches=2, work=tmp_path, progress=silent
    )
    assert [len(launch) for launch in found.raw_ms] == [60, 60]
    assert len(found.load_ms) == len(found.first_ms) == len(found.warm_up) == 2
    assert found.placement == {"CPUExecutionProvider": 3}
    assert [p.share for p in found.percentiles] == [0.5, 0.9, 0.95, 0.99]
    pooled = np.concatenate(found.raw_ms)
    for percentile in found.percentiles:
        assert percentile.ms == pytest.approx(np.quantile(pooled, percentile.share))
        assert percentile.low_ms is not None
        assert percentile.low_ms <= percentile.ms
    assert found.percentiles[-1].high_ms is None  # 120 runs cannot bound the 99th percentile
    assert {o.operation for o in found.operations} == {"MatMul", "Relu"}
    assert {o.name for o in found.operations} == {"first", "middle", "last"}
    assert [o.us for o in found.operations] == sorted((o.us for o in found.operations), reverse=True)
    json.dumps(to_json(found), allow_nan=False)


def test_a_target_whose_times_mean_nothing_is_not_profiled(tmp_path: Path) -> None:
    model = net(tmp_path / "m.onnx", 8)
    with pytest.raises(TargetUnavailable, match="says that its times mean nothing"):
        profile(model, INPUTS, target(latency=False), work=tmp_path, progress=silent)


def test_bounds_of_a_percentile_are_order_statistics() -> None:
    values = np.arange(1.0, 201.0)
    low, high = percentile_lower(values, 0.5, 0.975), percentile_upper(values, 0.5, 0.975)
    assert (low, high) == (86.0, 115.0)  # scipy: 95 % of Bin(200, 1/2) lies in 86 … 114
    assert stats.binom.cdf(85, 200, 0.5) <= 0.025 < stats.binom.cdf(86, 200, 0.5)
    assert percentile_lower(values[:3], 0.05, 0.95) is None
    median = percentiles(values, 0.95)[0]
    assert (median.low_ms, median.high_ms) == (low, high)


def test_bounds_of_a_percentile_cover() -> None:
    random = np.random.default_rng(3)
    truth, missed = stats.expon.ppf(0.9), 0
    for _ in range(1000):
        p90 = percentiles(random.exponential(size=300), 0.95)[1]
        assert p90.low_ms is not None
        assert p90.high_ms is not None
        missed += not p90.low_ms <= truth <= p90.high_ms
    assert missed / 1000 <= 0.05 + 0.02


def test_a_wider_net_is_slower(tmp_path: Path) -> None:
    first, second = net(tmp_path / "a.onnx", 4096), net(tmp_path / "b.onnx", 64)
    found = compare(first, second, INPUTS, target(), work=tmp_path / "w", progress=silent)
    assert found.validation.reached
    assert found.validation.latency is not None
    assert len(found.raw_ms) == 2 * found.validation.latency.launches
    pairs = np.array(found.raw_ms["pairs_00"])
    assert found.validation.latency.raw[0] == pytest.approx(
        float(np.exp(np.median(np.log(pairs[:, 1] / pairs[:, 0]))))
    )
    assert found.validation.latency.ratio_high < 1
    assert found.validation.drift is not None
    assert found.validation.drift.linf_max > 0.1
    assert all(len(side) == 3 for side in found.operations)
    text = "\n".join(found.lines())
    assert "3 nodes on CPUExecutionProvider" in text
    assert "A against itself" in text


def test_a_net_does_not_differ_from_itself(tmp_path: Path) -> None:
    model = net(tmp_path / "a.onnx", 16)
    found = compare(
        model, model, INPUTS, target(), latency=False, trace=False, work=tmp_path / "w", progress=silent
    )
    assert found.validation.drift is not None
    assert found.validation.drift.linf_max < 1e-4
    assert found.validation.latency is None
    assert found.operations == ((), ())


def test_what_cannot_be_compared_is_told(tmp_path: Path) -> None:
    first, second = net(tmp_path / "a.onnx", 16), net(tmp_path / "b.onnx", 16, outputs=5)
    with pytest.raises(UsageError, match="only models with the same outputs can be compared"):
        compare(first, second, INPUTS, target(), work=tmp_path / "w", progress=silent)
    with pytest.raises(UsageError, match="there is no such file"):
        compare(first, tmp_path / "none.onnx", INPUTS, target(), work=tmp_path / "w", progress=silent)


# ----------------------------------------------------------------------------------- conditions


def answer(before: dict[str, float], after: dict[str, float]) -> Answer:
    return Answer({}, "1", {"cores": 2}, (), (before, after))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"throttled": 3}, {"throttled": 5}, "slowed for heat 2 times"),
        ({"celsius": 40}, {"celsius": 71}, "warmed up from 40 to 71"),
        ({"ticks": 1000, "stolen": 5}, {"ticks": 1100, "stolen": 15}, "10% of this virtual machine's time"),
        ({"load": 5.0}, {"load": 6.0}, r"busy when it began \(load 5.0 on 2 cores\)"),
    ],
)
def test_a_disturbance_is_told(before: dict[str, float], after: dict[str, float], words: str) -> None:
    import re

    (note,) = disturbances([answer(before, after)])
    assert re.search(words, note)


def test_a_quiet_machine_is_not_mentioned() -> None:
    assert (
        disturbances([answer({"load": 1.0, "celsius": 40, "throttled": 7}, {"throttled": 7, "celsius": 45})])
        == ()
    )
    assert disturbances([answer({}, {})]) == ()
    assert disturbances([]) == ()


# ---------------------------------------------------------------------------------- the commands


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "board.toml"
    path.write_text(
        'extends = "cpu-1t"\n[measure]\nlaunches_min = 2\nlaunches_max = 2\npairs = 20\nwarm_up = 2\nbudget_s = 5\n'
    )
    return path


def test_the_profile_command(tmp_path: Path, board: Path) -> None:
    model = net(tmp_path / "m.onnx", 32)
    arguments = [str(model), "--target", str(board), "--launches", "1"]
    done = CliRunner().invoke(profile_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    for words in ("m.onnx on board", "first run", "p95", "20 steady runs in 1 processes", "MatMul"):
        assert words in done.output
    done = CliRunner().invoke(profile_command, [*arguments, "--json", "--no-operations"])
    (found,) = json.loads(done.stdout)
    assert len(found["raw_ms"][0]) == 20
    assert found["operations"] == []


def test_the_compare_command(tmp_path: Path, board: Path) -> None:
    first, second = net(tmp_path / "a.onnx", 32), net(tmp_path / "b.onnx", 16)
    np.savez(tmp_path / "x.npz", x=INPUTS[0])
    arguments = [str(first), str(second), "--target", str(board), "--inputs", str(tmp_path / "x.npz")]
    done = CliRunner().invoke(compare_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    for words in ("over 8 inputs", "ratio", "memory", "A µs", "first"):
        assert words in done.output
    done = CliRunner().invoke(compare_command, [*arguments, "--json", "--no-latency"])
    assert json.loads(done.stdout)["validation"]["drift"]["n"] == 8


def test_a_missing_target_exits_with_5(tmp_path: Path, board: Path) -> None:
    board.write_text(board.read_text() + '[runtime]\nprovider = "CUDAExecutionProvider"\n[grid]\nconv = 8\n')
    model = net(tmp_path / "a.onnx", 32)
    done = CliRunner().invoke(
        compare_command, [str(model), str(model), "--target", str(board)], standalone_mode=False
    )
    assert done.return_value == 5
    assert "not measured: board: onnxruntime" in done.output


def test_comparing_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys, edgeprune.cli.measure, edgeprune.commands.side_by_side, edgeprune.stages.profile\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0
