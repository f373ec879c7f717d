"""Plan → a smaller nn.Module, twice: the user's module and the exported graph, compared.

Three nets must agree on a batch: the *masked* one (the original graph with the plan's weights,
whose readers hear zeros from removed units), the narrowed graph, and the narrowed module. Where
the user's forward has sizes written into it and the narrowed module cannot run, the narrowed
graph is the result, and that is said.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgeprune.errors import BrokenPromise, ModelError
from edgeprune.graph.attributes import guesses
from edgeprune.graph.copies import copied, in_precision, sharing
from edgeprune.graph.execution import Anew, run_in
from edgeprune.graph.groups import Alive, Coupling, Mask, flatten_outputs
from edgeprune.graph.silenced import loud
from edgeprune.ops import operation_for, restated
from edgeprune.ops.narrowing import fill as fill
from edgeprune.ops.narrowing import narrow_graph as narrow_graph
from edgeprune.ops.narrowing import narrow_module as narrow_module
from edgeprune.ops.narrowing import narrow_weights, narrowed
from edgeprune.plan import Cuts, Plan, Shrunk

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference allowed between the masked and the shrunk net, relative to the largest output."""


def shrink(
    model: nn.Module, coupling: Coupling, plan: Plan, inputs: Sequence[Tensor], exclude: tuple[str, ...] = ()
) -> Shrunk:
    """Cut the removed units out of a copy of `model`.

    Args:
        inputs: a batch to compare on, as traced.

    Raises:
        BrokenPromise: the narrowed graph or the narrowed module does not equal the masked net.
    """
    alive = coupling.alive(plan.keep)
    given = loud(plan.weights)  # cutting takes away what is silent, and the masked net does not hear it
    remade = restated(coupling.graph, alive, given)
    ready = narrow_weights(coupling.graph, alive, {**given, **remade})
    graph = narrow_graph(coupling.graph, alive, {}, ready, written=False)
    cuts = Cuts.of(coupling, plan, "module", exclude, alive)
    masked, outputs, dtype = _in_double(coupling, given, alive, graph, inputs, remade)
    masking, scale = _difference(masked, outputs)
    _check("graph", masking, scale, dtype)
    n = int(inputs[0].shape[0]) if inputs and inputs[0].dim() else 1
    if remade:
        outputs = run_in(graph, inputs, dtype)  # with what was restated as it is stored
    module, reason = _narrowed_module(model, cuts, ready, inputs, graph, outputs)
    if module is None:
        for guess in guesses(model, cuts):
            followed = dataclasses.replace(cuts, attributes=guess)
            module, _ = _narrowed_module(model, followed, ready, inputs, graph, outputs)
            if module is not None:
                cuts = followed
                break
    if module is not None:
        return Shrunk(module, graph, "module", "", cuts, masking, scale, n, plan.weights)
    logger.warning("the model's own forward cannot run narrowed (%s); the shrunk graph is used", reason)
    cuts, graph = dataclasses.replace(cuts, shrunk="graph"), sharing(graph)
    return Shrunk(graph, graph, "graph", reason, cuts, masking, scale, n, plan.weights)


def restore(model: nn.Module, coupling: Coupling, cuts: Cuts, weights: Mapping[str, Tensor]) -> Shrunk:
    """Rebuild what an earlier `shrink` left, from its cuts and its narrowed weights.

    Raises:
        ModelError: the plan or the weights do not belong to this model.
    """
    keep = {name: np.array(kept, dtype=np.int64) for name, kept in cuts.keep.items()}
    graph = narrow_graph(coupling.graph, coupling.alive(keep), {})
    constants = frozenset(graph.state_dict()) - frozenset(model.state_dict())
    _load(graph, weights, constants)
    module: nn.Module = graph
    if cuts.shrunk == "module":
        module = copied(model)
        narrow_module(module, cuts)
        _load(module, weights)
    kind: Literal["module", "graph"] = "module" if cuts.shrunk == "module" else "graph"
    return Shrunk(module, graph, kind, "", cuts, 0.0, 0.0, 0)


def _load(module: nn.Module, weights: Mapping[str, Tensor], constants: frozenset[str] = frozenset()) -> None:
    """Fill in narrowed weights; those that the graph does not know (unused by it) are left out.

    Args:
        constants: what the code itself holds (buffers that are not saved, tensors written into the
            forward); it is taken from the given weights only where they have it.
    """
    own = {
        name: value for name, value in module.state_dict().items() if name in weights or name not in constants
    }
    for name, value in own.items():
        if name not in weights or weights[name].shape != value.shape:
            found = f"has shape {tuple(weights[name].shape)}" if name in weights else "is missing"
            raise ModelError(
                f"the pruned weights do not belong to this model: {name} {found}, {tuple(value.shape)} is "
                "needed; give the code that the run was made with."
            )
    module.load_state_dict({name: weights[name] for name in own}, strict=False)


