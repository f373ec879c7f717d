"""The run as OpenMetrics text: for GitLab's metrics report, or a node exporter's textfile.

Source: OpenMetrics 1.0 (metric families declared before their samples, label values escaped, `# EOF`
at the end).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeprune.records.run import Run
from edgeprune.report import wording

_FAMILIES: dict[str, str] = {
    "params": "Parameters of the model.",
    "macs": "Multiply-accumulates for one sample.",
    "onnx_bytes": "Size of the ONNX file.",
    "observed_error": "Largest output difference measured, linf.",
    "top1_agreement": "Share of inputs with the same largest output.",
    "accuracy": "Share of labels met.",
    "latency_ratio": "Latency of the pruned model over the original's, measured in pairs.",
    "memory_mebibytes": "Peak resident memory of the process that ran the model.",
    "certified_error": "Bound of a certificate on the output difference.",
    "check_passed": "1 where a limit of the gate holds, else 0.",
    "gate_passed": "1 where every limit of level error holds, else 0.",
}

Sample = tuple[str, dict[str, str], float]


def openmetrics(run: Run) -> str:
    """The figures of a run, one family after another."""
    samples: dict[str, list[Sample]] = {name: [] for name in _FAMILIES}
    for sample in _samples(run):
        samples[sample[0]].append(sample)
    lines: list[str] = []
    for name, words in _FAMILIES.items():
        if samples[name]:
            lines += [f"# TYPE edgeprune_{name} gauge", f"# HELP edgeprune_{name} {words}"]
            unique = {_labels(labels): value for _, labels, value in samples[name]}
            lines += [f"edgeprune_{name}{labels} {value!r}" for labels, value in unique.items()]
    return "\n".join([*lines, "# EOF"]) + "\n"


def _labels(labels: dict[str, str]) -> str:
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return f"{{{inside}}}"


def _escaped(value: str) -> str:
    return wording.clean(value).replace("\\", "\\\\").replace('"', '\\"')


def _samples(run: Run) -> Iterator[Sample]:
    model = {"model": run.model.name or "model"}
    if run.plan is not None:
        for name, pair in (("params", run.plan.params), ("macs", run.plan.macs)):
            yield name, {**model, "which": "original"}, float(pair[0])
            yield name, {**model, "which": "pruned"}, float(pair[1])
    for which, artifact in run.artifacts.items():
        yield "onnx_bytes", {**model, "which": which}, float(artifact.size_bytes)
    yield from _on_targets(run, model)
    for certificate in run.certificates:
        if certificate.bound is not None and certificate.norm == "linf":
            names = {"certificate": certificate.name, "scope": certificate.scope}
            where = {"label": certificate.label, "target": certificate.target or ""}
            about = {"domain": certificate.domain, "layer": certificate.layer or ""}
            yield "certified_error", {**model, **names, **where, **about}, float(certificate.bound)
    if run.verdict is not None:
        for check in run.verdict.checks:
            where = {"target": check.target or "", "level": check.level, "outcome": check.outcome}
            passed = float(check.outcome == "pass")
            yield "check_passed", {**model, "check": check.name, **where}, passed
        if run.verdict.passed is not None:
            yield "gate_passed", model, float(run.verdict.passed)


def _on_targets(run: Run, model: dict[str, str]) -> Iterator[Sample]:
    for validation in run.validations:
        labels = {**model, "target": validation.target}
        drift, latency = validation.drift, validation.latency
        if drift is not None:
            yield "observed_error", labels, float(drift.linf_max)
            if drift.top1_agreement is not None:
                yield "top1_agreement", labels, float(drift.top1_agreement)
            if drift.accuracy is not None:
                yield "accuracy", {**labels, "which": "original"}, float(drift.accuracy[0])
                yield "accuracy", {**labels, "which": "pruned"}, float(drift.accuracy[1])
        if latency is not None:
            for end in ("ratio", "ratio_low", "ratio_high"):
                yield "latency_ratio", {**labels, "figure": end}, float(getattr(latency, end))
        if validation.memory_mb is not None:
            yield "memory_mebibytes", {**labels, "which": "original"}, float(validation.memory_mb[0])
            yield "memory_mebibytes", {**labels, "which": "pruned"}, float(validation.memory_mb[1])
