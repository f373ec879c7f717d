"""Interval propagation of one net: for every node an interval that holds its value on a whole domain.

One rule for each form. The rules are exact for a single node; dependence between nodes is forgotten,
so intervals grow with depth. `Interval.l2_norm` of what a layer is fed is the β of its coreset bound.

Source:
    Gowal et al. (2018), arXiv 1810.12715 (the affine rule by centre and radius).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from edgeprune.errors import UnsupportedOperation
from edgeprune.functions.forms import (
    Affine,
    Constant,
    Elementwise,
    Form,
    Input,
    Maximum,
    Product,
    Softmax,
    Structural,
    Sum,
)
from edgeprune.functions.intervals import TINY, UNIT_ROUNDOFF, Interval, dot_error

UNDERFLOW = 1e-140
"""More than what is lost where squares of weights underflow."""

FAINT = 1e-300
"""Sums of exponentials below count as 0: too few of their digits are left."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One node of one net: a form and the nodes that it is applied to."""

    name: str
    form: Form
    sources: tuple[str, ...]


def propagate(steps: Sequence[Step], inputs: Mapping[str, Interval]) -> dict[str, Interval]:
    """Intervals of every node's value, given intervals of the inputs.

    Args:
        steps: every node after its sources.
        inputs: by the names that `Input` forms carry, with a batch of one in front.

    Raises:
        UnsupportedOperation: there is no rule for a form.
    """
    found: dict[str, Interval] = {}
    for step in steps:
        found[step.name] = image(step.form, [found[name] for name in step.sources], inputs)
    return found


def image(form: Form, sources: Sequence[Interval], inputs: Mapping[str, Interval]) -> Interval:
    """An interval that holds the form's value, whatever the members of its sources.

    Raises:
        UnsupportedOperation: there is no rule for the form.
    """
    match form:
        case Affine():
            return affine(form, sources[0])
        case Sum(signs):
            return total([times(sign, h) for sign, h in zip(signs, sources, strict=True)])
        case Structural():
            return structural(form, sources)
        case Elementwise(curve):
            return curve.image(sources[0])
        case Maximum():
            return maximum(form, sources)
        case Product():
            return sources[0] * sources[1]
        case Softmax():
            return softmax(form, sources[0])
        case Constant(value):
            return Interval.point(value)
        case Input(name):
            return inputs[name]
        case _:
            raise UnsupportedOperation(f"interval propagation has no rule for the form {type(form).__name__}")


def affine(form: Affine, h: Interval) -> Interval:
    """K(W, c) + b ± K(|W|, r) for h within c ± r, the radius cut by ℓ2 where that is known.

    By Cauchy–Schwarz |Σ wᵢ(hᵢ − cᵢ)| ≤ ‖w‖₂ ‖h − c‖₂. Rounding: the three products have the same
    number of terms, and the sizes |c| + r of what is multiplied bound all of their errors;
    errors of the weight itself enter as |E|(|c| + r).
    """
    kernel, weight, bias = form.kernel, form.weight, form.bias
    terms = kernel.terms(weight)
    center, radius = h.center, h.radius
    middle = kernel.apply(weight, center) + bias
    reach = kernel.apply(weight.abs(), radius)
    if math.isfinite(h.l2):
        lengths = kernel.apply(weight * weight, torch.ones_like(center)).clamp_min(0).sqrt()
        slack = 1.0 + (2 * terms + 16) * UNIT_ROUNDOFF
        reach = torch.minimum(reach, lengths * h.l2 * slack + UNDERFLOW * (1 + h.l2))
    share = (2 * terms + 8) * UNIT_ROUNDOFF
    size = kernel.apply(
        (weight.abs() * (share / (1 - share)) + form.weight_error) * (1 + share), center.abs() + radius
    )
    error = size * (1 + share) + form.bias_error + dot_error(terms, form.bias.abs() + bias.abs())
    return Interval(middle - reach, middle + reach).widen(error + dot_error(2, middle.abs() + reach.abs()))


def times(factor: float, h: Interval) -> Interval:
    """Factor · h."""
    if factor == 1:
        return h
    if factor == -1:
        return -h
    return h * Interval.point(torch.tensor(factor, dtype=torch.float64))


def total(parts: Sequence[Interval]) -> Interval:
    """The sum of intervals, with broadcasting."""
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def structural(form: Structural, sources: Sequence[Interval]) -> Interval:
    """Weights are ≥ 0, so ends go to ends; averages are rounded, what is only moved is not."""
    low = form.apply([h.low for h in sources])
    high = form.apply([h.high for h in sources])
    if form.terms:
        return Interval(low, high).widen(dot_error(form.terms, form.linear([h.magnitude for h in sources])))
    moved_only = len(sources) == 1 and low.numel() <= sources[0].low.numel()
    return Interval(low, high, sources[0].l2 if moved_only else math.inf)


def maximum(form: Maximum, sources: Sequence[Interval]) -> Interval:
    """Monotone in every element: ends go to ends, exactly."""
    if form.least:
        return Interval(-form.apply([-h.low for h in sources]), -form.apply([-h.high for h in sources]))
    return Interval(form.apply([h.low for h in sources]), form.apply([h.high for h in sources]))


def softmax(form: Softmax, h: Interval) -> Interval:
    """Least where the element is at its low end and all others at their high ends, and vice versa.

    p = e^a / (e^a + R) with R the sum over the others. R is a sum minus one term, with an error of
    γ times the sum: it is widened by that before it is used.
    """
    top = h.high.amax(form.axis, keepdim=True)
    small, large = (h.low - top).exp(), (h.high - top).exp()
    n = h.low.shape[form.axis]
    gamma = (4 * n + 2048) * UNIT_ROUNDOFF  # an exponent of −700 is rounded by 700 u
    sizes = large.sum(form.axis, keepdim=True) * gamma
    most = (large.sum(form.axis, keepdim=True) - large).clamp_min(0) + sizes
    least = (small.sum(form.axis, keepdim=True) - small - sizes).clamp_min(0)
    if not form.logarithm:
        low, high = small / (small + most), large / (large + least)
        low, high = (low * (1 - gamma)).clamp(0, 1), (high * (1 + gamma)).clamp(0, 1)
        return Interval(low - TINY, high + TINY)
    below, above = small + most, large + least
    low = (h.low - top) - below.log()
    high = ((h.high - top) - torch.where(above < FAINT, 0.0, above).log()).clamp(max=0)
    size = 4 + (h.low - top).abs() + low.abs() + torch.where(high.isfinite(), high, 0.0).abs()
    return Interval(low, high).widen(gamma * size)
