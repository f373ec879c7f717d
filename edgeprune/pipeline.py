"""The straight line: from a torch model to a run folder with a verdict, one stage a line.

Only this file knows the order of the stages.
"""

from __future__ import annotations

from pathlib import Path

from edgeprune import environment
from edgeprune.config import Resolved
from edgeprune.files import write_bytes
from edgeprune.folder import claim
from edgeprune.models import Loaded
from edgeprune.preparation import digest_of, empty_run, prepare
from edgeprune.progress import Progress, silent
from edgeprune.records import Run
from edgeprune.report.html import render
from edgeprune.stages.couple import couple
from edgeprune.stages.gate import gate
from edgeprune.stages.parity import torch_outputs
from edgeprune.stages.trace import trace
from edgeprune.steps import certify_step, chain, export_step, shrink_step, validate_step


def run(
    loaded: Loaded, resolved: Resolved, output: Path, *, overwrite: bool = False, progress: Progress = silent
) -> Run:
    """Walk the whole line and leave a run folder behind.

    Args:
        output: the run folder; made if missing, resumed if it holds an unfinished run of the
            same model, settings and versions.
        overwrite: start anew even where a run lies.

    Raises:
        EdgepruneError: see `edgeprune.errors`; what was finished stays for the next try.
    """
    line = prepare(loaded, resolved.settings)
    settings, about = line.settings, environment.describe(line.settings.seed)
    with claim(output, empty_run(line, resolved, about), digest_of(line, resolved, about), overwrite=overwrite) as folder:
        graph = trace(loaded.module, line.inputs)
        coupling = couple(graph, settings.exclude)
        shrunk = shrink_step(line, coupling, folder, progress)
        reference = torch_outputs(loaded.module, line.holdout, graph.batch or 64)
        parities = {
            name: export_step(line, module, name, folder, progress)
            for name, module in (("original", loaded.module), ("pruned", shrunk.module))
        }
        measured = [validate_step(line, target, reference, folder, progress) for target in line.targets]
        pruned = torch_outputs(shrunk.module, line.holdout, graph.batch or 64)
        certified = certify_step(line, coupling, shrunk, reference, pruned, measured, folder, progress)
        folder.update(terms=chain(line, shrunk, reference, pruned, parities["pruned"], certified, measured))
        limits = {target.name: settings.limits.over(target.limits) for target in line.targets}
        with folder.stage("gate"):
            folder.update(verdict=gate(folder.run, settings.limits, limits))
        write_bytes(output / "report.html", render(folder.run).encode("utf-8"))
        return folder.run


