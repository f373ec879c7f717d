"""The bench of a search: one model opened with its samples, and every stage that a trial goes through."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save
from torch import nn

from edgeprune.certificates.deterministic import Proof
from edgeprune.certificates.distribution import Odds, Samples, inside_of
from edgeprune.config import Resolved, Settings
from edgeprune.errors import CalibrationError, UnsupportedModel
from edgeprune.files import write_bytes
from edgeprune.graph.groups import Coupling
from edgeprune.inputs.models import Loaded, load_model
from edgeprune.inputs.preparation import Line, empty_run, prepare
from edgeprune.inputs.samples import Array
from edgeprune.line.files_step import export_step
from edgeprune.line.planning import coupled, planned
from edgeprune.line.steps import as_traced, read_weights
from edgeprune.observation.knowledge import know
from edgeprune.plan import Cuts, Shrunk
from edgeprune.progress import Progress, silent
from edgeprune.records import environment
from edgeprune.records.folder import RunFolder, key_of
from edgeprune.records.run import to_json
from edgeprune.stages.certify import Search, certify
from edgeprune.stages.distribute import Curve, curves
from edgeprune.stages.parity import torch_outputs
from edgeprune.stages.shrink import restore, shrink
from edgeprune.stages.validate import measure_drift


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """A traced model with its samples.

    Attributes:
        reference: the original's outputs on the held-out samples, float64.
    """

    line: Line
    coupling: Coupling
    reference: tuple[Array, ...]

    @staticmethod
    def of(settings: Settings, loaded: Loaded | None = None, progress: Progress = silent) -> Bench:
        """Load, trace and couple.

        Raises:
            EdgepruneError: the model or its samples cannot be used.
        """
        found = loaded or load_model(settings.model, settings.weights, trust_pickle=settings.trust_pickle)
        line = prepare(found, settings)
        coupling = coupled(line, progress)
        if not coupling.groups:
            raise UnsupportedModel(
                f"{found.name}: has no group of channels that could be narrowed, so there is nothing to "
                "search; "
                "`edgeprune inspect` says why."
            )
        reference = torch_outputs(found.module, line.holdout, coupling.graph.batch or 64)
        return Bench(line, coupling, reference)

    def digest(self) -> str:
        """Of everything that decides what a trial gives, beside the trial itself."""
        settings = dataclasses.replace(
            self.line.settings, emphasis=(), price_mix=None, keep=None, params=None, macs=None, finetune=0
        )
        holdout = [hashlib.sha256(x.tobytes()).hexdigest() for x in self.line.holdout]
        return key_of(
            {
                "weights": self.line.loaded.weights_sha256,
                "factory": self.line.loaded.factory,
                "settings": {**to_json(settings), "weights": None},
                "calibration": self.line.calibration_sha256,
                "holdout": holdout,
                "versions": to_json(environment.describe(settings.seed)),
            }
        )

    def curves(self, progress: Progress = silent) -> dict[str, Curve]:
        """The error curve of every group, in the otherwise whole net; none where inputs are unknown."""
        line = self.line
        try:
            knowledge = know(
                self.coupling, line.settings.moments, line.fit, line.settings.seed, bounds=line.bounds,
                progress=progress,
            )  # fmt: skip
            return curves(self.coupling, knowledge, line.settings.seed, progress)
        except CalibrationError:
            return {}

    def shrunk(self, method: str, direction: str, widths: Mapping[str, int]) -> Shrunk:
        """Choose the units of these widths, and shrink."""
        settings = dataclasses.replace(self.line.settings, method=method, direction=direction)
        line = dataclasses.replace(self.line, settings=settings)
        plan = planned(line, self.coupling, widths, silent)
        inputs = as_traced(self.coupling, line.inputs)
        return shrink(line.loaded.module, self.coupling, plan, inputs, settings.exclude)

    def restored(self, plan: Path, weights: Path) -> Shrunk:
        """What an earlier `shrunk` gave, out of its files."""
        return restore(self.line.loaded.module, self.coupling, Cuts.load(plan), read_weights(weights))

    def saved(self, shrunk: Shrunk, folder: Path) -> tuple[Path, Path]:
        """Plan and weights as files."""
        plan, weights = folder / "plan.json", folder / "weights.safetensors"
        shrunk.cuts.save(plan)
        state = {k: v.detach().contiguous().clone() for k, v in shrunk.module.state_dict().items()}
        write_bytes(weights, save(state, metadata={"format": "pt"}))
        return plan, weights

    def drift(self, module: nn.Module) -> dict[str, float]:
        """How far a pruned net is from the original on the held-out samples, both in float64.

        `seen_in_domain` is the largest error on samples inside the domain: no bound over it can be smaller.
        """
        line = self.line
        outputs = torch_outputs(module, line.holdout, self.coupling.graph.batch or 64)
        drift = measure_drift(self.reference, outputs, line.labels)
        found = {"observed_error": drift.linf_max}
        if drift.top1_agreement is not None:
            found |= {"top1_agreement": drift.top1_agreement, "disagreement": 1 - drift.top1_agreement}
        if drift.accuracy is not None:
            found["accuracy"] = drift.accuracy[1]
        if line.domains is not None:
            samples = Samples(line.holdout, self.reference, outputs, {}, line.distribution)
            inside = inside_of(samples, line.domains)
            if inside.any():
                part = tuple(y[inside] for y in self.reference), tuple(y[inside] for y in outputs)
                found["seen_in_domain"] = measure_drift(*part).linf_max
        return found

    def certified(self, shrunk: Shrunk) -> tuple[dict[str, float], str]:
        """A bound on the error over the whole domain; and how it was broken, '' if it was not."""
        line, settings = self.line, self.line.settings
        pruned = torch_outputs(shrunk.module, line.holdout, self.coupling.graph.batch or 64)
        certified = certify(
            line.loaded.module,
            self.coupling,
            shrunk,
            line.domains,
            Samples(line.holdout, self.reference, pruned, {}, line.distribution),
            Odds(settings.confidence, settings.quantile),
            Search(settings.attack_steps, settings.attack_restarts, settings.seed),
            silent,
            Proof(settings.bound, settings.budget_s, jobs=settings.jobs, local=line.local),
        )
        best = certified.best
        found = {} if best is None or best.bound is None else {"certified_error": best.bound}
        if certified.violation is None:
            return found, ""
        broken = certified.violation
        return found, (
            f"search: {broken.certificate} promises at most {broken.bound:.6g}, and an error of "
            f"{broken.measured:.6g} was measured. This is a bug in edgeprune: please report it."
        )

    def exported(self, module: nn.Module, name: str, work: Path) -> Path:
        """A net as a simplified ONNX file, held against the torch net."""
        resolved = Resolved(self.line.settings, {})
        about = environment.describe(self.line.settings.seed)
        folder = RunFolder(work, empty_run(self.line, resolved, about))
        export_step(self.line, module, name, folder, silent)
        return work / f"{name}.onnx"

    def samples(self) -> bytes:
        """The held-out samples with the original's outputs and labels, as an .npz file."""
        arrays = {f"input{k:03d}": x for k, x in enumerate(self.line.holdout)}
        arrays |= {f"output{k:03d}": y for k, y in enumerate(self.reference)}
        if self.line.labels is not None:
            arrays["labels"] = self.line.labels
        stream = io.BytesIO()
        np.savez(stream, **arrays)  # type: ignore[arg-type]
        return stream.getvalue()
