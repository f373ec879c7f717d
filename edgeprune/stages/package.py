"""Package: an ONNX file made ready for phones, every file checked against the one it came from.

Written into one folder: NAME.onnx with fixed shapes, NAME.ort (the format that a small build of
onnxruntime reads) with NAME.config (the operators and types it must be built with), and on demand
NAME.fp16.onnx with half the weights' size. Each is run on this machine's CPU and held against the
original; what the conversion to float16 costs is its own error term.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import BrokenPromise, UsageError
from edgeprune.files import atomic, sha256_of, write_text
from edgeprune.half import halved
from edgeprune.runtimes.reference import file_outputs
from edgeprune.verdict.usability import Usability, usability

Array = npt.NDArray[Any]
TOLERANCE = 1e-5
"""Largest difference allowed where nothing but the order of sums may change, relative to the outputs."""
HALF_TOLERANCE = 0.1
"""The same for float16; beyond it the conversion is taken to have broken the model."""
INLINE_BYTES = 1_500_000_000
LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Packed:
    """One file of a package.

    Attributes:
        path: where it lies.
        sha256: of its bytes.
        size_bytes: of it and of weights beside it.
        difference: largest difference of any output to the original's, absolute; None for a file
            that is no model.
        scale: the largest output.
    """

    path: Path
    sha256: str
    size_bytes: int
    difference: float | None = None
    scale: float | None = None


@dataclass(frozen=True, slots=True)
class Package:
    """What was written, and which providers would take it."""

    files: tuple[Packed, ...]
    usability: tuple[Usability, ...]


def package(
    model: Path,
    folder: Path,
    inputs: tuple[Array, ...],
    *,
    batch: int = 1,
    half: bool = False,
    external: bool = False,
) -> Package:
    """Write a package.

    Args:
        model: an ONNX file.
        folder: made if it is not there; files of the same names are replaced.
        inputs: samples to check with, one array per model input.
        batch: what every free size becomes.
        half: also write a float16 file; its inputs and outputs stay float32.
        external: keep the weights of the ONNX file in a second file beside it.

    Raises:
        UsageError: the file is no ONNX model, or the converter refuses it.
        UnsupportedModel: float16 cannot hold it.
        BrokenPromise: a converted file computes something else.
        TargetUnavailable: this machine's CPU does not run one of them.
        StorageError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = model.stem
    fixed = _fixed(model, folder / f"{name}.onnx", batch, external)
    lead = tuple(array[: max(len(array) // batch, 1) * batch] for array in inputs)
    with tempfile.TemporaryDirectory(prefix="edgeprune-") as scratch:
        work = Path(scratch)
        truth = file_outputs(model, lead, work / "original")
        files = [_checked(fixed, truth, lead, work / "fixed", TOLERANCE)]
        made, config = _converted(fixed, folder, work / "ort")
        files += [_checked(made, truth, lead, work / "ort-run", TOLERANCE), _plain(config)]
        if half:
            smaller = folder / f"{name}.fp16.onnx"
            halved(fixed, smaller)
            files.append(_checked(smaller, truth, lead, work / "half", HALF_TOLERANCE))
    return Package(tuple(files), usability(fixed))


def _fixed(model: Path, path: Path, batch: int, external: bool) -> Path:
    """The model with every free size of its inputs set to `batch`, and all other shapes inferred."""
    import onnx

    if model.resolve() == path.resolve():
        raise UsageError(
            f"{path}: the package would replace the model itself; choose another folder with -o."
        )
    try:
        loaded = onnx.load(model)
    except Exception as error:
        raise UsageError(f"{model}: is no ONNX model ({type(error).__name__}); check the path.") from error
    names = {initializer.name for initializer in loaded.graph.initializer}
    for value in loaded.graph.input:
        for size in value.type.tensor_type.shape.dim if value.name not in names else ():
            if not size.dim_value:
                size.dim_value = batch
    del loaded.graph.value_info[:]
    for value in loaded.graph.output:
        for size in value.type.tensor_type.shape.dim:
            size.Clear()
    loaded = onnx.shape_inference.infer_shapes(loaded, data_prop=True)
    data = path.name + ".data"
    (path.parent / data).unlink(missing_ok=True)
    if external or loaded.ByteSize() > INLINE_BYTES:
        onnx.save(loaded, path, save_as_external_data=True, location=data, size_threshold=1024)
    else:
        with atomic(path) as temporary:
            temporary.write_bytes(loaded.SerializeToString(deterministic=True))
    return path


def _converted(model: Path, folder: Path, work: Path) -> tuple[Path, Path]:
    """The .ort file and the list of operators it needs, by onnxruntime's own converter in a child."""
    work.mkdir(parents=True)
    module = "onnxruntime.tools.convert_onnx_models_to_ort"
    arguments = ["--optimization_style", "Fixed", "--target_platform", "arm", "--enable_type_reduction"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, str(model), *arguments, "--output_dir", str(work)],
            capture_output=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UsageError(f"{model}: the converter to .ort did not finish within {LIMIT_S:g} s.") from None
    made, configs = work / f"{model.stem}.ort", sorted(work.glob("*.config"))
    if done.returncode != 0 or not made.is_file() or not configs:
        words = " ".join(done.stderr.decode(errors="replace").split())[-400:]
        raise UsageError(f"{model}: cannot be converted to .ort: …{words}")
    path, config = folder / made.name, folder / f"{model.stem}.config"
    with atomic(path) as temporary:
        shutil.copyfile(made, temporary)
    lines = configs[0].read_text(encoding="utf-8").splitlines()
    kept = [
        line for line in lines if line and not line.startswith("#")
    ]  # comments hold paths of this machine
    write_text(config, "\n".join([f"# operators and types of {made.name}", *kept]) + "\n")
    return path, config


def _checked(
    path: Path, truth: tuple[Array, ...], inputs: tuple[Array, ...], work: Path, tolerance: float
) -> Packed:
    found = file_outputs(path, inputs, work)
    if [a.shape for a in found] != [b.shape for b in truth]:
        raise BrokenPromise(
            f"{path}: gives outputs of shapes {[a.shape for a in found]}, the original "
            f"{[b.shape for b in truth]}; please report this model."
        )
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(found, truth, strict=True)]
    difference = max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs)
    scale = max(float(np.abs(b).max(initial=0.0)) for _, b in pairs)
    if not difference <= tolerance * max(scale, 1e-12):
        raise BrokenPromise(
            f"{path}: differs from the original by {difference:.3g} on outputs of size {scale:.3g}; the "
            "conversion got it wrong: please report this model."
        )
    plain = _plain(path)
    return Packed(path, plain.sha256, plain.size_bytes, difference, scale)


def _plain(path: Path) -> Packed:
    beside = path.with_name(path.name + ".data")
    size = path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
    return Packed(path, sha256_of(path), size)
