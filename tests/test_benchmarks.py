"""The plumbing of the benchmarks: rows survive a file, tables say what was measured, pasting is exact."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

from benchmarks import paste
from benchmarks.augment import affine
from benchmarks.harness import RESULTS, Ledger, Row, by_figure, by_size, load, number, save, sized
from edgeprune.errors import UsageError

ROWS = [
    Row("environment", "", "", "cpu", "a processor", "", 0),
    Row("environment", "", "", "torch", "2.0", "", 0),
    Row("net", "", "", "test error", 1.25, "%", 0),
    *(
        Row("net", "some", "50 %", figure, value, unit, seed)
        for seed, error in enumerate((2.0, 4.0))
        for figure, value, unit in (
            ("test error", error, "%"),
            ("relative logit error", 0.5, ""),
            ("choosing", 1.5, "s"),
        )
    ),
]


def test_rows_survive_a_file(tmp_path: Path) -> None:
    save(tmp_path / "rows.json", ROWS)
    assert load(tmp_path / "rows.json") == ROWS


@pytest.mark.parametrize("content", ["", "{}", '[{"subject": "net"}]', "[1]"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"rows\.json"):
        load(path)


def test_a_cell_tells_mean_least_and_most() -> None:
    table = by_size(ROWS)
    assert table.head == ("method", "50 %", "seconds")
    assert table.lines == (("some", "3.00 (2.00–4.00); 0.50", "1.50"),)
    assert "test error 1.25 %" in table.caption
    assert "a processor" in table.caption
    assert "torch 2.0" in table.caption


def test_other_figures_and_no_seconds() -> None:
    rows = [
        Row("net", "some", "50 %", "cosine", 97.93, "%", 0),
        Row("net", "some", "50 %", "least", 80.0, "%", 0),
    ]
    assert sized("cosine", "least")(rows).lines == (("some", "97.9; 80.00", ""),)


def test_an_interrupted_script_goes_on_behind_its_last_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    first = Ledger.open(path, resume=False)
    assert not first.has("some", "50 %", 0)
    assert not first.has("", "", 0), "the machine is no measurement"
    first.add([row for row in ROWS if row.method == "some" and row.seed == 0])
    again = Ledger.open(path, resume=True)
    assert again.has("some", "50 %", 0)
    assert not again.has("some", "50 %", 1)
    again.add([Row("net", "other", "50 %", "test error", 1.0, "%", 0)])
    ordered = [row.method for row in again.arranged(("other", "some"), ("50 %",)) if row.method]
    assert ordered == ["other", "some", "some", "some"]
    assert load(path) == again.rows
    assert not Ledger.open(path, resume=False).has("some", "50 %", 0)
    assert "some 50 % seed 0: test error 2" in capsys.readouterr().err


def test_counts_stay_whole() -> None:
    rows = [Row("x", "", "", "packages", 0, "", 0), Row("x", "", "", "time", 0.1, "s", 0)]
    assert by_figure(rows).lines == (("x", "0", "0.10"),)


def test_numbers_have_no_more_digits_than_they_mean() -> None:
    assert [number(v) for v in (0.034, 9.999, 12.34, 207.6)] == ["0.03", "10.00", "12.3", "208"]


def test_pasting_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    save(tmp_path / "lenet.json", ROWS)
    text = "above\n<!-- table: lenet -->\nold\n<!-- end -->\nbelow `<!-- table: NAME -->`\n"
    once = paste.pasted(text, Path("x.md"), tmp_path)
    assert "old" not in once
    assert "| some | 3.00 (2.00–4.00); 0.50 | 1.50 |" in once
    assert once.startswith("above\n<!-- table: lenet -->\n|")
    assert once.endswith("\n<!-- end -->\nbelow `<!-- table: NAME -->`\n")
    assert paste.pasted(once, Path("x.md"), tmp_path) == once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: lenet -->\n", "no '<!-- end -->'"),
        ("<!-- table: lenet -->\n<!-- table: cnn -->\n<!-- end -->\n", "no '<!-- end -->'"),
        ("<!-- table: nothing -->\n<!-- end -->\n", "no table 'nothing'"),
        ("<!-- table: lenet -->\n<!-- end -->\n", "cannot be read"),
    ],
)
def test_a_marker_that_cannot_be_served_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        paste.pasted(text, Path("x.md"), tmp_path)


def test_the_documents_show_the_figures_of_the_results() -> None:
    for path in paste.documents(paste.ROOT):
        text = path.read_text(encoding="utf-8")
        assert paste.pasted(text, path, RESULTS) == text, f"{path}: run 'python -m benchmarks.paste'"


def test_moved_digits_keep_their_shape_and_most_of_their_ink() -> None:
    images = torch.zeros(16, 784)
    images.reshape(16, 28, 28)[:, 8:20, 10:18] = 1.0
    moved = affine(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)
    share = moved.sum(1) / images.sum(1)
    assert float(share.min()) > 0.7
    assert float(share.max()) < 1.4
    away = (moved.reshape(16, 28, 28).flatten(1).argmax(1) // 28 - 8).abs()
    assert int(away.max()) <= 6


def test_a_sweep_lets_the_table_of_kernels_hold_for_one_version_more(tmp_path: Path) -> None:
    from benchmarks.harness import Row
    from benchmarks.sweep_kernels import widen
    from edgeprune.bounds.kernel_errors import FILE, KernelErrors

    path = tmp_path / "errors.json"
    path.write_text(FILE.read_text().replace('"1.31"', '"1.2"'))
    before = KernelErrors.read(path)
    rows = [
        Row("tanh", "", "", "largest error", 1e-3, "", 0),
        Row("erf", "", "", "largest error", 0.0, "", 0),
    ]
    widen(path, rows, 1024)
    after = KernelErrors.read(path)
    assert not before.hold("CPUExecutionProvider", onnxruntime.__version__)
    assert after.hold("CPUExecutionProvider", onnxruntime.__version__)
    assert after.hold("CPUExecutionProvider", "1.2.9")
    assert after.largest == {**before.largest, "tanh": 1e-3}
