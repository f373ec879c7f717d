"""Rules with stable ids: what deserves a second look in a run, and what to do about it.

An id is never given to another rule. EP1xx speak of the pruning, EP2xx of the targets, EP3xx of the
guarantees, EP4xx of the gate, EP5xx of ONNX files (`edgeprune.verdict.onnx_lints`).
Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edgeprune.records.run import Check, GroupRecord, Run, Validation

Severity = Literal["error", "warning", "note"]
GRID = 4
"""Widths that are no multiple of this fill no vector register of any common CPU in float32."""
LOOSE = 1000.0
"""A bound this many times the largest error found says little."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule and what `edgeprune explain` says about it."""

    id: str
    name: str
    severity: Severity
    short: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Lint:
    """A rule that was found broken, where, and the sentence that says so.

    Attributes:
        subject: what it is about, the same from run to run: a group, a target, a limit.
        severity: the rule's own, unless the finding is graver or lighter.
    """

    rule: Rule
    subject: str
    message: str
    severity: Severity


def _rule(id: str, name: str, severity: Severity, short: str, why: str, remedy: str) -> Rule:
    return Rule(id, name, severity, short, why, remedy)


RULES: dict[str, Rule] = {
    rule.id: rule
    for rule in (
        _rule(
            "EP101",
            "nothing-was-pruned",
            "warning",
            "No group lost a unit.",
            "Every group is pinned, or the budget and the channel multiple leave every width as it was; the "
            "pruned model is the original.",
            "Look at `edgeprune inspect MODEL` for the reasons, lower --keep, or give a smaller --multiple.",
        ),
        _rule(
            "EP102",
            "operation-without-rule",
            "note",
            "A group is pinned because an operation has no rule.",
            "Channels that reach an operation edgeprune does not know are never guessed about; they stay.",
            "Write a rule for the operation (one file in edgeprune/ops, or an entry point edgeprune.ops), or "
            "express the layer with operations that have one.",
        ),
        _rule(
            "EP103",
            "width-off-the-grid",
            "note",
            f"A width is no multiple of {GRID}.",
            "Kernels work on whole vector registers; a width between two multiples costs as much as the "
            "higher one, and some runtimes fall back to slower kernels.",
            "Leave --multiple to the targets, or give the multiple your device computes well (8, 16).",
        ),
        _rule(
            "EP104",
            "graph-was-shrunk",
            "note",
            "The narrowed module cannot run, so the narrowed graph is the result.",
            "The model's forward has sizes written into it. The ONNX file is right; the torch result is a "
            "graph module instead of your own class.",
            "Write sizes in forward from tensors (`x.flatten(1)`, `x.shape[0]`), if you want to fine-tune "
            "your own class.",
        ),
        _rule(
            "EP105",
            "simplifier-was-refused",
            "note",
            "onnxsim failed, or its result was thrown away.",
            "A simplified file that computes something else, or a simplifier that crashed, is never used; "
            "the exported file is.",
            "Update onnxsim, or give --no-simplify.",
        ),
        _rule(
            "EP201",
            "target-not-reached",
            "warning",
            "A target was not reached.",
            "What was not measured is unknown, and no limit on it can pass.",
            "`edgeprune targets NAME --check` says what is missing.",
        ),
        _rule(
            "EP202",
            "ran-elsewhere",
            "warning",
            "Nodes ran on another provider than the target asks for.",
            "A part that falls back to another provider is timed with copies between them; such a number "
            "says little about the device.",
            "See the placement in the report; another opset, or a type the provider takes, often helps.",
        ),
        _rule(
            "EP203",
            "slower-than-the-original",
            "warning",
            "The pruned model is slower.",
            "The whole interval of the latency ratio lies above 1. Odd widths are the usual cause.",
            "Give --multiple, prune more, or leave the model dense on this target.",
        ),
        _rule(
            "EP204",
            "latency-not-settled",
            "note",
            "The latency's interval is wider than the target asks for.",
            "The machine was too noisy for the budget of time; the ratio is known as its interval only.",
            "Raise [measure] budget_s or launches_max, pin the CPUs ([threads] cpus), stop other work.",
        ),
        _rule(
            "EP205",
            "target-warned",
            "note",
            "A target said something while it measured.",
            "A frequency governor, a busy machine or a missing option makes numbers less steady.",
            "Follow the sentence; the numbers stay as they are until the target is measured again.",
        ),
        _rule(
            "EP301",
            "no-certificate",
            "note",
            "The run has no certificate.",
            "Without one, nothing is promised about inputs that were not tried.",
            "Run without --no-certify, and give --domain or a calibration set with one.",
        ),
        _rule(
            "EP302",
            "measured-on-noise",
            "warning",
            "Errors were measured on noise, not on data.",
            "Statistical statements speak about inputs like those measured; noise is not what a device sees.",
            "Give --calibration with samples like those in use.",
        ),
        _rule(
            "EP303",
            "not-certifiable",
            "note",
            "A certificate has no bound.",
            "The method could not bound this model; nothing is claimed in place of it.",
            "The reason is in the report; gate on statistical_error instead.",
        ),
        _rule(
            "EP304",
            "loose-bound",
            "note",
            f"A bound is more than {LOOSE:g} times the largest error found.",
            "It is true, and too far from what happens to decide anything.",
            "Give a smaller --domain, or gate on statistical_error.",
        ),
        _rule(
            "EP401",
            "limit-broken",
            "error",
            "A limit of the gate is broken.",
            "What was measured lies outside the limit, with the whole of its interval where it has one.",
            "Prune less, or move the limit if the new value is wanted.",
        ),
        _rule(
            "EP402",
            "limit-undecided",
            "error",
            "A measurement did not settle on one side of a limit.",
            "The interval holds the limit; either verdict would be a guess.",
            "Measure longer ([measure] budget_s, launches_max), or say `--inconclusive pass` or `fail`.",
        ),
        _rule(
            "EP403",
            "limit-not-measured",
            "error",
            "Nothing was measured that a limit could be held against.",
            "What is not known never passes.",
            "Reach the target, measure what the limit is about, or take the limit away.",
        ),
        _rule(
            "EP404",
            "no-limits",
            "note",
            "The gate has no limits.",
            "A gate without limits lets everything pass.",
            "Write [limits] into edgeprune.toml, or give --limit NAME=VALUE.",
        ),
        _rule(
            "EP501",
            "not-an-onnx-model",
            "error",
            "The file is no valid ONNX model.",
            "It cannot be read, or breaks the rules of the format.",
            "Export it again; a Git LFS pointer instead of the file is a usual cause.",
        ),
        _rule(
            "EP502",
            "paths-in-the-file",
            "warning",
            "The file holds source paths or stack traces.",
            "Exporters write folders of their machine into the nodes; they ship with the model.",
            "Export with edgeprune, which strips them.",
        ),
        _rule(
            "EP503",
            "weights-not-finite",
            "error",
            "A weight is NaN or infinite.",
            "Its outputs are NaN for every input.",
            "Export weights from before training diverged.",
        ),
        _rule(
            "EP504",
            "weights-outside",
            "warning",
            "Weights lie in another file, or outside the model's folder.",
            "The model cannot be loaded without that file; runtimes refuse a path that leaves the folder.",
            "Ship the data file beside the model, or export with the weights inside.",
        ),
        _rule(
            "EP505",
            "unknown-domain",
            "warning",
            "An operation is of a domain that a plain runtime does not have.",
            "onnxruntime refuses it without the library that brings it.",
            "Ship that library with the model, or export without the custom operation.",
        ),
        _rule(
            "EP506",
            "double-precision",
            "note",
            "Weights are in float64.",
            "They take twice the room and most devices compute them slowly.",
            "Convert the model to float32 before exporting.",
        ),
        _rule(
            "EP507",
            "no-provenance",
            "note",
            "The file does not say where it comes from.",
            "Models that edgeprune writes carry digests of the weights and the plan they were made of.",
            "Export or prune it with edgeprune.",
        ),
    )
}
"""Every rule, by its id."""


