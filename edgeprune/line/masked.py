"""The masked twin: the original's shapes with the pruned net's numbers, and zeros where units were cut.

It is the middle of the chain: what the certificate of the pruning is about, and exactly the shrunk net, since
the sums of both differ by zeros only. Other tools can compare it with the original layer by layer.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from edgeprune.errors import UnsupportedModel
from edgeprune.graph.groups import copied
from edgeprune.inputs.preparation import Line
from edgeprune.inputs.samples import Array
from edgeprune.plan import Cuts, Shrunk
from edgeprune.progress import Progress
from edgeprune.records.folder import RunFolder
from edgeprune.stages import export as exporting
from edgeprune.stages.parity import Parity, checked, compare, torch_outputs

FILE = "masked.onnx"

EXACT = 1e-9
"""Share of the outputs' size by which float64 sums of other shapes may differ."""


def masked_twin(model: nn.Module, cuts: Cuts, weights: dict[str, Tensor]) -> nn.Module:
    """The original with the narrowed weights at their old places, and zeros elsewhere.

    Args:
        model: the original; it is copied.
        cuts: which indices of which weight are left.
        weights: the pruned net's, narrowed, by the original's names.
    """
    twin = copied(model)
    state = dict(twin.state_dict())
    for name, value in state.items():
        if name not in weights:
            continue
        narrow = weights[name].to(value.dtype)
        axes = cuts.weights.get(name, {})
        if not axes:
            state[name] = narrow.clone() if narrow.shape == value.shape else value
            continue
        spread = narrow
        for axis, index in axes.items():
            shape = [*spread.shape]
            shape[axis] = value.shape[axis]
            filler = 1.0 if name.endswith("running_var") else 0.0  # nothing is divided by a variance of zero
            wide = spread.new_full(shape, filler)
            spread = wide.index_copy(axis, torch.tensor(index, dtype=torch.int64), spread)
        state[name] = spread
    twin.load_state_dict(state)
    return twin.eval()


def measured(line: Line, shrunk: Shrunk, batch: int) -> Shrunk:
    """The same, with what masking and shrinking differ by measured anew where a resumed run forgot it."""
    if shrunk.n_inputs:
        return shrunk
    samples = tuple(x[:64] for x in line.holdout)
    parity = _parity(line, shrunk, samples, batch)[0]
    if parity.difference > EXACT * max(parity.scale, 1.0):
        return shrunk  # a normaliser counts the channels: this twin is not the one that was compared
    return dataclasses.replace(
        shrunk, masking=parity.difference, scale=parity.scale, n_inputs=parity.n_inputs
    )


def _parity(
    line: Line, shrunk: Shrunk, samples: tuple[Array, ...], batch: int
) -> tuple[Parity, nn.Module, tuple[Array, ...]]:
    twin = masked_twin(line.loaded.module, shrunk.cuts, dict(shrunk.module.state_dict()))
    expected = torch_outputs(twin, samples, batch)
    return compare(expected, torch_outputs(shrunk.module, samples, batch)), twin, expected


def masked_step(line: Line, shrunk: Shrunk, folder: RunFolder, progress: Progress) -> None:
    """Write the masked twin as an ONNX file, checked against the shrunk net and against itself in torch.

    Raises:
        UnsupportedModel: masking is not the same as cutting here.
        BrokenPromise: the exported file computes something else.
    """
    path = folder.path / FILE
    if not line.settings.masked_twin or (folder.finished("masked-twin") and path.is_file()):
        return
    samples = tuple(x[:64] for x in line.holdout)
    with folder.stage("masked-twin"):
        for _ in progress(range(1), "exporting the masked twin", 1):
            parity, twin, expected = _parity(line, shrunk, samples, line.batch)
            if parity.difference > EXACT * max(parity.scale, 1.0):
                raise UnsupportedModel(
                    f"--masked-twin: the original with zeros differs from the shrunk net by "
                    f"{parity.difference:.3g} on a scale of {parity.scale:.3g}: a normaliser counts the "
                    "channels that were cut, so zeros are no masking here; leave --masked-twin out."
                )
            settings = line.settings
            exporting.export(
                twin, line.inputs, path, dynamic_batch=settings.dynamic_batch, opset=settings.opset
            )
            checked(path, expected, samples, folder.log("export") / "masked", "exported")
        artifacts = {**folder.run.artifacts, "masked": exporting.describe(path, folder.path)}
        folder.update(artifacts=artifacts)


__all__ = ["masked_step", "masked_twin", "measured"]
