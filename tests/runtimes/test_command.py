"""The command transport: by a program here, and by an emulator with a real ARM onnxruntime."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_nets import conv_net, expected, linear_relu, samples, target
from wanted import missing

from edgeprune.errors import ConfigError, TargetUnavailable
from edgeprune.profiles import Target, find_target
from edgeprune.runtimes import probe
from edgeprune.runtimes.command import Command
from edgeprune.runtimes.jobs import OutputsAnswer, read_outputs, write_job
from edgeprune.runtimes.local import Local
from edgeprune.runtimes.places import cache, filled


def by(**connection: Any) -> Target:
    steps = {name: tuple(argv) if isinstance(argv, list) else argv for name, argv in connection.items()}
    return dataclasses.replace(target(), transport="command", connection=steps)


def run(folder: Path, where: Target, model: Path, inputs: np.ndarray) -> OutputsAnswer:
    job = write_job(folder / "job", where, "outputs", {"model": model}, (inputs,))
    return read_outputs(job, Command().run(job.folder, where, 300), where)


def test_a_shared_folder_needs_one_command(tmp_path: Path) -> None:
    where = by(command=["{python}", "-P", "{agent}", "{job}"])
    answer = run(tmp_path, where, linear_relu(tmp_path / "m.onnx"), samples(6))
    np.testing.assert_allclose(answer.outputs[0], expected(samples(6)), rtol=1e-5, atol=1e-5)


def device(folder: Path) -> dict[str, list[str]]:
    """A 'device' that is another folder: copied there, run there, copied back, removed."""
    there = f"{folder}/device/{{id}}"
    return {
        "push": ["cp", "-r", "{job}", there],
        "command": ["{python}", "-P", f"{there}/agent.pyz", there],
        "pull": ["cp", "-r", f"{there}/.", "{answer}"],
        "clean": ["rm", "-r", there],
    }


def test_a_device_gets_and_gives(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    answer = run(tmp_path, by(**device(tmp_path)), linear_relu(tmp_path / "m.onnx"), samples(6))
    np.testing.assert_allclose(answer.outputs[0], expected(samples(6)), rtol=1e-5, atol=1e-5)
    assert list((tmp_path / "device").iterdir()) == []


def test_a_device_is_cleaned_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    steps = device(tmp_path) | {"command": ["sh", "-c", "echo on fire >&2; exit 7"]}
    with pytest.raises(TargetUnavailable, match=r"here: the process ended with status 7 .*on fire"):
        probe(by(**steps), tmp_path / "job")
    assert list((tmp_path / "device").iterdir()) == []


def test_cleaning_that_fails_is_told_and_hides_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "device").mkdir()
    steps = device(tmp_path) | {"clean": ["sh", "-c", "exit 3"]}
    with caplog.at_level(logging.WARNING):
        assert probe(by(**steps), tmp_path / "job").placement == {"CPUExecutionProvider": 1}
    assert "something may be left on the device" in caplog.text


def test_arguments_are_no_shell_code(tmp_path: Path) -> None:
    job = tmp_path / "a job; touch bait $(touch bait) {id}"
    assert probe(by(command=["{python}", "-P", "{agent}", "{job}"]), job).placement
    assert not (tmp_path / "bait").exists()


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ({}, r"\[connection\] names no command"),
        ({"command": "python3 agent.pyz"}, "must be a list.*no shell runs"),
        ({"command": []}, "must be a list"),
        ({"command": ["x"], "host": "y"}, "takes push, command, pull, clean in .connection., not host"),
        ({"command": ["{jobb}"]}, r"there is no '{jobb}' to fill in; the words are .*{job}"),
    ],
)
def test_a_connection_is_checked(tmp_path: Path, connection: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        probe(by(**connection), tmp_path / "job")


@pytest.mark.parametrize(
    ("command", "limit_s", "message"),
    [
        (["/nowhere/qemu"], 60, "/nowhere/qemu cannot be started"),
        (["sleep", "60"], 0.3, r"did not finish within 0\.\d* s and was stopped"),
        (["true"], 60, "ended with status 0 and no result"),
    ],
)
def test_a_command_that_fails_is_told(
    tmp_path: Path, command: list[str], limit_s: float, message: str
) -> None:
    job = write_job(tmp_path / "job", target(), "probe", {})
    with pytest.raises(TargetUnavailable, match=message):
        Command().run(job.folder, by(command=command), limit_s)


def test_words_are_filled_in_once() -> None:
    assert filled("{a}-{b}", {"a": "{b}", "b": "c"}, "x") == "{b}-c"
    assert filled("{python}", {}, "x") == sys.executable


# ------------------------------------------------------------------------------- emulated ARM


@pytest.fixture
def arm() -> Target:
    found = find_target("arm64-emulated")
    if shutil.which(found.connection["command"][0]) is None:
        missing("qemu-user-static is not installed")
    if not (cache() / "arm64" / "version").is_file():
        missing(f"there is no {cache() / 'arm64'}; scripts/arm64-rootfs.sh builds it")
    return found


def test_an_arm_onnxruntime_drifts_by_rounding_only(tmp_path: Path, arm: Target) -> None:
    inputs = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    model = conv_net(tmp_path / "m.onnx")
    there = run(tmp_path, arm, model, inputs)
    assert there.ran.environment["machine"] == "aarch64"
    assert there.ran.placement == {"CPUExecutionProvider": 7}
    local = find_target("cpu-1t")
    job = write_job(tmp_path / "here", local, "outputs", {"model": model}, (inputs,))
    here = read_outputs(job, Local().run(job.folder, local, 60), local)
    difference = np.abs(there.outputs[0] - here.outputs[0]).max()
    assert 0 < difference <= 2e-6 * np.abs(here.outputs[0]).max()


def test_an_emulators_time_is_refused(arm: Target) -> None:
    assert not arm.measure.latency
