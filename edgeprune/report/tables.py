"""Records as rows of text. A table that would be empty is None, and is left out by who asks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgeprune.records.run import Certificate, GroupRecord, Label, Run, Term, Validation
from edgeprune.report import wording
from edgeprune.report.figures import chain_total
from edgeprune.report.wording import NOTHING, clean, count, milliseconds, number, upper

ROWS = 400
"""Longer tables are cut here; run.json has every row."""

Style = Literal["text", "words", "number", "code", "outcome", "label"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading and how its cells look."""

    name: str
    style: Style = "text"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; the first cell of a row names it."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    omitted: int = 0


def table_of(caption: str, columns: tuple[Column, ...], rows: Iterable[tuple[str, ...]]) -> Table | None:
    """A table of at most `ROWS` rows; None without any."""
    every = tuple(rows)
    return Table(caption, columns, every[:ROWS], max(0, len(every) - ROWS)) if every else None


def checks(run: Run) -> Table | None:
    """Every limit beside what was measured."""
    columns = (
        Column("Check"),
        Column("Target"),
        Column("Measured", "number"),
        Column("Limit", "number"),
        Column("Outcome", "outcome"),
        Column("Reason", "words"),
    )
    rows = []
    for check in run.verdict.checks if run.verdict else ():
        measured, limit = number(check.measured), number(check.limit)
        if check.measured is not None and check.limit is not None:
            measured, limit = wording.apart(check.measured, check.limit)
        target = clean(check.target) if check.target else "model"
        reason = clean(check.reason) or NOTHING
        if check.level == "warn":
            reason = f"only warns; {reason}" if check.reason else "only warns"
        rows.append((clean(check.name), target, measured, limit, check.outcome, reason))
    return table_of("Limits and what was measured", columns, rows)


def pruned_groups(run: Run) -> Table | None:
    """The groups that lost units."""
    columns = (
        Column("Group"),
        Column("Carried by", "code"),
        Column("Before", "number"),
        Column("After", "number"),
        Column("Change", "number"),
        Column("Expected error", "number"),
    )
    return table_of(
        "Groups that were free to lose units",
        columns,
        (_group(g) for g in groups(run) if not g.reason_if_pinned),
    )


def _group(group: GroupRecord) -> tuple[str, ...]:
    return (
        clean(group.name) + (" (approximate)" if group.approximate else ""),
        _axes(group),
        count(group.before),
        count(group.after),
        wording.change(group.before, group.after),
        number(group.error),
    )


def _axes(group: GroupRecord) -> str:
    named = clean(", ".join(group.axis_of[:4]), 200)
    return named + (f" and {len(group.axis_of) - 4} more" if len(group.axis_of) > 4 else "")


def groups(run: Run) -> tuple[GroupRecord, ...]:
    """The plan's groups, none where there is no plan."""
    return run.plan.groups if run.plan is not None else ()


def pinned_groups(run: Run) -> Table | None:
    """The groups that were left alone, and why: those that nothing could change, and those left whole."""
    columns = (Column("Group"), Column("Units", "number"), Column("Why it was left alone", "words"))
    rows = ((clean(g.name), count(g.before), reason) for g, reason in left_alone(run))
    return table_of("Groups that keep all their units", columns, rows)


def left_alone(run: Run) -> tuple[tuple[GroupRecord, str], ...]:
    """Every group that keeps all its units with the reason: first those that could have lost some."""
    allocation = run.plan.allocation if run.plan is not None else None
    whole = dict(allocation.dense) if allocation is not None else {}
    free = [(g, clean(whole[g.name])) for g in groups(run) if not g.reason_if_pinned and g.name in whole]
    pinned = [(g, clean(g.reason_if_pinned)) for g in groups(run) if g.reason_if_pinned]
    return (*free, *pinned)


