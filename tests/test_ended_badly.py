"""Runs that are killed, interrupted or out of disk at every stage, then taken up again.

What lies there afterwards is whole, and the same command goes on to the very bytes of an undisturbed run.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import SMALL

from edgeprune.records.provenance import verify
from edgeprune.records.run import Run

pytestmark = pytest.mark.slow

ARGUMENTS = [
    "run", f"{SMALL}:build", "--input", "1x8", "--method", "magnitude", "--multiple", "1", "--domain", "-1,1",
    "--no-latency", "--no-simplify", "--bound", "intervals",
]  # fmt: skip
TRAINED = [
    "run", f"{SMALL}:build", "--calibration", "d.npz", "--method", "learned", "--learn-steps", "4", "--finetune", "1",
    "--ratios", "0.75,0.5", "--limit", "statistical_error=100", "--masked-twin", "--multiple", "1", "--domain", "-9,9",
    "--no-latency", "--no-simplify", "--bound", "intervals",
]  # fmt: skip
"""With everything optional: training of both kinds, a choice among shares, the masked twin."""
DRAWN = ["run", *ARGUMENTS[1:4], "--method", "sensitivity", *ARGUMENTS[6:]]
STAGES = ("shrink", "export-original", "export-pruned", "validate-cpu", "certify", "roundoff")
KILLED = {
    "edgeprune-run.json": None,
    "plan.json": "shrink",
    "original.onnx": "export-original",
    "pruned.onnx": "export-pruned",
    "cpu.npz": "validate-cpu",
    "": "certify",
    " ": "roundoff",
    "report.html": None,
    "SHA256SUMS": None,
}
"""The file that is half written, and the stage whose record is then half written."""
CHAINS: dict[str, dict[str, dict[str, Any]]] = {
    "undisturbed": {},
    "killed": {
        name: case
        for file, stage in KILLED.items()
        for name, case in (
            (f"amid {file}", {"kill": file}),
            (f"at the mark of {stage}", {"kill": "run.json", "stage": stage}),
        )
        if (file.strip() if name.startswith("amid") else stage)
    },
    "disk full": {f"{most} bytes": {"limit": most} for most in (64, 600, 2000, 4000, 20_000)},
    "interrupted": {f"behind {stage}": {"signal": stage} for stage in ("shrink", "export-pruned")},
    "trained, undisturbed": {},
    "trained, killed": {
        **{
            f"amid {name}": {"kill": name}
            for name in (
                "learned.safetensors",
                "finetune.safetensors",
                "learning.json",
                "splits.npz",
                "masked.onnx",
            )
        },
        "at the mark of masked-twin": {"kill": "run.json", "stage": "masked-twin"},
    },
    "drawn, undisturbed": {},
    "drawn, killed": {"amid drawn.safetensors": {"kill": "drawn.safetensors"}},
}
SAME = ("plan.json", "pruned.safetensors", "original.onnx", "pruned.onnx")
KNOWN = (*SAME, "masked.onnx", "edgeprune-run.json", "run.json", "report.html", "SHA256SUMS", ".lock")


def cases(chain: str) -> list[str]:
    return [f"{chain}: {name}" for name in CHAINS[chain]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ended")


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    """What became of every case, done by one program, each chain in a folder of its own."""
    random = np.random.default_rng(0)
    np.savez(folder / "d.npz", x=random.standard_normal((1400, 8)).astype(np.float32).clip(-9, 9))
    arguments = {
        chain: TRAINED if "trained" in chain else DRAWN if "drawn" in chain else ARGUMENTS for chain in CHAINS
    }
    asked = json.dumps({"folder": str(folder), "arguments": arguments, "chains": CHAINS})
    server = Path(__file__).parent / "kill_server.py"
    done = subprocess.run(
        [sys.executable, str(server)], input=asked, capture_output=True, text=True, timeout=3600, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("chain", CHAINS)
def test_in_the_end_the_files_are_those_of_an_undisturbed_run(
    chain: str, folder: Path, told: dict[str, Any]
) -> None:
    then, run = told[f"{chain}: then"], folder / chain
    assert then["code"] == 0, then["said"]
    assert not list(run.rglob("*.part"))
    assert [x for x in verify(run) if x.outcome != "ok"] == []
    trained = "trained" in chain
    assert set(Run.load(run).seconds) == {*STAGES, *(["masked-twin"] if trained else [])}
    alike = f"{chain.rpartition(', ')[0]}, undisturbed".removeprefix(", ")
    for file in (*SAME, *(["masked.onnx"] if trained else [])):
        assert (run / file).read_bytes() == (folder / alike / file).read_bytes(), file


@pytest.mark.parametrize("name", [*cases("killed"), *cases("trained, killed"), *cases("drawn, killed")])
def test_a_kill_amid_a_write_leaves_nothing_half_under_its_name(name: str, told: dict[str, Any]) -> None:
    found = told[name]
    assert found["code"] == -signal.SIGKILL, found["said"]
    cut_off = [file for file in found["left"] if file.endswith(".part")]
    assert len(cut_off) == 1, "those of earlier kills are gone"
    assert all(f in KNOWN or f in cut_off or f.startswith("logs/") for f in found["left"]), found["left"]


@pytest.mark.parametrize("name", cases("disk full"))
def test_a_full_disk_is_one_error(name: str, told: dict[str, Any]) -> None:
    found = told[name]
    assert found["code"] in (2, 5), found["said"]
    assert "Traceback" not in found["said"]
    assert "unexpected" not in found["said"]
    if found["code"] == 2:
        assert sum(line.startswith("error: ") for line in found["said"].splitlines()) == 1, found["said"]
        assert "File too large" in found["said"], found["said"]
    assert not any(file.endswith(".part") for file in found["left"])


@pytest.mark.parametrize("name", cases("interrupted"))
def test_an_interrupt_is_told_and_keeps_what_is_finished(name: str, told: dict[str, Any]) -> None:
    found = told[name]
    assert found["code"] == 130, found["said"]
    assert "interrupted; what was finished stays" in found["said"]
    assert "Traceback" not in found["said"]
    assert "run.json" in found["left"]
    assert not any(file.endswith(".part") for file in found["left"])
