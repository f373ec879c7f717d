"""Gradient descent on the free choices of a backward walk: slopes of lower lines, shares, multipliers.

Whatever the choices are, the walk gives a bound: descent is done without rounding terms, and the choices it
ends with are walked once more with them.

Source:
    Xu et al. (2021), "Fast and complete" (α-CROWN), for slopes; Wang et al. (2021), β-CROWN, for multipliers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from edgeprune.bounds.backward import Backward, Rows, Tuning
from edgeprune.bounds.relax import preferred_share
from edgeprune.bounds.watch import Watch
from edgeprune.functions.forms import Elementwise
from edgeprune.functions.intervals import Interval

LIMIT = 5e6
"""Free choices at one activation; above, all rows share one set."""


def tunings_of(backward: Backward, name: str, rows: int, whole: int = 0) -> dict[str, Tuning]:
    """What can be chosen on the way from a node back to the inputs, at its default.

    Args:
        whole: rows of which these are a part: their number decides whether each has choices of its own.
    """
    found = {}
    for twin in backward.twins[: backward.place[name] + 1]:
        if not (isinstance(twin.f, Elementwise) and isinstance(twin.g, Elementwise)):
            continue
        h = backward.reached[twin.sources[0]]
        on_f, on_g, apart = backward.lines_of(twin, None)
        if not bool((on_f.high > on_f.low).any() | (on_g.high > on_g.low).any()):
            continue
        n = rows if max(rows, whole) * h.f.low.numel() <= LIMIT else 1
        share = torch.zeros_like(h.g.low) if apart is None else preferred_share(h, on_f, on_g, apart)
        f, g, share = (t.expand(n, *t.shape[1:]).clone() for t in (_lower(h.f), _lower(h.g), share))
        found[twin.name] = Tuning(f, g, share)
    return found


def _lower(z: Interval) -> Tensor:
    return (z.high > -z.low).to(torch.float64)


def descended(
    backward: Backward,
    name: str,
    rows: Rows,
    tunings: Mapping[str, Tuning],
    steps: int,
    watch: Watch | None = None,
) -> tuple[Tensor, dict[str, Tuning]]:
    """The least upper bounds that gradient descent finds, and the choices that gave them, row by row.

    Args:
        tunings: where to start; not changed.
        watch: no step is begun after its deadline.

    Returns:
        (rows,) float64, rounding included; inf where nothing is free.
    """
    watch = watch or Watch()
    mine = {key: _copied(tuning) for key, tuning in tunings.items()}
    free = [t for tuning in mine.values() for t in _free(tuning)]
    if not free:
        n = len(next(a for a in (rows.f, rows.g, rows.delta) if a is not None))
        return torch.full((n,), torch.inf, dtype=torch.float64), {}
    highest = [1.0, 1.0, 1.0, torch.inf, torch.inf]
    most = [high for tuning in mine.values() for _, high in zip(_free(tuning), highest, strict=False)]
    descent = torch.optim.Adam(free, lr=0.1)
    best: Tensor | None = None
    kept = [t.detach().clone() for t in free]
    for step in range(steps):
        with torch.enable_grad():
            bound = backward.upper(name, rows, mine, rounded=False)
            finite = bound.isfinite()
            if not bound.requires_grad or not bool(finite.any()):
                break
            gradients = torch.autograd.grad(bound[finite].sum(), free, allow_unused=True)
        value = bound.detach()
        better = torch.ones_like(value, dtype=torch.bool) if best is None else value < best
        best = value if best is None else torch.minimum(best, value)
        with torch.no_grad():
            for t, old, gradient in zip(free, kept, gradients, strict=True):
                own = better if len(old) == len(better) else better.all()[None]
                old.copy_(torch.where(own.reshape(-1, *[1] * (old.dim() - 1)), t, old))
                t.grad = torch.zeros_like(t) if gradient is None else gradient.nan_to_num()
        descent.param_groups[0]["lr"] = 0.1 * 0.93**step
        descent.step()
        with torch.no_grad():
            for t, high in zip(free, most, strict=True):
                t.clamp_(0, high)
        if not watch.left:
            break
    fixed = iter(kept)
    found = {key: _with(tuning, [next(fixed) for _ in _free(tuning)]) for key, tuning in mine.items()}
    with torch.no_grad():
        return backward.upper(name, rows, found), found


def _free(tuning: Tuning) -> list[Tensor]:
    own = [tuning.f, tuning.g, tuning.share]
    return own if tuning.sides is None else [*own, tuning.sides.f_beta, tuning.sides.g_beta]


def _with(tuning: Tuning, values: list[Tensor]) -> Tuning:
    f, g, share, *betas = values
    if tuning.sides is None:
        return Tuning(f, g, share)
    return Tuning(f, g, share, replace(tuning.sides, f_beta=betas[0], g_beta=betas[1]))


def _copied(tuning: Tuning) -> Tuning:
    return _with(tuning, [t.detach().clone().requires_grad_() for t in _free(tuning)])


__all__ = ["LIMIT", "descended", "tunings_of"]
