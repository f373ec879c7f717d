"""What others do, at the same widths: summed magnitude, and the criteria of Torch-Pruning.

Torch-Pruning is needed for its own lines only (`pip install --no-deps torch-pruning`, see
benchmarks/README.md). Its pruner cuts a copy of the net; nothing is compensated.

Source:
    Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeprune.graph.groups import Coupling
from edgeprune.plan import Plan, Selection

if TYPE_CHECKING:
    from benchmarks.comparison import Draw

CRITERIA = ("random", "magnitude", "LAMP", "FPGM", "BN scale", "Taylor", "Hessian")
GRADIENTS = ("Taylor", "Hessian")
ONE_BY_ONE = 100
"""Samples whose gradients are squared one by one for the Hessian criterion."""


Peer = Callable[[str, Mapping[str, int], "Draw"], Plan]
"""Of a criterion, the width of each group and the samples of a choice: what is kept."""


class Unable(Exception):
    """The library cannot do that to this net."""


def largest(coupling: Coupling, widths: Mapping[str, int]) -> Plan:
    """Keep the units with the largest sum of squared weights, over every place that carries them."""
    selections = {}
    for group in coupling.groups:
        score = np.zeros(group.size)
        for place in group.places:
            weight = coupling.graph.weights[place.weight].double()
            if weight.dim() > 1:
                squares = (weight.movedim(place.axis, 0).flatten(1) ** 2).sum(1).numpy()
                np.add.at(score, place.units[place.units >= 0], squares[place.units >= 0])
        kept = np.sort(np.argsort(-score, kind="stable")[: widths[group.name]])
        selections[group.name] = Selection(kept)
    return Plan("summed magnitude", selections, {})


def torch_pruned(
    net: nn.Module,
    coupling: Coupling,
    widths: Mapping[str, int],
    criterion: str,
    draw: Draw,
) -> nn.Module:
    """A copy of the net, cut by Torch-Pruning.

    Args:
        draw: samples, with labels for the criteria that ask for gradients of the cross-entropy.

    Raises:
        Unable: the library is missing, fails, or leaves other widths than were asked for.
    """
    tp, small = library(), copy.deepcopy(net).eval()
    for parameter in small.parameters():
        parameter.requires_grad_(True)
    torch.manual_seed(draw.seed)
    ratios, wanted = _ratios(small, coupling, widths)
    layers = [m for m in small.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear)]
    scores = importance(tp, criterion)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = tp.pruner.BasePruner(
                small,
                tuple(x[:1] for x in draw.inputs),
                importance=scores,
                pruning_ratio=0.0,
                pruning_ratio_dict=ratios,
                ignored_layers=[layer for layer in layers if layer not in ratios],
            )
            if criterion in GRADIENTS:
                gradients(small, scores, criterion, draw)
            pruner.step()
    except Exception as error:
        raise Unable(f"{type(error).__name__}: {error}") from error
    off = {name: found for name, found in _widths(small, wanted).items() if found != wanted[name]}
    if off:
        raise Unable(f"it left other widths than were asked for: {off}")
    small.zero_grad(set_to_none=True)
    return small


def scores(tp: Any, block: nn.Sequential, example: Tensor, criterion: str) -> npt.NDArray[np.float64]:
    """What a criterion says of the units that the first layer of a block makes, (n,)."""
    graph = tp.DependencyGraph().build_dependency(block, example_inputs=example)
    first = block[0]
    cut = tp.prune_linear_out_channels if isinstance(first, nn.Linear) else tp.prune_conv_out_channels
    group = graph.get_pruning_group(first, cut, idxs=list(range(first.weight.shape[0])))
    return np.asarray(importance(tp, criterion)(group).detach().double().numpy())


def library() -> Any:
    """The library itself.

    Raises:
        Unable: it is not installed.
    """
    try:
        return importlib.import_module("torch_pruning")
    except ImportError as error:
        raise Unable("torch-pruning is not installed") from error


def importance(tp: Any, criterion: str) -> Any:
    """One of its criteria, as it comes."""
    found = {
        "random": "RandomImportance",
        "magnitude": "GroupMagnitudeImportance",
        "LAMP": "LAMPImportance",
        "FPGM": "FPGMImportance",
        "BN scale": "BNScaleImportance",
        "Taylor": "GroupTaylorImportance",
        "Hessian": "GroupHessianImportance",
    }
    return getattr(tp.importance, found[criterion])()


def gradients(net: nn.Module, scores: Any, criterion: str, draw: Draw) -> None:
    """What the criterion wants to know of the cross-entropy on the samples."""
    if draw.labels is None:
        raise Unable(f"{criterion} needs labels")
    if criterion == "Taylor":
        F.cross_entropy(net(*draw.inputs), draw.labels).backward()
        return
    scores.zero_grad()
    for k in range(min(ONE_BY_ONE, len(draw.labels))):
        net.zero_grad()
        F.cross_entropy(net(*(x[k : k + 1] for x in draw.inputs)), draw.labels[k : k + 1]).backward()
        scores.accumulate_grad(net)


def _ratios(
    net: nn.Module, coupling: Coupling, widths: Mapping[str, int]
) -> tuple[dict[nn.Module, float], dict[str, int]]:
    """By layer that makes the units of a group, the share to cut; and the width it shall have."""
    ratios, wanted = {}, {}
    for group in coupling.groups:
        for place in group.places:
            name, _, kind = place.weight.rpartition(".")
            layer = net.get_submodule(name)
            made = (
                kind == "weight" and place.axis == 0 and isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
            )
            if made and widths[group.name] < group.size:
                # a hair less, so that rounding never cuts one more
                ratios[layer] = 1.0 - (widths[group.name] + 0.25) / group.size
                wanted[name] = widths[group.name]
    return ratios, wanted


def _widths(net: nn.Module, names: Mapping[str, int]) -> dict[str, int]:
    return {name: int(net.get_submodule(name).weight.shape[0]) for name in names}  # type: ignore[union-attr, arg-type, index]
