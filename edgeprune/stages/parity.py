"""Exported and simplified files, held against the original torch net in float64.

Files run on the CPU in a process of its own, with onnxruntime's graph optimisations off, so that
what is compared is the file and not what a runtime makes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgeprune.errors import BrokenPromise, UsageError
from edgeprune.graph import copied, flatten_outputs
from edgeprune.profiles import RuntimeOptions, Target, Threads
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.jobs import read_outputs, write_job

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest output."""

REFERENCE = Target(
    name="reference", runtime=RuntimeOptions(optimization="disabled"), threads=Threads(intra=1)
)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a file is from what it should compute; absolute, linf, over `n_inputs` samples."""

    difference: float
    scale: float
    n_inputs: int

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= TOLERANCE * max(self.scale, 1e-12)


def torch_outputs(module: nn.Module, samples: Sequence[Array], batch: int) -> tuple[Array, ...]:
    """A module's outputs in float64 (float32 where it does not run in float64), samples first.

    Args:
        samples: one array per input; the last batch is filled up where it is short.
        batch: samples a run.
    """
    try:
        return _outputs(copied(module).double(), samples, batch, torch.float64)
    except RuntimeError as error:
        logger.info("the model does not run in float64 (%s); float32 is the reference", error)
        return _outputs(module, samples, batch, torch.float32)


def _outputs(
    module: nn.Module, samples: Sequence[Array], batch: int, dtype: torch.dtype
) -> tuple[Array, ...]:
    parts: list[tuple[Tensor, ...]] = []
    count = len(samples[0])
    with torch.no_grad():
        for start in range(0, count, batch):
            chunk = [torch.from_numpy(x[start : start + batch]) for x in samples]
            short = batch - len(chunk[0])
            full = [torch.cat([x, x[:1].expand(short, *x.shape[1:])]) if short else x for x in chunk]
            out = flatten_outputs(module(*[x.to(dtype) if x.is_floating_point() else x for x in full]))
            parts.append(tuple(o[: batch - short] for o in out))
    return tuple(torch.cat(column).numpy() for column in zip(*parts, strict=True))


def file_outputs(model: Path, samples: Sequence[Array], work: Path) -> tuple[Array, ...]:
    """An ONNX file's outputs on the reference runtime, samples first.

    Raises:
        TargetUnavailable: the runtime died or refused the file.
    """
    job = write_job(work, REFERENCE, "outputs", {"model": model}, tuple(samples))
    answer = RUNTIMES["local"].run(job.folder, REFERENCE, REFERENCE.measure.limit_s)
    return read_outputs(job, answer, REFERENCE).outputs


def compare(expected: Sequence[Array], found: Sequence[Array]) -> Parity:
    """The largest difference over all outputs.

    Raises:
        BrokenPromise: the numbers or shapes of the outputs differ.
    """
    if [a.shape for a in expected] != [b.shape for b in found]:
        raise BrokenPromise(
            f"the file gives outputs of shapes {[b.shape for b in found]}, the torch net "
            f"{[a.shape for a in expected]}; the export changed the model: please report it."
        )
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(expected, found, strict=True)]
    difference = max((float(np.abs(a - b).max(initial=0.0)) for a, b in pairs), default=0.0)
    if not np.isfinite(difference):
        raise BrokenPromise("the file gives NaN or infinite outputs where the torch net does not.")
    scale = max((float(np.abs(a).max(initial=0.0)) for a, _ in pairs), default=0.0)
    return Parity(difference, scale, len(expected[0]) if expected else 0)


def checked(
    model: Path, expected: Sequence[Array], samples: Sequence[Array], work: Path, what: str
) -> Parity:
    """Run a file and hold it against what it should compute.

    Raises:
        BrokenPromise: it computes something else.
        TargetUnavailable: the runtime died or refused the file.
    """
    parity = compare(expected, file_outputs(model, samples, work))
    if not parity.holds:
        raise BrokenPromise(
            f"export: the {what} ONNX file {model.name} differs from the torch net by "
            f"{parity.difference:.3g} on outputs of size {parity.scale:.3g}; the exporter got it wrong. Try "
            "another --opset, or report it with the model."
        )
    return parity


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
