"""Every shipped target and calibration set keeps the promises of its README."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeprune.profiles import Target, find_calibration, find_target, shipped_folder
from edgeprune.runtimes import RUNTIMES
from edgeprune.verdict.limits import Limits

TARGETS = sorted(p.stem for p in shipped_folder("targets").glob("*.toml"))
CALIBRATIONS = sorted(p.stem for p in shipped_folder("calibration").glob("*.toml"))


def test_there_are_targets_and_calibration_sets() -> None:
    assert {
        "cpu", "cpu-1t", "cuda", "cuda-tf32", "tensorrt", "webgpu", "browser-wasm", "arm64-emulated",
        "ssh-board", "command", "coreml", "nnapi", "qnn", "openvino", "xnnpack",
    } <= set(TARGETS)  # fmt: skip
    assert CALIBRATIONS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_loads_and_is_described(name: str) -> None:
    target = find_target(name)
    assert target.name == name
    assert target.description
    assert target.conv_multiple() >= 1
    assert all(value > 0 for value in target.limits.given().values())


@pytest.mark.parametrize("name", TARGETS)
def test_a_shipped_target_never_falls_back(name: str) -> None:
    """XNNPACK is made to work beside the CPU provider, which computes the rest on the same cores."""
    assert find_target(name).runtime.allow_fallback == (name == "xnnpack")


@pytest.mark.parametrize("name", TARGETS)
def test_a_shipped_target_names_a_transport_and_no_machine(name: str) -> None:
    target = find_target(name)
    assert target.transport in RUNTIMES
    assert not {"host", "user", "key", "password"} & set(target.connection)


@pytest.mark.parametrize("name", TARGETS)
def test_what_nobody_has_run_is_marked(name: str) -> None:
    text = (shipped_folder("targets") / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
    assert find_target(name).tested != ("(untested)" in row)


@pytest.mark.parametrize("name", TARGETS)
def test_emulators_refuse_latency(name: str) -> None:
    target = find_target(name)
    assert target.measure.latency == (target.device_class != "emulator")


def test_tf32_is_told_apart() -> None:
    assert find_target("cuda-tf32").precision == "tf32"
    assert find_target("cuda-tf32").runtime.options["use_tf32"] == "1"


@pytest.mark.parametrize("name", TARGETS)
def test_a_shipped_target_can_reach_the_confidence_of_a_percentile(name: str) -> None:
    measure = find_target(name).measure
    assert measure.launches_min >= 8
    assert measure.launches_min * measure.pairs >= 59  # what a 95 % bound of a 95th percentile needs


def test_one_thread_means_one_thread() -> None:
    assert find_target("cpu-1t").threads.intra == 1
    assert find_target("cpu-1t").runtime == find_target("cpu").runtime


def test_cuda_is_plain_float32() -> None:
    target = find_target("cuda")
    assert target.precision == "fp32"
    assert target.runtime.options == {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
    assert target.runtime.deterministic
    assert target.measure.bind == "cuda"


def test_tensorrt_keeps_its_timings_with_the_user_and_has_no_tf32() -> None:
    target = find_target("tensorrt")
    assert target.precision == "fp32"
    assert target.runtime.environment == {"NVIDIA_TF32_OVERRIDE": "0"}
    assert target.runtime.options["trt_fp16_enable"] == "0"
    assert target.runtime.options["trt_timing_cache_path"] == "{cache}/tensorrt"


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_lies_where_another_user_could_have_put_it(name: str) -> None:
    runtime = find_target(name).runtime
    assert not [v for v in (*runtime.options.values(), *runtime.environment.values()) if v.startswith("/tmp")]


def _fields(kind: Any) -> list[str]:
    """Every field as the README writes it: `name`, `[table] name`."""
    result: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint) and hint is not Limits:
            result += [f"`[{name}] {inner.name}`" for inner in dataclasses.fields(hint)]
        else:
            result.append("`[limits]`" if hint is Limits else f"`{name}`")
    return result


def test_the_readme_lists_every_field_and_no_other() -> None:
    text = (shipped_folder("targets") / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    expected = _fields(Target) + [f"`{f.name}`" for f in dataclasses.fields(Limits)] + ["`extends`"]
    expected += [f"`{name}`" for name in TARGETS]
    assert sorted(rows) == sorted(expected)


def test_the_readme_gives_the_defaults() -> None:
    text = (shipped_folder("targets") / "README.md").read_text(encoding="utf-8")
    table = {
        cells[1].strip().strip("`"): cells[3].strip().strip("`")
        for line in text.splitlines()
        if line.startswith("| `") and len(cells := line.split("|")) == 6
    }
    blank = Target(name="blank")
    for part in ("runtime", "grid", "threads", "measure"):
        for field in dataclasses.fields(getattr(blank, part)):
            value = getattr(getattr(blank, part), field.name)
            written = (
                "empty" if value in ({}, (), "") else f"{value:g}" if isinstance(value, float) else str(value)
            )
            assert table[f"[{part}] {field.name}"] == (
                written.lower() if isinstance(value, bool) else written
            )


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_a_calibration_set_loads_and_says_where_it_comes_from(name: str) -> None:
    calibration = find_calibration(name)
    assert calibration.description
    assert calibration.source
    assert calibration.licence
    assert calibration.data.sha256
    data = calibration.load()
    for array in (*data.fit, *data.holdout):
        assert array.dtype in (np.float32, np.int64)
        if calibration.domain is not None:
            assert array.min() >= calibration.domain.low
            assert array.max() <= calibration.domain.high
    assert Path(calibration.file).parent == shipped_folder("calibration")