def lint(rule: str, subject: str, message: str, severity: Severity | None = None) -> Lint:
    """A finding of one rule."""
    return Lint(RULES[rule], subject, message, severity or RULES[rule].severity)


def lints(run: Run) -> tuple[Lint, ...]:
    """Everything in a run that deserves a second look, the gravest first."""
    found = [*_pruning(run), *_guarantees(run), *_gate(run)]
    for validation in run.validations:
        found += _target(validation)
    order: tuple[Severity, ...] = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda x: (order.index(x.severity), x.rule.id, x.subject)))


def _pruning(run: Run) -> Iterator[Lint]:
    groups: tuple[GroupRecord, ...] = run.plan.groups if run.plan is not None else ()
    free = [g for g in groups if not g.reason_if_pinned]
    if run.plan is not None and all(g.after == g.before for g in free):
        yield lint("EP101", "plan", f"none of {len(groups)} groups lost a unit")
    for group in groups:
        reason = group.reason_if_pinned or ""
        if "no rule" in reason:
            yield lint("EP102", group.name, f"{group.name} is left alone: {reason}")
        elif not reason and group.after < group.before and group.after > GRID and group.after % GRID:
            words = f"{group.name} keeps {group.after} units, which is no multiple of {GRID}"
            yield lint("EP103", group.name, words)
    if run.plan is not None and run.plan.shrunk == "graph":
        yield lint("EP104", "plan", run.plan.shrunk_reason or "the module's own forward cannot run narrowed")
    for text in run.warnings:
        if "onnxsim" in text:
            yield lint("EP105", text.partition(":")[0], text)


