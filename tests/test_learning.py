"""`learned` and `--finetune` through the command line: trained, judged on fresh inputs, beside a control."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from terminal import SMALL, Terminal

import edgeprune
from edgeprune.records.run import Run, Training

COUNT = 512
FRESH = 384


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (COUNT + FRESH, 8)).astype(np.float32)
    with torch.no_grad():
        labels = small.build()(torch.from_numpy(x[:COUNT])).argmax(1).numpy()
    np.savez(path, fit=x[:COUNT], fit_labels=labels, holdout=x[COUNT:])
    return path


def trained(terminal: Terminal, folder: Path, samples: Path, *more: str) -> tuple[Run, str]:
    ended = terminal(
        *("run", f"{SMALL}:build", "--calibration", str(samples), "--keep", "0.5", "--multiple", "1"),
        *("--no-latency", "--no-certify", "--no-simplify", "-o", str(folder), *more),
    )
    assert ended.code == 0, ended.err
    return Run.load(folder), ended.out


@pytest.fixture
def terminal(monkeypatch, capsys):
    return Terminal(monkeypatch, capsys)


def errors(folder: Path) -> np.ndarray:
    """Recomputed from the files that the run left."""
    with np.load(folder / "logs" / "reference.npz") as kept:
        wanted = kept[sorted(name for name in kept.files if "label" not in name)[0]]
    with np.load(folder / "logs" / "outputs" / "cpu.npz") as kept:
        found = kept[sorted(kept.files)[0]]
    away = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    return np.minimum(away, 1.0)


def test_learned_is_matched_judged_on_fresh_inputs_and_held_against_a_control(
    terminal: Terminal, tmp_path: Path, samples: Path
) -> None:
    plain, _ = trained(terminal, tmp_path / "gram", samples, "--method", "gram")
    run, printed = trained(terminal, tmp_path / "r", samples, "--method", "learned", "--learn-steps", "600")
    assert not plain.trainings
    (one,) = run.trainings
    assert one.name == "learned"
    assert (one.queries + one.validation, one.fresh) == (COUNT, FRESH)
    assert one.after < 0.95 * one.before
    assert one.before == pytest.approx(float(errors(tmp_path / "gram").mean()), rel=1e-3)
    found = errors(tmp_path / "r")
    assert one.after == pytest.approx(float(found.mean()), rel=1e-3)
    assert one.bound is not None
    assert one.after < one.bound < 1
    assert one.control > one.after
    assert "from random weights" in printed
    report = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "Learned error" in report
    (kept,) = (tmp_path / "r" / "logs" / "learning").glob("*/learning.json")  # one folder a cut
    losses = json.loads(kept.read_text())
    assert losses["learned"][-1] < losses["learned"][0]


def test_fine_tuning_by_labels_with_varied_inputs(
    terminal: Terminal, tmp_path: Path, samples: Path, monkeypatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    given = ("--method", "gram", "--finetune", "3", "--loss", "cross-entropy")
    plain, _ = trained(terminal, tmp_path / "a", samples, *given)
    varied, _ = trained(terminal, tmp_path / "b", samples, *given, "--augment", "test_learning:flipped")
    for run in (plain, varied):
        assert [one.name for one in run.trainings] == ["finetune"]
    a, b = (edgeprune.load(small.build, tmp_path / name).state_dict() for name in ("a", "b"))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_an_augmentation_that_cannot_be_imported_is_one_error(
    terminal: Terminal, tmp_path: Path, samples: Path
) -> None:
    ended = terminal(
        *(
            "run",
            f"{SMALL}:build",
            "--calibration",
            str(samples),
            "--finetune",
            "1",
            "-o",
            str(tmp_path / "r"),
        ),
        *("--augment", "nowhere:nothing"),
    )
    assert ended.code == 2
    assert "--augment nowhere:nothing" in ended.err


def flipped(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    signs = 1 - 2 * torch.randint(0, 2, (len(x), 1), generator=generator)
    return x * signs


def test_the_bound_on_the_average_loss_holds_as_often_as_it_says() -> None:
    """The mean of a known distribution of losses lies below its bound in at least 95 % of draws."""
    from edgeprune.line.learning import _told
    from edgeprune.stages.finetune import Recipe

    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(200):
        losses = torch.rand(200, generator=generator, dtype=torch.float64) ** 4  # mean 1/5
        told = _told("learned", Recipe(), (1, 1), (losses, losses, losses), 0.95)
        assert isinstance(told, Training)
        assert told.bound is not None
        held += told.bound >= 0.2
    assert held >= 185
