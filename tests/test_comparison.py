"""The loop of the benchmarks: every kind of line, on a net small enough for a test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from nets import noise, seeded
from torch import nn

from benchmarks.comparison import RE_ESTIMATED, USUAL, Lesson, Subject, classifier, compare
from benchmarks.harness import Ledger
from edgeprune.stages.finetune import Recipe

SYNTHETIC = "gram, synthetic inputs"
LESSONS = {
    "learned": Lesson(Recipe(epochs=2, batch=64)),
    "scratch": Lesson(Recipe("cross-entropy", epochs=2, batch=64), 200, labelled=True, scratch=True),
}


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 16, 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def subject() -> Subject:
    made = seeded(net).eval()
    images, tests = noise(256, 1, 8, 8, seed=0), noise(128, 1, 8, 8, seed=1)
    with torch.no_grad():
        labels, truth = made(images).argmax(1), made(tests).argmax(1)
    return classifier("small", made, (images, labels), (tests, truth), 64, LESSONS)


def test_every_kind_of_line_is_measured_once(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)  # as where it is not installed
    methods = (
        "gram",
        f"magnitude{RE_ESTIMATED}",
        USUAL,
        "gram, no data",
        SYNTHETIC,
        "Torch-Pruning, magnitude",
        *LESSONS,
    )
    widths = {group.name: max(1, group.size // 2) for group in subject.coupling.groups}
    ledger = Ledger.open(tmp_path / "rows.json", resume=False)
    compare(subject, methods, {"half": widths}, range(2), ledger)
    errors = [(row.method, row.seed) for row in ledger.rows if row.figure == "test error"]
    wanted = [
        ("", 0),
        ("gram", 0),
        ("gram", 1),
        (f"magnitude{RE_ESTIMATED}", 0),
        (f"magnitude{RE_ESTIMATED}", 1),
    ]
    wanted += [
        (USUAL, 0),
        (USUAL, 1),
        ("gram, no data", 0),
        (SYNTHETIC, 0),
        (SYNTHETIC, 1),
        ("learned", 0),
        ("scratch", 0),
    ]
    assert errors == wanted
    assert "torch-pruning is not installed" in capsys.readouterr().err
    assert set(subject.made) == {0, 1}, "made once for all sizes"
    count = len(ledger.rows)
    compare(subject, methods, {"half": widths}, range(2), ledger)
    assert len(ledger.rows) == count, "what is there already is not measured again"


def test_a_draw_is_a_part_of_the_pool_and_its_labels(subject: Subject) -> None:
    first, again, other = subject.draw(0), subject.draw(0), subject.draw(1)
    assert torch.equal(first.inputs[0], again.inputs[0])
    assert not torch.equal(first.inputs[0], other.inputs[0])
    assert first.labels is not None
    with torch.no_grad():
        assert torch.equal(subject.net(first.inputs[0]).argmax(1), first.labels)
