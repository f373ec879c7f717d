"""What outlives a run: plain records that are written to `run.json` and read back.

Only the standard library is used here, so that the gate and the report start in a blink.
Numbers are finite: a quantity that does not exist is None with a reason beside it.
"""

from __future__ import annotations

import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeprune.errors import UsageError
from edgeprune.files import write_text
from edgeprune.records.allocation import AllocationRecord as AllocationRecord
from edgeprune.records.measurements import Drift, Latency, OperationTime, Validation
from edgeprune.records.serialization import from_json, to_json
from edgeprune.records.versions import remedy, writer

__all__ = [
    "LABELS",
    "SCHEMA_VERSION",
    "Artifact",
    "Candidate",
    "Certificate",
    "Check",
    "Choice",
    "Drift",
    "Environment",
    "GroupRecord",
    "Label",
    "Latency",
    "ModelRecord",
    "OperationTime",
    "Outcome",
    "PlanRecord",
    "Run",
    "SettingRecord",
    "Split",
    "TensorRecord",
    "Term",
    "Validation",
    "Verdict",
    "from_json",
    "to_json",
    "weakest",
]

SCHEMA_VERSION = 1

Label = Literal["proved", "proved-modulo-rounding-model", "statistical", "observed"]
"""How strong a statement is; a sum of terms is only as strong as its weakest."""

LABELS: tuple[Label, ...] = ("proved", "proved-modulo-rounding-model", "statistical", "observed")

Outcome = Literal["pass", "fail", "inconclusive", "unavailable"]


def weakest(labels: typing.Iterable[Label]) -> Label:
    """The label that a statement built from all of these deserves."""
    return max(labels, key=LABELS.index)


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """An input or an output of the model. A dimension of None is symbolic (the batch)."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Which model was compressed."""

    name: str
    factory: str
    weights_sha256: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SettingRecord:
    """A resolved setting and where its value came from: default, file or flag."""

    name: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a run was made."""

    edgeprune: str
    python: str
    torch: str
    onnx: str
    onnxruntime: str
    onnxsim: str
    platform: str
    cpu: str
    cores: int
    flags: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """Units that live or die together, and what became of them.

    Attributes:
        axis_of: the weights that carry the group, as `name[axis]`.
        before: units before.
        after: units after; equal to `before` for a pinned group.
        error: the method's expected relative squared error of what the group's readers
            hear, None where the method states none.
        reason_if_pinned: why the group was left alone.
        keep: indices of the units that stay, ascending.
        approximate: where losing a unit changes what is normalised, so that the shrunk net is not quite the
            masked one; '' where it is.
    """

    name: str
    axis_of: tuple[str, ...]
    before: int
    after: int
    error: float | None = None
    reason_if_pinned: str | None = None
    keep: tuple[int, ...] = ()
    approximate: str = ""


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The widths before and after. Pairs are (before, after)."""

    method: str
    groups: tuple[GroupRecord, ...]
    params: tuple[int, int]
    macs: tuple[int, int]
    shrunk: Literal["module", "graph"] = "module"
    shrunk_reason: str = ""
    allocation: AllocationRecord | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """An ONNX file of the run; `path` is relative to the run folder."""

    path: str
    sha256: str
    size_bytes: int
    opset: int


