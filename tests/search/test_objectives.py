from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.errors import UsageError
from edgeprune.search.objectives import beaten, condition, conditions, objectives, pick

TARGETS = ("phone", "board")


def test_what_a_target_has_of_its_own_counts_once_for_each():
    found = objectives(("latency,error", "size"), "certified", TARGETS)
    assert [o.key for o in found] == ["latency@phone", "latency@board", "certified_error", "size"]


@pytest.mark.parametrize(
    "words", ["speed", "accuracy", "latency,latency", "error,observed_error", "", "latency,"]
)
def test_objectives_that_cannot_be_are_told(words: str):
    with pytest.raises(UsageError):
        objectives((words,), "observed", TARGETS)


@pytest.mark.parametrize(
    ("text", "key", "limit", "upper"),
    [
        ("latency<=8ms", "latency_ms", 8.0, True),
        ("latency <= 0.5", "latency", 0.5, True),
        ("latency@phone<=0.002s", "latency_ms", 2.0, True),
        ("certified_error<=.5", "certified_error", 0.5, True),
        ("size<=1.5MB", "size_bytes", 1.5e6, True),
        ("params<=2M", "params_count", 2e6, True),
        ("top1_agreement>=99%", "top1_agreement", 0.99, False),
        ("error<=1e-3", "statistical_error", 1e-3, True),
    ],
)
def test_conditions_are_read(text: str, key: str, limit: float, upper: bool):
    found = condition(text, "statistical", TARGETS)
    assert (found.key, found.upper) == (key, upper)
    assert found.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    "text",
    [
        "latency<8", "latency==8", "latency<=", "<=8", "latency<=8parsec", "latency@moon<=8ms", "size@phone<=1MB",
        "speed>=2", "__import__('os').system('true')<=1", "latency<=1 or 1<=1", "latency<=nan", "latency<=-1",
        "top1_agreement>=1.5", "latency<=1e999", "p95<=3", "error<=1ms", "latency<=1;2",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_told_in_one_sentence(text: str):
    with pytest.raises(UsageError, match="--constraint"):
        condition(text, "observed", TARGETS)


@given(st.text(max_size=40))
def test_any_text_is_read_or_told(text: str):
    with contextlib.suppress(UsageError):
        assert (
            pick(text, "observed", TARGETS, objectives(("latency,error",), "observed", TARGETS)).text == text
        )


@pytest.mark.parametrize(
    "texts",
    [
        ("observed_error<=0.1", "observed_error>=0.2"),
        ("certified_error<=0.1", "observed_error>=0.2"),
        ("latency@phone<=0.5", "latency>=0.6"),
    ],
)
def test_constraints_that_contradict_each_other_are_told(texts: tuple[str, ...]):
    with pytest.raises(UsageError, match="contradict"):
        conditions(texts, "observed", TARGETS)


def test_constraints_on_different_places_do_not_contradict():
    assert len(conditions(("latency@phone<=0.5", "latency@board>=0.6"), "observed", TARGETS)) == 2


def test_an_error_that_was_seen_rules_a_bound_out_before_it_is_made():
    limit = condition("certified_error<=0.5", "observed", TARGETS)
    assert limit.excess({"seen_in_domain": 0.7}, TARGETS, certain=True) == pytest.approx(0.2)
    assert limit.excess({"seen_in_domain": 0.3}, TARGETS, certain=True) is None
    assert limit.excess({"seen_in_domain": 0.3, "certified_error": 0.6}, TARGETS) == pytest.approx(0.1)
    assert limit.excess({"observed_error": 9.0}, TARGETS) is None  # it may have been seen outside the domain


def test_a_latency_is_kept_for_sure_or_broken_for_sure_by_the_ends_of_its_interval():
    limit = condition("latency<=0.5", "observed", ("phone",))
    found = {"latency@phone": 0.5, "latency_low@phone": 0.45, "latency_high@phone": 0.55}
    assert limit.excess(found, ("phone",), certain=True) == pytest.approx(-0.05)
    assert limit.excess(found, ("phone",)) == pytest.approx(0.05)


def test_one_slow_target_breaks_a_constraint_while_another_is_not_measured_yet():
    limit = condition("latency<=0.5", "observed", TARGETS)
    assert limit.excess({"latency@phone": 0.9}, TARGETS, certain=True) == pytest.approx(0.4)
    assert limit.excess({"latency@phone": 0.2}, TARGETS, certain=True) is None


def test_a_pick_makes_the_objective_least_that_it_says_nothing_about():
    minimized = objectives(("latency,error",), "observed", ("phone",))
    assert pick("latency<=8ms", "observed", ("phone",), minimized).least.key == "observed_error"
    wanted = pick("observed_error<=1, size<=0.5 least latency", "observed", ("phone",), minimized)
    assert (wanted.least.key, len(wanted.conditions)) == ("latency@phone", 2)
    assert pick("least error", "observed", ("phone",), minimized).conditions == ()
    with pytest.raises(UsageError, match="says nothing"):
        pick(" ", "observed", ("phone",), minimized)
    with pytest.raises(UsageError, match="least accuracy"):
        pick("least accuracy", "observed", ("phone",), minimized)


def test_what_is_at_least_so_is_never_above_what_is_found_later():
    named = objectives(
        ("macs,observed_error,certified_error,latency,statistical_error",), "observed", ("cpu",)
    )
    early = {"macs": 0.5, "observed_error": 0.2, "seen_in_domain": 0.1}
    late = {
        **early,
        "observed_error": 0.3,
        "certified_error": 0.4,
        "latency@cpu": 0.6,
        "statistical_error": 0.3,
    }
    assert [o.floor(early) for o in named] == [0.5, 0.2, 0.1, 0.0, 0.0]
    assert all(o.floor(early) <= late[o.key] for o in named)


def test_a_trial_is_beaten_only_where_nothing_that_may_come_could_save_it():
    counted = objectives(("macs,certified_error",), "observed", ("cpu",))
    found = {"macs": 0.5, "seen_in_domain": 0.2}
    assert beaten(counted, [(0.4, 0.2)], found)
    assert beaten(counted, [(0.9, 0.1), (0.5, 0.2)], found)
    assert not beaten(counted, [(0.4, 0.3), (0.6, 0.1)], found)
    assert not beaten(counted, [], found)
    assert not beaten(counted, [(0.4, 0.0)], {"macs": 0.5})  # of the error nothing is known
    timed = objectives(("latency,observed_error",), "observed", ("cpu",))
    assert not beaten(
        timed, [(0.01, 0.0)], {"observed_error": 9.0, "latency@cpu": 0.5}
    )  # a device may differ
