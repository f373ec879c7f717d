"""The pages in a real browser: they open without an error, fold out, and are accessible."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, axe, opened
from report_runs import bare_run, full_run

from edgeprune.records.run import Artifact, Run
from edgeprune.report.comparison import render_several, undominated
from edgeprune.report.html import render

_LOOK = """
<script>
window.addEventListener("load", async () => {
  for (const summary of document.querySelectorAll("summary")) summary.click();
  const closed = [...document.querySelectorAll("details")].filter(d => !d.open).length;
  const targets = [...document.querySelectorAll("nav a")].filter(a => !document.querySelector(a.hash)).length;
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const axe = window.axe ? await window.axe.run() : {violations: []};
  const violations = axe.violations.map(v => v.id + ": " + v.nodes.map(n => n.target).join(" "));
  document.body.replaceChildren(Object.assign(document.createElement("pre"),
    {id: "found", textContent: JSON.stringify({closed, targets, wide, violations})}));
});
</script>
"""


def several(count: int) -> list[tuple[str, Run]]:
    run, errors = full_run(), (0.9, 0.5, 0.6, 0.2)
    return [
        (
            f"runs/{k}",
            dataclasses.replace(
                run,
                artifacts={**run.artifacts, "pruned": Artifact("p", "0", 200_000 + 80_000 * k, 20)},
                validations=tuple(
                    dataclasses.replace(
                        v, drift=v.drift and dataclasses.replace(v.drift, linf_max=errors[k % 4])
                    )
                    for v in run.validations
                ),
            ),
        )
        for k in range(count)
    ]


PAGES = {
    "full": lambda: render(full_run()),
    "bare": lambda: render(bare_run()),
    "several": lambda: render_several(several(4)),
}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    ("name", "theme"),
    [("full", "light"), ("full", "dark"), ("bare", "light"), ("several", "light"), ("several", "dark")],
)
def test_a_page_opens_folds_out_and_is_accessible(name: str, theme: str, tmp_path: Path) -> None:
    text = PAGES[name]()
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    plain = opened(tmp_path / "page.html", theme, tmp_path)
    assert "CONSOLE" not in plain.stderr, plain.stderr
    assert "<h1>" in plain.stdout
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    watched = free.replace("</body>", f"<script>{axe()}</script>{_LOOK}</body>")
    (tmp_path / "watched.html").write_text(watched, encoding="utf-8")
    done = opened(tmp_path / "watched.html", theme, tmp_path)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert seen == {"closed": 0, "targets": 0, "wide": 0, "violations": []}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_page_prints_light_whole_and_with_its_charts(tmp_path: Path) -> None:
    """A dark screen, closed details: on paper all is white, unfolded, in colour, and no heading is left alone."""
    pdfium = pytest.importorskip("pypdfium2")
    (tmp_path / "page.html").write_text(render(full_run()), encoding="utf-8")
    paper = tmp_path / "page.pdf"
    task = ("--no-pdf-header-footer", f"--print-to-pdf={paper}")
    opened(tmp_path / "page.html", "dark", tmp_path, task)
    document = pdfium.PdfDocument(paper)
    texts = [" ".join(page.get_textpage().get_text_range().split()) for page in document]
    assert 3 <= len(texts) <= 12
    for words in ("Verdict", "Key figures"):
        assert ("Fail" if words == "Verdict" else words) in texts[0]
    folded = (
        "Groups that were free to lose units",
        "Settings and where each came from",
        "CPU flags",
        "this run",
    )
    assert all(any(words in text for text in texts) for words in folded)
    for text in texts:
        assert not text.endswith(("Error", "Targets", "Certificates", "Latency", "How to reproduce"))
    blue = 0
    for page in document:
        seen = np.asarray(page.render(scale=0.5).to_pil().convert("RGB")).astype(int)
        assert (seen[:4] == 255).all(), "the margin is not white"
        assert (seen.min(axis=2) > 200).mean() > 0.8, "the page is dark"
        blue += int(((seen[..., 2] - seen[..., 0]) > 60).sum())
    assert blue > 300, "the bars are not in colour"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_nothing_and_is_small(name: str) -> None:
    text = PAGES[name]()
    assert len(text.encode()) < 2_000_000
    assert "<script" not in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
    assert not re.search(r"url\((?!#)", text)


def test_many_runs_are_cut_and_it_is_said() -> None:
    text = render_several(several(70))
    assert "Only the first 60 of 70 runs are shown" in text
    assert len(text.encode()) < 2_000_000


def test_what_cannot_be_compared_is_said() -> None:
    from edgeprune.records.run import SettingRecord

    other = dataclasses.replace(full_run(), settings=(SettingRecord("calibration", "b", "flag"),))
    model = dataclasses.replace(full_run().model, weights_sha256="0" * 64)
    text = render_several([("a", full_run()), ("b", dataclasses.replace(other, model=model))])
    assert "differ in calibration" in text
    assert "different models" in text


def test_hostile_names_are_text() -> None:
    hostile = "<script>alert(1)</script>$x^"
    text = render_several([(hostile, full_run(hostile)), (hostile, full_run(hostile))])
    assert "<script>" not in text


def test_the_front_joins_what_no_other_beats() -> None:
    assert undominated([(1, 5), (2, 3), (3, 4), (4, 1), (2, 3)]) in ((0, 1, 3), (0, 4, 3))
    assert undominated([]) == ()
