from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import UsageError
from edgeprune.records.run import (
    LABELS,
    SCHEMA_VERSION,
    Certificate,
    Check,
    Environment,
    ModelRecord,
    Run,
    SettingRecord,
    Term,
    Validation,
    from_json,
    to_json,
    weakest,
)
from edgeprune.records.versions import remedy, this_version, writer

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SETTING = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5), st.lists, max_leaves=4
)


def records(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of an annotation that records use."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return SETTING
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(records, arguments))
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return st.lists(records(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(records, arguments))
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), records(arguments[1]), max_size=2)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return st.builds(kind, **{f.name: records(hints[f.name]) for f in dataclasses.fields(kind)})
    plain = {
        int: st.integers(),
        float: FINITE,
        str: st.text(max_size=8),
        bool: st.booleans(),
        types.NoneType: st.none(),
    }
    return plain[kind]


@given(records(Run))
def test_a_record_comes_back_as_it_was_written(run: Run) -> None:
    text = json.dumps(to_json(run), allow_nan=False)
    assert from_json(Run, json.loads(text)) == run


ABOUT = Environment("0.1.0", "3.12", "2.9", "1.19", "1.23", "0.5", "Linux x86_64", "cpu", 2, ("avx2",), 0)
RUN = Run(ModelRecord("net", "a:b", "00", (), ()), ABOUT)


def test_a_run_is_saved_and_loaded_from_its_folder_or_its_file(tmp_path: Path) -> None:
    path = RUN.save(tmp_path)
    assert path == tmp_path / "run.json"
    assert Run.load(tmp_path) == Run.load(path) == RUN
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_finite_numbers_are_written(tmp_path: Path, value: float) -> None:
    run = dataclasses.replace(RUN, seconds={"trace": value})
    with pytest.raises(ValueError, match="only finite numbers"):
        run.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_only_finite_numbers_are_read(tmp_path: Path, value: str) -> None:
    dataclasses.replace(RUN, seconds={"trace": 0.125}).save(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace("0.125", value))
    with pytest.raises(UsageError, match="only finite numbers"):
        Run.load(tmp_path)


@pytest.mark.parametrize("version", [None, 0, SCHEMA_VERSION + 1, "1"])
def test_another_schema_version_is_refused(tmp_path: Path, version: Any) -> None:
    content = {**to_json(RUN), "schema_version": version}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=f"schema version {version}, this edgeprune reads {SCHEMA_VERSION}"):
        Run.load(tmp_path)


def test_the_message_names_the_version_that_wrote_it(tmp_path: Path) -> None:
    content = {**to_json(RUN), "schema_version": 7}
    content["environment"]["edgeprune"] = "3.2.1"
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"written by edgeprune 3\.2\.1, .*pip install edgeprune==3\.2\.1"):
        Run.load(tmp_path)
    assert "use the edgeprune that wrote it" in remedy(writer({"environment": 7}))
    assert "this very version" in remedy(this_version())


def test_a_folder_without_a_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run here"):
        Run.load(tmp_path)
    with pytest.raises(UsageError, match="there is no run here"):
        Run.load(tmp_path / "run.json")


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 1', "\x00", "[1, 2]", "7", '"run"'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"cannot be read as JSON|schema version None"):
        Run.load(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        Run.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", None),
        ("model", []),
        ("model", {"name": "without the rest"}),
        ("artifacts", []),
        ("artifacts", {"original": {"path": "a", "sha256": "b", "size_bytes": "big", "opset": 18}}),
        ("artifacts", {"original": {"path": "a", "sha256": "b", "size_bytes": True, "opset": 18}}),
        ("warnings", "a sentence, not a list of them"),
        ("warnings", [1]),
        ("seconds", {"trace": "long"}),
        ("seconds", {"trace": None}),
        ("seconds", {"trace": True}),
        ("plan", {"method": "gram", "groups": [], "params": [1, 2, 3], "macs": [1, 2]}),
        ("plan", {"method": "gram", "groups": [], "params": [1, 2], "macs": [1, 2], "shrunk": "a lot"}),
        ("verdict", {"passed": "yes"}),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**to_json(RUN), key: value}))
    with pytest.raises(UsageError, match="is not the record of a run"):
        Run.load(tmp_path)


def test_keys_that_a_later_version_added_are_ignored() -> None:
    content = {**to_json(RUN), "weather": "fine"}
    content["model"]["colour"] = "blue"
    assert from_json(Run, content) == RUN


def test_fields_with_defaults_may_be_missing() -> None:
    content = {key: value for key, value in to_json(RUN).items() if key in ("model", "environment")}
    assert from_json(Run, content) == RUN


def test_paths_become_text_and_whole_numbers_stay_numbers() -> None:
    assert to_json({"a": Path("x/y"), 3: (1, 2.5)}) == {"a": "x/y", "3": [1, 2.5]}
    assert from_json(Check, {"name": "n", "measured": 1, "limit": None, "outcome": "pass"}) == Check(
        "n", 1.0, None, "pass"
    )


def test_a_sum_is_as_strong_as_its_weakest_part() -> None:
    assert weakest(["proved"]) == "proved"
    assert weakest(["proved", "observed", "statistical"]) == "observed"
    assert [weakest([label, "proved"]) for label in LABELS] == list(LABELS)


def test_every_public_key_of_the_run_folder_is_there() -> None:
    keys = {f.name for f in dataclasses.fields(Run)}
    assert keys >= {
        *("schema_version", "model", "settings", "environment", "plan", "artifacts", "terms"),
        *("certificates", "validations", "verdict"),
    }
    named = {
        kind: {f.name for f in dataclasses.fields(kind)}
        for kind in (Term, Certificate, Validation, SettingRecord)
    }
    assert named[Term] >= {
        "name",
        "norm",
        "bound",
        "label",
        "method",
        "assumptions",
        "observed",
        "attacked",
        "n_inputs",
    }
    assert named[Certificate] >= {
        "scope",
        "domain",
        "norm",
        "bound",
        "label",
        "confidence",
        "observed",
        "tightness",
    }
    assert named[Validation] >= {
        "target",
        "reached",
        "provider",
        "placement",
        "precision",
        "drift",
        "latency",
    }
    assert named[SettingRecord] == {"name", "value", "origin"}
