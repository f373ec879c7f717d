"""Measured errors of a runtime's unary kernels, and which versions and providers they hold for.

The numbers stand in `kernel_errors.json`, written by `python -m benchmarks.sweep_kernels --table FILE`: the
largest absolute error seen on a share (one in `every`) of all float32 numbers. For a runtime that is not in
the table nothing was measured: `edgeprune.bounds.rounding` then assumes 8 units of (1 + |φ|), which is more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, slots=True)
class KernelErrors:
    """What was measured, and where it holds.

    Attributes:
        versions: of onnxruntime, as MAJOR.MINOR.
        providers: execution providers.
        machine: kind of processor it was measured on.
        every: one in so many float32 numbers was tried.
        largest: absolute errors by name of the curve.
    """

    versions: tuple[str, ...]
    providers: tuple[str, ...]
    machine: str
    every: int
    largest: Mapping[str, float]

    @staticmethod
    def read(path: Path = FILE) -> KernelErrors:
        """The table of a file."""
        found = json.loads(path.read_text(encoding="utf-8"))
        return KernelErrors(
            tuple(found["versions"]),
            tuple(found["providers"]),
            found["machine"],
            int(found["every"]),
            {name: float(error) for name, error in found["largest_absolute_error"].items()},
        )

    def hold(self, provider: str, version: str) -> bool:
        """Whether kernels of this provider were measured with this version of onnxruntime."""
        return provider in self.providers and ".".join(version.split(".")[:2]) in self.versions


__all__ = ["FILE", "KernelErrors"]
