"""Models that take dictionaries, masks, whole numbers, and return tuples and dictionaries: from the command line."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from terminal import Terminal

import edgeprune

MODEL = """
import torch
from torch import nn


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.up, self.down = nn.Embedding(7, 6), nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, ids, mask=None, *, scale=1.0):
        h = self.table(ids) * mask.unsqueeze(-1)
        HIDDEN
        return {"scores": self.down(wide) * scale, "hidden": (h, mask.sum(-1))}


def build():
    torch.manual_seed(0)
    return Named().eval()


def example_inputs():
    return {"ids": torch.randint(0, 7, (1, 5)), "mask": torch.ones(1, 5), "scale": 2.0}
"""
PLAIN = "wide = torch.relu(self.up(h))"
WRITTEN = "wide = torch.relu(self.up(h)).reshape(-1, 5, 16)"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


@pytest.mark.parametrize(("hidden", "kind"), [(PLAIN, "module"), (WRITTEN, "graph")])
def test_keywords_masks_whole_numbers_and_nested_outputs(
    terminal: Terminal, tmp_path: Path, hidden: str, kind: str
) -> None:
    path, folder = tmp_path / "named.py", tmp_path / "run"
    path.write_text(MODEL.replace("HIDDEN", hidden))
    ended = terminal(
        "run",
        f"{path}:build",
        "--method",
        "magnitude",
        "--no-latency",
        "--no-certify",
        "--multiple",
        "1",
        "-o",
        folder,
    )
    assert ended.code == 0, ended.err
    record = json.loads((folder / "run.json").read_text())
    assert [(i["name"], i["dtype"]) for i in record["model"]["inputs"]] == [
        ("ids", "int64"),
        ("mask", "float32"),
    ]
    assert record["plan"]["shrunk"] == kind
    spec = importlib.util.spec_from_file_location("named", path)
    assert spec is not None
    assert spec.loader is not None
    named = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(named)
    small, given = edgeprune.load(named.build, folder), named.example_inputs()
    # the graph is called with tensors alone; the scale is remembered from where the run was made
    scores = (small(given["ids"], given["mask"]) if kind == "graph" else small(**given))["scores"]
    assert scores.shape == (1, 5, 3)
    assert small.get_parameter("up.weight").shape == (8, 6)
    assert bool(torch.isfinite(scores).all())
