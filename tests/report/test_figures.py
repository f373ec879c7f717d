import dataclasses

import pytest
from report_runs import ENVIRONMENT, bare_run, full_run, model, terms

from edgeprune.records.run import Check, Run, SettingRecord, Verdict
from edgeprune.report.figures import chain_total, command, files_read, headline, key_figures, standing

PASS = Check("size_bytes", 1.0, 2.0, "pass")
FAIL = Check("size_bytes", 3.0, 2.0, "fail")
OPEN = Check("latency_ratio", 1.0, 1.0, "inconclusive", "too wide", "cpu")
GONE = Check("latency_ratio", None, 1.0, "unavailable", "no answer", "board")


@pytest.mark.parametrize(
    ("verdict", "key"),
    [
        (None, "open"),
        (Verdict(None), "open"),
        (Verdict(True, (PASS,)), "pass"),
        (Verdict(True, (PASS, OPEN)), "pass"),
        (Verdict(False, (PASS, FAIL)), "fail"),
        (Verdict(True, (FAIL,)), "fail"),
        (Verdict(False, (OPEN, FAIL, GONE)), "fail"),
        (Verdict(False, (PASS, OPEN)), "inconclusive"),
        (Verdict(None, (OPEN,)), "inconclusive"),
        (Verdict(False, (OPEN, GONE)), "unavailable"),
        (Verdict(False), "fail"),
    ],
)
def test_standing(verdict: Verdict | None, key: str) -> None:
    assert standing(Run(model(), ENVIRONMENT, verdict=verdict)).key == key


def test_open_checks_are_never_a_silent_pass() -> None:
    state = standing(Run(model(), ENVIRONMENT, verdict=Verdict(True, (PASS, OPEN))))
    assert state.title == "Pass, with open checks"
    assert state.checks == ("latency_ratio on cpu: measured 1, limit 1 (too wide)",)


def test_the_headline_is_the_widest_scope() -> None:
    best = headline(full_run())
    assert best is not None
    assert (best.scope, best.bound) == ("global", 14.91)
    rate = headline(full_run(), rate=True)
    assert rate is not None
    assert rate.name == "flips"


def test_of_two_bounds_on_the_same_inputs_the_smaller_counts() -> None:
    run = full_run()
    proved = run.certificates[0]
    others = (
        dataclasses.replace(proved, name="ibp", bound=52.0),
        dataclasses.replace(proved, name="elsewhere", domain="a smaller box", bound=3.0),
    )
    best = headline(dataclasses.replace(run, certificates=(*others, *run.certificates)))
    assert best == proved


def test_an_observed_maximum_is_no_bound() -> None:
    run = full_run()
    seen = tuple(dataclasses.replace(c, label="observed") for c in run.certificates)
    figures = {f.name: f for f in key_figures(dataclasses.replace(run, certificates=seen))}
    assert figures["Output error"].value == "0.61"
    assert "no bound" in figures["Output error"].detail


def test_the_latency_quoted_is_the_slowest_targets() -> None:
    figures = {f.name: f for f in key_figures(full_run())}
    assert figures["Latency"].value == "0.944 ×"
    assert "arm-board" in figures["Latency"].detail
    assert "not settled" in figures["Latency"].detail


def test_nothing_known_gives_no_figures() -> None:
    assert key_figures(bare_run()) == ()


def test_the_chain_adds_up_only_where_every_link_is_bounded() -> None:
    assert chain_total(terms()) is None
    bounded = tuple(dataclasses.replace(t, bound=0.5, label="proved") for t in terms())
    assert chain_total(bounded) == (2.5, "proved")
    mixed = (*bounded[:4], dataclasses.replace(bounded[4], label="proved-modulo-rounding-model"))
    assert chain_total(mixed) == (2.5, "proved-modulo-rounding-model")
    assert chain_total((*bounded[:4], dataclasses.replace(bounded[4], norm="relative-linf"))) is None


def test_the_command_repeats_the_flags() -> None:
    settings = (
        SettingRecord("channel_multiple", 8, "flag"),
        SettingRecord("fast", False, "flag"),
        SettingRecord("verbose", True, "flag"),
        SettingRecord("exclude", ["a b", "c"], "flag"),
        SettingRecord("seed", 0, "default"),
        SettingRecord("out", None, "flag"),
        SettingRecord("model", "m:f", "flag"),
        SettingRecord("domain", [0.0, 1.0], "flag"),
        SettingRecord("limits", {"size_ratio": 0.5, "p95_ms": None}, "edgeprune.toml and flag"),
        SettingRecord("keep", 0.5, "edgeprune.toml"),
    )
    text = command(Run(model(), ENVIRONMENT, settings=settings))
    assert text == (
        "edgeprune run edgeprune.demo.lenet:build --channel-multiple 8 --no-fast --verbose "
        "--exclude 'a b' --exclude c --domain 0.0,1.0 --limit size_ratio=0.5"
    )
    assert files_read(Run(model(), ENVIRONMENT, settings=settings)) == ("edgeprune.toml",)


def test_the_command_gives_limits_levels_and_metrics_back() -> None:
    import shlex

    import click

    from edgeprune.cli import main
    from edgeprune.cli.verdicts import limits_of
    from edgeprune.records.run import to_json
    from edgeprune.verdict.limits import Limits, UserMetric

    limits = Limits(
        observed_error=0.5,
        latency_ratio=0.8,
        level={"latency_ratio": "warn", "memory_mb": "off"},
        metrics=(UserMetric("wer", "m.py:wer", at_most=0.1), UserMetric("bleu", "m:bleu", at_least=30.0)),
    )
    run = dataclasses.replace(full_run(), settings=(SettingRecord("limits", to_json(limits), "flag"),))
    _, name, *arguments = shlex.split(command(run))
    given = main.get_command(click.Context(main), name)
    assert given is not None
    made = limits_of(given.make_context(name, arguments).params)
    assert made == limits


def test_a_setting_of_limits_shows_what_is_set() -> None:
    from edgeprune.records.run import to_json
    from edgeprune.report import wording
    from edgeprune.verdict.limits import Limits

    assert wording.setting(to_json(Limits())) == "none"
    shown = wording.setting(to_json(Limits(p95_ms=3.0, level={"p95_ms": "warn"})))
    assert shown == "p95_ms = 3.0, level = (p95_ms = warn)"


def test_changed_answers_are_named_alike_with_and_without_a_bound() -> None:
    known = {f.name: f for f in key_figures(full_run())}
    assert known["Changed answers"].value == "≤ 0.712 %"
    bare = {f.name: f for f in key_figures(dataclasses.replace(full_run(), certificates=()))}
    assert bare["Changed answers"].value == "0.39 %"
    assert "no bound" in bare["Changed answers"].detail
