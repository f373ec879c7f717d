"""Quadratic certificates of convolutions: the layer's input is the receptive-field patch of one position.

What the reader of a hidden layer hears differently at one position is a residual of the units under its taps,
each of which reads a patch of the layer's input; so each output channel at each position has a certificate of
its own, over the box of that patch. Where weights, box and the taps that fall beside the border are the same
for two positions, so is the certificate: on a box that is the same everywhere there is one class for the
inside and a few for the borders. Classes are found by comparing the numbers themselves, bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.bounds.differential import Reach
from edgeprune.bounds.interval import affine
from edgeprune.bounds.layer import Layer, inexact, through_relu
from edgeprune.bounds.parabolas import Region, Residual
from edgeprune.bounds.primal import Ascent
from edgeprune.bounds.quadratic import layer_bounds
from edgeprune.bounds.watch import Watch
from edgeprune.functions.forms import Affine, Convolve, Twin, restrict
from edgeprune.functions.intervals import Interval
from edgeprune.functions.kernels import spread

LARGEST = 640
"""Units under the taps of one position beyond which certificates take too long."""


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """What one position of the reader hears differently, and where its input lies."""

    residual: Residual
    region: Region

    def key(self) -> bytes:
        """The same for two positions exactly if all their numbers are."""
        r, box = self.residual, self.region
        assert box.radius is not None
        parts = (r.incoming, r.bias, r.outgoing, r.offset, box.center, box.radius)
        return b"".join(repr(tuple(t.shape)).encode() + t.contiguous().numpy().tobytes() for t in parts)


def conv_layer_of(reader: Twin, twins: Mapping[str, Twin]) -> Layer | None:
    """The convolutional layer that a convolution reads through a ReLU; None where it is not of that kind."""
    return through_relu(reader, twins, Convolve)


def patch_of(layer: Layer, place: Tensor, reached: Mapping[str, Reach]) -> Patch | None:
    """The patch of one position, all kept channels at once; None where it has too many units.

    Args:
        place: which of the reader's positions, flat.
    """
    f, g, first = layer.reader.f, layer.reader.g, layer.first.f
    assert isinstance(f, Affine)
    assert isinstance(g, Affine)
    assert isinstance(first, Affine)
    h, x = reached[layer.hidden.name], reached[layer.first.sources[0]].f
    z = reached[layer.reader.name]
    own = f.restricted(layer.reader.kept, (None,) * len(layer.reader.kept))
    channels = z.g.shape[1]
    rows = torch.zeros((channels, channels, z.g.low[0, 0].numel()), dtype=torch.float64)
    rows[torch.arange(channels), torch.arange(channels), place] = 1.0
    rows = rows.reshape(channels, *z.g.shape[1:])
    heard = own.kernel.adjoint(own.weight, rows, h.f.shape)
    mine = spread(g.kernel.adjoint(g.weight, rows, h.g.shape), h.kept, h.f.shape)
    apart = (heard - mine).reshape(channels, -1)
    under = (heard.reshape(channels, -1) != 0).any(0) | (apart != 0).any(0)
    units = under.nonzero().reshape(-1)
    if not 0 < len(units) <= LARGEST:
        return None
    ones = torch.zeros((len(units), h.f.low.numel()), dtype=torch.float64)
    ones[torch.arange(len(units)), units] = 1.0
    incoming = first.kernel.adjoint(first.weight, ones.reshape(-1, *h.f.shape[1:]), x.shape)
    incoming = incoming.reshape(len(units), -1)
    inputs = (incoming != 0).any(0).nonzero().reshape(-1)
    bias = first.bias.expand(h.f.shape).reshape(-1)[units]
    offset = (restrict(f.bias, layer.reader.kept) - g.bias).expand(z.g.shape)[0].flatten(1)[:, place]
    box = Region(x.center.reshape(-1)[inputs], x.radius.reshape(-1)[inputs])
    return Patch(Residual(incoming[:, inputs], bias, apart[:, units], offset), box)


def patch_delta(layer: Layer, reached: Mapping[str, Reach], ascent: Ascent, watch: Watch) -> Interval:
    """An interval of Δ at the layer's reader; where the deadline came first it is infinite."""
    z, h = reached[layer.reader.name], reached[layer.hidden.name]
    g = layer.reader.g
    assert isinstance(g, Affine)
    low = torch.full_like(z.g.low, -torch.inf).flatten(2)
    high = torch.full_like(low, torch.inf)
    known: dict[bytes, tuple[Tensor, Tensor]] = {}
    for place in torch.arange(low.shape[2]):
        if not watch.left:
            break
        patch = patch_of(layer, place, reached)
        if patch is None:
            break
        key = patch.key()
        if key not in known:
            watch.tell(f"{layer.reader.name}: quadratic certificate of patch {len(known) + 1}")
            known[key] = layer_bounds(patch.residual, patch.region, ascent, watch)
        low[0, :, place], high[0, :, place] = known[key]
    found = Interval(low.reshape(z.g.shape), high.reshape(z.g.shape)).widen(inexact(layer, reached))
    return found + affine(g.linear(), h.delta)


__all__ = ["LARGEST", "Patch", "conv_layer_of", "patch_delta", "patch_of"]
