"""`bisect`, put together: the plan of a run taken apart group by group, its file node by node."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.config import Resolved
from edgeprune.errors import UnsupportedModel, UsageError
from edgeprune.files import atomic, write_text
from edgeprune.graph.groups import copied
from edgeprune.inputs.models import Loaded
from edgeprune.inputs.preparation import Line, prepare
from edgeprune.inputs.samples import Array
from edgeprune.line.learning import trained_again
from edgeprune.line.planning import coupled, planned
from edgeprune.line.steps import as_traced, read_weights
from edgeprune.plan import Cuts
from edgeprune.profiles import Target
from edgeprune.progress import Progress, silent
from edgeprune.records.run import Run, to_json
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.jobs import read_outputs, write_job
from edgeprune.stages.bisect import (
    Crossing,
    Parting,
    first_group,
    first_parting,
    with_intermediate_outputs,
    without_weights,
)
from edgeprune.stages.parity import compare, torch_outputs
from edgeprune.stages.shrink import restore, shrink

SAMPLES = 256


@dataclass(frozen=True, slots=True)
class Bisected:
    """What was found; `parting` is by target, a text where it could not be looked for."""

    limit: float
    crossing: Crossing
    parting: dict[str, Parting | str]


def bisect(
    loaded: Loaded,
    resolved: Resolved,
    folder: Path,
    limit: float,
    *,
    tolerance: float = 1e-3,
    every: bool = False,
    training: bool = True,
    output: Path | None = None,
    weights: bool = True,
    progress: Progress = silent,
) -> Bisected:
    """Find the group and the node that an error comes from.

    Args:
        limit: largest output difference that is allowed, over the held-out samples.
        tolerance: of a node, relative to its largest value.
        every: try every number of groups instead of halving.
        training: where the run trained after pruning, train each of the partly pruned nets alike; the
            whole plan is then judged with the weights that the run saved.
        output: a folder for a reproduction: the file, an input, what was found.
        weights: whether the reproduction holds the real weights.

    Raises:
        UsageError: the run has no plan, or is of other weights.
    """
    record = Run.load(folder)
    if record.model.weights_sha256 != loaded.weights_sha256:
        raise UsageError(f"{folder}: was made from other weights than the model has now; give the same.")
    line = prepare(loaded, resolved.settings)
    saved = read_weights(folder / "pruned.safetensors") if training else None
    crossing = _groups(line, Cuts.load(folder / "plan.json"), saved, limit, every, progress)
    parting = _nodes(line, folder, record, tolerance, progress)
    found = Bisected(limit, crossing, parting)
    if output is not None:
        _reproduction(found, line, folder, output, weights)
    return found


def _groups(
    line: Line,
    cuts: Cuts,
    saved: dict[str, Tensor] | None,
    limit: float,
    every: bool,
    progress: Progress,
) -> Crossing:
    """The group that carries the error across the limit.

    Args:
        saved: the run's own weights, with which its whole plan is judged; None to leave out what was
            trained after pruning.
    """
    coupling = coupled(line, progress)
    sizes = {group.name: group.size for group in coupling.groups}
    unknown = [name for name in cuts.keep if name not in sizes]
    if unknown:
        raise UsageError(
            f"the plan speaks of {unknown[0]}, which the model does not have; give the same code."
        )
    names = [name for name in sizes if name in cuts.keep and len(cuts.keep[name]) < sizes[name]]
    samples = tuple(x[:SAMPLES] for x in line.holdout)
    batch = coupling.graph.batch or 64
    reference = torch_outputs(line.loaded.module, samples, batch)

    def pruned(count: int) -> nn.Module:
        if saved is not None and count == len(names):
            return restore(line.loaded.module, coupling, cuts, saved).module
        widths = {**sizes, **{name: len(cuts.keep[name]) for name in names[:count]}}
        plan = planned(line, coupling, widths, progress)
        inputs = as_traced(coupling, line.inputs)
        shrunk = shrink(line.loaded.module, coupling, plan, inputs, line.settings.exclude)
        if saved is not None:
            trained_again(line, coupling, shrunk, progress)
        return shrunk.module

    def error_of(count: int) -> float:
        return compare(reference, torch_outputs(pruned(count), samples, batch)).difference

    return first_group(names, error_of, limit, every=every)


# ------------------------------------------------------------------------------------ the nodes


def _nodes(
    line: Line, folder: Path, record: Run, tolerance: float, progress: Progress
) -> dict[str, Parting | str]:
    model = folder / record.artifacts["pruned"].path if "pruned" in record.artifacts else None
    if model is None or not model.is_file():
        return {target.name: "the run has no pruned ONNX file" for target in line.targets}
    coupling = coupled(line, progress)
    weights = read_weights(folder / "pruned.safetensors")
    module = restore(line.loaded.module, coupling, Cuts.load(folder / "plan.json"), weights).module
    samples = tuple(x[: line.batch] for x in line.holdout)
    expected = _torch_values(module, samples)
    found: dict[str, Parting | str] = {}
    for target in progress(line.targets, "comparing node by node", len(line.targets)):
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
            try:
                found[target.name] = _on(target, model, samples, expected, tolerance, Path(work))
            except (UsageError, UnsupportedModel) as error:
                found[target.name] = str(error)
            except Exception as error:
                found[target.name] = f"{type(error).__name__}: {error}"
    return found


def _torch_values(module: nn.Module, samples: Sequence[Array]) -> dict[str, Array]:
    """Every intermediate value of a module in float64, by the name that the exporter gives it."""
    double = copied(module).double().eval()
    inputs = [torch.from_numpy(x) for x in samples]
    cast = [x.double() if x.is_floating_point() else x for x in inputs]
    with torch.no_grad():
        program = torch.export.export(double, tuple(cast))
        interpreter = _Keeping(program.module())
        interpreter.run(*cast)
    return interpreter.values


class _Keeping(torch.fx.Interpreter):
    """Runs a graph and keeps what each node gives."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, Array] = {}

    def run_node(self, n: torch.fx.Node) -> object:
        """One node, its value kept where it is a tensor of numbers."""
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point():
            self.values[n.name] = value.detach().numpy().copy()
        return value


