"""The library's two doors: compress a module, and load what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeprune.config import resolve
from edgeprune.errors import ModelError, UsageError
from edgeprune.graph.calling import positional
from edgeprune.graph.groups import copied
from edgeprune.inputs.models import DTYPES, from_module
from edgeprune.pipeline import run
from edgeprune.plan import Cuts
from edgeprune.progress import Progress, silent
from edgeprune.records.run import Run
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import narrow_module, restore
from edgeprune.stages.trace import trace


def compress(
    module: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    *,
    output: str | Path,
    overwrite: bool = False,
    progress: Progress = silent,
    **settings: Any,
) -> Run:
    """Prune, shrink, export, simplify, validate and certify a module.

    Args:
        module: the torch model; a copy is worked on.
        example_inputs: what its forward takes, one tensor or several, batch first.
        output: the run folder; an unfinished run of the same module and settings is resumed.
        overwrite: start anew even where a run lies.
        progress: shows how far long work has come; silent by default.
        **settings: fields of `edgeprune.config.Settings`, such as `method`, `keep`,
            `calibration`, `target` (a tuple of names), `limits` (an `edgeprune.Limits`).
            A file edgeprune.toml is not read.

    Returns:
        The record of the run; it also lies in `output/run.json`.

    Raises:
        EdgepruneError: see `edgeprune.errors`; nothing half-written is left.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    resolved = resolve(settings, file=None, origin="call", search=False)
    return run(
        from_module(copied(module), inputs=inputs),
        resolved,
        Path(output),
        overwrite=overwrite,
        progress=progress,
    )


def load(factory: Callable[[], nn.Module], run_dir: str | Path) -> nn.Module:
    """Rebuild the shrunk net of a run from the code of the original; no pickle is read.

    Args:
        factory: makes the original architecture; its weights do not matter.
        run_dir: the folder of a run.

    Returns:
        The shrunk net in evaluation mode: the factory's own module with narrowed layers, or the
        narrowed graph where the run says that the module's forward could not run narrowed.

    Raises:
        UsageError: the folder holds no finished plan.
        ModelError: the factory does not make the model of the run.
    """
    folder = Path(run_dir)
    cuts = Cuts.load(folder / "plan.json")
    weights = _weights(folder / "pruned.safetensors")
    module = factory()
    if not isinstance(module, nn.Module):
        raise ModelError(f"the factory returned a {type(module).__name__}, not an nn.Module.")
    module.eval()
    if cuts.shrunk == "module":
        narrow_module(module, cuts)
        _fill(module, weights)
        return module
    record = Run.load(folder)
    inputs = _examples(record)
    try:
        graph = trace(module, inputs)
    except ModelError:  # a model that is called by keywords
        names = [item.name for item in record.model.inputs]
        module, inputs = positional(module, (), dict(zip(names, inputs, strict=True)))
        graph = trace(module, inputs)
    coupling = couple(graph, cuts.exclude, allow_norm_axes=cuts.norm_axes)
    return restore(module, coupling, cuts, weights).module


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: is missing; give the folder of a finished run.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path}: is damaged ({error}); make the run again.") from error


def _fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        text = " ".join(str(error).split())[:300]
        raise ModelError(f"the run's weights do not fit what the factory makes: {text}") from error


def _examples(record: Run) -> tuple[Tensor, ...]:
    """Inputs of the recorded shapes; what they hold does not matter for tracing."""
    random = np.random.default_rng(0)
    made = []
    for item in record.model.inputs:
        shape = [size or 1 for size in item.shape]
        dtype = DTYPES[item.dtype]
        values = random.standard_normal(shape) if dtype.is_floating_point else random.integers(0, 2, shape)
        made.append(torch.from_numpy(np.asarray(values)).to(dtype))
    return tuple(made)
