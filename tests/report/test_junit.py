import dataclasses
from xml.etree import ElementTree

from report_runs import bare_run, full_run

from edgeprune.records.run import Check, Run, Verdict
from edgeprune.report.junit import junit


def parse(run: Run) -> ElementTree.Element:
    return ElementTree.fromstring(junit(run).encode("utf-8"))


def test_a_suite_for_the_model_and_one_a_target() -> None:
    root = parse(full_run())
    assert [suite.get("name") for suite in root] == ["model", "cpu", "arm-board", "webgpu"]
    assert [suite.get("tests") for suite in root] == ["1", "2", "1", "1"]


def test_the_counts_are_those_of_the_cases() -> None:
    root = parse(full_run())
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == (
        "5",
        "1",
        "2",
        "0",
    )
    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert int(element.get("tests", "")) == len(cases)
        assert int(element.get("failures", "")) == sum(case.find("failure") is not None for case in cases)
        assert int(element.get("errors", "")) == sum(case.find("error") is not None for case in cases)
        assert not list(element.iter("skipped"))


def test_what_is_undecided_is_an_error_with_its_reason() -> None:
    errors = {error.get("type"): error for error in parse(full_run()).iter("error")}
    assert errors["unavailable"].text == "no adapter was found"
    assert errors["inconclusive"].text == "0.871 to 1.023 holds the limit"


def test_a_failure_says_the_numbers() -> None:
    (failure,) = parse(full_run()).iter("failure")
    assert failure.get("message") == (
        "observed_error on cpu: measured 0.61, limit 0.5 (the largest difference on 2048 inputs)"
    )


def test_a_run_that_was_not_judged_has_no_cases() -> None:
    root = parse(bare_run())
    assert root.get("tests") == "0"
    assert not list(root.iter("testcase"))


def test_hostile_names_are_text() -> None:
    hostile = "<b a='\"'>&]]>\x00\ud800\x1b"
    check = Check(hostile, 1.0, 2.0, "fail", hostile, hostile)
    root = parse(dataclasses.replace(full_run(hostile), validations=(), verdict=Verdict(False, (check,))))
    (case,) = root.iter("testcase")
    assert str(case.get("name")).startswith("<b a='\"'>&]]>")
    assert [suite.get("tests") for suite in root] == ["0", "1"]
