"""Nets for the ATen names whose operations hold weights, or that work on data of another rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from nets import call
from operations import Operation, aten, flat, pair, tokens
from torch import Tensor, nn


class Weighted(nn.Module):
    """An operation with weights of its own, of the shapes that are given."""

    def __init__(self, does: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.does = does
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(shape) * 0.5) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        return self.does(x, *self.weights)


class Wrapped(nn.Module):
    """A module between what is done to the data before and behind it."""

    def __init__(self, inner: nn.Module, before: Operation, behind: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.inner, self.before, self.behind = inner, before, behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.inner(self.before(x)))


class Attention(nn.Module):
    """Two heads of four over the positions, (2, 16, 8) → (2, 8, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(tokens(x)).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).transpose(1, 2)


class Word(nn.Module):
    """A table of vectors that are added to the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return flat(x) + self.table(x[:, 0].flatten(1).argmax(1))


def recurrent(kind: Callable[..., nn.Module], **named: Any) -> Callable[[], nn.Module]:
    made = lambda: kind(8, 6, batch_first=True, **named)  # noqa: E731
    return lambda: Wrapped(made(), tokens, lambda found: found[0].transpose(1, 2))


def native_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    mean, variance = offset.detach(), (scale * scale + 1).detach()
    return aten._native_batch_norm_legit_no_training(x, scale, offset, mean, variance, 0.1, 1e-5)[0]


def native_group_norm(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    return aten.native_group_norm(x, scale, offset, x.shape[0], 8, 16, 8, 1e-5)[0]


WITH_WEIGHTS: dict[str, Callable[[], nn.Module]] = {
    "prelu": lambda: Weighted(F.prelu, (8,)),
    "batch_norm": lambda: nn.BatchNorm2d(8),
    "_native_batch_norm_legit_no_training": lambda: Weighted(native_norm, (8,), (8,)),
    "layer_norm": lambda: nn.LayerNorm(4),
    "rms_norm": lambda: nn.RMSNorm([4, 4]),
    "group_norm": lambda: nn.GroupNorm(8, 8),
    "native_group_norm": lambda: Weighted(native_group_norm, (8,), (8,)),
    "instance_norm": lambda: nn.InstanceNorm2d(8, affine=True),
    "matmul": lambda: Weighted(lambda x, w: torch.matmul(tokens(x), w).transpose(1, 2), (8, 6)),
    "mm": lambda: Weighted(lambda x, w: torch.mm(flat(x), w), (8, 6)),
    "mv": lambda: Weighted(lambda x, w: torch.mv(flat(x), w).unsqueeze(1), (8,)),
    "dot": lambda: Weighted(lambda x, w: flat(x) * torch.dot(x.mean((0, 2, 3)), w), (8,)),
    "addmm": lambda: Weighted(lambda x, b, w: torch.addmm(b, flat(x), w), (6,), (8, 6)),
    "bmm": lambda: Weighted(lambda x, w: torch.bmm(w.expand(x.shape[0], 6, 8), x.flatten(2)), (6, 8)),
    "baddbmm": lambda: Weighted(
        lambda x, b, w: torch.baddbmm(b, tokens(x), w.expand(x.shape[0], 8, 6)).transpose(1, 2),
        (1, 1, 6),
        (8, 6),
    ),
    "einsum": lambda: Weighted(lambda x, w: torch.einsum("bchw,cd->bdhw", x, w), (8, 6)),
    "scaled_dot_product_attention": Attention,
    "embedding": Word,
    "lstm": recurrent(nn.LSTM),
    "gru": recurrent(nn.GRU),
    "rnn_tanh": recurrent(nn.RNN),
    "rnn_relu": recurrent(nn.RNN, nonlinearity="relu"),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(8, 6, 3, stride=2),
}
"""Handle → a factory of a module for data (2, 8, 4, 4)."""

OTHER_RANKS: dict[str, tuple[int, Callable[[], Operation]]] = {
    **{f"conv{rank}d": (rank, lambda: torch.relu) for rank in (1, 2, 3)},
    "linear": (1, lambda: lambda x: x.mean(2)),
    **{
        f"{kind}_pool{rank}d": (rank, lambda kind=kind, rank=rank: call(getattr(F, f"{kind}_pool{rank}d"), 2))
        for kind in ("max", "avg", "adaptive_avg", "adaptive_max")
        for rank in (1, 3)
    },
    "max_pool3d_with_indices": (3, lambda: pair(call(aten.max_pool3d_with_indices, [2, 2, 2]))),
    "max_pool1d_with_indices": (1, lambda: pair(call(aten.max_pool1d_with_indices, [2]))),
    "conv_transpose1d": (1, lambda: nn.ConvTranspose1d(8, 6, 2)),
    "conv_transpose3d": (3, lambda: nn.ConvTranspose3d(8, 6, 2)),
    "upsample_nearest1d": (1, lambda: call(F.interpolate, scale_factor=2)),
    "upsample_nearest3d": (3, lambda: call(F.interpolate, scale_factor=2)),
    "upsample_linear1d": (1, lambda: call(F.interpolate, scale_factor=2, mode="linear")),
    "upsample_trilinear3d": (3, lambda: call(F.interpolate, size=(2, 3, 3), mode="trilinear")),
    "_upsample_nearest_exact1d": (1, lambda: call(F.interpolate, size=5, mode="nearest-exact")),
    "_upsample_nearest_exact3d": (3, lambda: call(F.interpolate, size=3, mode="nearest-exact")),
    "reflection_pad1d": (1, lambda: call(aten.reflection_pad1d, [1, 2])),
    "replication_pad1d": (1, lambda: call(aten.replication_pad1d, [2, 0])),
}
"""Handle → the number of position axes, and a factory of an operation on (2, 8, 4…)."""
