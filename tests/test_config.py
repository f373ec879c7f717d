from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgeprune.config import Settings, read_config, resolve
from edgeprune.errors import ConfigError, UsageError
from edgeprune.records.run import to_json
from edgeprune.verdict.limits import Limits


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test starts in a folder of its own, without configuration files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, content: str) -> Path:
    Path(path).write_text(content)
    return Path(path)


def origins(resolved: Any) -> dict[str, str]:
    return {record.name: record.origin for record in resolved.records() if record.origin != "default"}


def test_without_file_and_flags_all_is_default() -> None:
    resolved = resolve({})
    assert resolved.settings == Settings()
    assert origins(resolved) == {}
    assert [record.name for record in resolved.records()] == [f.name for f in dataclasses.fields(Settings)]


def test_flags_beat_the_file_and_the_file_beats_the_defaults() -> None:
    write("edgeprune.toml", 'method = "magnitude"\nseed = 3\nexclude = ["head"]\n')
    resolved = resolve({"seed": 7, "opset": None, "exclude": ()})
    settings = resolved.settings
    assert (settings.method, settings.seed, settings.exclude, settings.opset) == (
        "magnitude",
        7,
        ("head",),
        None,
    )
    assert origins(resolved) == {"method": "edgeprune.toml", "seed": "flag", "exclude": "edgeprune.toml"}


def test_the_source_of_given_values_may_be_called_otherwise() -> None:
    assert origins(resolve({"seed": 7}, origin="call")) == {"seed": "call"}


@pytest.mark.parametrize("flag", ["keep", "params", "macs"])
def test_a_budget_that_is_given_displaces_the_files(flag: str) -> None:
    write("edgeprune.toml", "macs = 0.25\nseed = 1\n")
    resolved = resolve({flag: 0.75})
    assert resolved.settings.budget == (flag, 0.75)
    assert origins(resolved) == {flag: "flag", "seed": "edgeprune.toml"}


