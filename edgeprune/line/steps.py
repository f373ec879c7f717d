"""The stages as steps of a run folder: done, or read back where a resumed run had done them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edgeprune.certificates.deterministic import Proof
from edgeprune.certificates.distribution import Odds, Samples
from edgeprune.config import Settings
from edgeprune.errors import UsageError
from edgeprune.files import write_bytes
from edgeprune.graph.groups import Coupling
from edgeprune.inputs import splits
from edgeprune.inputs.preparation import Line
from edgeprune.inputs.samples import Array
from edgeprune.line.by_operation import by_operation
from edgeprune.line.choice import chosen
from edgeprune.line.learning import learn
from edgeprune.line.planning import Allotment, allotted, planned
from edgeprune.plan import Cuts, Shrunk
from edgeprune.profiles import Target
from edgeprune.progress import Progress
from edgeprune.records.counterexample import abort
from edgeprune.records.folder import RunFolder
from edgeprune.records.run import Certificate, GroupRecord, PlanRecord, Run, Training
from edgeprune.runtimes.timing import EQUAL, raw_times
from edgeprune.stages.certify import Certified, Search, certify
from edgeprune.stages.roundoff import STORED, Roundoff, roundoff
from edgeprune.stages.shrink import restore, shrink
from edgeprune.stages.validate import Measured, validate
from edgeprune.verdict.advice import advice
from edgeprune.widths.budget import Cost, cost

DRAWN = Path("logs") / "drawn.safetensors"
"""Weights at original sizes, where units were drawn: what the coreset theorem's promise is attacked with."""


def shrink_step(line: Line, coupling: Coupling, folder: RunFolder, progress: Progress) -> Shrunk:
    """Allocate, choose and shrink, or read back what the resumed run had shrunk."""
    settings, path = line.settings, folder.path
    if folder.finished("shrink"):
        weights = read_weights(path / "pruned.safetensors")
        back = restore(line.loaded.module, coupling, Cuts.load(path / "plan.json"), weights)
        return replace(back, full=read_weights(path / DRAWN)) if (path / DRAWN).is_file() else back
    with folder.stage("shrink"):
        if settings.ratios:
            found = chosen(
                line,
                coupling.graph.batch or 64,
                lambda asked: _made(replace(line, settings=asked), coupling, folder, progress).shrunk,
                progress,
            )
            line = replace(line, settings=found.settings)
            folder.update(choice=found.choice)
        made = _made(line, coupling, folder, progress)
        shrunk = made.shrunk
        shrunk.cuts.save(path / "plan.json")
        _save_weights(shrunk.module, path / "pruned.safetensors")
        used = {"fit": [x.numpy() for x in line.fit]} if line.fit is not None else {}
        fresh = bool(settings.ratios) and settings.selection == "fresh-split"
        splits.keep(path, {**used, **({"select": list(line.select)} if fresh else {})})
        if shrunk.cuts.sampling:
            write_bytes(
                path / DRAWN, save({n: w.detach().contiguous().clone() for n, w in shrunk.full.items()})
            )
        keep = {name: np.array(index) for name, index in shrunk.cuts.keep.items()}
        before, after = cost(coupling, {}), cost(coupling, keep)
        folder.update(
            plan=replace(
                _plan_record(coupling, shrunk, settings.method, before, after),
                allocation=made.allotment.record,
            ),
            trainings=made.trainings,
            warnings=(*folder.run.warnings, *_lessons(made.trainings), *made.allotment.warnings),
        )
    return shrunk


@dataclass(frozen=True, slots=True)
class _Made:
    """What the settings gave, and on what way."""

    shrunk: Shrunk
    trainings: tuple[Training, ...]
    allotment: Allotment


