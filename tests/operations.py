"""A net for every ATen name that has a rule: the operation between a layer that makes channels and one that reads.

The tables map a name to an operation on data (2, 8, 4, 4); those with weights of their own, or for
data of another rank, stand in `layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from nets import call
from torch import Tensor

from edgeprune.ops.pointwise import ACTIVATIONS

aten = torch.ops.aten
Operation = Callable[[Tensor], Tensor]


def after(before: Operation, operation: Any) -> Operation:
    """The operation on what `before` makes of the data."""
    return lambda x: operation(before(x))


def positive(x: Tensor) -> Tensor:
    return x * x + 0.5


def tokens(x: Tensor) -> Tensor:
    """Channels last: (2, 16, 8)."""
    return x.flatten(2).transpose(1, 2)


def flat(x: Tensor) -> Tensor:
    """(2, 8)."""
    return x.mean((2, 3))


def with_itself(operation: Any) -> Operation:
    """An operation of two tensors that hold the same channels."""
    return lambda x: operation(x, torch.tanh(x) + 2.0)


def chosen(condition: Any) -> Operation:
    """Data where a condition on two tensors holds, else something else."""
    return lambda x: torch.where(condition(x, torch.tanh(x)), x, 0.5 * x + 1.0)


def both(condition: Any) -> Operation:
    """The same with a condition on two conditions."""
    return lambda x: torch.where(condition(x > 0, x < 0.5), x, 0.5 * x + 1.0)


def whole(operation: Any) -> Operation:
    """Whole numbers made of the data, and what the operation makes of them."""
    return lambda x: x * operation((x > 0).to(torch.int64), (x > 0.3).to(torch.int64)).to(x.dtype)


def counted(operation: Any) -> Operation:
    """What the operation finds along the last axis, as a number to add."""
    return lambda x: x[..., 0] + operation(x).to(x.dtype)


def pair(operation: Any, part: int = 0) -> Operation:
    """One of the tensors that the operation returns."""
    return lambda x: operation(x)[part]


def at(*places: int) -> Tensor:
    return torch.tensor(places)


ACTIVATIONS_AND_FUNCTIONS: dict[str, Operation] = {
    **{name: call(getattr(F, name)) for name in ACTIVATIONS if name not in ("sigmoid", "tanh")},
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "dropout": call(aten.dropout, 0.5, False),
    "feature_dropout": call(aten.feature_dropout, 0.5, False),
    "alpha_dropout": call(aten.alpha_dropout, 0.5, False),
    "native_dropout": pair(call(aten.native_dropout, 0.5, False)),
    "clone": aten.clone,
    "contiguous": aten.contiguous,
    "detach": aten.detach,
    "alias": aten.alias,
    "to": after(torch.sigmoid, lambda x: x.to(torch.float32).to(torch.float64)),
    "_to_copy": call(aten._to_copy, dtype=torch.float64),
    "type_as": with_itself(aten.type_as),
    "neg": torch.neg,
    "abs": torch.abs,
    "exp": after(torch.tanh, torch.exp),
    "log": after(positive, torch.log),
    "sqrt": after(positive, torch.sqrt),
    "rsqrt": after(positive, torch.rsqrt),
    "square": torch.square,
    "reciprocal": after(positive, torch.reciprocal),
    "erf": torch.erf,
    **{
        name: after(torch.tanh, getattr(aten, name))
        for name in (
            *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "ceil", "floor", "frac"),
            *("sign", "sgn", "log1p", "expm1", "exp2", "erfc", "log_sigmoid", "hardshrink", "softshrink"),
            *("positive", "real", "deg2rad", "rad2deg", "nan_to_num"),
        )
    },
    "atanh": after(lambda x: 0.9 * torch.tanh(x), torch.atanh),
    "acosh": after(lambda x: 1.1 + x * x, torch.acosh),
    "erfinv": after(lambda x: 0.9 * torch.tanh(x), torch.erfinv),
    "log2": after(positive, torch.log2),
    "log10": after(positive, torch.log10),
    "trunc": lambda x: torch.trunc(4 * x),
    "round": lambda x: torch.round(4 * x),
    "threshold": call(F.threshold, 0.1, 2.0),
    "rrelu": call(F.rrelu, 0.1, 0.4, False),
    "lift_fresh_copy": aten.lift_fresh_copy,
    "zero": lambda x: x + aten.zero(x),
    "fill": lambda x: x * aten.fill(x, 1.5),
    "isnan": lambda x: torch.where(torch.isnan(x), 1.0, x),
    "isinf": lambda x: torch.where(torch.isinf(x), 1.0, x),
    "isfinite": lambda x: torch.where(torch.isfinite(x), x, 1.0),
    "logical_not": lambda x: torch.where(torch.logical_not(x > 0.2), x, 1.0),
    "bitwise_not": lambda x: torch.where(torch.bitwise_not(x > 0.2), x, 1.0),
    "clamp": call(torch.clamp, -0.2, 0.7),
    "clamp_min": call(aten.clamp_min, -0.1),
    "clamp_max": call(aten.clamp_max, 0.3),
}

ARITHMETIC: dict[str, Operation] = {
    **{
        name: with_itself(getattr(aten, name))
        for name in (
            *("add", "sub", "rsub", "mul", "div", "maximum", "minimum", "fmod", "remainder", "floor_divide"),
            *("true_divide", "atan2", "hypot", "fmax", "fmin", "divide", "multiply", "subtract", "copy"),
        )
    },
    **{name: chosen(getattr(aten, name)) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{
        name: both(getattr(aten, name))
        for name in ("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")
    },
    "__and__": whole(aten.__and__),
    "__or__": whole(aten.__or__),
    "pow": with_itself(lambda x, y: aten.pow(positive(x), y)),
    "float_power": call(aten.float_power, 2.0),
    "xlogy": with_itself(aten.xlogy),
    "heaviside": with_itself(lambda x, y: y * aten.heaviside(x, y)),
    "where": lambda x: torch.where(x > 0.1, x, torch.exp(-x)),
    "masked_fill": lambda x: x.masked_fill(x < -0.1, 3.0),
    "lerp": with_itself(lambda x, y: torch.lerp(x, y, 0.3)),
    "addcmul": with_itself(lambda x, y: torch.addcmul(x, y, y, value=0.5)),
    "addcdiv": with_itself(lambda x, y: torch.addcdiv(x, x, y, value=0.5)),
}

POSITIONS: dict[str, Operation] = {
    "max_pool2d": call(F.max_pool2d, 2, 1),
    "avg_pool2d": call(F.avg_pool2d, 3, 1, 1),
    "adaptive_avg_pool2d": call(F.adaptive_avg_pool2d, 2),
    "adaptive_max_pool2d": call(F.adaptive_max_pool2d, 2),
    "max_pool2d_with_indices": pair(call(aten.max_pool2d_with_indices, [2, 2])),
    "upsample_nearest2d": call(F.interpolate, scale_factor=2),
    "upsample_bilinear2d": call(F.interpolate, size=(6, 7), mode="bilinear"),
    "upsample_bicubic2d": call(F.interpolate, scale_factor=1.5, mode="bicubic"),
    "_upsample_nearest_exact2d": call(F.interpolate, scale_factor=2, mode="nearest-exact"),
    "_upsample_bilinear2d_aa": call(F.interpolate, size=(3, 3), mode="bilinear", antialias=True),
    "_upsample_bicubic2d_aa": call(F.interpolate, size=(3, 3), mode="bicubic", antialias=True),
    "grid_sampler": lambda x: F.grid_sample(x, _grid(x), align_corners=False),
    "grid_sampler_2d": lambda x: aten.grid_sampler_2d(x, _grid(x), 0, 0, False),
    "reflection_pad2d": call(aten.reflection_pad2d, [1, 2, 0, 1]),
    "replication_pad2d": call(aten.replication_pad2d, [1, 2, 0, 1]),
    "pad": call(F.pad, (1, 1, 0, 2), value=0.5),
    "constant_pad_nd": call(aten.constant_pad_nd, [0, 0, 1, 0, 1, 2], 0.25),
    "im2col": lambda x: F.unfold(x, 2),
    "col2im": lambda x: F.fold(x.flatten(2), (4, 4), 1),
    "unfold": lambda x: x.unfold(3, 2, 1).flatten(3),
}


def _grid(x: Tensor) -> Tensor:
    return torch.linspace(-0.9, 0.9, 18, dtype=x.dtype).reshape(1, 3, 3, 2).expand(x.shape[0], 3, 3, 2)


REDUCTIONS: dict[str, Operation] = {
    "mean": call(torch.mean, (2, 3)),
    "sum": call(torch.sum, (3,), keepdim=True),
    "amax": call(torch.amax, -1),
    "amin": call(torch.amin, (2, -1)),
    "prod": call(torch.prod, 3),
    "std": call(torch.std, (2, 3)),
    "var": call(torch.var, 3),
    "var_mean": pair(call(torch.var_mean, (2, 3)), 1),
    "std_mean": pair(call(torch.std_mean, 2)),
    "logsumexp": call(torch.logsumexp, (3,)),
    "linalg_vector_norm": lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
    "norm": call(aten.norm.ScalarOpt_dim, 2, [3]),
    "max": pair(call(torch.max, 3)),
    "min": pair(call(torch.min, 2)),
    "median": pair(call(torch.median, 3)),
    "nanmedian": pair(call(torch.nanmedian, 3)),
    "mode": pair(call(torch.mode, 3)),
    "kthvalue": pair(call(torch.kthvalue, 2, 3)),
    "aminmax": pair(lambda x: torch.aminmax(x, dim=3), 1),
    "argmax": counted(call(torch.argmax, -1)),
    "argmin": counted(call(torch.argmin, 3)),
    "any": counted(lambda x: torch.any(x > 0.3, 3)),
    "all": counted(lambda x: torch.all(x > -0.1, 3)),
    "count_nonzero": counted(lambda x: torch.count_nonzero(x > 0, 3)),
    "cumsum": call(torch.cumsum, 3),
    "cumprod": call(torch.cumprod, 2),
    "logcumsumexp": call(torch.logcumsumexp, 3),
    "cummax": pair(call(torch.cummax, 3)),
    "cummin": pair(call(torch.cummin, 2)),
    "sort": pair(call(torch.sort, 3)),
    "argsort": lambda x: x + torch.argsort(x, 3).to(x.dtype),
    "flip": call(torch.flip, [3]),
    "roll": call(torch.roll, 1, 2),
    "topk": pair(call(torch.topk, 2, 3)),
    "tril": torch.tril,
    "triu": call(torch.triu, 1),
    "softmax": call(torch.softmax, -1),
    "log_softmax": call(torch.log_softmax, 2),
    "_softmax": call(aten._softmax, 3, False),
    "_log_softmax": call(aten._log_softmax, 3, False),
    "glu": call(F.glu, 1),
}

MOVED: dict[str, Operation] = {
    "view": lambda x: x.view(-1, 8 * 16),
    "reshape": lambda x: x.reshape(x.shape[0], 8, 16),
    "_unsafe_view": call(aten._unsafe_view, [2, 8, 16]),
    "view_as": lambda x: aten.view_as(x, x.flatten(2)),
    "reshape_as": lambda x: aten.reshape_as(x, x.flatten(2)),
    "flatten": call(torch.flatten, 1, 2),
    "unflatten": lambda x: x.unflatten(1, (2, 4)).flatten(1, 2),
    "squeeze": lambda x: x[:, :, :1].squeeze(2),
    "unsqueeze": lambda x: x.unsqueeze(2),
    "permute": lambda x: x.permute(0, 3, 1, 2).flatten(1, 2),
    "transpose": lambda x: x.transpose(1, -1).reshape(2, -1),
    "swapaxes": lambda x: aten.swapaxes(x, 1, 2).flatten(1),
    "movedim": lambda x: aten.movedim(x, 1, 3).flatten(1),
    "moveaxis": lambda x: aten.moveaxis(x, 3, 1).flatten(1, 2),
    "t": lambda x: aten.t(aten.t(flat(x))),
    "mT": lambda x: aten.mT(tokens(x)),
    "adjoint": lambda x: aten.adjoint(tokens(x)),
    "numpy_T": lambda x: aten.numpy_T(aten.numpy_T(x)),
    "pixel_shuffle": call(F.pixel_shuffle, 2),
    "pixel_unshuffle": call(F.pixel_unshuffle, 2),
    "channel_shuffle": call(F.channel_shuffle, 2),
    "native_channel_shuffle": call(aten.native_channel_shuffle, 4),
    "cat": lambda x: torch.cat([x, torch.relu(x)], 1),
    "concat": lambda x: aten.concat([torch.relu(x), x], -3),
    "concatenate": lambda x: aten.concatenate([x, torch.relu(x), x], 1),
    "stack": lambda x: torch.stack([x, torch.relu(x)], 2).flatten(1, 2),
    "chunk": lambda x: torch.mul(*x.chunk(2, 1)),
    "split": lambda x: torch.add(*x.split(4, 1)),
    "split_with_sizes": lambda x: x.split([3, 5], -3)[1],
    "tensor_split": lambda x: aten.tensor_split(x, 3, 1)[0],
    "unbind": lambda x: torch.mul(*x.unbind(3)[:2]),
    "getitem": lambda x: torch.cat(x.chunk(4, 1)[1:], 1),
    "slice": lambda x: x[:, 2:-1],
    "select": lambda x: x.select(3, 1) * x[:, :, 2],
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(-1, 8, 3, 3),
    "expand_as": lambda x: aten.expand_as(x.mean((2, 3), keepdim=True), x),
    "broadcast_to": lambda x: aten.broadcast_to(x.mean((2, 3), keepdim=True), [2, 8, 3, 3]),
    "repeat": call(torch.Tensor.repeat, 1, 2, 1, 1),
    "tile": call(aten.tile, [1, 2, 1, 1]),
    "repeat_interleave": lambda x: torch.repeat_interleave(x, 2, 3),
}

INDEXED: dict[str, Operation] = {
    "index": lambda x: x[:, :, at(0, 2, 2)],
    "_unsafe_index": lambda x: aten._unsafe_index(x, [None, None, at(3, 1)]),
    "index_select": lambda x: x.index_select(3, at(1, 1, 0)),
    "gather": lambda x: x.gather(3, torch.argsort(x, 3)),
    "take_along_dim": lambda x: aten.take_along_dim(x, torch.argsort(x, 3), 3),
    "scatter": lambda x: x.scatter(3, torch.argsort(x, 3), torch.tanh(x)),
    "scatter_add": lambda x: x.scatter_add(3, torch.argsort(x, 3), torch.tanh(x)),
    "slice_scatter": lambda x: x.slice_scatter(torch.tanh(x)[..., :2], 3, 1, 3),
}

PINNING: dict[str, Operation] = {
    "index_add": lambda x: x.index_add(3, at(0, 2), torch.tanh(x)[..., :2]),
    "index_fill": lambda x: x.index_fill(3, at(1), 0.5),
    "index_copy": lambda x: x.index_copy(2, at(3, 0), torch.tanh(x)[:, :, :2]),
    "select_scatter": lambda x: x.select_scatter(torch.tanh(x)[..., 0], 3, 2),
    "index_put": lambda x: aten.index_put(x, [None, None, at(1)], torch.tanh(x)[:, :, :1]),
    "_unsafe_index_put": lambda x: aten._unsafe_index_put(x, [None, None, at(1)], torch.tanh(x)[:, :, :1]),
}
"""Operations whose rule is to pin what they write into."""

CREATED: dict[str, Operation] = {
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "ones_like": lambda x: x * torch.ones_like(x),
    "full_like": lambda x: x + torch.full_like(x, 0.5),
    "empty_like": lambda x: x + 0.0 * torch.empty_like(x).clamp(0.0, 1.0).nan_to_num(0.0),
    "new_zeros": lambda x: torch.cat([x, x.new_zeros(2, 8, 4, 1)], 3),
    "new_ones": lambda x: x * x.new_ones(8, 1, 1),
    "new_full": lambda x: torch.cat([x, x.new_full((2, 1, 4, 4), 2.0)], 1),
    "zeros": lambda x: x + torch.zeros(8, 1, 1, dtype=x.dtype),
    "ones": lambda x: x * torch.ones(4, 4, dtype=x.dtype),
    "full": lambda x: x + torch.full((8, 4, 4), 0.5, dtype=x.dtype),
    "arange": lambda x: x + torch.arange(4, dtype=x.dtype),
    "linspace": lambda x: x * torch.linspace(0.5, 1.5, 4, dtype=x.dtype),
    "logspace": lambda x: x * torch.logspace(-0.5, 0.5, 4, dtype=x.dtype),
    "eye": lambda x: x * torch.eye(4, dtype=x.dtype),
    "hann_window": lambda x: x * torch.hann_window(4, dtype=x.dtype),
    "scalar_tensor": lambda x: x * aten.scalar_tensor(1.5, dtype=x.dtype),
}

ON_CHANNELS: dict[str, Operation] = {
    **ACTIVATIONS_AND_FUNCTIONS,
    **ARITHMETIC,
    **POSITIONS,
    **REDUCTIONS,
    **MOVED,
    **INDEXED,
    **CREATED,
}


NOT_NARROWED: dict[str, str] = {
    "rand": "random: it is never part of what is compared",
    "randn": "random: it is never part of what is compared",
    "randint": "random: it is never part of what is compared",
    "randperm": "random: it is never part of what is compared",
    "rand_like": "random: it is never part of what is compared",
    "randn_like": "random: it is never part of what is compared",
    "bernoulli": "random: it is never part of what is compared",
    "tril_indices": "whole numbers that positions are looked up by",
    "triu_indices": "whole numbers that positions are looked up by",
    "_weight_norm": "only weights pass through it: tests/stages/test_computed_weights.py",
    "_weight_norm_interface": "only weights pass through it: tests/stages/test_computed_weights.py",
    "vdot": "stands in spectral norms alone: tests/stages/test_computed_weights.py",
    "empty": "what it holds is undefined",
    "new_empty": "what it holds is undefined",
}
"""Handles that no net reaches with channels to remove, and why."""
