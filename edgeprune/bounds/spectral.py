"""Upper bounds on spectral norms that are really upper bounds.

Power iteration converges from below and proves nothing. For a matrix M with Gram matrix G = M*M,
    ‖M‖₂² = ‖G‖₂,   ‖G‖₂² = ‖G²‖₂,   ‖G‖₂ ≤ ‖G‖_F,
so squaring t times and taking the Frobenius norm gives an upper bound that is off by at most a factor
n^(1/2^(t+2)). In floating point a computed product G·G is off by at most γ‖G‖_F² in norm (Higham 2002,
section 3.5: |fl(AB) − AB| ≤ γ_n |A||B|), which is added at every squaring.

A zero-padded convolution on p positions (an axis) with k taps is a part of the circular convolution on
N ≥ p + k − 1 positions, whose norm is the largest one of N matrices (channels × channels), one for each
frequency. A stride s is removed by reading the input as s times as many channels.

Source:
    Delattre et al. (2023), "Efficient bound of Lipschitz constant for convolutional layers by Gram
    iteration", ICML; Sedghi et al. (2019) for circular convolutions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.functions.forms import Affine, Convolve, Dense, Scale
from edgeprune.functions.intervals import UNIT_ROUNDOFF

SQUARINGS = 7

WORK = 1e11
"""Multiplications beyond which the norm is bounded by row and column sums instead."""


def operator_norm(form: Affine, shape: tuple[int, ...], live: Tensor | None = None) -> float:
    """An upper bound on ‖K(W ± error, ·)‖₂ as a map from tensors of `shape` to outputs.

    Args:
        shape: of the input, with a batch of one in front.
        live: (1, *shape) bool, which inputs can be other than zero; None for all.

    Returns:
        A number; inf where no rule is known.
    """
    kernel, weight = form.kernel, form.weight
    extra = float(form.weight_error.abs().sum()) * (1 + 1e-9)
    if isinstance(kernel, Dense):
        if live is not None and live.dim() == 2:
            weight = weight[:, live[0]]
        if SQUARINGS * min(weight.shape) ** 3 > WORK:
            sums = float(weight.abs().sum(0).max()) * float(weight.abs().sum(1).max())
            return math.sqrt(sums) * (1 + 1e-9) + extra
        return matrix_norm(weight[None]) + extra
    if isinstance(kernel, Scale):
        repeats = kernel.apply(weight, torch.zeros(shape, dtype=torch.float64)).numel() / math.prod(shape)
        return float(weight.abs().max()) * math.sqrt(max(1.0, repeats)) * (1 + 1e-12) + extra
    if isinstance(kernel, Convolve):
        return _convolution_norm(kernel, weight, shape, live) + extra
    return math.inf


def matrix_norm(matrices: Tensor) -> float:
    """An upper bound on the largest ‖·‖₂ of a batch of matrices (…, rows, columns), real or complex."""
    if 0 in matrices.shape:
        return 0.0
    rows, columns = matrices.shape[-2:]
    scale = float(matrices.abs().max())
    if not math.isfinite(scale):
        return math.inf
    if scale == 0:
        return 0.0
    m = matrices / 2.0 ** math.ceil(math.log2(scale))
    m = m if rows >= columns else m.mH
    sizes = torch.linalg.vector_norm(m, dim=(-2, -1)) * (1 + 1e-12)
    gram = m.mH @ m
    square = _power_norm(gram, SQUARINGS) + _gamma(max(rows, columns)) * sizes**2
    return float(square.max().sqrt()) * 2.0 ** math.ceil(math.log2(scale)) * (1 + 1e-12)


def _gamma(terms: int) -> float:
    """γ for complex products of `terms`, in the Frobenius norm."""
    return (8 * terms + 64) * UNIT_ROUNDOFF


def _power_norm(gram: Tensor, squarings: int) -> Tensor:
    """An upper bound on ‖G‖₂ of each matrix of a batch."""
    size: Tensor = torch.linalg.vector_norm(gram, dim=(-2, -1)) * (1 + 1e-12)
    if squarings == 0:
        return size
    # a power of two keeps numbers in range and is exact; zero matrices stay zero
    exponent = torch.where(size > 0, torch.ceil(torch.log2(size.clamp_min(1e-300))), torch.zeros_like(size))
    scale = torch.exp2(exponent)
    g = gram / scale[..., None, None]
    inner = _power_norm(g @ g, squarings - 1) + _gamma(gram.shape[-1]) * (size / scale) ** 2
    result: Tensor = torch.minimum(size, inner.sqrt() * scale * (1 + 1e-14))
    return result


def _convolution_norm(kernel: Convolve, weight: Tensor, shape: tuple[int, ...], live: Tensor | None) -> float:
    """The circular convolution's norm, group by group."""
    rank = weight.dim() - 2
    if any(d != 1 for d in kernel.dilation):
        return _by_sums(kernel, weight, shape)
    out = len(weight)
    if live is not None and kernel.groups == 1:
        channels = live.flatten(2).any(2)[0]
        weight = weight[:, channels]
        if 0 in weight.shape:
            return 0.0
    phases, sizes = weight, []
    for k in range(rank):
        stride, taps = kernel.stride[k], weight.shape[2 + k]
        short = -taps % stride
        phases = F.pad(phases, [0, 0] * (rank - 1 - k) + [0, short])
        # tap a·stride + phase: the phase becomes a part of the channel
        split = (*phases.shape[: 2 + k], -1, stride, *phases.shape[3 + k :])
        phases = phases.reshape(split).movedim(3 + k, 2).flatten(1, 2)
        sizes.append(-(-shape[2 + k] // stride) + 1 + phases.shape[2 + k])
    share = out // kernel.groups
    if math.prod(sizes) * 4 * SQUARINGS * min(share, phases.shape[1]) ** 3 * kernel.groups > WORK:
        return _by_sums(kernel, weight, (*shape[:1], kernel.groups * weight.shape[1], *shape[2:]))
    grouped = phases.reshape(kernel.groups, share, *phases.shape[1:])
    spectrum = torch.fft.rfftn(grouped, s=sizes, dim=tuple(range(3, 3 + rank)))
    matrices = spectrum.flatten(3).movedim(-1, 1)
    slack = 64 * math.log2(2 + math.prod(sizes)) * UNIT_ROUNDOFF
    loose = slack * float(torch.linalg.vector_norm(grouped)) * math.sqrt(math.prod(weight.shape[2:]))
    return max(matrix_norm(part) for part in matrices.flatten(0, 1).split(256)) + loose


def _by_sums(kernel: Convolve, weight: Tensor, shape: tuple[int, ...]) -> float:
    """√(‖K‖₁ ‖K‖_∞), the largest column sum times the largest row sum."""
    ones = torch.ones((1, *shape[1:]), dtype=torch.float64)
    rows = kernel.apply(weight.abs(), ones)
    columns = kernel.adjoint(weight.abs(), torch.ones_like(rows), shape)
    return math.sqrt(float(rows.max()) * float(columns.max())) * (1 + 1e-9)
