"""An answer is believed only after it was checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_nets import linear_relu, samples, target

from edgeprune.errors import StorageError, TargetUnavailable
from edgeprune.runtimes import soundness
from edgeprune.runtimes.jobs import Job, read_outputs, read_pairs, write_job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    model = linear_relu(tmp_path / "m.onnx")
    return write_job(tmp_path / "job", target(), "outputs", {"model": model}, (samples(4),))


def sound(job: Job) -> dict[str, Any]:
    return {
        "status": "ok",
        "kind": job.content["kind"],
        "files": job.content["files"],
        "environment": {"onnxruntime": "1.2.3"},
        "placement": {"CPUExecutionProvider": 3},
        "warnings": ["beware"],
        "load_ms": 1.0,
        "first_ms": 2,
        "peak_mb": 3.5,
    }


def answer(job: Job, result: Any, outputs: np.ndarray | None = None) -> Path:
    (job.folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    np.savez(job.folder / "outputs.npz", output_0=np.zeros((4, 3)) if outputs is None else outputs)
    return job.folder


def test_a_sound_answer_is_believed(job: Job) -> None:
    read = read_outputs(job, answer(job, sound(job)), target())
    assert (read.load_ms, read.first_ms, read.peak_mb) == (1.0, 2.0, 3.5)
    assert read.ran.version == "1.2.3"
    assert read.ran.warnings == ("beware",)
    assert read.outputs[0].shape == (4, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "unavailable", "reason": "no such board"}, r"here: no such board\."),
        ({"status": "odd"}, "failed and gave no reason"),
        ({"kind": "pairs"}, "does not answer a 'outputs' job"),
        ({"files": {"models/model/m.onnx": "0" * 64}}, "what ran there is not what was sent"),
        ({"files": {}}, "what ran there is not what was sent"),
        ({"environment": None}, "does not say where it ran"),
        (
            {"placement": {"CPUExecutionProvider": 1, "X": 2}},
            "2 of 3 nodes did not run on CPUExecutionProvider",
        ),
        ({"placement": {"CPUExecutionProvider": "many"}}, "does not say where it ran"),
        ({"placement": {"X": -3}}, "does not say where it ran"),
        ({"load_ms": None}, "gives load_ms as None"),
        ({"first_ms": -1}, "gives first_ms as -1"),
        ({"peak_mb": float("nan")}, "gives peak_mb as nan"),
        ({"peak_mb": True}, "gives peak_mb as True"),
    ],
)
def test_an_unsound_answer_is_not(job: Job, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TargetUnavailable, match=message):
        read_outputs(job, answer(job, sound(job) | change), target())


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (np.zeros((3, 3)), r"m\.onnx: output 0 has shape \(3, 3\) for 4 inputs"),
        (np.zeros(()), r"output 0 has shape \(\) for 4 inputs"),
        (np.full((4, 2), np.nan), "not finite for 4 of 4 inputs"),
        (np.array([object()]), "outputs.npz cannot be read"),
    ],
)
def test_unsound_outputs_are_refused(job: Job, outputs: np.ndarray, message: str) -> None:
    with pytest.raises(TargetUnavailable, match=message):
        read_outputs(job, answer(job, sound(job), outputs), target())


def test_an_answer_that_would_fill_the_memory_is_not_read(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = answer(job, sound(job))
    np.savez_compressed(folder / "outputs.npz", output_0=np.zeros((4, 1 << 20)))  # 32 MiB in 32 kB
    with pytest.raises(TargetUnavailable, match=r"outputs\.npz holds packed arrays"):
        read_outputs(job, folder, target())
    monkeypatch.setattr(soundness, "MOST_RESULT_BYTES", 10)
    with pytest.raises(TargetUnavailable, match="that is no result"):
        read_outputs(job, folder, target())


@pytest.mark.parametrize("warnings", [None, 7, {"a": 1}, "text"])
def test_warnings_that_are_none_do_no_harm(job: Job, warnings: Any) -> None:
    read = read_outputs(job, answer(job, sound(job) | {"warnings": warnings}), target())
    assert read.ran.warnings == ()


def test_missing_and_damaged_answers(job: Job) -> None:
    with pytest.raises(TargetUnavailable, match=r"gave no readable result\.json"):
        read_outputs(job, job.folder, target())
    (answer(job, sound(job)) / "outputs.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(TargetUnavailable, match=r"outputs\.npz cannot be read"):
        read_outputs(job, job.folder, target())
    (job.folder / "result.json").write_text("[", encoding="utf-8")
    with pytest.raises(TargetUnavailable, match=r"gave no readable result\.json"):
        read_outputs(job, job.folder, target())


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (None, "no pairs of times under 'control'"),
        ([], "no pairs of times under 'control'"),
        ([[1, 2, 3]], "no pairs of times under 'control'"),
        ([[1, 2], [1]], "no pairs of times under 'control'"),
        ([[1.0, 0.0]], "a time under 'control' that is no time"),
    ],
)
def test_unsound_times_are_refused(tmp_path: Path, times: Any, message: str) -> None:
    model = linear_relu(tmp_path / "m.onnx")
    models = {"original": model, "pruned": model}
    job = write_job(tmp_path / "job", target(), "pairs", models, (samples(4),), launch_s=1)
    folder = answer(job, sound(job) | {"pairs": [[1.0, 2.0]], "control": times})
    with pytest.raises(TargetUnavailable, match=message):
        read_pairs(job, folder, target())


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StorageError, match="a job cannot be written there"):
        write_job(tmp_path / "file" / "job", target(), "probe", {})
