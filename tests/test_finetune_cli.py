"""`--finetune` on the command line: on the shrunk module, resumed to the same bytes, blind to the held-out half."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeprune.cli import main
from edgeprune.stages import finetune

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()

def loss(output, labels):
    return nn.functional.multi_margin_loss(output, labels)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tuned_net.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    _data(tmp_path / "data.npz", held_out_seed=5)
    return tmp_path


def _data(path: Path, held_out_seed: int) -> None:
    """Samples, and the nearest of three directions as their class."""
    random, other = np.random.default_rng(0), np.random.default_rng(held_out_seed)
    fit, holdout = (r.standard_normal((n, 8)).astype(np.float32) for r, n in ((random, 256), (other, 64)))
    classes = {f"{half}_labels": x[:, :3].argmax(1) for half, x in (("fit", fit), ("holdout", holdout))}
    np.savez(path, fit=fit, holdout=holdout, **classes)


def prune(output: str, *arguments: str, data: str = "data.npz") -> object:
    given = ["-q", "prune", "tuned_net:build", "--calibration", data, "-o", output, "--seed", "3"]
    return CliRunner().invoke(main, [*given, "--finetune", "4", *arguments])


def weights(output: Path) -> str:
    return hashlib.sha256((output / "pruned.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("loss", ["match", "distil", "cross-entropy", "tuned_net:loss"])
def test_the_shrunk_net_is_trained_with_the_loss_that_was_asked_for(place: Path, loss: str) -> None:
    assert prune("plain", "--finetune", "0").exit_code == 0  # type: ignore[attr-defined]
    result = prune("tuned", "--loss", loss)
    assert result.exit_code == 0, result.output  # type: ignore[attr-defined]
    plain, tuned = (load_file(place / name / "pruned.safetensors") for name in ("plain", "tuned"))
    assert {name: w.shape for name, w in plain.items()} == {name: w.shape for name, w in tuned.items()}
    assert tuned["0.weight"].shape[0] < 16, "it is the shrunk net that was trained"
    assert any(not torch.equal(plain[name], tuned[name]) for name in plain)
    assert weights(place / "tuned") != weights(place / "plain")


def test_an_interrupted_training_resumes_to_the_same_bytes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prune("whole", "--loss", "distil").exit_code == 0  # type: ignore[attr-defined]
    plain, saved = finetune._save, []

    def stopping(*arguments: object) -> None:
        plain(*arguments)  # type: ignore[arg-type]
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "_save", stopping)
        stopped = prune("halves", "--loss", "distil")
        assert stopped.exit_code != 0  # type: ignore[attr-defined]
    assert not (place / "halves" / "pruned.safetensors").exists()
    assert list((place / "halves").rglob("finetune*.safetensors")), "a checkpoint lies there"
    epochs: list[int] = []
    epoch = finetune._epoch

    def counted(student: nn.Module, *arguments: object) -> float:
        epochs.append(1)
        return epoch(student, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(finetune, "_epoch", counted)
    assert prune("halves", "--loss", "distil").exit_code == 0  # type: ignore[attr-defined]
    assert weights(place / "halves") == weights(place / "whole")
    assert len(epochs) == 2 + 4, "the two epochs that were missing, and the control's four"


def test_the_held_out_half_is_never_trained_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    plain = finetune._epoch

    def watched(
        student: nn.Module, joined: nn.Module, optimizer: object, queries: finetune.Queries, *rest: object
    ) -> float:
        seen.append(queries.inputs[0])
        return plain(student, joined, optimizer, queries, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(finetune, "_epoch", watched)
    assert prune("first", "--loss", "distil").exit_code == 0  # type: ignore[attr-defined]
    held = np.load(place / "data.npz")["holdout"]
    trained = {row.tobytes() for x in seen for row in x.numpy()}
    assert len(trained) > 200
    assert trained.isdisjoint(row.tobytes() for row in held)
    _data(place / "other.npz", held_out_seed=6)
    assert prune("second", "--loss", "distil", data="other.npz").exit_code == 0  # type: ignore[attr-defined]
    assert weights(place / "first") == weights(place / "second"), "other held-out samples change nothing"