def _in_double(
    coupling: Coupling,
    weights: Mapping[str, Tensor],
    alive: Alive,
    graph: fx.GraphModule,
    inputs: Sequence[Tensor],
    remade: Mapping[str, Tensor],
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], torch.dtype]:
    """Outputs of the masked net and of the narrowed graph, in float64 where the graph allows it.

    Args:
        remade: weights that are compared before they are rounded to the model's precision.
    """
    names = {n.target: n.name for n in coupling.graph.nodes.values() if n.operation == "weight"}
    exact = {name: narrowed(value, alive.left(names[name])) for name, value in remade.items()}
    masks, anew = reading_masks(coupling, alive), _normalised_anew(coupling, alive)
    for dtype in (torch.float64, torch.float32):
        try:
            masked = coupling.graph.run_masked(inputs, masks, weights, dtype, anew)
            outputs = run_in(graph, inputs, dtype, exact)
        except RuntimeError:
            if dtype is torch.float32:
                raise
            logger.info("the graph does not run in float64; compared in float32")
            continue
        return masked, outputs, dtype
    raise AssertionError("unreachable")


def _normalised_anew(coupling: Coupling, alive: Alive) -> dict[str, Anew]:
    """Normalisers that lost channels: the masked net must normalise what is left, as the shrunk one does."""
    found: dict[str, Anew] = {}
    if not any(group.approximate for group in coupling.groups):
        return found
    for node in coupling.graph.nodes.values():
        rule = operation_for(node.operation)
        axes = rule.normalised_axes(node, alive) if rule is not None else ()
        if axes:
            masks = alive.axes(node["input"].name)
            kept = {axis: torch.from_numpy(np.flatnonzero(masks[axis])) for axis in axes}
            found[node.name] = Anew(kept, dict(rule.narrow(node, alive)) if rule else {})
    return found


def reading_masks(coupling: Coupling, alive: Alive) -> dict[str, list[Mask]]:
    """What each reading node must not hear, for `Graph.run_masked`."""
    masks: dict[str, list[Mask]] = {}
    for group in coupling.groups:
        for reader in group.readers:
            axes = alive.axes(reader.data)
            heard = axes[reader.data_axis]
            if not heard.all():
                masks.setdefault(reader.node, []).append(Mask(reader.data, reader.data_axis, heard))
    return masks


def _difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[float, float]:
    difference = max(
        (float((a - b).abs().max()) for a, b in zip(first, second, strict=True) if a.numel()), default=0.0
    )
    scale = max((float(a.abs().max()) for a in first if a.numel()), default=0.0)
    return difference, scale


def _check(what: str, difference: float, scale: float, dtype: torch.dtype) -> None:
    allowed = TOLERANCE[dtype] * max(scale, 1e-12)
    if not difference <= allowed:
        raise BrokenPromise(
            f"shrink: the narrowed {what} differs from the masked original by {difference:.3g} on outputs of "
            f"size {scale:.3g} (allowed {allowed:.3g}); nothing was written. This is a bug in a rule of an "
            "operation: please report it with the model; --exclude of the layers involved avoids it."
        )


def _narrowed_module(
    model: nn.Module,
    cuts: Cuts,
    ready: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    graph: fx.GraphModule,
    expected: Sequence[Tensor],
) -> tuple[nn.Module | None, str]:
    """The user's module narrowed, or None and the reason."""
    module = sharing(model)
    try:
        narrow_module(module, cuts, ready)
    except Exception as error:  # a module may guard its attributes
        return None, _words(error)
    reason = ""
    for dtype in (torch.float64, torch.float32):
        if dtype is torch.float32:  # a forward that writes float32 down computes no finer
            expected = run_in(graph, inputs, dtype)
        reason = _disagreement(module, inputs, expected, dtype)
        if not reason:
            return module, ""
        if not any(word in reason for word in PRECISION):
            break
    return None, reason


PRECISION = ("differ", "dtype", "Double", "double", "Float")
"""What the reason says where a forward may only fail for the precision it was tried in."""


def _disagreement(
    module: nn.Module, inputs: Sequence[Tensor], expected: Sequence[Tensor], dtype: torch.dtype
) -> str:
    """How the narrowed module differs from the narrowed graph, '' if it does not."""
    try:
        probe = in_precision(module, dtype)
        with torch.no_grad():
            outputs = flatten_outputs(probe(*[x.to(dtype) if x.is_floating_point() else x for x in inputs]))
        agree = [a.shape == b.shape for a, b in zip(outputs, expected, strict=True)]
    except Exception as error:  # whatever the user's forward raises is the reason it cannot run
        return _words(error)
    if not all(agree):
        return "its outputs have other shapes than the graph's"
    difference, scale = _difference(expected, outputs)
    if not difference <= TOLERANCE[dtype] * max(scale, 1e-12):
        return f"its outputs differ from the graph's by {difference:.3g}"
    return ""


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
