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

from edgeprune.errors import BrokenPromise
from edgeprune.graph.groups import copied, flatten_outputs
from edgeprune.runtimes.reference import file_outputs, noise_for

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest output."""

__all__ = ["TOLERANCE", "Parity", "checked", "compare", "file_outputs", "noise_for", "torch_outputs"]


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
