import dataclasses
import subprocess
import sys

from report_runs import bare_run, full_run

from edgeprune.records.run import GroupRecord, Verdict
from edgeprune.report.summary import LIMIT_BYTES, escape, markdown


def test_the_verdict_comes_first() -> None:
    text = markdown(full_run())
    assert text.startswith("## ❌ Fail: lenet\\_300\\_100\n")
    assert "- observed\\_error on cpu: measured 0.61, limit 0.5" in text
    assert "| observed\\_error | cpu | 0.61 | 0.5 | ❌ fail |" in text


def test_every_row_has_as_many_cells_as_its_head() -> None:
    run = full_run("a | b")
    cells = 0
    for line in markdown(run).splitlines():
        if not line.startswith("|"):
            cells = 0
            continue
        found = line.replace("\\|", "").count("|")
        assert cells in (0, found)
        cells = found


def test_names_bring_no_markup() -> None:
    hostile = "<img src=x> [a](http://b) `c` **d** | @e\n# f"
    run = dataclasses.replace(full_run(hostile), warnings=(hostile,))
    text = markdown(run)
    assert "<img" not in text.replace("\\<img", "")
    assert "\\[a\\](http\\://b)" in text
    assert "\\*\\*d\\*\\*" in text
    assert "\n# f" not in text


def test_escape_leaves_plain_words_alone() -> None:
    assert escape("12.5 % of fc1: −3 (max)") == "12.5 % of fc1: −3 (max)"
    assert escape(":tada:") == "\\:tada:"


def test_almost_nothing_known() -> None:
    assert markdown(bare_run()) == "## ℹ️ Not judged: m\n\nThe gate has not looked at this run.\n"


def test_a_pass() -> None:
    assert markdown(dataclasses.replace(full_run(), verdict=Verdict(True))).startswith("## ✅ Pass")


def test_it_fits_where_it_goes() -> None:
    full = full_run()
    assert full.plan is not None
    groups = tuple(GroupRecord("漢" * 290, ("|" * 290,) * 4, 9, 3, None, None) for _ in range(5000))
    run = dataclasses.replace(
        full,
        plan=dataclasses.replace(full.plan, groups=groups),
        certificates=tuple(
            dataclasses.replace(c, reason="漢" * 290, domain="漢" * 290) for c in full.certificates
        )
        * 100,
    )
    text = markdown(run)
    assert len(text.encode()) <= LIMIT_BYTES
    assert text.endswith("*\n")


def test_it_starts_in_a_blink() -> None:
    code = (
        "import sys, edgeprune.report.summary, edgeprune.report.junit\n"
        "print(sorted({'torch', 'onnx', 'numpy', 'matplotlib', 'jinja2', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
