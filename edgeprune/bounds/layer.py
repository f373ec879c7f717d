"""Quadratic certificates where a net has the layers for them: linear, ReLU, linear.

With h = relu(P x + p₀) the hidden layer of the original, S its units that are left and Δh = h[S] − h_g,
    z_f[kept] − z_g = (W_kept − [V on S]) h + (b_kept − c) + V Δh,
exactly. The first part is a residual of one layer, a function of the original's x alone: it is bounded by
`edgeprune.bounds.quadratic` over the box of x (and its ball, where x is an input in one). The second part
is bounded by what is known of Δh; behind the first layer it is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.bounds.differential import Reach
from edgeprune.bounds.interval import affine
from edgeprune.bounds.quadratic import Ascent, Region, Residual, layer_bounds
from edgeprune.bounds.relax import is_relu
from edgeprune.bounds.watch import Watch
from edgeprune.domains.sets import Domain, L2Ball
from edgeprune.functions.forms import Affine, Convolve, Dense, Elementwise, Twin, restrict
from edgeprune.functions.intervals import UNIT_ROUNDOFF, Interval

LARGEST = 1024
"""Units of a hidden layer beyond which its certificate takes too long."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A hidden layer and its reader.

    Attributes:
        first: the linear node that makes the units.
        hidden: their ReLU.
        reader: the linear node that reads them.
    """

    first: Twin
    hidden: Twin
    reader: Twin


def layer_of(reader: Twin, twins: Mapping[str, Twin]) -> Layer | None:
    """The layer that a node reads, if a quadratic certificate speaks about it."""
    layer = through_relu(reader, twins, Dense)
    if layer is None or len(reader.kept) != 2:
        return None
    assert isinstance(layer.first.f, Affine)
    return layer if len(layer.first.f.weight) <= LARGEST else None


def through_relu(reader: Twin, twins: Mapping[str, Twin], kernel: type[Dense | Convolve]) -> Layer | None:
    """What a node reads through a ReLU, where both are linear maps by that kind of kernel; else None."""
    if not (isinstance(reader.f, Affine) and isinstance(reader.g, Affine)):
        return None
    hidden = twins[reader.sources[0]]
    if not (isinstance(hidden.f, Elementwise) and is_relu(hidden.f.curve)):
        return None
    first = twins[hidden.sources[0]]
    if not isinstance(first.f, Affine):
        return None
    if not all(isinstance(m.kernel, kernel) for m in (reader.f, reader.g, first.f)):
        return None
    return Layer(first, hidden, reader)


def region_of(layer: Layer, reached: Mapping[str, Reach], domains: Mapping[str, Domain]) -> Region:
    """Where the layer's input lies: its box, or the ball of an input in one."""
    name = layer.first.sources[0]
    box = reached[name].f
    domain = domains.get(name)
    if isinstance(domain, L2Ball) and isinstance(layer.first.f, Affine):
        center = torch.as_tensor(domain.center, dtype=torch.float64).expand(box.low[0].shape).clone()
        return Region(center, None, (center, domain.radius))
    return Region(box.center[0], box.radius[0])


def residual_of(layer: Layer) -> Residual:
    """(W_kept − [V on S]) relu(P x + p₀) + b_kept − c."""
    first, f, g = layer.first.f, layer.reader.f, layer.reader.g
    assert isinstance(first, Affine)
    assert isinstance(f, Affine)
    assert isinstance(g, Affine)
    units = len(first.weight)
    outgoing = restrict(f.weight, (layer.reader.kept[-1], None)).clone()
    kept = layer.hidden.kept[-1]
    kept = torch.arange(units) if kept is None else kept
    outgoing[:, kept] -= g.weight
    offset = restrict(f.bias, layer.reader.kept) - g.bias
    bias = first.bias.expand(units) if first.bias.dim() <= 1 else first.bias.reshape(-1).expand(units)
    return Residual(first.weight, bias, outgoing, offset.reshape(-1).expand(len(outgoing)))


def quadratic_delta(
    layer: Layer,
    reached: Mapping[str, Reach],
    domains: Mapping[str, Domain],
    ascent: Ascent,
    watch: Watch | None = None,
) -> Interval:
    """An interval of Δ at the layer's reader; see the module's docstring."""
    first, f, g = layer.first.f, layer.reader.f, layer.reader.g
    assert isinstance(first, Affine)
    assert isinstance(f, Affine)
    assert isinstance(g, Affine)
    low, high = layer_bounds(residual_of(layer), region_of(layer, reached, domains), ascent, watch)
    h = reached[layer.hidden.name]
    apart = affine(g.linear(), h.delta)
    return Interval(low[None], high[None]).widen(inexact(layer, reached)) + apart


def inexact(layer: Layer, reached: Mapping[str, Reach]) -> Tensor:
    """What the residual's weights can be off by: folded scalings, and the rounding of W − V and b − c."""
    first, f, g = layer.first.f, layer.reader.f, layer.reader.g
    assert isinstance(first, Affine)
    assert isinstance(f, Affine)
    assert isinstance(g, Affine)
    x, h, out = reached[layer.first.sources[0]].f.magnitude, reached[layer.hidden.name], layer.reader.kept
    u = 2 * UNIT_ROUNDOFF
    size, kept = h.f.magnitude, h.f_kept.magnitude
    moved = first.kernel.apply(first.weight_error, x) + first.bias_error
    # the first layer's own error moves its units, which both readers hear
    heard = size * u + moved.expand(size.shape)
    by = restrict(f.kernel.apply(f.weight.abs(), heard) + f.kernel.apply(f.weight_error, size), out)
    by = by + restrict(f.bias_error + u * f.bias.abs(), out) + g.bias_error + u * g.bias.abs()
    by = by + g.kernel.apply(g.weight.abs(), kept * u + restrict(moved.expand(size.shape), h.kept))
    by = by + g.kernel.apply(g.weight_error, kept)
    return by * (1 + 1e-9) + (math.sqrt(UNIT_ROUNDOFF) * UNIT_ROUNDOFF)
