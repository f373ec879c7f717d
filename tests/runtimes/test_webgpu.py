"""A real GPU provider, onnxruntime's WebGPU plugin, on a software Vulkan adapter."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_nets import conv_net, expected, linear_relu, samples
from wanted import missing

from edgeprune.errors import TargetUnavailable
from edgeprune.profiles import Target, find_target
from edgeprune.runtimes import probe
from edgeprune.runtimes.jobs import OutputsAnswer, read_outputs, write_job
from edgeprune.runtimes.local import Local

SOFTWARE = find_target("webgpu-software")


@pytest.fixture
def target() -> Target:
    if importlib.util.find_spec("onnxruntime_ep_webgpu") is None:
        missing("onnxruntime-ep-webgpu is not installed")
    driver = Path(SOFTWARE.runtime.environment["VK_DRIVER_FILES"])
    if not driver.is_file():
        missing(f"there is no software Vulkan driver ({driver}; Debian's chromium brings it)")
    return SOFTWARE


def with_runtime(target: Target, **changes: Any) -> Target:
    return dataclasses.replace(target, runtime=dataclasses.replace(target.runtime, **changes))


def run(folder: Path, target: Target, model: Path, inputs: np.ndarray) -> OutputsAnswer:
    job = write_job(folder / "job", target, "outputs", {"model": model}, (inputs,))
    return read_outputs(job, Local().run(job.folder, target, 120), target)


def test_every_node_runs_on_the_gpu_provider(tmp_path: Path, target: Target) -> None:
    answer = run(tmp_path, target, linear_relu(tmp_path / "m.onnx"), samples(10))
    assert answer.ran.placement == {"WebGpuExecutionProvider": 3}
    assert 0 < np.abs(answer.outputs[0] - expected(samples(10))).max() < 1e-5


def test_a_convolutional_net_drifts_by_rounding_only(tmp_path: Path, target: Target) -> None:
    inputs = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    model = conv_net(tmp_path / "m.onnx")
    there = run(tmp_path / "gpu", target, model, inputs)
    here = run(tmp_path / "cpu", find_target("cpu-1t"), model, inputs)
    assert set(there.ran.placement) == {"WebGpuExecutionProvider"}
    difference = np.abs(there.outputs[0] - here.outputs[0]).max()
    assert 0 < difference <= 2e-6 * np.abs(here.outputs[0]).max()  # 0 would mean: it ran on the CPU


def test_it_can_be_probed(tmp_path: Path, target: Target) -> None:
    assert probe(target, tmp_path / "job").placement == {"WebGpuExecutionProvider": 1}


def test_without_an_adapter_it_is_unavailable(tmp_path: Path, target: Target) -> None:
    """The CPU must not stand in for a GPU that is not there."""
    bare = with_runtime(target, environment={}, device="gpu")
    with pytest.raises(
        TargetUnavailable, match=r"WebGpuExecutionProvider finds no device of kind 'gpu' here"
    ):
        probe(bare, tmp_path / "job")


def test_a_driver_that_is_not_there_is_unavailable(tmp_path: Path, target: Target) -> None:
    environment = target.runtime.environment | {"VK_DRIVER_FILES": "/nowhere.json"}
    with pytest.raises(TargetUnavailable, match="webgpu-software: "):
        probe(with_runtime(target, environment=environment), tmp_path / "job")


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("onnxruntime_ep_nothing", r"cannot be imported .*pip install onnxruntime-ep-nothing"),
        ("/nowhere/libplugin.so", r"the plugin /nowhere/libplugin\.so cannot be loaded"),
    ],
)
def test_a_plugin_that_is_not_there_is_told(tmp_path: Path, plugin: str, message: str) -> None:
    with pytest.raises(TargetUnavailable, match=message):
        probe(with_runtime(SOFTWARE, plugin=plugin), tmp_path / "job")


def test_a_library_is_found_by_its_path_too(tmp_path: Path, target: Target) -> None:
    import onnxruntime_ep_webgpu  # type: ignore[import-not-found,unused-ignore]

    by_path = with_runtime(target, plugin=onnxruntime_ep_webgpu.get_library_path())
    assert probe(by_path, tmp_path / "job").placement == {"WebGpuExecutionProvider": 1}
