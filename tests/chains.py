"""Random nets of linear layers and pruned ones, as twins without a graph."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from edgeprune.domains.sets import Box, Domain, L2Ball
from edgeprune.functions import curves
from edgeprune.functions.forms import Affine, Dense, Elementwise, Input, Kept, Twin

F64 = torch.float64
RELU = Elementwise(curves.clamp(0.0, math.inf))


def chain(sizes: list[int], keep: list[Tensor | None], generator: torch.Generator, near: float) -> list[Twin]:
    """A random net of linear layers and a pruned one: what is left, moved by `near`, compensated at random."""
    twins = [Twin("x", Input("x"), Input("x"), (), (None, None))]
    before: Tensor | None = None
    for k, (width, out) in enumerate(pairwise(sizes)):
        w = torch.randn((out, width), generator=generator, dtype=F64) * (1.5 / math.sqrt(width))
        b = torch.randn(out, generator=generator, dtype=F64) * 0.5
        kept = keep[k]
        v = w if kept is None else w[kept]
        c = b if kept is None else b[kept]
        v = v if before is None else v[:, before]
        v = v + near * torch.randn(v.shape, generator=generator, dtype=F64)
        c = c + near * torch.randn(c.shape, generator=generator, dtype=F64)
        shape: Kept = (None, kept)
        source = twins[-1].name
        twins.append(
            Twin(f"z{k}", Affine.given(Dense(), w, b), Affine.given(Dense(), v, c), (source,), shape)
        )
        if k < len(sizes) - 2:
            twins.append(Twin(f"h{k}", RELU, RELU, (f"z{k}",), shape))
        before = kept
    return twins


def both(twins: list[Twin], x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    f, g = {"x": x}, {"x": x}
    for twin in twins[1:]:
        for values, form in ((f, twin.f), (g, twin.g)):
            h = values[twin.sources[0]]
            assert isinstance(form, Affine | Elementwise)
            values[twin.name] = form.apply(h) if isinstance(form, Affine) else form.curve.function(h)
    return f, g


def random_case(seed: int) -> tuple[list[Twin], Domain, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    depth = 1 + seed % 4
    sizes = [3, *(int(torch.randint(3, 12, (), generator=generator)) for _ in range(depth)), 3]
    keep: list[Tensor | None] = []
    for width in sizes[1:-1]:
        left = int(torch.randint(1, width + 1, (), generator=generator))
        keep.append(torch.randperm(width, generator=generator)[:left].sort().values if left < width else None)
    twins = chain(sizes, [*keep, None], generator, (0.0, 1e-3, 0.3)[seed % 3])
    center = torch.randn(3, generator=generator, dtype=F64)
    radius = (1e-9, 0.05, 0.5, 2.0)[seed % 4]
    domain: Domain = Box.around(center, radius) if seed % 2 else L2Ball(center, radius)
    x = domain.sample(200, (3,), generator)
    way = torch.randn((100, 3), generator=generator, dtype=F64)
    return twins, domain, torch.cat([x, domain.project(domain.extreme(way))])