def chain(run: Run) -> Table | None:
    """The links from the original net to the device."""
    columns = (
        Column("Link"),
        Column("From → to"),
        Column("Norm"),
        Column("Bound", "number"),
        Column("Attacked", "number"),
        Column("Observed", "number"),
        Column("Inputs", "number"),
        Column("How sure", "label"),
        Column("Method and assumptions", "words"),
    )
    rows = [_term(term) for term in run.terms]
    total = chain_total(run.terms)
    if total is not None:
        bound, label = total
        norm = clean(run.terms[0].norm)
        note = "triangle inequality, on the inputs that every link speaks about"
        rows.append(
            ("sum", "original → device", norm, _bound(bound, label), NOTHING, NOTHING, NOTHING, label, note)
        )
    return table_of("Links of the error chain", columns, rows)


def _term(term: Term) -> tuple[str, ...]:
    how = ". ".join(clean(part) for part in (term.method, *term.assumptions) if part)
    return (
        term.name,
        wording.TERMS[term.name],
        clean(term.norm),
        _bound(term.bound, term.label),
        number(term.attacked),
        number(term.observed),
        count(term.n_inputs) if term.n_inputs else NOTHING,
        term.label,
        how or NOTHING,
    )


def certificates(run: Run) -> Table | None:
    """What is claimed about the pruned net's error, and how sure it is."""
    columns = (
        Column("Certificate"),
        Column("Over", "words"),
        Column("Norm"),
        Column("Bound", "number"),
        Column("Attacked", "number"),
        Column("Observed", "number"),
        Column("Bound ÷ found", "number"),
        Column("How sure", "label"),
        Column("Note", "words"),
    )
    return table_of(
        "What is claimed and what was found", columns, (_certificate(c) for c in run.certificates)
    )


def _certificate(certificate: Certificate) -> tuple[str, ...]:
    where = certificate.scope if certificate.layer is None else f"layer {clean(certificate.layer, 100)}"
    sure: str = certificate.label
    if certificate.confidence is not None:
        sure += f", {wording.confidence(certificate.confidence)}"
    notes = [certificate.reason, certificate.source]
    if certificate.bound is None:
        notes[0] = notes[0] or "no reason was recorded"
    if certificate.target:
        notes.append(f"on {certificate.target}")
    if certificate.n_inputs:
        notes.append(f"{count(certificate.n_inputs)} inputs")
    return (
        clean(certificate.name),
        f"{where}: {clean(certificate.domain)}",
        clean(certificate.norm),
        "not certifiable" if certificate.bound is None else _bound(certificate.bound, certificate.label),
        number(certificate.attacked),
        number(certificate.observed),
        f"{number(certificate.tightness)} ×" if certificate.tightness is not None else NOTHING,
        NOTHING if certificate.bound is None else sure,
        clean("; ".join(note for note in notes if note)) or NOTHING,
    )


def _bound(bound: float | None, label: Label) -> str:
    """A bound as claimed. A largest value that was merely seen is not called one."""
    if bound is None:
        return "nothing claimed"
    return f"{upper(bound)} seen" if label == "observed" else upper(bound)


def drift(run: Run) -> Table | None:
    """How far each target's outputs are from the original torch net's."""
    columns = (
        Column("Target"),
        Column("Largest difference", "number"),
        Column("Mean of largest", "number"),
        Column("Relative (l2)", "number"),
        Column("Same answer", "number"),
        Column("Accuracy before", "number"),
        Column("Accuracy after", "number"),
        Column("Inputs", "number"),
    )
    rows = []
    for validation in run.validations:
        found = validation.drift
        if found is None:
            continue
        before, after = found.accuracy or (None, None)
        rows.append(
            (
                clean(validation.target),
                number(found.linf_max),
                number(found.linf_mean),
                number(found.relative_l2),
                wording.percent(found.top1_agreement),
                wording.percent(before),
                wording.percent(after),
                count(found.n),
            )
        )
    return table_of("Outputs on each target against the original torch net", columns, rows)


