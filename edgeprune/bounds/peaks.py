"""Maxima over windows as linear maps: the element that wins, and how far another can be above it.

For any element w of a window, max h = h[w] + s with 0 ≤ s ≤ max(0, max over the others of high − low[w]).
With w the element whose low end is highest, s = 0 wherever the winner is decided: then a maximum only moves
elements, and so it does in both nets if they agree on w:
    Δ max = (f[w] − g[w]) + s_f − s_g.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.functions.forms import Maximum
from edgeprune.functions.intervals import Interval


@dataclass(frozen=True, slots=True, eq=False)
class Winners:
    """Which element of each window is taken for its maximum.

    Attributes:
        form: of the maximum.
        mask: (1, *z, window) 1 at the winner, else 0.
        slack: (1, *z) how far the maximum can be above the winner; rounded upwards.
    """

    form: Maximum
    mask: Tensor
    slack: Tensor

    @staticmethod
    def of(form: Maximum, h: Interval, like: Winners | None = None) -> Winners | None:
        """The elements whose low ends are highest, or those that another net takes; None without windows.

        Args:
            h: values of the source.
            like: whose choice is taken over.
        """
        if form.windows is None or form.least:
            return None
        low, high = form.windows(h.low, -torch.inf), form.windows(h.high, -torch.inf)
        if like is None:
            place = low.argmax(-1, keepdim=True)
            mask = torch.zeros_like(low).scatter_(-1, place, 1.0)
        else:
            mask = like.mask
            place = mask.argmax(-1, keepdim=True)
        others = high.masked_fill(mask > 0, -torch.inf).amax(-1)
        slack = (others - low.gather(-1, place)[..., 0]).clamp_min(0)
        # a difference is rounded once, and what is not above zero is exact
        slack = torch.where(slack > 0, torch.nextafter(slack, torch.full_like(slack, torch.inf)), slack)
        return Winners(form, mask, slack)

    def take(self, x: Tensor) -> Tensor:
        """The winners' elements of x (batch, …): linear, and nothing is rounded."""
        assert self.form.windows is not None
        found = self.form.windows(x, 0.0)
        total: Tensor = (found * self.mask).sum(-1)
        return total

    def repeats(self, shape: tuple[int, ...]) -> float:
        """How many windows one element can win."""
        with torch.enable_grad():
            ones = torch.ones(shape, dtype=torch.float64, requires_grad=True)
            (counts,) = torch.autograd.grad(self.take(ones).sum(), ones)
        return float(counts.max()) if counts.numel() else 0.0


__all__ = ["Winners"]