def _on(
    target: Target,
    model: Path,
    samples: Sequence[Array],
    expected: dict[str, Array],
    tolerance: float,
    work: Path,
) -> Parting:
    batch = len(samples[0]) if samples[0].ndim else 1
    wanted = [name for name, value in expected.items() if value.ndim and value.shape[0] == batch]
    opened = work / "opened.onnx"
    made = with_intermediate_outputs(model, wanted, opened)
    if not made:
        raise UsageError("no value of the file has a name that torch has, too")
    job = write_job(work / "job", target, "outputs", {"model": opened}, tuple(samples))
    answer = RUNTIMES[target.transport].run(job.folder, target, target.measure.limit_s)
    found = read_outputs(job, answer, target).outputs
    return first_parting(model, made, found, expected, tolerance)


# ----------------------------------------------------------------------------- a reproduction


def _reproduction(found: Bisected, line: Line, folder: Path, output: Path, weights: bool) -> None:
    """Write what someone else needs to see the same."""
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"-o {output}: is not empty; name a new folder.")
    output.mkdir(parents=True, exist_ok=True)
    for name in ("original.onnx", "pruned.onnx"):
        source = folder / name
        if source.is_file():
            with atomic(output / name) as temporary:
                if weights:
                    temporary.write_bytes(source.read_bytes())
                else:
                    without_weights(source, temporary, line.settings.seed)
    random = np.random.default_rng(line.settings.seed)
    inputs = [
        x[: line.batch]
        if weights
        else (random.standard_normal if x.dtype.kind == "f" else np.zeros)(x[: line.batch].shape).astype(
            x.dtype
        )
        for x in line.holdout
    ]
    with atomic(output / "input.npz") as temporary, temporary.open("wb") as stream:
        np.savez(stream, *inputs)
    write_text(output / "plan.json", (folder / "plan.json").read_text(encoding="utf-8"))
    about = {"limit": found.limit, "crossing": to_json(_finite(found.crossing)), "weights": weights}
    nodes = {k: v if isinstance(v, str) else to_json(_finite_parting(v)) for k, v in found.parting.items()}
    write_text(output / "found.json", json.dumps({**about, "nodes": nodes}, indent=1) + "\n")
    write_text(output / "reproduce.py", _SCRIPT)


def _finite(crossing: Crossing) -> Crossing:
    tried = {k: v for k, v in crossing.tried.items() if np.isfinite(v)}
    return Crossing(crossing.group, crossing.before, crossing.after, tried)


def _finite_parting(parting: Parting) -> Parting:
    difference = parting.difference if np.isfinite(parting.difference) else -1.0
    return Parting(
        parting.node, parting.operation, parting.output, difference, parting.scale, parting.compared
    )


_SCRIPT = '''"""Runs both files on the kept input and prints how far apart they are."""

import numpy as np
import onnxruntime

inputs = np.load("input.npz")
outputs = []
for name in ("original.onnx", "pruned.onnx"):
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    given = {item.name: inputs[key] for item, key in zip(session.get_inputs(), sorted(inputs.files))}
    outputs.append(session.run(None, given))
for k, (a, b) in enumerate(zip(*outputs)):
    print(f"output {k}: differs by at most {np.abs(a - b).max():.6g} on a scale of {np.abs(a).max():.6g}")
'''
