import dataclasses
import itertools
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from report_runs import ENVIRONMENT, bare_run, full_run, model, plan

from edgeprune.records.run import (
    Certificate,
    GroupRecord,
    Latency,
    PlanRecord,
    Run,
    Term,
    Validation,
    Verdict,
    from_json,
    to_json,
)
from edgeprune.report.html import render

VOID = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "<script>alert('x')</script>\"&{{ 7*7 }}${1}#010101 $x^2$ \x00\ud800日本"


class Page(HTMLParser):
    """Checks that elements nest, and keeps what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def test_the_page_is_whole_and_small() -> None:
    text = render(full_run())
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(text.encode()) < 200_000
    assert [len(page.all(tag)) for tag in ("main", "header", "footer", "nav", "h1", "title")] == [1] * 6
    assert page.all("html")[0]["lang"] == "en"


def test_headings_descend_one_step_at_a_time() -> None:
    levels = [int(tag[1]) for tag, _ in Page(render(full_run())).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_ids_are_unique_and_every_reference_has_one() -> None:
    page = Page(render(full_run()))
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    referred = {str(a["href"])[1:] for _, a in page.tags if str(a.get("href", "")).startswith("#")}
    referred |= {str(a["aria-labelledby"]) for _, a in page.tags if "aria-labelledby" in a}
    assert referred <= set(ids)


def test_charts_can_be_announced_and_tables_have_scopes() -> None:
    page = Page(render(full_run()))
    charts = page.all("svg")
    assert len(charts) == 6
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))


def test_nothing_is_fetched_and_nothing_runs() -> None:
    text = render(full_run(HOSTILE))
    page = Page(text)
    assert not page.all("script")
    assert not page.all("img")
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("href", "src", "xlink:href"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:,"))


def test_hostile_names_are_shown_as_they_are() -> None:
    run = dataclasses.replace(
        full_run(HOSTILE),
        plan=PlanRecord(
            HOSTILE,
            (GroupRecord(HOSTILE, (HOSTILE,), 8, 4), GroupRecord("b", (), 8, 8, None, HOSTILE)),
            (8, 4),
            (8, 4),
        ),
        terms=(Term("prune", HOSTILE, 1.0, "proved", HOSTILE, (HOSTILE,), 0.1, 0.2, 3),),
        certificates=(Certificate(HOSTILE, "layer", HOSTILE, HOSTILE, None, "proved", reason=HOSTILE),),
        validations=tuple(
            dataclasses.replace(v, target=HOSTILE, warnings=(HOSTILE,)) for v in full_run().validations
        ),
        warnings=(HOSTILE,),
    )
    text = render(run)
    page = Page(text)
    assert not page.all("script")
    words = "".join(page.words)
    assert "<script>alert('x')</script>\"&{{ 7*7 }}${1}#010101 $x^2$ \N{REPLACEMENT CHARACTER}" in words
    assert "\x00" not in text
    text.encode("utf-8")


def test_the_same_run_gives_the_same_bytes() -> None:
    again = from_json(Run, to_json(full_run()))
    assert render(full_run()) == render(again)


def test_colours_follow_the_page() -> None:
    text = render(full_run())
    assert "#0101" not in text
    assert "var(--after)" in text
    assert "prefers-color-scheme: dark" in text


def test_the_verdict_names_what_failed() -> None:
    words = "".join(Page(render(full_run())).words)
    assert "Fail" in words
    assert "observed_error on cpu: measured 0.61, limit 0.5" in words
    assert "webgpu was not reached: no adapter was found" in words
    assert "edgeprune run edgeprune.demo.lenet:build --params 0.36 --target cpu --target arm-board" in words


def test_a_bound_that_does_not_exist_has_its_reason() -> None:
    words = "".join(Page(render(full_run())).words)
    assert "not certifiable" in words
    assert "the bound exceeds the output's range" in words


def test_almost_nothing_known() -> None:
    page = Page(render(bare_run()))
    assert "Not judged" in "".join(page.words)
    assert not page.all("svg")


@pytest.mark.parametrize(
    "run",
    [
        Run(model(), ENVIRONMENT, plan=plan()),
        Run(model(), ENVIRONMENT, plan=PlanRecord("gram", (), (0, 0), (0, 0))),
        Run(
            model(),
            ENVIRONMENT,
            plan=PlanRecord("gram", (GroupRecord("", (), 0, 0),), (1, 1), (1, 1), "graph"),
        ),
        Run(model(), ENVIRONMENT, validations=(Validation("board", False, "", {}, ""),)),
        Run(model(), ENVIRONMENT, validations=(Validation("board", True, "p", {"a": 1, "b": 2}, "float32"),)),
        Run(model(), ENVIRONMENT, verdict=Verdict(None)),
        Run(model(), ENVIRONMENT, verdict=Verdict(True)),
        Run(model(), ENVIRONMENT, verdict=Verdict(False)),
        Run(model(), ENVIRONMENT, terms=(Term("export", "linf", None, "observed", "", (), None, None, 0),)),
        Run(model(), ENVIRONMENT, terms=(Term("masking", "linf", 0.0, "proved", "", (), 0.0, None, 1),)),
        Run(model(), ENVIRONMENT, certificates=(Certificate("c", "global", "", "linf", None, "proved"),)),
        Run(
            model(),
            ENVIRONMENT,
            validations=(
                Validation(
                    "board",
                    True,
                    "p",
                    {},
                    "",
                    latency=Latency(1.0, 1.0, 1.0, 1.0, 1.0, 0.95, 1, 0.0, "settled"),
                ),
            ),
        ),
    ],
)
def test_what_is_missing_is_left_out(run: Run) -> None:
    words = "".join(Page(render(run)).words)
    assert "None" not in words
    assert "nan" not in words


@pytest.mark.parametrize("name", ["plan", "verdict"])
def test_each_part_may_be_none(name: str) -> None:
    Page(render(dataclasses.replace(full_run(), **{name: None})))


@pytest.mark.parametrize(
    "name", ["settings", "terms", "certificates", "validations", "warnings", "artifacts", "seconds"]
)
def test_each_part_may_be_empty(name: str) -> None:
    empty: Any = {} if name in ("artifacts", "seconds") else ()
    Page(render(dataclasses.replace(full_run(), **{name: empty})))


def test_a_huge_run_stays_under_two_megabytes() -> None:
    full = full_run()
    long = "layer." * 60
    assert full.plan is not None
    assert full.verdict is not None
    group = dataclasses.replace(full.plan.groups[1], name=long, axis_of=(long,) * 9)
    pinned = dataclasses.replace(full.plan.groups[0], name=long, reason_if_pinned=long)
    run = dataclasses.replace(
        full,
        plan=dataclasses.replace(full.plan, groups=(group, pinned) * 3000),
        certificates=tuple(dataclasses.replace(c, reason=long) for c in full.certificates) * 1000,
        terms=full.terms * 200,
        validations=full.validations * 100,
        verdict=Verdict(False, full.verdict.checks * 1000),
        warnings=(long,) * 5000,
    )
    text = render(run)
    Page(text)
    assert len(text.encode()) <= 2_000_000
    assert "more rows are in run.json" in text
