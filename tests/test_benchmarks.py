"""The plumbing of the benchmarks: rows survive a file, tables say what was measured, pasting is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import paste
from benchmarks.harness import RESULTS, Row, by_figure, by_size, load, number, save
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
