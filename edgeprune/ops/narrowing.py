"""Cutting: weights without what was removed, put into a copy of the graph and into the user's module.

Every weight is cut once. The narrowed graph and the narrowed module hold the same memory, so that a net
that is trained on stays one net.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeprune.errors import ModelError
from edgeprune.graph.attributes import compute_anew, follow, forget
from edgeprune.graph.copies import sharing
from edgeprune.graph.groups import Alive, Graph, Ints, Ref
from edgeprune.ops import family_of, operation_for
from edgeprune.plan import Cuts


def narrow_weights(graph: Graph, alive: Alive, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights of a graph, narrowed; those that stay whole are copies.

    Args:
        weights: in place of the graph's own, at original sizes, by qualified name.
    """
    made: dict[str, Tensor] = {}
    for node in graph.nodes.values():
        if node.operation != "weight" or node.target in made:
            continue
        own = graph.weights[node.target]
        value = weights.get(node.target, own).detach().to(own.dtype)
        value = narrowed(value, alive.left(node.name))
        untouched = value.untyped_storage().data_ptr() in _storages(own, weights.get(node.target))
        made[node.target] = value.clone() if untouched else value
    return made


def narrowed(value: Tensor, left: Sequence[Ints | None]) -> Tensor:
    """A tensor with what is left of every axis, as `Alive.left` tells it."""
    for axis, index in enumerate(left):
        if index is not None:
            value = value.index_select(axis, torch.from_numpy(index))
    return value


def _storages(*tensors: Tensor | None) -> tuple[int, ...]:
    return tuple(value.untyped_storage().data_ptr() for value in tensors if value is not None)


def narrow_graph(
    graph: Graph,
    alive: Alive,
    weights: Mapping[str, Tensor],
    ready: Mapping[str, Tensor] | None = None,
    *,
    written: bool = True,
) -> fx.GraphModule:
    """A copy of the graph with narrowed weights and rewritten sizes.

    Args:
        ready: what `narrow_weights` made; the graph takes them as they are.
        written: whether its code is written at once (see `sharing`).
    """
    ready = narrow_weights(graph, alive, weights) if ready is None else ready
    module = sharing(graph.module, written=False)
    for name, value in ready.items():
        owner, _, leaf = name.rpartition(".")
        _put(module.get_submodule(owner), leaf, value)
    by_name = {made.name: made for made in module.graph.nodes}
    for name, made in by_name.items():
        plain = graph.nodes.get(name)
        if plain is None or made.op != "call_function":
            continue
        rule = operation_for(plain.operation)
        if rule is None:
            continue
        changes = rule.narrow(plain, alive)
        overload = rule.retarget(plain, alive)
        if changes or overload:
            _rewrite(made, plain.arguments, changes, overload, by_name)
    module.recompile()
    return sharing(module) if written else module


def _put(holder: nn.Module, leaf: str, value: Tensor) -> None:
    """Put a weight in its place, as a parameter where it was one."""
    old = getattr(holder, leaf)
    if isinstance(old, nn.Parameter) and not isinstance(value, nn.Parameter):
        value = nn.Parameter(value, requires_grad=old.requires_grad)
    if type(holder).__setattr__ is not nn.Module.__setattr__:  # recurrent layers keep a list beside
        setattr(holder, leaf, value)
    elif leaf in holder._parameters:
        holder._parameters[leaf] = value  # type: ignore[assignment]
    elif leaf in holder._buffers:
        holder._buffers[leaf] = value
    else:
        setattr(holder, leaf, value)


def _rewrite(
    made: fx.Node,
    arguments: Mapping[str, Any],
    changes: Mapping[str, Any],
    overload: str | None,
    by_name: Mapping[str, fx.Node],
) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, Ref):
            return by_name[value.name]
        return [plain(item) for item in value] if isinstance(value, list) else value

    target = made.target
    if overload is not None:
        packet, _, kind = overload.partition(".")
        target = getattr(getattr(torch.ops.aten, packet), kind)
    assert isinstance(target, torch._ops.OpOverload)
    merged = {**arguments, **changes}
    made.target = target
    made.args = tuple(plain(merged[a.name]) for a in target._schema.arguments if not a.kwarg_only)
    made.kwargs = {a.name: plain(merged[a.name]) for a in target._schema.arguments if a.kwarg_only}


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy full-size weights into a module, by qualified name."""
    own = _tensors(module)
    with torch.no_grad():
        for name, value in weights.items():
            if name in own:
                own[name].copy_(value)


def narrow_module(module: nn.Module, cuts: Cuts, ready: Mapping[str, Tensor] | None = None) -> None:
    """Cut parameters and buffers in place, and make the modules' attributes agree.

    Weights that are one tensor under several names stay one tensor.

    Args:
        ready: weights that are narrowed already, for a module that shares its tensors with another: it
            takes these as they are, and copies of the others.

    Raises:
        ModelError: the plan speaks of weights that the module does not have, or of other sizes.
    """
    own = _tensors(module)
    missing = [name for name in cuts.weights if name not in own and not _written_down(name)]
    if missing:
        raise ModelError(
            f"the plan narrows {missing[0]}, which the model does not have; "
            "load the plan with the code and the settings that it was made with."
        )
    cut = {id(own[name]): axes for name, axes in cuts.weights.items() if name in own}
    known = {id(own[name]): value for name, value in (ready or {}).items() if name in own}
    holders = dict(module.named_modules(remove_duplicate=False))
    made: dict[int, Tensor] = {}
    touched: dict[str, None] = {}
    for name, old in own.items():
        owner, _, leaf = name.rpartition(".")
        if id(old) in cut:
            touched[owner] = None
        elif ready is None:
            continue
        if id(old) not in made:
            value = known.get(id(old))
            if value is None:
                value = _narrowed(name, old, cut[id(old)]) if id(old) in cut else old.detach().clone()
            made[id(old)] = value.to(old.dtype)
            if isinstance(old, nn.Parameter):
                made[id(old)] = nn.Parameter(made[id(old)], requires_grad=old.requires_grad)
        _put(holders[owner], leaf, made[id(old)])
    for owner in sorted({path.partition(".parametrizations.")[0] for path in touched}):
        compute_anew(holders[owner])
        family = family_of(holders[owner])
        if family is not None:
            family.resize(holders[owner])
    follow(module, cuts.attributes)
    forget(module)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those with several names several times."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _written_down(name: str) -> bool:
    """Whether a name is one that tracing gave to a tensor which the forward makes by itself."""
    leaf = name.rpartition(".")[2]
    return leaf.startswith(("lifted_tensor", "_tensor_constant", "_lifted_tensor"))


def _narrowed(name: str, old: Tensor, axes: Mapping[int, tuple[int, ...]]) -> Tensor:
    value = old.detach()
    for axis, index in axes.items():
        if axis >= value.dim() or (index and max(index) >= value.shape[axis]):
            raise ModelError(
                f"the plan keeps index {max(index)} of axis {axis} of {name}, which has shape "
                f"{tuple(value.shape)}; load the plan with the model that it was made from."
            )
        value = value.index_select(axis, torch.tensor(index, dtype=torch.int64))
    return value
