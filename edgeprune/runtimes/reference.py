"""ONNX files on the reference runtime: this machine's CPU, one thread, nothing optimised.

What runs there is the file and not what a runtime makes of it. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.jobs import read_outputs, write_job
from edgeprune.target import RuntimeOptions, Target, Threads

Array = npt.NDArray[Any]

REFERENCE = Target(
    name="reference", runtime=RuntimeOptions(optimization="disabled"), threads=Threads(intra=1)
)


def file_outputs(model: Path, samples: Sequence[Array], work: Path) -> tuple[Array, ...]:
    """An ONNX file's outputs on the reference runtime, samples first.

    Raises:
        TargetUnavailable: the runtime died or refused the file.
    """
    job = write_job(work, REFERENCE, "outputs", {"model": model}, tuple(samples))
    answer = RUNTIMES["local"].run(job.folder, REFERENCE, REFERENCE.measure.limit_s)
    return read_outputs(job, answer, REFERENCE).outputs


def noise_for(model: Path, seed: int, count: int = 16) -> tuple[Array, ...]:
    """Seeded inputs for an ONNX file: standard normal numbers, zeros and ones for whole numbers.

    Raises:
        UsageError: the file is missing or is no ONNX model, or has an input that is no tensor.
    """
    import onnx

    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception as error:
        raise UsageError(f"{model}: is no ONNX model ({type(error).__name__}); check the path.") from error
    random, made = np.random.default_rng(seed), []
    known = {initializer.name for initializer in graph.initializer}
    for item in (value for value in graph.input if value.name not in known):
        sizes = [d.dim_value or 1 for d in item.type.tensor_type.shape.dim]
        lead = sizes[0] if sizes and graph.input[0].type.tensor_type.shape.dim[0].dim_value else 1
        shape = [max(count // max(lead, 1), 1) * max(lead, 1), *sizes[1:]]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        drawn = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        made.append(drawn.astype(dtype))
    return tuple(made)


def samples_from(path: Path) -> tuple[Array, ...]:
    """Samples that a user keeps in a file: a `.npy`, or a `.npz` in the order it was written.

    Raises:
        UsageError: the file is missing, is none of these, or holds nothing.
    """
    try:
        if path.suffix == ".npy":
            found: tuple[Array, ...] = (np.load(path, allow_pickle=False),)
        else:
            with np.load(path, allow_pickle=False) as archive:
                found = tuple(archive[name] for name in archive.files)
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
        raise UsageError(f"{path}: cannot be read as .npy or .npz ({error}); check the path.") from error
    if not found or any(array.ndim == 0 or not len(array) for array in found):
        raise UsageError(f"{path}: holds no samples; each array's first axis must be the samples.")
    return found