@pytest.mark.parametrize(
    ("settings", "budget"),
    [
        (Settings(), ("keep", 0.5)),
        (Settings(keep=1.0), ("keep", 1.0)),
        (Settings(params=0.3), ("params", 0.3)),
        (Settings(macs=0.1), ("macs", 0.1)),
    ],
)
def test_one_budget_applies(settings: Settings, budget: tuple[str, float]) -> None:
    assert settings.budget == budget


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"keep": 0.5, "macs": 0.5}, "keep and macs are different budgets"),
        ({"keep": 0.0}, "keep is a share above 0 and at most 1, not 0"),
        ({"params": 1.01}, "params is a share"),
        ({"macs": -0.5}, "macs is a share"),
        ({"keep": float("nan")}, "keep is a share"),
        ({"confidence": 1.0}, "confidence is a probability"),
        ({"quantile": 0.0}, "quantile is a probability"),
        ({"confidence": float("nan")}, "confidence is a probability"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"attack_steps": 0}, "attack_steps must be at least 1"),
        ({"attack_restarts": -1}, "attack_restarts must be at least 1"),
        ({"multiple": 0}, "multiple must be at least 1"),
        ({"opset": 0}, "opset must be at least 1"),
        ({"seed": -1}, "seed cannot be negative"),
        ({"simplify_limit_s": 0.0}, "simplify_limit_s must be positive"),
        ({"simplify_limit_s": float("nan")}, "simplify_limit_s must be positive"),
        ({"domain": (1.0, 1.0)}, "domain is a pair low,high"),
        ({"domain": (0.0,)}, "domain is a pair low,high"),
        ({"domain": (0.0, float("inf"))}, "domain is a pair low,high"),
        ({"domain": (float("nan"), 1.0)}, "domain is a pair low,high"),
    ],
)
def test_a_value_out_of_range_is_refused_wherever_it_comes_from(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(**values)
    with pytest.raises(UsageError, match=said) as caught:
        resolve(values)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("keep = 2.0", "edgeprune.toml: keep is a share above 0 and at most 1, not 2."),
        ("kep = 0.5", "edgeprune.toml: there is no field 'kep'; did you mean 'keep'"),
        ('seed = "three"', "edgeprune.toml: seed: expected a whole number, found .three. "),
        ("seed = 1.5", "edgeprune.toml: seed: expected a whole number"),
        ("seed = true", "edgeprune.toml: seed: expected a whole number, found true"),
        ("exclude = 3", "edgeprune.toml: exclude: expected a list"),
        ("exclude = [3]", r"edgeprune.toml: exclude\[0\]: expected text"),
        ("domain = [0.0, inf]", r"domain\[1\]: expected a number"),
        ("[limits]\nlatency = 1", "there is no field 'latency'; did you mean 'latency_ratio'"),
        ("[limits]\nlatency_ratio = -1", "latency_ratio must be positive"),
        ("seed = ", "edgeprune.toml: is not valid TOML"),
        ("[seed]\na = 1", "seed: expected a whole number, found a table"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(content: str, said: str) -> None:
    write("edgeprune.toml", content)
    with pytest.raises(ConfigError, match=said):
        resolve({})


def test_a_file_that_was_asked_for_must_be_there() -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read"):
        resolve({}, Path("nowhere.toml"))


def test_a_file_that_was_asked_for_is_read_instead_of_the_one_that_lies_there() -> None:
    write("edgeprune.toml", "seed = 1")
    write("mine.toml", "samples = 5")
    resolved = resolve({}, Path("mine.toml"))
    assert (resolved.settings.seed, resolved.settings.samples) == (0, 5)
    assert origins(resolved) == {"samples": "mine.toml"}


def test_a_project_file_is_read_if_it_speaks_of_edgeprune() -> None:
    write("pyproject.toml", '[project]\nname = "x"\n')
    assert read_config(None) == (None, {})
    write("pyproject.toml", '[project]\nname = "x"\n[tool.edgeprune]\nseed = 4\n')
    assert resolve({}).settings.seed == 4
    write("edgeprune.toml", "seed = 5")
    assert resolve({}).settings.seed == 5, "edgeprune.toml comes first"


@pytest.mark.parametrize("content", ["[tool", "tool = 3", "[project]"])
def test_a_project_file_that_is_not_ours_is_let_alone(content: str) -> None:
    write("pyproject.toml", content)
    assert resolve({}).settings == Settings()


def test_a_table_of_ours_that_is_none_is_refused() -> None:
    write("pyproject.toml", "[tool]\nedgeprune = 3\n")
    with pytest.raises(ConfigError, match=r"\[tool.edgeprune\] must be a table"):
        resolve({})


def test_one_target_may_be_written_without_a_list() -> None:
    write("edgeprune.toml", 'target = "gpu"')
    assert resolve({}).settings.target == ("gpu",)
    write("edgeprune.toml", 'target = ["gpu", "cpu"]')
    assert resolve({}).settings.target == ("gpu", "cpu")


def test_limits_are_laid_over_each_other_one_by_one() -> None:
    write("edgeprune.toml", "[limits]\nlatency_ratio = 0.9\nsize_ratio = 0.5\n")
    resolved = resolve({"limits": Limits(size_ratio=0.4, top1_agreement=0.99)})
    assert resolved.settings.limits == Limits(latency_ratio=0.9, size_ratio=0.4, top1_agreement=0.99)
    assert origins(resolved) == {"limits": "edgeprune.toml and flag"}
    assert origins(resolve({"limits": Limits()})) == {"limits": "edgeprune.toml"}


def test_limits_given_alone_are_called_by_their_source() -> None:
    assert origins(resolve({"limits": Limits(size_ratio=0.4)})) == {"limits": "flag"}
    assert origins(resolve({"limits": Limits()})) == {}


def test_settings_are_recorded_as_json_can_write_them() -> None:
    resolved = resolve({"target": ("cpu", "gpu"), "limits": Limits(size_ratio=0.4), "domain": (0.0, 1.0)})
    values = {record.name: record.value for record in resolved.records()}
    assert values["target"] == ["cpu", "gpu"]
    assert values["domain"] == [0.0, 1.0]
    assert values["limits"]["size_ratio"] == 0.4
    assert to_json(resolved.records()) == [to_json(record) for record in resolved.records()]
