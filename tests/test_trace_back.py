"""`verify`, `sign` and `bisect` on a real run; artifacts are the same bytes each time."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from terminal import SMALL, Terminal

from edgeprune.records.run import Run


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


def made(terminal: Terminal, folder: Path, samples: Path, *more: str) -> Path:
    ended = terminal(
        *("run", f"{SMALL}:build", "--calibration", samples, "--domain", "-1,1", "--multiple", "1"),
        *("--no-latency", "-o", folder, "--quiet", *more),
    )
    assert ended.code in (0, 1), ended.err
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    random = np.random.default_rng(0)
    np.savez(
        path,
        fit=random.uniform(-1, 1, (128, 8)).astype(np.float32),
        holdout=random.uniform(-1, 1, (64, 8)).astype(np.float32),
    )
    return path


_KEPT: dict[str, Path] = {}


@pytest.fixture
def finished(
    terminal: Terminal, tmp_path_factory: pytest.TempPathFactory, samples: Path, tmp_path: Path
) -> Path:
    """A copy of one run, which a test may spoil."""
    if "run" not in _KEPT:
        place = tmp_path_factory.mktemp("kept") / "r"
        _KEPT["run"] = made(terminal, place, samples, "--limit", "observed_error=0.001")
    shutil.copytree(_KEPT["run"], tmp_path / "r")
    return tmp_path / "r"


def test_a_run_is_what_it_says(terminal: Terminal, finished: Path) -> None:
    ended = terminal("verify", finished)
    assert ended.code == 0, ended.out
    assert "unknown" not in ended.out
    checked = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=finished, check=False)
    assert checked.returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "plan.json",
        "pruned.onnx",
        "original.onnx",
        "pruned.safetensors",
        "logs/reference.npz",
        "logs/outputs/cpu.npz",
    ],
)
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_whatever_is_changed_is_found(terminal: Terminal, finished: Path, name: str, how: str) -> None:
    path = finished / name
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            path.read_bytes().replace(b"a", b"b", 1) if name == "run.json" else path.read_bytes() + b"\0"
        )
    ended = terminal("verify", finished)
    assert ended.code == (2 if (name, how) == ("run.json", "gone") else 1) or "error" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "content", ["", "garbage\n", "0" * 64 + "  ../../etc/passwd\n", "0" * 64 + "  /etc/passwd\n"]
)
def test_a_list_of_digests_that_was_tampered_with_is_found(
    terminal: Terminal, finished: Path, content: str
) -> None:
    (finished / "SHA256SUMS").write_text(content)
    assert terminal("verify", finished).code == 1


def test_a_report_may_be_made_again(terminal: Terminal, finished: Path) -> None:
    (finished / "report.html").unlink()
    assert terminal("report", finished).code == 0
    assert terminal("verify", finished, "--json").code == 0


def test_signing(terminal: Terminal, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("model_signing")
    keys = []
    for name in ("one", "two"):
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        subprocess.run(
            ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True
        )
        subprocess.run(
            ["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True
        )
        keys.append((private, public))
    assert terminal("verify", finished, "--key", keys[0][1]).code == 1
    assert terminal("sign", finished, "--key", keys[0][0]).code == 0
    assert terminal("verify", finished, "--key", keys[0][1]).code == 0
    assert terminal("verify", finished, "--key", keys[1][1]).code == 1
    assert terminal("report", finished).code == 0
    assert terminal("verify", finished, "--key", keys[0][1]).code == 0
    monkeypatch.chdir(finished.parent)
    assert terminal("sign", finished.name, "--key", keys[1][0]).code == 0, "a relative path will do"
    assert terminal("verify", finished.name, "--key", keys[1][1]).code == 0
    signature = (finished / "model.sig").read_bytes()
    for garbage in (b"", b"{}", signature[: len(signature) // 2], signature.replace(b"A", b"B", 3)):
        (finished / "model.sig").write_bytes(garbage)
        ended = terminal("verify", finished, "--key", keys[1][1])
        assert ended.code == 1, ended.err
        assert "Traceback" not in ended.err
    (finished / "model.sig").write_bytes(signature)
    assert terminal("verify", finished, "--key", keys[1][1]).code == 0
    (finished / "plan.json").write_text("{}")
    assert terminal("verify", finished, "--key", keys[1][1]).code == 1
    assert terminal("sign", finished, "--key", tmp_path / "none.pem").code == 2
    assert terminal("sign", finished, "--key", keys[0][1]).code == 2


@pytest.mark.slow
def test_drift_and_certificates_are_measured_again(terminal: Terminal, finished: Path) -> None:
    before = (finished / "run.json").read_bytes()
    ended = terminal("verify", finished, "--drift", "--certificates", "--json", "-q")
    assert ended.code == 0, ended.out
    found = {item["subject"]: item["outcome"] for item in json.loads(ended.out)}
    assert found["drift on cpu"] == "ok"
    assert any(name.startswith("certificate") for name in found)
    assert (finished / "run.json").read_bytes() == before
    record = json.loads(before)
    record["validations"][0]["drift"]["linf_max"] *= 0.5
    (finished / "run.json").write_text(json.dumps(record))
    found = {
        item["subject"]: item["outcome"]
        for item in json.loads(terminal("verify", finished, "--drift", "--json", "-q").out)
    }
    assert found["drift on cpu"] == "wrong"
    record = json.loads(before)
    proved = next(c for c in record["certificates"] if c["label"] == "proved" and c["bound"])
    proved["bound"] *= 0.5
    (finished / "run.json").write_text(json.dumps(record))
    ended = terminal("verify", finished, "--certificates", "--json", "-q")
    assert ended.code == 1
    wrong = [item["subject"] for item in json.loads(ended.out) if item["outcome"] == "wrong"]
    assert "run.json" in wrong
    assert any(name.startswith(f"certificate {proved['name']}") for name in wrong)


@pytest.mark.parametrize("command", [("bisect", "--limit", "1"), ("validate",), ("certify",), ("gate",)])
def test_a_run_of_another_version_names_it(
    command: tuple[str, ...], terminal: Terminal, finished: Path
) -> None:
    record = json.loads((finished / "run.json").read_text())
    record["environment"]["edgeprune"] = "9.9.9"
    record["settings"].append({"name": "teleport", "value": 3, "origin": "flag"})
    limits = next(s for s in record["settings"] if s["name"] == "limits")
    limits["value"]["taste"] = 1.0
    (finished / "run.json").write_text(json.dumps(record))
    ended = terminal(command[0], finished, *command[1:])
    assert ended.code == 2
    assert "written by edgeprune 9.9.9" in ended.err
    assert "pip install edgeprune==9.9.9" in ended.err
    assert "teleport" in ended.err or "taste" in ended.err


def test_bisect_names_the_group_and_leaves_a_reproduction(
    terminal: Terminal, finished: Path, tmp_path: Path
) -> None:
    ended = terminal("bisect", finished, "-o", tmp_path / "repro", "--without-weights", "-q")
    assert ended.code == 0, ended.err
    assert "across the limit 0.001" in ended.out
    assert "runtime and torch agree" in ended.out
    names = {path.name for path in (tmp_path / "repro").iterdir()}
    assert names == {"original.onnx", "pruned.onnx", "plan.json", "input.npz", "found.json", "reproduce.py"}
    weights = (finished / "pruned.safetensors").read_bytes()[-64:]
    assert all(weights not in path.read_bytes() for path in (tmp_path / "repro").iterdir())
    again = terminal("bisect", finished, "-o", tmp_path / "repro", "-q")
    assert again.code == 2
    assert "not empty" in again.err
    whole = json.loads(terminal("bisect", finished, "--limit", "1e9", "--json", "-q").out)
    assert whole["crossing"]["group"] is None


@pytest.mark.slow
def test_bisect_trains_what_the_run_trained(terminal: Terminal, samples: Path, tmp_path: Path) -> None:
    run = made(
        terminal,
        tmp_path / "t",
        samples,
        "--finetune",
        "30",
        "--no-certify",
        "--no-simplify",
        "--keep",
        "0.3",
    )
    drift = Run.load(run).validations[0].drift
    assert drift is not None

    def errors(*more: str) -> dict[int, float]:
        told = json.loads(terminal("bisect", run, "--limit", "1e-6", "--every", "--json", "-q", *more).out)
        return {int(k): v for k, v in told["crossing"]["tried"].items()}

    trained, plain = errors("--limit", "1e9"), errors("--no-training", "--limit", "1e9")
    assert trained[2] == pytest.approx(drift.linf_max, rel=1e-4), "the saved weights, as they were measured"
    assert trained[2] != pytest.approx(plain[2], rel=1e-2)
    assert trained[1] != pytest.approx(plain[1], rel=1e-6), "a part of the plan is trained, too"


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(
    terminal: Terminal, finished: Path, samples: Path, tmp_path: Path
) -> None:
    second = made(terminal, tmp_path / "again", samples, "--no-certify")
    for name in ("plan.json", "pruned.safetensors", "original.onnx", "pruned.onnx"):
        assert (second / name).read_bytes() == (finished / name).read_bytes(), name
    assert Run.load(second).model == Run.load(finished).model
