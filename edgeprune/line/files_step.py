"""Export, simplify, and convert to float16 where that was asked for, as a step of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from edgeprune.config import Settings
from edgeprune.errors import TargetUnavailable, UnsupportedModel
from edgeprune.half import halved, with_weights_of
from edgeprune.inputs.preparation import Line
from edgeprune.inputs.samples import Array
from edgeprune.progress import Progress
from edgeprune.records.folder import RunFolder, key_of
from edgeprune.records.run import to_json
from edgeprune.stages import export as exporting
from edgeprune.stages.parity import Parity, checked, compare, file_outputs, torch_outputs
from edgeprune.stages.simplify import simplify

HALF_TOLERANCE = 0.1
"""Share of the largest output by which a float16 file may differ; beyond it float16 does not hold the net."""


@dataclass(frozen=True, slots=True, eq=False)
class Half:
    """What float16 did to a file, on all held-out samples.

    Attributes:
        whole: outputs of the float32 file.
        stored: of the same with the float16 file's weights, computed in float32.
        scalars: constants within operations that were rounded too.
    """

    whole: tuple[Array, ...]
    stored: tuple[Array, ...]
    scalars: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """How far the exported and the simplified file are from the torch net; what float16 did to the latter."""

    export: Parity
    simplify: Parity
    half: Half | None = None


def export_step(line: Line, module: nn.Module, name: str, folder: RunFolder, progress: Progress) -> Exported:
    """Export, simplify, and hold both files against the torch net in float64.

    With `fp16` the pruned file is then converted, and its float32 form stays among the logs.

    Raises:
        UnsupportedModel: the exporter cannot express the model, or float16 cannot hold it.
        BrokenPromise: a file computes something else.
    """
    settings, final = line.settings, folder.path / f"{name}.onnx"
    work, half = folder.log("export"), settings.fp16 and name == "pruned"
    plain, single = work / f"{name}.exported.onnx", work / f"{name}.float32.onnx" if half else final
    samples = tuple(x[:64] for x in line.holdout)
    expected = torch_outputs(module, samples, line.batch)
    done = folder.run.artifacts.get(name)
    if not (folder.finished(f"export-{name}") and done is not None and final.is_file()):
        with folder.stage(f"export-{name}"):
            for _ in progress(range(1), f"exporting the {name} model", 1):
                exporting.export(
                    module, line.inputs, plain, dynamic_batch=settings.dynamic_batch, opset=settings.opset
                )
            warning = _simplify(settings, plain, single, samples, work, name, progress)
            if half:
                halved(single, final)
            exporting.stamp(final, _provenance(line, folder))
            folder.update(
                artifacts={**folder.run.artifacts, name: exporting.describe(final, folder.path)},
                warnings=(*folder.run.warnings, *([f"{name}: {warning}"] if warning else [])),
            )
    for _ in progress(range(1), f"checking the {name} model", 1):
        exported = checked(plain, expected, samples, work / f"{name}-exported", "exported")
        simpler = checked(single, expected, samples, work / f"{name}-final", "final")
        converted = _half(line, single, final, expected, samples, work) if half else None
    return Exported(exported, simpler, converted)


def _half(
    line: Line,
    single: Path,
    final: Path,
    expected: tuple[Array, ...],
    samples: tuple[Array, ...],
    work: Path,
) -> Half:
    """Run the float16 file, and what its weights alone change.

    Raises:
        UnsupportedModel: its outputs are not finite, or far from the float32 file's.
    """
    try:
        found = file_outputs(final, samples, work / "float16")
    except TargetUnavailable as error:
        raise UnsupportedModel(
            f"--fp16: float16 does not hold this net: {error} Leave --fp16 out."
        ) from error
    worst = max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(expected, found, strict=True))
    scale = max(float(np.abs(a).max(initial=0.0)) for a in expected)
    if not worst <= HALF_TOLERANCE * max(scale, 1e-12):
        raise UnsupportedModel(
            f"--fp16: float16 does not hold this net: its outputs are off by {worst:.3g} on a scale of "
            f"{scale:.3g}; leave --fp16 out."
        )
    rounded = work / "pruned.float16-weights.onnx"
    converted = with_weights_of(single, final, rounded)
    whole, stored = (file_outputs(path, line.holdout, work / path.stem) for path in (single, rounded))
    return Half(whole, stored, converted.scalars)


def _simplify(
    settings: Settings,
    plain: Path,
    final: Path,
    samples: tuple[Array, ...],
    work: Path,
    name: str,
    progress: Progress,
) -> str:
    """Simplify into `final`; a result that computes something else is thrown away, and said."""
    if not settings.simplify:
        simplify(plain, final, 0.0, unchanged="it was not asked for")
        return ""
    for _ in progress(range(1), f"simplifying the {name} model", 1):
        result = simplify(plain, final, settings.simplify_limit_s)
    if result.warning:
        return result.warning
    parity = compare(
        file_outputs(plain, samples, work / f"{name}-before"),
        file_outputs(final, samples, work / f"{name}-after"),
    )
    if parity.holds:
        return ""
    simplify(plain, final, 0.0, unchanged="its result was wrong")
    return (
        f"onnxsim changed the outputs by {parity.difference:.3g} on a scale of {parity.scale:.3g}; "
        "its result was thrown away and the exported file is used."
    )


def _provenance(line: Line, folder: RunFolder) -> dict[str, str]:
    about = folder.run.environment
    return {
        "version": about.edgeprune,
        "source_weights_sha256": line.loaded.weights_sha256,
        "plan_sha256": key_of(to_json(folder.run.plan)),
        "calibration_sha256": line.calibration_sha256,
    }


__all__ = ["Exported", "Half", "export_step"]
