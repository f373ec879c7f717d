"""The verdict and the figures a reader looks for first."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Literal

from edgeprune.records.run import Certificate, Check, Label, Run, Term, Training, Validation, weakest
from edgeprune.report import wording

Key = Literal["pass", "fail", "inconclusive", "unavailable", "open"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands.

    Attributes:
        key: names the colour and the sign.
        title: a word or two.
        sentence: what it means.
        checks: the checks that kept the run from passing, in words.
    """

    key: Key
    title: str
    sentence: str
    checks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """One key figure: a name, a value, and what to know about it."""

    name: str
    value: str
    detail: str


def standing(run: Run) -> Standing:
    """The verdict in words. A failed check outweighs all; an open one is never a silent pass."""
    if run.verdict is None:
        return Standing("open", "Not judged", "The gate has not looked at this run.")
    checks = tuple(c for c in run.verdict.checks if c.level == "error")
    warned = tuple(c for c in run.verdict.checks if c.level == "warn" and c.outcome != "pass")
    if warned and run.verdict.passed:
        words = wording.several(wording.check_sentence(c) for c in warned)
        sentence = f"Every limit that counts holds; {_checks([*warned])} of level warn did not pass."
        return Standing("pass", "Pass, with warnings", sentence, words)
    by_outcome = {key: [c for c in checks if c.outcome == key] for key in wording.OUTCOMES}
    failed, unavailable, undecided = (by_outcome[k] for k in ("fail", "unavailable", "inconclusive"))
    open_checks = (*failed, *unavailable, *undecided)
    words = wording.several(wording.check_sentence(c) for c in open_checks)
    total = len(checks)
    if failed:
        return Standing("fail", "Fail", f"{_checks(failed)} of {total} failed.", words)
    if run.verdict.passed:
        if words:
            sentence = f"{len(open_checks)} of {total} checks could not be decided and were let pass."
            return Standing("pass", "Pass, with open checks", sentence, words)
        limits = "The limit holds." if total == 1 else f"All {total} limits hold."
        return Standing("pass", "Pass", limits if total else "Every limit holds.")
    if unavailable:
        sentence = f"{_checks(unavailable)} of {total} could not be measured."
        return Standing("unavailable", "Unavailable", sentence, words)
    if undecided:
        sentence = f"{_checks(undecided)} of {total} did not settle within the measuring budget."
        return Standing("inconclusive", "Inconclusive", sentence, words)
    if run.verdict.passed is None:
        return Standing("open", "No limits set", "Nothing was held against a limit; see the figures.")
    return Standing("fail", "Fail", "The gate refused this run.")


def _checks(checks: list[Check]) -> str:
    return "1 check" if len(checks) == 1 else f"{len(checks)} checks"


def key_figures(run: Run) -> tuple[Figure, ...]:
    """The figures a reader looks for first; those that the run does not know are left out."""
    found: list[Figure] = []
    if run.plan is not None:
        for name, (before, after) in (("Parameters", run.plan.params), ("MACs", run.plan.macs)):
            detail = f"{wording.change(before, after)} from {wording.short(before)}"
            found.append(Figure(name, wording.short(after), detail))
    original, pruned = run.artifacts.get("original"), run.artifacts.get("pruned")
    if pruned is not None:
        detail = "the pruned model's file"
        if original is not None:
            less = wording.change(original.size_bytes, pruned.size_bytes)
            detail = f"{less} from {wording.size(original.size_bytes)}"
        found.append(Figure("ONNX file", wording.size(pruned.size_bytes), detail))
    found += [_training(one) for one in run.trainings]
    found += [figure for figure in (_error(run), _rate(run), _accuracy(run), _latency(run)) if figure]
    return tuple(found)


def _training(training: Training) -> Figure:
    """The average loss of a trained net on fresh inputs, its bound, and the control."""
    name = {"learned": "Learned error", "finetune": "Tuned error"}[training.name]
    seen = f"mean relative, on {wording.count(training.fresh)} fresh inputs"
    sure = ""
    if training.bound is not None:
        sure = f", ≤ {wording.upper(training.bound)} at {wording.confidence(training.confidence)} confidence"
    beside = (
        f"{wording.number(training.before)} before; {wording.number(training.control)} from random weights"
    )
    return Figure(name, wording.number(training.after), f"{seen}{sure}; {beside}")


def headline(run: Run, *, rate: bool = False) -> Certificate | None:
    """The certificate to quote: about the net's outputs, in the widest scope and for the worst target.

    Where several bounds speak about the same inputs each of them holds, so the smallest counts; of
    different quantiles, targets and domains the largest bound is quoted.

    Args:
        run: the run.
        rate: look for a probability instead of an output difference.
    """
    scopes = ("global", "distribution", "local")
    smallest: dict[tuple[str | None, ...], tuple[float, Certificate]] = {}
    for item in run.certificates:
        if item.bound is None or item.label == "observed" or item.scope not in scopes or item.norm == "cdf":
            continue
        if (item.norm == "rate") is not rate:
            continue
        quantile = item.name if item.label == "statistical" else ""
        same = (item.scope, item.norm, item.target, item.domain, quantile)
        if same not in smallest or item.bound < smallest[same][0]:
            smallest[same] = (item.bound, item)
    ranked = [(scopes.index(c.scope), c.norm != "linf", -bound, c) for bound, c in smallest.values()]
    return min(ranked, key=lambda entry: entry[:3])[3] if ranked else None


