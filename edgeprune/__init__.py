"""Prune a torch model with coresets, shrink it for real, and prove what it costs.

    run = edgeprune.compress(module, example_inputs, output="runs/x", calibration="mnist", keep=0.5)
    small = edgeprune.load(factory, "runs/x")

Names are loaded when they are used, so that `import edgeprune` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune.api import compress, load
    from edgeprune.errors import EdgepruneError
    from edgeprune.records.run import Run
    from edgeprune.verdict.limits import Limits

_HOMES = {
    "EdgepruneError": "edgeprune.errors",
    "Limits": "edgeprune.verdict.limits",
    "Run": "edgeprune.records.run",
    "compress": "edgeprune.api",
    "load": "edgeprune.api",
}

__all__ = ["EdgepruneError", "Limits", "Run", "compress", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeprune' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
