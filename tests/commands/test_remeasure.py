"""`gate --remeasure`: both pruned models are timed here and now, whatever the two records say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from onnx_nets import linear_relu
from report_runs import full_run
from terminal import Terminal

from edgeprune.records.run import Run


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Terminal:
    monkeypatch.chdir(tmp_path)
    return Terminal(monkeypatch, capsys)


def recorded(folder: str, seed: int) -> Run:
    """A run on the target `quick` whose recorded latency is absurd."""
    validation = full_run().validations[0]
    assert validation.latency is not None
    absurd = dataclasses.replace(validation.latency, pruned_ms=1e9, original_ms=1e9)
    run = dataclasses.replace(
        full_run(), validations=(dataclasses.replace(validation, target="quick", latency=absurd),)
    )
    Path(folder).mkdir()
    run.save(Path(folder))
    linear_relu(Path(folder) / "pruned.onnx", seed=seed)
    return run


@pytest.mark.slow  # four processes are timed
def test_latencies_are_measured_now_and_in_pairs(terminal: Terminal) -> None:
    Path("targets").mkdir()
    Path("targets/quick.toml").write_text(
        'extends = "cpu-1t"\nname = "quick"\n[measure]\nlaunches_min = 2\nlaunches_max = 2\npairs = 8\n'
        "warm_up = 2\nbudget_s = 20\n"
    )
    recorded("old", 0)
    recorded("new", 1)
    asked = (
        "gate",
        "new",
        "--baseline",
        "old",
        "--regression",
        "latency=100000",
        "--remeasure",
        "--json",
        "-q",
    )
    ended = terminal(*asked)
    (check,) = [c for c in json.loads(ended.out)["checks"] if c["name"] == "regression:latency"]
    assert check["outcome"] in ("pass", "inconclusive")
    assert check["reason"].split(";")[0].split(":")[0].endswith("over 2 launches, measured now"), check[
        "reason"
    ]
    assert check["target"] == "quick"
    assert -100 < check["measured"] < 1e6, "not the recorded numbers"
    Path("old/pruned.onnx").write_bytes(b"nothing")
    ended = terminal(*asked)
    (check,) = [c for c in json.loads(ended.out)["checks"] if c["name"] == "regression:latency"]
    assert check["outcome"] == "unavailable"
    assert ended.code == 5
