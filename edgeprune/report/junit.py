"""The verdict as a JUnit file: a test suite for the model and one a target, a test case a limit.

A limit that is broken is a failure. A limit that could not be decided, or not be measured, is an error
with its reason: no check is ever skipped. One that only warns passes, with the warning in `system-err`.
"""

from __future__ import annotations

from xml.etree import ElementTree

from edgeprune.records.run import Check, Run
from edgeprune.report import wording

MODEL_SUITE = "model"


def junit(run: Run) -> str:
    """The verdict's checks as JUnit XML; no test cases where the gate has not looked at the run."""
    checks = run.verdict.checks if run.verdict is not None else ()
    seconds = f"{sum(run.seconds.values()):.3f}"
    root = ElementTree.Element("testsuites", {"name": "edgeprune", **_counts(checks), "time": seconds})
    for target in _targets(run):
        own = tuple(c for c in checks if c.target == target)
        name = MODEL_SUITE if target is None else wording.clean(target)
        suite = ElementTree.SubElement(root, "testsuite", {"name": name, **_counts(own), "time": "0.000"})
        for check in own:
            _case(suite, check, f"{wording.clean(run.model.name) or 'model'}.{name}")
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _targets(run: Run) -> list[str | None]:
    """None for the model, then every target that was validated or held against a limit, each once."""
    checked = [c.target for c in run.verdict.checks] if run.verdict is not None else []
    return list(dict.fromkeys([None, *(v.target for v in run.validations), *checked]))


def _counts(checks: tuple[Check, ...]) -> dict[str, str]:
    held = [c for c in checks if c.level == "error"]
    failures = sum(c.outcome == "fail" for c in held)
    errors = sum(c.outcome in ("inconclusive", "unavailable") for c in held)
    return {"tests": str(len(checks)), "failures": str(failures), "errors": str(errors), "skipped": "0"}


def _case(suite: ElementTree.Element, check: Check, classname: str) -> None:
    case = ElementTree.SubElement(
        suite, "testcase", {"name": wording.clean(check.name), "classname": classname, "time": "0.000"}
    )
    sentence = wording.check_sentence(check)
    if check.outcome == "pass":
        ElementTree.SubElement(case, "system-out").text = sentence
        return
    if check.level == "warn":
        ElementTree.SubElement(case, "system-err").text = f"warning: {check.outcome}: {sentence}"
        return
    kind = "failure" if check.outcome == "fail" else "error"
    problem = ElementTree.SubElement(case, kind, {"type": check.outcome, "message": sentence})
    problem.text = wording.clean(check.reason) or sentence