def _target(validation: Validation) -> Iterator[Lint]:
    name, latency = validation.target, validation.latency
    if not validation.reached:
        yield lint("EP201", name, f"{name}: {validation.reason or 'it was not reached'}")
        return
    elsewhere = {p: n for p, n in validation.placement.items() if p != validation.provider and n}
    if elsewhere:
        where = ", ".join(f"{n} on {p}" for p, n in elsewhere.items())
        yield lint("EP202", name, f"{name}: asked for {validation.provider}, but ran {where}")
    if latency is not None and latency.ratio_low > 1:
        words = f"{name}: {latency.ratio:.3g} times the original's latency, at least {latency.ratio_low:.3g}"
        yield lint("EP203", name, words)
    if latency is not None and latency.quality == "inconclusive":
        ends = f"{latency.ratio_low:.3g} to {latency.ratio_high:.3g}"
        yield lint("EP204", name, f"{name}: the ratio lies between {ends} after {latency.launches} launches")
    for text in validation.warnings:
        yield lint("EP205", name, f"{name}: {text}")


def _guarantees(run: Run) -> Iterator[Lint]:
    if not run.certificates:
        yield lint("EP301", "certificates", "the run has no certificate")
    calibration = next((s.value for s in run.settings if s.name == "calibration"), "unknown")
    if calibration is None and run.validations:
        yield lint("EP302", "samples", "no calibration set was given; errors are those on noise")
    for certificate in run.certificates:
        subject = "/".join(filter(None, (certificate.name, certificate.layer, certificate.target)))
        if certificate.bound is None:
            yield lint("EP303", subject, f"{subject}: {certificate.reason or 'no bound'}")
        elif certificate.tightness is not None and certificate.tightness > LOOSE:
            words = f"{subject}: the bound {certificate.bound:.3g} is {certificate.tightness:.3g} times"
            yield lint("EP304", subject, f"{words} the largest error found")


def _gate(run: Run) -> Iterator[Lint]:
    if run.verdict is None:
        return
    if not run.verdict.checks:
        yield lint("EP404", "limits", "nothing is held against a limit")
    rules = {"fail": "EP401", "inconclusive": "EP402", "unavailable": "EP403"}
    for check in run.verdict.checks:
        if check.outcome != "pass":
            subject = check.name + (f" on {check.target}" if check.target else "")
            severity: Severity = "error" if check.level == "error" else "warning"
            yield lint(rules[check.outcome], subject, _sentence(check, subject), severity)


def _sentence(check: Check, subject: str) -> str:
    numbers = "" if check.measured is None else f" {check.measured:.6g} against a limit of {check.limit:.6g}"
    return f"{subject}:{numbers}{f' ({check.reason})' if check.reason and numbers else ' ' + check.reason}"
