"""The library's two doors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small
import torch

import edgeprune
from edgeprune.errors import ModelError, UsageError


def test_the_public_names_are_complete_and_lead_somewhere():
    assert edgeprune.__all__ == sorted(edgeprune.__all__)
    for name in edgeprune.__all__:
        assert getattr(edgeprune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        _ = edgeprune.compres


def test_importing_edgeprune_does_not_import_torch():
    script = "import sys, edgeprune; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_compress_and_load(tmp_path: Path):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=random.standard_normal((256, 8)).astype(np.float32))
    net, seen = small.build(), []

    def progress(items, text, _total):
        seen.append(text)
        return items

    before = {name: value.clone() for name, value in net.state_dict().items()}
    run = edgeprune.compress(
        net,
        torch.randn(1, 8),
        output=tmp_path / "r",
        calibration=str(tmp_path / "d.npz"),
        keep=0.75,
        multiple=1,
        simplify=False,
        latency=False,
        limits=edgeprune.Limits(params_ratio=0.9),
        progress=progress,
    )
    assert run.verdict.passed is True
    assert [g.after for g in run.plan.groups if not g.reason_if_pinned] == [12, 9]
    assert any("gram" in text for text in seen)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])  # the caller's module is untouched
    loaded = edgeprune.load(small.build, tmp_path / "r")
    assert loaded[0].weight.shape == (12, 8)
    assert not loaded.training
    settings = {s.name: s.origin for s in run.settings}
    assert settings["keep"] == "call"
    assert settings["method"] == "default"


def test_load_refuses_another_architecture(tmp_path: Path):
    edgeprune.compress(
        small.build(),
        torch.randn(1, 8),
        output=tmp_path / "r",
        method="magnitude",
        simplify=False,
        latency=False,
        certify=False,
    )
    with pytest.raises(ModelError):
        edgeprune.load(lambda: torch.nn.Sequential(torch.nn.Linear(8, 4)), tmp_path / "r")
    with pytest.raises(UsageError, match=r"plan\.json"):
        edgeprune.load(small.build, tmp_path)


def test_unknown_settings_are_refused(tmp_path: Path):
    with pytest.raises(TypeError, match="keeep"):
        edgeprune.compress(small.build(), torch.randn(1, 8), output=tmp_path / "r", keeep=0.5)