def latency(run: Run) -> Table | None:
    """Paired latencies on each target."""
    columns = (
        Column("Target"),
        Column("Original", "number"),
        Column("Pruned", "number"),
        Column("Ratio", "number"),
        Column("Interval", "number"),
        Column("Confidence", "number"),
        Column("Noise floor", "number"),
        Column("Launches", "number"),
        Column("p95 of pruned", "number"),
        Column("Says"),
    )
    rows = []
    for validation in run.validations:
        found = validation.latency
        if found is None:
            continue
        rows.append(
            (
                clean(validation.target),
                milliseconds(found.original_ms),
                milliseconds(found.pruned_ms),
                f"{number(found.ratio)} ×",
                wording.interval(found),
                wording.confidence(found.confidence),
                f"± {upper(found.noise_floor)}",
                count(found.launches),
                milliseconds(found.p95_ms),
                wording.speed(found),
            )
        )
    return table_of("Paired latency, pruned ÷ original", columns, rows)


def placement(run: Run) -> Table | None:
    """Which targets were reached, and what really ran there."""
    columns = (
        Column("Target"),
        Column("Reached"),
        Column("Provider asked for"),
        Column("Nodes ran on"),
        Column("Precision"),
        Column("Runtime"),
        Column("Remarks", "words"),
    )
    return table_of("What ran on each target", columns, (_placement(v) for v in run.validations))


def _placement(validation: Validation) -> tuple[str, ...]:
    nodes = [f"{clean(name, 60)}: {count(n)}" for name, n in sorted(validation.placement.items())]
    if list(validation.placement) == [validation.provider]:
        nodes = [f"the same: all {count(validation.placement[validation.provider])}"]
    remarks = [clean(text) for text in (validation.reason, *validation.warnings) if text]
    return (
        clean(validation.target),
        "yes" if validation.reached else "no",
        clean(validation.provider) or NOTHING,
        clean(", ".join(nodes)) or NOTHING,
        clean(validation.precision) or NOTHING,
        clean(validation.runtime_version) or NOTHING,
        "; ".join(remarks) or NOTHING,
    )


def costs(run: Run) -> Table | None:
    """Memory and start-up on each target, original → pruned."""
    columns = (
        Column("Target"),
        Column("Peak memory", "number"),
        Column("Load", "number"),
        Column("First run", "number"),
    )
    rows = (
        (clean(v.target), _pair(v.memory_mb, "MiB"), _pair(v.load_ms, "ms"), _pair(v.first_ms, "ms"))
        for v in run.validations
        if v.memory_mb or v.load_ms or v.first_ms
    )
    return table_of("Memory and start-up, original → pruned", columns, rows)


def _pair(pair: tuple[float, float] | None, unit: str) -> str:
    return NOTHING if pair is None else f"{number(pair[0])} → {number(pair[1])} {unit}"


def artifacts(run: Run) -> Table | None:
    """The files of the run."""
    columns = (
        Column("File"),
        Column("Path", "code"),
        Column("Size", "number"),
        Column("Opset", "number"),
        Column("SHA-256", "code"),
    )
    rows = (
        (clean(name), clean(a.path), f"{count(a.size_bytes)} B", str(a.opset), clean(a.sha256))
        for name, a in run.artifacts.items()
    )
    return table_of("Files, relative to the run folder", columns, rows)


def settings(run: Run) -> Table | None:
    """Every resolved setting and where its value came from."""
    columns = (Column("Setting", "code"), Column("Value"), Column("Origin"))
    rows = ((clean(s.name), wording.setting(s.value), clean(s.origin)) for s in run.settings)
    return table_of("Settings", columns, rows)


def environment(run: Run) -> Table | None:
    """Where the run was made."""
    found = run.environment
    flags = clean(" ".join(found.flags), 400)
    rows = (
        ("edgeprune", found.edgeprune),
        ("Python", found.python),
        ("torch", found.torch),
        ("onnx", found.onnx),
        ("onnxruntime", found.onnxruntime),
        ("onnxsim", found.onnxsim),
        ("Platform", found.platform),
        ("CPU", f"{found.cpu}, {count(found.cores)} cores"),
        ("CPU flags", flags),
        ("Seed", str(found.seed)),
        *((f"Time: {name}", wording.seconds(taken)) for name, taken in run.seconds.items()),
    )
    columns = (Column("What"), Column("Value"))
    return table_of(
        "Environment", columns, ((clean(name), clean(value, 400) or NOTHING) for name, value in rows)
    )