def statement(certificate: Certificate) -> str:
    """How sure a certificate is and of what, in a few words."""
    sure = certificate.label.replace("-", " ")
    if certificate.confidence is not None:
        sure = f"{wording.confidence(certificate.confidence)} confidence"
    return f"{sure}, {wording.clean(certificate.domain, 80)}"


def _error(run: Run) -> Figure | None:
    seen = [v.drift.linf_max for v in run.validations if v.drift is not None]
    best = headline(run)
    if best is not None:
        found = [x for x in (best.observed, best.attacked) if x is not None]
        largest = f"; largest found {wording.number(max(found))}" if found else ""
        name = "Output error" if best.norm == "linf" else f"Output error ({wording.clean(best.norm)})"
        return Figure(name, f"≤ {wording.upper(best.bound)}", f"{statement(best)}{largest}")
    if seen:
        return Figure("Output error", wording.number(max(seen)), "largest seen; no bound is claimed")
    prune = next((t for t in run.terms if t.name == "prune" and t.observed is not None), None)
    if prune is None:
        return None
    return Figure(
        "Output error", wording.number(prune.observed), "largest seen in torch; no bound is claimed"
    )


def _rate(run: Run) -> Figure | None:
    best = headline(run, rate=True)
    if best is not None:
        seen = "" if best.observed is None else f"; seen {wording.percent(best.observed)}"
        bound = wording.upper(100 * (best.bound or 0.0))
        return Figure("Changed answers", f"≤ {bound} %", f"{statement(best)}{seen}")
    agreements = [v.drift.top1_agreement for v in run.validations if v.drift is not None]
    known = [share for share in agreements if share is not None]
    if not known:
        return None
    detail = "of the inputs measured, on the worst target; no bound is claimed"
    return Figure("Changed answers", wording.percent(1.0 - min(known)), detail)


def _accuracy(run: Run) -> Figure | None:
    pairs = [(v.drift.accuracy, v.drift.n) for v in run.validations if v.drift is not None]
    known = [(pair, n) for pair, n in pairs if pair is not None]
    if not known:
        return None
    (before, after), n = min(known, key=lambda item: item[0][1])
    detail = f"{wording.percent(before)} before, on {wording.count(n)} inputs"
    return Figure("Accuracy", wording.percent(after), detail)


def _latency(run: Run) -> Figure | None:
    timed = [v for v in run.validations if v.latency is not None]
    if not timed:
        return None
    worst = max(timed, key=_ratio)
    assert worst.latency is not None
    sure = wording.confidence(worst.latency.confidence)
    where = f"{wording.clean(worst.target, 60)}, {sure} interval {wording.interval(worst.latency)}"
    if len(timed) > 1:
        where = f"slowest of {len(timed)} targets: {where}"
    return Figure(
        "Latency", f"{wording.number(worst.latency.ratio)} ×", f"{wording.speed(worst.latency)}; {where}"
    )


def _ratio(validation: Validation) -> float:
    return validation.latency.ratio if validation.latency is not None else 0.0


def chain_total(terms: tuple[Term, ...]) -> tuple[float, Label] | None:
    """The sum of the links' bounds and its label, where every link has one in the same norm.

    By the triangle inequality it bounds the way from the original net to the device, on the inputs
    that every link speaks about.
    """
    bounds = [t.bound for t in terms if t.bound is not None]
    alike = len({t.norm for t in terms}) == 1 and len({t.name for t in terms}) == len(terms)
    if len(terms) < 2 or len(bounds) != len(terms) or not alike:
        return None
    return sum(bounds), weakest(t.label for t in terms)


def command(run: Run) -> str:
    """The command line that makes this run again: the model and every setting that came from a flag."""
    words = ["edgeprune", "run", wording.clean(run.model.factory) or "MODEL"]
    for item in run.settings:
        if item.origin.endswith("flag") and item.name != "model":
            words += _flag(wording.clean(item.name).replace("_", "-"), item.value)
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    """One setting as the command line takes it."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, dict):
        return _limit_flags(value)
    if not isinstance(value, list | tuple):
        return [f"--{name}", wording.clean(value)]
    if value and all(isinstance(x, float | int) for x in value):  # a list of numbers is one value
        return [f"--{name}", ",".join(map(str, value))]
    return [word for x in value for word in (f"--{name}", wording.clean(x))]


def _limit_flags(value: dict[str, Any]) -> list[str]:
    """The gate's limits as the command line takes them: plain ones with their level, and metrics."""
    levels: dict[str, Any] = value.get("level") or {}
    words: list[str] = []
    for name, limit in value.items():
        if isinstance(limit, int | float):
            level = f":{levels[name]}" if name in levels else ""
            words += ["--limit", wording.clean(f"{name}={limit}{level}")]
        elif limit is None and name in levels:
            words += ["--limit", wording.clean(f"{name}={levels[name]}")]
    for metric in value.get("metrics") or ():
        side = "at_most" if metric.get("at_most") is not None else "at_least"
        sign = {"at_most": "<=", "at_least": ">="}[side]
        text = f"{metric.get('name')}={metric.get('function')}{sign}{metric.get(side)}"
        words += ["--metric", wording.clean(text)]
    return words


def files_read(run: Run) -> tuple[str, ...]:
    """The files that settings came from: the command needs them too."""
    origins = (part for item in run.settings for part in item.origin.split(" and "))
    return tuple(dict.fromkeys(wording.clean(o) for o in origins if o not in ("default", "flag")))
