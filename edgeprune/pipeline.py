"""The straight line: from a torch model to a run folder with a verdict, one stage a line.

Only this file knows the order of the stages.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from edgeprune.config import Resolved
from edgeprune.errors import ModelError
from edgeprune.files import write_bytes
from edgeprune.graph.groups import Coupling
from edgeprune.inputs.measures import keep_reference, measure
from edgeprune.inputs.models import Loaded
from edgeprune.inputs.preparation import Line, digest_of, empty_run, prepare
from edgeprune.line.chain import chain
from edgeprune.line.files_step import export_step
from edgeprune.line.masked import masked_step
from edgeprune.line.masked import measured as measured_again
from edgeprune.line.planning import coupled
from edgeprune.line.steps import certify_step, roundoff_step, shrink_step, validate_step
from edgeprune.progress import Progress, silent
from edgeprune.records import environment
from edgeprune.records.folder import RunFolder, claim
from edgeprune.records.provenance import write_digests
from edgeprune.records.run import Run
from edgeprune.report.html import render
from edgeprune.stages.gate import gate
from edgeprune.stages.parity import torch_outputs
from edgeprune.verdict.limits import Regressions


def run(
    loaded: Loaded,
    resolved: Resolved,
    output: Path,
    *,
    overwrite: bool = False,
    until: str = "",
    progress: Progress = silent,
) -> Run:
    """Walk the whole line and leave a run folder behind.

    Args:
        output: the run folder; made if missing, resumed if it holds an unfinished run of the
            same model, settings and versions.
        overwrite: start anew even where a run lies.
        until: `shrink` stops behind that stage; the same call without it goes on from there.

    Raises:
        EdgepruneError: see `edgeprune.errors`; what was finished stays for the next try.
    """
    line, about = prepare(loaded, resolved.settings), environment.describe(resolved.settings.seed)
    coupling = coupled(line, progress)
    key = digest_of(line, resolved, about)
    with claim(output, empty_run(line, resolved, about), key, overwrite=overwrite) as folder:
        return _walk(line, coupling, folder, until, progress)


def again(
    loaded: Loaded, resolved: Resolved, output: Path, stages: tuple[str, ...], progress: Progress = silent
) -> Run:
    """Do some stages of a finished run again, under other settings.

    Raises:
        ModelError: the model's weights are not those the run was made with.
        EdgepruneError: see `run`.
    """
    before = {item.name: item.value for item in Run.load(output).settings}
    line = prepare(loaded, resolved.settings, noise=_as_given(before.get("domain")))
    about = environment.describe(resolved.settings.seed)
    coupling = coupled(line, progress)
    with claim(output, empty_run(line, resolved, about), None) as folder:
        if folder.run.model.weights_sha256 != loaded.weights_sha256:
            raise ModelError(
                f"{output}: was made from other weights ({folder.run.model.weights_sha256[:12]}…) "
                f"than the model has now ({loaded.weights_sha256[:12]}…); give the same --weights, or make "
                "the run again."
            )
        folder.forget(stages)
        return _walk(line, coupling, folder, "", progress)


def _as_given(domain: object) -> str | tuple[float, ...] | None:
    return tuple(domain) if isinstance(domain, list | tuple) else None if domain is None else str(domain)


def _walk(line: Line, coupling: Coupling, folder: RunFolder, until: str, progress: Progress) -> Run:
    """The line itself, behind tracing and coupling."""
    model, settings = line.loaded.module, line.settings
    shrunk = shrink_step(line, coupling, folder, progress)
    if until == "shrink":
        return folder.run
    export_step(line, model, "original", folder, progress)
    parity = export_step(line, shrunk.module, "pruned", folder, progress)
    masked_step(line, shrunk, folder, progress)
    shrunk = measured_again(line, shrunk, coupling.graph.batch or 64)
    reference, pruned = (
        torch_outputs(net, line.holdout, coupling.graph.batch or 64)
        for net in progress((model, shrunk.module), "running held-out samples in torch", 2)
    )
    measured = [validate_step(line, target, reference, folder, progress) for target in line.targets]
    certified = certify_step(line, coupling, shrunk, reference, pruned, measured, folder, progress)
    assumed = roundoff_step(line, coupling, shrunk, measured, folder, progress)
    folder.update(
        terms=chain(line, shrunk, reference, pruned, parity, certified, assumed, measured, folder.path)
    )
    limits = {target.name: settings.limits.over(target.limits) for target in line.targets}
    keep_reference(folder.path, reference, line.labels)
    measures = measure(settings.limits.metrics, folder.path, list(limits))
    asked = dataclasses.replace(settings.limits, regression=Regressions())  # a baseline is the gate's matter
    folder.update(verdict=gate(folder.run, asked, limits, measures=measures))
    for _ in progress(range(1), "writing the report", 1):
        write_bytes(folder.path / "report.html", render(folder.run).encode("utf-8"))
        write_digests(folder.path)
    return folder.run
