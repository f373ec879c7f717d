from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from edgeprune import registry
from edgeprune.errors import ConfigError, UsageError
from edgeprune.registry import Registry, suggestion


@dataclass(frozen=True)
class Member:
    name: str


@dataclass(frozen=True)
class Distribution:
    name: str


@dataclass(frozen=True)
class Point:
    """An entry point of some other distribution."""

    name: str
    load: Callable[[], Any]
    value: str = "other.place:member"
    dist: Distribution | None = Distribution("somebody-else")


def shipped() -> Registry[Member]:
    return Registry("ops", (Member("linear"), Member("conv")))


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    points: list[Point] = []
    asked: list[str] = []

    def entry_points(group: str) -> list[Point]:
        asked.append(group)
        assert len(asked) == 1, "plugins are looked for once"
        assert group == "edgeprune.ops"
        return points

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return points


def test_members_are_found_by_name(plugins: list[Point]) -> None:
    room = shipped()
    assert room["conv"] == Member("conv")
    assert list(room) == ["linear", "conv"]
    assert len(room) == 2
    assert "conv" in room
    assert "cnov" not in room


def test_plugins_join_the_shipped_members_and_are_loaded_only_when_needed(plugins: list[Point]) -> None:
    loads = []
    plugins.append(Point("mine", lambda: loads.append("once") or Member("mine")))
    room = shipped()
    assert loads == []
    assert room["mine"] == Member("mine")
    assert list(room) == ["linear", "conv", "mine"]
    assert loads == ["once"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [("cnov", "did you mean 'conv'"), ("zzzzzz", "choose one of: conv, linear")],
)
def test_an_unknown_name_is_answered_with_what_there_is(plugins: list[Point], asked: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"no '{asked}' among the ops; {said}"):
        shipped()[asked]


def test_a_name_may_be_taken_once(plugins: list[Point]) -> None:
    with pytest.raises(ConfigError, match="two members are named 'conv'"):
        Registry("ops", (Member("conv"), Member("conv")))
    plugins.append(Point("conv", lambda: Member("conv")))
    with pytest.raises(ConfigError, match=r"two members are named 'conv' .the second from somebody-else"):
        shipped()["linear"]


def test_a_plugin_that_cannot_be_loaded_is_named_with_its_distribution(plugins: list[Point]) -> None:
    def broken() -> Member:
        raise ImportError("no module named moon")

    plugins.append(Point("lunar", broken))
    with pytest.raises(
        ConfigError, match="plugin 'lunar' of somebody-else cannot be loaded: no module named moon"
    ):
        len(shipped())


def test_a_plugin_without_a_distribution_is_named_by_its_value(plugins: list[Point]) -> None:
    plugins.append(Point("conv", lambda: Member("conv"), dist=None))
    with pytest.raises(ConfigError, match=r"other.place:member"):
        list(shipped())


def test_suggestions_are_close_or_complete() -> None:
    assert suggestion("gramm", ["uniform", "gram"]) == "did you mean 'gram'?"
    assert suggestion("qqq", ["b", "a"]) == "choose one of: a, b"
