"""Walking backwards from what is to be bounded to the inputs: linear bounds of two nets and their difference.

A linear function of a node, a_fᵀf + a_gᵀg + a_ΔᵀΔ with Δ = f[kept] − g, is rewritten node by node as one of
the node's sources that is nowhere smaller. At the inputs f = g = x and Δ = 0: what is left is (a_f + a_g)ᵀx
plus a constant, whose supremum over the domain is known.

Affine node, z_f = W h_f + b, z_g = V h_g + c, with S what is kept of h and R what is removed:
    a_f′ = Wᵀa_f ⊕_R (W_S·ᵀ a_Δ)_R,   a_Δ′ = W_SSᵀ a_Δ,   a_g′ = Vᵀ(a_g − a_Δ) + a_Δ′,
because Δz = W_SS Δh + W_SR h_f[R] + (W_SS − V) h_g + (b_S − c).

The gauge of the three blocks is in `edgeprune.bounds.coefficients`, the rule of each form in `walk`.

Rounding. Coefficients are computed in float64. A coefficient that is off by ε changes the function by
ε·|h| at most, and every step computes its coefficients with a relative error of γ (per product |a||W|).
So each step adds γ Σ |a| · (largest size of what it multiplies) to the constant: the errors never compound.

Source:
    Zhang et al. (2018), CROWN, for one net; the three blocks and the gauge are derived above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.bounds.coefficients import Rows, unit_rows
from edgeprune.bounds.differential import Reach
from edgeprune.bounds.relax import Lines, difference_lines, lines
from edgeprune.bounds.walk import Walk
from edgeprune.domains.sets import Domain
from edgeprune.functions.forms import (
    Affine,
    Elementwise,
    Twin,
    restrict,
)
from edgeprune.functions.intervals import UNIT_ROUNDOFF, Interval


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """A branch: units of a ReLU that are on a known side of zero, row by row; see `branching`.

    Attributes:
        f: (rows, *shape) above zero where the original's unit is not negative, below where it is not
            positive, zero where either can be; the sizes are the units of `f_beta`.
        g: the same in the pruned net.
        f_beta: (rows, *shape) multipliers β ≥ 0: as f · z ≥ 0 on the branch, β f · z may be added to what is
            bounded above.
        g_beta: the same in the pruned net.
    """

    f: Tensor
    g: Tensor
    f_beta: Tensor
    g_beta: Tensor

    def within(self, h: Reach) -> Reach:
        """What the units can be on the branch; Δ ties both nets together."""
        f, g = _sided(h.f, self.f), _sided(h.g, self.g)
        delta = Interval(h.delta.low.expand(g.shape), h.delta.high.expand(g.shape))
        on_kept = Reach(f, g, delta, h.kept).f_kept
        g = _met(g, on_kept - delta)
        return Reach(f, g, _met(delta, on_kept - g), h.kept)


def _sided(z: Interval, side: Tensor) -> Interval:
    low, high = z.low.expand(side.shape), z.high.expand(side.shape)
    return Interval(
        torch.where(side > 0, low.clamp_min(0), low), torch.where(side < 0, high.clamp_max(0), high)
    )


def _met(one: Interval, other: Interval) -> Interval:
    """What both hold; the first where they hold nothing in common, as on a branch without inputs."""
    low, high = torch.maximum(one.low, other.low), torch.minimum(one.high, other.high)
    empty = low > high
    return Interval(torch.where(empty, one.low, low), torch.where(empty, one.high, high))


@dataclass(frozen=True, slots=True, eq=False)
class Tuning:
    """Free choices at one activation; any values give a bound.

    Attributes:
        f: slopes of the lower lines of the original's ReLU, (rows or 1, *shape).
        g: the same in the pruned net.
        share: θ, how much of the common part is bounded as a function of Δ.
        sides: the branch that each row is on; None for the whole domain.
    """

    f: Tensor
    g: Tensor
    share: Tensor
    sides: Sides | None = None


class Backward:
    """Linear bounds of any node of a pair of nets over a domain.

    Args:
        twins: every node after its sources.
        reached: what each node can be; looked up when a bound is asked for, so it may still grow.
        domains: by the names that `Input` forms carry.
    """

    def __init__(
        self, twins: Sequence[Twin], reached: Mapping[str, Reach], domains: Mapping[str, Domain]
    ) -> None:
        self.twins = tuple(twins)
        self.place = {twin.name: k for k, twin in enumerate(self.twins)}
        self.reached = reached
        self.domains = domains
        self._lines: dict[str, tuple[Reach, tuple[Lines, Lines, Lines | None]]] = {}
        self._sizes: dict[str, tuple[Tensor, Tensor]] = {}

    def upper(
        self,
        name: str,
        rows: Rows,
        tuning: Mapping[str, Tuning] | None = None,
        *,
        rounded: bool = True,
        seen: dict[str, Rows] | None = None,
    ) -> Tensor:
        """Upper bounds of linear functions of a node, over the whole domain.

        Args:
            tuning: by name of activation; what is not named is chosen here.
            rounded: add what the rounding of this computation can amount to. Only then is it a bound.
            seen: is given the coefficients that arrive at every activation, after the gauge.

        Returns:
            (rows,) float64; inf where nothing is known.
        """
        first = next(a for a in (rows.f, rows.g, rows.delta) if a is not None)
        walk = Walk(self, tuning or {}, len(first), rounded, seen)
        walk.pending[name] = rows
        for twin in reversed(self.twins[: self.place[name] + 1]):
            found = walk.pending.pop(twin.name, None)
            if found is not None:
                walk.visit(twin, found)
        total = walk.constant + walk.error * (1 + 1e-9)
        return torch.where(total.isnan(), torch.inf, total)

    def lines_of(self, twin: Twin, tuning: Tuning | None) -> tuple[Lines, Lines, Lines | None]:
        """The lines around an activation of f, of g, and of their difference; None if φ differs."""
        assert isinstance(twin.f, Elementwise)
        assert isinstance(twin.g, Elementwise)
        h = self.reached[twin.sources[0]]
        known = self._lines.get(twin.name)
        if known is None or known[0] is not h:
            survived = twin.f.curve.restricted(lambda parameter: restrict(parameter, twin.kept))
            apart = None
            if survived.same_as(twin.g.curve):
                apart = difference_lines(twin.g.curve, h.f_kept, h.g, h.delta)
            known = h, (lines(twin.f.curve, h.f), lines(twin.g.curve, h.g), apart)
            self._lines[twin.name] = known
        if tuning is None:
            return known[1]
        if tuning.sides is None:
            return lines(twin.f.curve, h.f, tuning.f), lines(twin.g.curve, h.g, tuning.g), known[1][2]
        h, apart = tuning.sides.within(h), known[1][2]
        if apart is not None:
            apart = difference_lines(twin.g.curve, h.f_kept, h.g, h.delta)
        return lines(twin.f.curve, h.f, tuning.f), lines(twin.g.curve, h.g, tuning.g), apart

    def noise_of(self, twin: Twin) -> tuple[Tensor, Tensor]:
        """What one unit of coefficient on an affine node costs in rounding, in f and in g."""
        known = self._sizes.get(twin.name)
        if known is None:
            assert isinstance(twin.f, Affine)
            assert isinstance(twin.g, Affine)
            h = self.reached[twin.sources[0]]
            known = _noise(twin.f, h.f.magnitude), _noise(twin.g, h.g.magnitude)
            self._sizes[twin.name] = known
        return known


def _noise(form: Affine, size: Tensor) -> Tensor:
    """Of a product Wᵀa, per |a|: γ(terms)(|W||h| + |b|), and what W and b themselves can be off by."""
    kernel, weight = form.kernel, form.weight
    heard = kernel.apply(weight.abs(), size) + form.bias.abs()
    columns = weight.numel() // max(1, weight.shape[1] if weight.dim() > 1 else 1)
    share = (2 * (kernel.terms(weight) + columns + heard.numel()) + 64) * UNIT_ROUNDOFF
    return heard * share + kernel.apply(1.001 * form.weight_error, size) + 1.001 * form.bias_error


__all__ = ["Backward", "Rows", "Sides", "Tuning", "unit_rows"]