def _made(line: Line, coupling: Coupling, folder: RunFolder, progress: Progress) -> _Made:
    """Allocated, chosen, shrunk and trained as the settings say."""
    allotment = allotted(line, coupling, progress)
    plan = planned(line, coupling, allotment.widths, progress)
    traced = as_traced(coupling, line.inputs)
    for _ in progress(range(1), "shrinking, and comparing with the masked net", 1):
        shrunk = shrink(line.loaded.module, coupling, plan, traced, line.settings.exclude)
    return _Made(*learn(line, coupling, shrunk, folder, progress), allotment.informed(coupling, plan))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The pruned weights of a run.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); make the run again.") from error


def _lessons(trained: Sequence[Training]) -> tuple[str, ...]:
    """What the control says where it is not behind."""
    return tuple(
        f"{one.name}: a net of the same widths trained alike from random weights errs {one.control:.4f} on "
        f"{one.fresh} fresh inputs, the pruned one "
        f"{one.after:.4f}: the chosen units gave nothing here."
        for one in trained
        if one.control <= one.after
    )


def as_traced(coupling: Coupling, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Example inputs widened to the batch that the graph was traced with, seeded noise added."""
    width = coupling.graph.traced_batch
    if coupling.graph.batch is not None or not inputs[0].dim() or inputs[0].shape[0] != 1:
        return inputs
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.cat([x, *[_varied(x, generator)] * (width - 1)]) if x.dim() and x.shape[0] == 1 else x
        for x in inputs
    )


def _varied(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + torch.randn(x.shape, generator=generator).to(x.dtype) if x.is_floating_point() else x


def _save_weights(module: nn.Module, path: Path) -> None:
    state = {name: value.detach().contiguous().clone() for name, value in module.state_dict().items()}
    write_bytes(path, save(state, metadata={"format": "pt"}))


def _plan_record(coupling: Coupling, shrunk: Shrunk, method: str, before: Cost, after: Cost) -> PlanRecord:
    groups = []
    for group in coupling.groups:
        keep = shrunk.cuts.keep.get(group.name)
        kept = tuple(range(group.size)) if keep is None else keep
        places = tuple(f"{p.weight}[{p.axis}]" for p in group.places)
        error = shrunk.cuts.errors.get(group.name)
        near = group.approximate
        groups.append(GroupRecord(group.name, places, group.size, len(kept), error, None, kept, near))
    for pinned in coupling.pinned:
        places = tuple(f"{weight}[{axis}]" for weight, axis in pinned.places)
        groups.append(
            GroupRecord(pinned.name, places, pinned.size, pinned.size, reason_if_pinned=pinned.reason)
        )
    return PlanRecord(
        method,
        tuple(groups),
        (before.params, after.params),
        (before.macs, after.macs),
        shrunk.kind,
        shrunk.reason,
    )


def validate_step(
    line: Line, target: Target, reference: tuple[Array, ...], folder: RunFolder, progress: Progress
) -> Measured:
    """Measure on a target, or read back what was measured there."""
    stage, kept = f"validate-{target.name}", folder.log("outputs") / f"{target.name}.npz"
    if folder.finished(stage) and kept.is_file():
        found = next(v for v in folder.run.validations if v.target == target.name)
        with np.load(kept) as outputs:
            return Measured(found, tuple(outputs[k] for k in sorted(outputs.files)))
    original, pruned = (folder.path / folder.run.artifacts[name].path for name in ("original", "pruned"))
    with folder.stage(stage), tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
        measured = validate(
            original,
            pruned,
            reference,
            line.holdout,
            target,
            labels=line.labels,
            latency=line.settings.latency,
            against=_judged_by(line, target),
            seed=line.settings.seed,
            work=Path(work),
            progress=progress,
        )
        if line.settings.latency and measured.validation.reached:
            for _ in progress(range(1), f"timing each operation on {target.name}", 1):
                operations = by_operation(original, pruned, line.holdout, target, Path(work))
            measured = replace(measured, validation=replace(measured.validation, operations=operations))
        _save_arrays(kept, {f"{k:03d}": array for k, array in enumerate(measured.pruned_outputs)})
        if measured.launches:
            _save_arrays(folder.log("latency") / f"{target.name}.npz", raw_times(measured.launches))
        others = tuple(v for v in folder.run.validations if v.target != target.name)
        folder.update(
            validations=(*others, measured.validation),
            warnings=(*folder.run.warnings, *advice(target, measured.validation, folder.run.plan)),
        )
    return measured


def _judged_by(line: Line, target: Target) -> tuple[float, ...]:
    """The latency ratios that matter: no gain at all, and the gate's limit."""
    limit = line.settings.limits.over(target.limits).latency_ratio
    return EQUAL if limit is None else (*EQUAL, limit)


def _save_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_bytes(path, stream.getvalue())


def certify_step(
    line: Line,
    coupling: Coupling,
    shrunk: Shrunk,
    reference: tuple[Array, ...],
    pruned: tuple[Array, ...],
    measured: Sequence[Measured],
    folder: RunFolder,
    progress: Progress,
) -> Certified:
    """Make the promises; a broken one is kept as a counterexample, and the run is aborted."""
    settings = line.settings
    if not settings.certify:
        return Certified((), None, None)
    splits.refuse_used(folder.path, line.holdout)
    splits.refuse_others(folder.run.splits, line.splits)
    samples = Samples(
        line.holdout,
        reference,
        pruned,
        {m.validation.target: m.pruned_outputs for m in measured if m.pruned_outputs},
        line.distribution,
    )
    with folder.stage("certify"):
        certified = certify(
            line.loaded.module,
            coupling,
            shrunk,
            line.domains,
            samples,
            _odds(settings),
            Search(settings.attack_steps, settings.attack_restarts, settings.seed),
            progress,
            Proof(
                settings.bound,
                settings.budget_s,
                1 if settings.quick else Proof().passes,
                settings.jobs,
                radius=settings.robust,
                balls=settings.balls,
                local=line.local,
            ),
        )
        if certified.violation is not None:
            broken = certified.violation
            why = "This is a bug in edgeprune: please report it with that file, and do not rely on this run."
            name = f"certify: {broken.certificate}"
            abort(folder.path, broken.inputs, name, broken.bound, broken.measured, why)
        folder.update(certificates=(*certified.certificates, *_by_choice(folder.run, line)))
    return certified


def _odds(settings: Settings) -> Odds:
    """Where the same samples chose and certify, every statement holds for all candidates at once."""
    tested = len(settings.ratios) if settings.selection == "learn-then-test" and settings.ratios else 1
    return Odds(1.0 - (1.0 - settings.confidence) / tested, settings.quantile)


def _by_choice(run: Run, line: Line) -> tuple[Certificate, ...]:
    """What learn then test says of the candidate that it chose."""
    choice = run.choice
    if choice is None or choice.method != "learn-then-test":
        return ()
    taken = next(c for c in choice.candidates if c.share == choice.share)
    return (
        Certificate(
            name=f"chosen ratio, quantile {choice.quantile:g}",
            scope="distribution",
            domain=f"inputs drawn like {line.distribution}",
            norm="linf",
            bound=choice.limit if choice.good else None,
            label="statistical",
            confidence=choice.confidence,
            observed=taken.largest,
            n_inputs=choice.n,
            reason="" if choice.good else "not even the mildest candidate is certified",
            source="learn then test (Angelopoulos et al. 2021)",
        ),
    )


def roundoff_step(
    line: Line,
    coupling: Coupling,
    shrunk: Shrunk,
    measured: Sequence[Measured],
    folder: RunFolder,
    progress: Progress,
) -> dict[str, Roundoff]:
    """Bound what the targets' rounding can add, for each precision that was reached."""
    if not line.settings.certify:
        return {}
    precisions: dict[str, list[tuple[str, str]]] = {STORED: []} if line.settings.fp16 else {}
    for one in (m.validation for m in measured if m.pruned_outputs):
        precisions.setdefault(one.precision, []).append((one.provider, one.runtime_version))
    with folder.stage("roundoff"):
        for _ in progress(range(1), "bounding the rounding", 1):
            return roundoff(coupling, shrunk, line.domains, line.holdout, precisions, line.settings.budget_s)
    return {}
