"""The page of a search in a real browser: no error, accessible, and its picture answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser import CHROMIUM, axe, opened
from report_runs import full_run

from edgeprune.records.search import Activity, Chosen, SearchRecord, TrialRecord
from edgeprune.report.html import render as of_run
from edgeprune.report.search_page import render

PLAY = """
<script>
window.addEventListener("load", async () => {
  const by = (id) => document.getElementById(id), change = new Event("change");
  const places = () => [...document.querySelectorAll("#plot circle")].map(c => c.getAttribute("cx")).join();
  const reachable = [...document.querySelectorAll("#plot circle[tabindex='0']")];
  const seen = {
    shown: !by("explore").hidden, points: document.querySelectorAll("#plot circle").length,
    reachable: reachable.length, chosen: document.querySelectorAll("#plot circle.chosen").length,
    hollow: document.querySelectorAll("#plot circle.infeasible").length,
    steps: document.querySelectorAll("#plot path.step").length, before: by("told").textContent,
  };
  const axe = window.axe ? await window.axe.run() : {violations: []};
  seen.violations = axe.violations.map(v => v.id + ": " + v.nodes.map(n => n.target).join(" "));
  seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const told = [];
  for (const event of ["mouseenter", "focus", "click"]) {
    for (const circle of reachable) {
      circle.dispatchEvent(new Event(event));
      told.push(by("told").querySelector("strong").textContent
        === circle.getAttribute("aria-label").split(":")[0]);
    }
  }
  seen.answers = told.every(Boolean);
  reachable[0].dispatchEvent(new Event("focus"));
  seen.told = by("told").textContent;
  const first = places();
  by("across").value = "2";
  by("across").dispatchEvent(change);
  seen.moved = first !== places();
  seen.label = document.querySelector("#plot text:nth-last-of-type(2)").textContent;
  by("across").value = "0";
  by("across").dispatchEvent(change);
  seen.back = first === places();
  document.body.replaceChildren(Object.assign(document.createElement("pre"),
    {id: "found", textContent: JSON.stringify(seen)}));
});
</script>
"""


def _trial(number: int, latency: float, error: float, feasible: bool = True) -> TrialRecord:
    found = {"latency@phone": latency, "observed_error": error, "macs": latency / 2 + 0.01 * number}
    params = {"share": latency, "method": "gram</script><b>"}
    return TrialRecord(number, "measured", params, found, (latency, error), feasible=feasible)


def _record(front: tuple[int, ...] = (3, 1, 0)) -> SearchRecord:
    run = full_run("net</title><script>alert(1)</script>")
    trials = (
        _trial(0, 0.9, 0.1), _trial(1, 0.6, 0.3), _trial(2, 0.7, 0.9), _trial(3, 0.2, 1.5),
        _trial(4, 0.1, 4.0, feasible=False), TrialRecord(5, "failed", {"share": 0.1}, {}, reason="lost"),
    )  # fmt: skip
    return SearchRecord(
        model=run.model, environment=run.environment, targets=("phone",),
        minimized=("latency@phone", "observed_error"), constraints=("observed_error <= 2",),
        space={"methods": ["gram"]}, counts={"measured": 5, "failed": 1}, seconds={"device": 9.0, "coreset": 3.0},
        wall_s=12.0, front=front, trials=trials, chosen=Chosen(1, "latency<=0.7x", "chosen") if front else None,
        activities=(
            Activity("worker 1", "make", 0, 0.0, 1.0), Activity("phone-1", "phone", 0, 1.0, 3.0),
            Activity("phone-2", "phone", 1, 1.0, 2.0, "lost"),
        ),
    )  # fmt: skip


def _played(text: str, theme: str, folder: Path) -> dict[str, object]:
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    (folder / "played.html").write_text(
        free.replace("</body>", f"<script>{axe()}</script>{PLAY}</body>"), encoding="utf-8"
    )
    done = opened(folder / "played.html", theme, folder)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen: dict[str, object] = json.loads(
        found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )
    return seen


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_picture_of_the_front_answers(theme: str, tmp_path: Path) -> None:
    text = render(_record())
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    plain = opened(tmp_path / "page.html", theme, tmp_path)
    assert "CONSOLE" not in plain.stderr, plain.stderr  # its own policy lets its script run
    assert plain.stdout.count("<circle") == 5  # the trial that failed has no place
    seen = _played(text, theme, tmp_path)
    told = str(seen.pop("told"))
    assert told.startswith("Trial ")
    assert "gram</script><b>" in told  # a name is text
    assert seen == {
        "shown": True, "points": 5, "reachable": 3, "chosen": 1, "hollow": 1, "steps": 1,
        "before": "No point is selected.", "violations": [], "wide": 0, "answers": True,
        "moved": True, "label": "multiply-accumulates, share", "back": True,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_page_without_a_front_opens(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(render(_record(())), encoding="utf-8")
    plain = opened(tmp_path / "page.html", "light", tmp_path)
    assert "CONSOLE" not in plain.stderr, plain.stderr
    assert "No trial keeps every constraint yet." in plain.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_report_of_a_chosen_run_has_the_front_to_explore(tmp_path: Path) -> None:
    text = of_run(full_run(), _record())
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    plain = opened(tmp_path / "page.html", "light", tmp_path)
    assert "CONSOLE" not in plain.stderr, plain.stderr  # its own policy lets its script run
    assert plain.stdout.count('class="chosen"') == 1
    assert plain.stdout.count('class="front"') == 2
    seen = _played(text, "light", tmp_path)
    assert (seen["shown"], seen["answers"], seen["moved"], seen["violations"]) == (True, True, True, [])


def test_only_the_report_of_a_chosen_run_has_a_script() -> None:
    assert "<script" not in of_run(full_run())
    assert "script-src" not in of_run(full_run())
    text = of_run(full_run(), _record())
    assert text.count("<script") == 2
    assert "script-src" in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)


def test_the_page_needs_nothing_and_names_are_text() -> None:
    text = render(_record())
    assert text == render(_record())
    assert text.count("<script") == 2
    assert "<b>" not in text
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)
