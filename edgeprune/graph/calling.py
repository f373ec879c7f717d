"""Models that take keywords, dictionaries, nested tuples or numbers, called with tensors alone."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_unflatten


def positional(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The same model, but called with its tensors alone, one after the other.

    For models that take keywords, dictionaries, nested tuples or numbers: what is no tensor is
    remembered. Weights and submodules are shared with `model` and keep their names.

    Returns:
        The module, and the tensors to call it with.
    """
    pairs, spec = tree_flatten_with_path((tuple(args), dict(kwargs)))
    leaves = [leaf for _, leaf in pairs]
    places = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    remembered = [None if k in places else leaf for k, leaf in enumerate(leaves)]
    names = [_input_name(pairs[k][0], k) for k in places]

    def forward(self: nn.Module, *tensors: Tensor, **named: Tensor) -> Any:
        tensors = (*tensors, *(named[name] for name in names[len(tensors) :] if name in named))
        given = list(remembered)
        for k, tensor in zip(places, tensors, strict=True):
            given[k] = tensor
        positions, keywords = tree_unflatten(given, spec)
        return type(self).forward(self, *positions, **keywords)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in ("self", *names)]
    )
    bound = copy.copy(model)
    bound.forward = MethodType(forward, bound)
    return bound, tuple(leaves[k] for k in places)


def input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Names of a model's tensors: those that `positional` gave, else numbers."""
    forward = getattr(vars(module).get("forward"), "__func__", None)
    signature = getattr(forward, "__signature__", None)
    if signature is None:
        return tuple(f"input{k}" for k in range(count))
    return tuple(signature.parameters)[1:]


def _input_name(path: Sequence[Any], index: int) -> str:
    """`input_ids` for a keyword, `input_0` for what has no name."""
    words = [str(getattr(key, "key", getattr(key, "idx", index))) for key in path[1:]]
    name = "_".join(words)
    return name if name.isidentifier() else f"input_{name if name.isalnum() else index}"


__all__ = ["input_names", "positional"]
