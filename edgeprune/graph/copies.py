"""Copies of modules: whole ones, ones that share their tensors, and ones in another precision.

`copy.deepcopy` of a module walks through some twenty dictionaries a layer. Here the modules that copy
themselves in the plain way, nearly all, are copied by hand; for the others `deepcopy` is asked, with the
same memory of what was copied already.
"""

from __future__ import annotations

import copy
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Memo = dict[int, Any]
"""By identity of what was copied, the copy."""

try:  # a graph whose code is written only when it is called; torch does not promise that it stays
    from torch.fx._lazy_graph_module import _LazyGraphModule as Unwritten
except ImportError:  # pragma: no cover
    Unwritten = fx.GraphModule  # type: ignore[misc, assignment]

PLAIN = (
    "__new__",
    "__deepcopy__",
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)
"""What a class that copies itself in its own way defines anew."""

UNCHANGING = frozenset(
    (
        *(int, float, complex, bool, str, bytes, type, type(None), type(...)),
        *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format),
        *(types.FunctionType, types.BuiltinFunctionType),
    )
)
"""Types of values that need no copy."""


def copied(module: ModuleT) -> ModuleT:
    """A deep copy; the warning that copying a traced module gives is torch's own affair.

    Tensors that a module computed of its parameters (an old weight norm's) are copied without their history.
    """
    memo: Memo = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(module, memo)


def sharing(
    module: ModuleT, replaced: Callable[[Tensor], Tensor] | None = None, *, written: bool = True
) -> ModuleT:
    """A deep copy of everything but the tensors, which both modules share.

    Args:
        replaced: what the copy has instead of each parameter, buffer and tensor that is an attribute.
        written: whether the code of a traced graph is written at once; else when the graph is called, which
            is too late for torch.export, that looks at its signature.
    """
    memo: Memo = {}
    for part in module.modules():
        for value in (*part._parameters.values(), *part._buffers.values(), *vars(part).values()):
            if isinstance(value, Tensor) and id(value) not in memo:
                memo[id(value)] = value if replaced is None else replaced(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if isinstance(module, fx.GraphModule) and not written:
            return cast(ModuleT, _traced(module, memo, Unwritten))
        return cast(ModuleT, _module(module, memo))


def in_precision(module: ModuleT, dtype: torch.dtype) -> ModuleT:
    """A copy that computes in another precision; parameters that have it already are shared."""
    own = {id(value) for value in (*module.parameters(), *module.buffers())}

    def made(value: Tensor) -> Tensor:
        if id(value) not in own:
            return value
        new = value.detach().to(dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, nn.Parameter):
            return nn.Parameter(new, requires_grad=value.requires_grad)
        return new.clone() if new.data_ptr() == value.data_ptr() else new  # running may change a buffer

    return sharing(module, made)


def _module(module: nn.Module, memo: Memo) -> nn.Module:
    if id(module) in memo:
        return cast(nn.Module, memo[id(module)])
    if isinstance(module, fx.GraphModule):
        return _traced(module, memo, fx.GraphModule)
    kind = type(module)
    if not _is_plain(kind):
        return copy.deepcopy(module, memo)
    made = kind.__new__(kind)
    memo[id(module)] = made
    for name, value in module.__getstate__().items():  # type: ignore[no-untyped-call]
        made.__dict__[name] = value if type(value) in UNCHANGING else _value(value, memo)
    return made


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether a class copies itself as nn.Module does, or adds only what old files lack (torch's layers)."""
    own = [name for name in PLAIN if getattr(kind, name, None) is not getattr(nn.Module, name, None)]
    return not own or (
        own == ["__setstate__"] and kind.__setstate__.__module__.startswith("torch.nn.modules.")
    )


def _value(value: Any, memo: Memo) -> Any:
    kind = type(value)
    if kind in UNCHANGING:
        return value
    found = memo.get(id(value))
    if found is not None:
        return found
    if isinstance(value, nn.Module):
        return _module(value, memo)
    if kind is dict or kind is OrderedDict:
        made = memo[id(value)] = kind()
        for key, item in value.items():
            made[_value(key, memo)] = item if type(item) in UNCHANGING else _value(item, memo)
        return made
    if kind is list:
        listed: list[Any] = []
        memo[id(value)] = listed
        listed.extend(_value(item, memo) for item in value)
        return listed
    if kind is set and all(type(item) in UNCHANGING for item in value):
        return set(value)
    if kind is tuple and all(type(item) in UNCHANGING for item in value):
        return value
    return copy.deepcopy(value, memo)


def _traced(module: fx.GraphModule, memo: Memo, kind: type[fx.GraphModule]) -> fx.GraphModule:
    """The same for a traced graph: its own tensors that are no parameters become buffers that are saved."""
    made = kind({}, fx.Graph())
    memo[id(module)] = made
    made.training = module.training
    for holder in ("_parameters", "_buffers", "_modules"):
        made.__dict__[holder] = _value(module.__dict__[holder], memo)
    graph = copy.deepcopy(module.graph, memo)
    for node in graph.nodes:
        if node.op == "get_attr":
            owner, _, leaf = str(node.target).rpartition(".")
            place = made.get_submodule(owner)
            if not hasattr(place, leaf):
                value = _value(getattr(module.get_submodule(owner), leaf), memo)
                if isinstance(value, Tensor):
                    place.register_buffer(leaf, value)
                else:
                    setattr(place, leaf, value)
    made.graph = graph
    made.meta = copy.deepcopy(module.meta, memo)
    return made