@dataclass(frozen=True, slots=True)
class Term:
    """One link of the chain from the original torch net to what the device computes.

    Attributes:
        norm: the norm of the output difference (`linf`), or `relative-linf`.
        bound: claimed bound, None if nothing is claimed.
        observed: largest value seen on `n_inputs` inputs.
        attacked: largest value found by search, None if none was made.
    """

    name: Literal["prune", "masking", "export", "simplify", "fp16", "rounding"]
    norm: str
    bound: float | None
    label: Label
    method: str
    assumptions: tuple[str, ...]
    observed: float | None
    attacked: float | None
    n_inputs: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """A statement about the error of the pruned net.

    Attributes:
        scope: layer (one group's readers), local or global (the net's outputs, over a
            domain), distribution (the net's outputs, over the data's distribution).
        domain: the inputs it speaks about, in words.
        norm: of the output difference: `linf` (largest over outputs), `relative-l2`, `rate` (a
            probability), or `cdf` (the widest gap between samples and all inputs in `curve`).
        bound: None when not certifiable; then `reason` says why.
        confidence: 1 − δ for statements that hold with a probability, else None.
        observed: the largest (or the mean, for a mean) error measured on `n_inputs` inputs.
        attacked: the largest error that a search over the domain found.
        tightness: bound ÷ attacked, or bound ÷ observed where nothing was attacked.
        curve: of the whole distribution, for ascending thresholds: (threshold, share of the samples above it,
            bound on the share of all inputs above it); all hold at once.
        target: the target whose outputs were measured, None for torch itself.
    """

    name: str
    scope: Literal["layer", "local", "global", "distribution"]
    domain: str
    norm: str
    bound: float | None
    label: Label
    confidence: float | None = None
    observed: float | None = None
    attacked: float | None = None
    tightness: float | None = None
    n_inputs: int = 0
    layer: str | None = None
    target: str | None = None
    reason: str = ""
    source: str = ""
    curve: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One limit of the gate held against what was measured; one of level `warn` lets the gate pass.

    `name` is a limit's, or `metric:NAME` for the user's own, or `regression:NAME` in per cent.
    """

    name: str
    measured: float | None
    limit: float | None
    outcome: Outcome
    reason: str = ""
    target: str | None = None
    level: Literal["error", "warn"] = "error"


@dataclass(frozen=True, slots=True)
class Training:
    """The training of the shrunk net behind its choice, and what a control of random weights made of it.

    A loss is the mean over fresh inputs of min(1, ‖pruned − original‖₂ ÷ ‖original‖₂); no fresh input was
    trained on or had a say in when to stop.

    Attributes:
        name: `learned` (matched to the original's outputs) or `finetune`.
        loss: what was trained for.
        queries: inputs that were trained on.
        validation: inputs that chose the epoch that stayed.
        fresh: inputs that the losses were measured on.
        before: loss of the shrunk net as it came.
        after: loss of the trained one.
        control: loss of a net of the same widths, trained alike from random weights.
        bound: of the expectation of `after`, with that confidence; None where there are too few fresh inputs.
        control_bound: of the expectation of `control`.
        source: the theorem behind the bounds.
    """

    name: Literal["learned", "finetune"]
    loss: str
    queries: int
    validation: int
    fresh: int
    before: float
    after: float
    control: float
    bound: float | None
    control_bound: float | None
    confidence: float
    source: str


@dataclass(frozen=True, slots=True)
class Split:
    """Samples that were used for one thing; each thing has its own.

    Attributes:
        use: `fit` (to prune and compensate), `select` (to choose how much) or `certify` (also to measure).
        source: where they come from, in words.
        n: how many.
        indices_sha256: of their places in the source, as little-endian int64.
        content_sha256: of the digests of the samples, in order.
    """

    use: str
    source: str
    n: int
    indices_sha256: str
    content_sha256: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A share to keep that was tried: its quantile's bound (None: too few samples), its largest error."""

    share: float
    bound: float | None
    largest: float


@dataclass(frozen=True, slots=True)
class Choice:
    """How much to prune, chosen by samples.

    Attributes:
        method: `fresh-split` or `learn-then-test`.
        limit: of the error that the quantile's share of inputs shall have.
        n: samples it was chosen by.
        candidates: from the mildest on.
        share: the one that was taken.
        good: whether it was good enough; the mildest is taken where none is.
    """

    method: str
    limit: float
    quantile: float
    confidence: float
    n: int
    candidates: tuple[Candidate, ...]
    share: float
    good: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate said. `passed` is None when no limit was set; warnings do not count."""

    passed: bool | None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Everything one run found out. The folder is where it lies, not part of the record."""

    model: ModelRecord
    environment: Environment
    settings: tuple[SettingRecord, ...] = ()
    plan: PlanRecord | None = None
    trainings: tuple[Training, ...] = ()
    splits: tuple[Split, ...] = ()
    choice: Choice | None = None
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    terms: tuple[Term, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    validations: tuple[Validation, ...] = ()
    verdict: Verdict | None = None
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def save(self, folder: Path) -> Path:
        """Write `run.json` into `folder`, atomically.

        Raises:
            StorageError: the folder or the disk cannot take it.
        """
        path = folder / "run.json"
        write_text(path, json.dumps(to_json(self), indent=1, allow_nan=False) + "\n")
        return path

    @staticmethod
    def load(folder: Path) -> Run:
        """Read the record of a run folder (or of a `run.json` itself).

        Raises:
            UsageError: there is no record, or it is damaged or of another schema version.
        """
        path = folder / "run.json" if folder.is_dir() else folder
        if not path.is_file():
            raise UsageError(f"{folder}: there is no run here (no run.json); give the folder of a run.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path}: cannot be read as JSON ({error}); make the run again.") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise UsageError(
                f"{path}: has schema version {version}, this edgeprune reads {SCHEMA_VERSION}; "
                f"{remedy(writer(content))}"
            )
        try:
            return from_json(Run, content)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            wrote = remedy(writer(content))
            raise UsageError(f"{path}: is not the record of a run ({error}); {wrote}") from error
