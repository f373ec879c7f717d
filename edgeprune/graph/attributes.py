"""Numbers that modules keep beside their weights (heads, widths, splits) and that must shrink with them.

Layers of torch are resized by the rules of their operations. Modules of the user write down sizes under
names that nobody can know: `num_heads`, `inner_dim`, `split_size`. What they become is guessed here from
the sizes of the weights in and directly below a module, before and after; a guess counts only once the
shrunk module was compared with the shrunk graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Attributes = Mapping[str, Mapping[str, Any]]
"""By path of a module, its attributes' new values: whole numbers, or lists of them."""

SMALLEST = 4
"""Sizes below are too common (strides, kernel sizes) to be told from what else equals them."""

HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Dropout)
"""Modules that only hold others: what is directly below them counts as below their owner."""


class Sized(Protocol):
    """What is left of every narrowed weight."""

    @property
    def weights(self) -> Mapping[str, Mapping[int, tuple[int, ...]]]:
        """Qualified name → {axis: kept indices}."""
        ...


def guesses(model: nn.Module, cuts: Sized) -> Iterator[Attributes]:
    """What the modules' attributes may have to become, the most careful guess first.

    Args:
        model: whole.
    """
    changes = _changes(model, cuts)
    seen: list[Attributes] = []
    for heads, sizes in ((True, False), (True, True), (False, True)):
        guess = {
            path: found
            for path, pairs in changes.items()
            if (found := _followed(model.get_submodule(path), pairs, heads, sizes))
        }
        if guess and guess not in seen:
            seen.append(guess)
            yield guess


def follow(model: nn.Module, attributes: Attributes) -> None:
    """Set attributes to their new values."""
    for path, values in attributes.items():
        module = model.get_submodule(path)
        for name, value in values.items():
            old = getattr(module, name)
            setattr(module, name, type(old)(value) if isinstance(old, tuple | list) else value)


def forget(model: nn.Module) -> None:
    """Empty what modules keep of an earlier run: dictionaries of tensors that are called a cache."""
    for module in model.modules():
        for name, value in vars(module).items():
            if (
                isinstance(value, dict)
                and "cache" in name
                and any(isinstance(v, Tensor) for v in value.values())
            ):
                setattr(module, name, type(value)())


def compute_anew(module: nn.Module) -> None:
    """Let the hooks of torch's older weight and spectral norms compute the weight that layers look at."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            with torch.no_grad():
                hook(module, None)


Pairs = set[tuple[int, int]]
"""Sizes of axes before and after."""


def _changes(model: nn.Module, cuts: Sized) -> dict[str, Pairs]:
    """For each module that is not torch's own, the sizes that changed in it and directly below it."""
    own = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    found: dict[str, Pairs] = {}
    for name, axes in cuts.weights.items():
        if name not in own:
            continue
        holder, shape = name.rpartition(".")[0], own[name].shape
        pairs = {(shape[axis], len(kept)) for axis, kept in axes.items()}
        for path in _owners(model, holder):
            whole = {(size, size) for axis, size in enumerate(shape) if axis not in axes}
            found.setdefault(path, set()).update(pairs | whole if path == holder else pairs)
    return found


def _owners(model: nn.Module, path: str) -> Iterator[str]:
    """The two nearest modules of the user's that hold the one at a path, itself counted."""
    left = 2
    while left:
        module = model.get_submodule(path)
        if not isinstance(module, HOLDERS) and not type(module).__module__.startswith("torch.nn.modules"):
            left -= 1
            yield path
        if not path:
            return
        path = path.rpartition(".")[0]


def _followed(module: nn.Module, pairs: Pairs, heads: bool, sizes: bool) -> dict[str, Any]:
    """New values of a module's attributes.

    Args:
        heads: whether numbers of heads follow; their widths follow where none did.
        sizes: whether numbers that equal a size that shrank follow it.
    """
    numbers = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and all(type(n) is int for n in _listed(value)) and _listed(value)
    }
    found: dict[str, Any] = {}
    for name, value in numbers.items():
        if heads and "head" in name.lower() and not _is_width(name):
            _note(found, name, value, [_head_count(n, pairs) for n in _listed(value)])
    widths = not found
    for name, value in numbers.items():
        if widths if _is_width(name) else sizes and "head" not in name.lower():
            _note(found, name, value, [_size(n, pairs) for n in _listed(value)])
    return found


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value]


def _note(found: dict[str, Any], name: str, value: Any, new: list[int]) -> None:
    if new != _listed(value):
        found[name] = new if isinstance(value, tuple | list) else new[0]


def _is_width(name: str) -> bool:
    """Whether an attribute tells how wide a head is."""
    words = name.lower()
    return "head" in words and any(word in words for word in ("dim", "size", "width", "channel"))


def _head_count(count: int, pairs: Pairs) -> int:
    """The heads that are left, where all sizes that heads divide shrank by one ratio."""
    made = {
        count * after // before
        for before, after in pairs
        if before != after and count > 1 and before % count == 0 and (count * after) % before == 0
    }
    return next(iter(made)) if len(made) == 1 else count


def _size(size: int, pairs: Pairs) -> int:
    """The size that is left, where all axes of this size shrank alike."""
    made = {after for before, after in pairs if before == size}
    return next(iter(made)) if len(made) == 1 and size >= SMALLEST else size


__all__ = ["Attributes", "compute_anew", "follow", "forget", "guesses"]
