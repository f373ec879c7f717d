"""What the runtime's arithmetic can add: the pruned net against itself, rounded after every operation.

A runtime computes ẑ = fl(W ĥ + c). For sums of n products in any order, fused or not,
    |fl(Σ aᵢxᵢ + b) − (Σ aᵢxᵢ + b)| ≤ γ(n + 1)(Σ|aᵢ||xᵢ| + |b|),   γ(k) = k·u/(1 − k·u),
with u the unit round-off of its precision; where products are rounded to a shorter format first (TF32,
bfloat16) each factor is off by u′ in addition. Other operations are rounded once a result; kernels of exp,
tanh, … are approximations with a measured error. So the runtime's net is the pruned net with an unknown
tensor ε, |ε| ≤ e, added behind every node. Both are put side by side as twins (nothing removed, the second
with a node of unknown offset behind every node) and the difference is bounded by Δ-CROWN, backwards: then
the e of one layer meets the coefficients of its own node only, and errors do not compound as they do in
forward error analysis.

The sizes |W||ĥ| are those of the rounded net: they are taken from intervals that hold ĥ itself.

What is assumed, and said in the certificate: operations are computed one by one as above, with no overflow
and no algorithm that is not a sum of products (no Winograd, no FFT). Weights are those of the file.

Source:
    Higham (2002), section 3.1; Jeannerod & Rump (2013) for any order of summation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.bounds.crown import Effort, crown
from edgeprune.bounds.differential import Difference, Reach, enclose, fold, visit
from edgeprune.domains import Domain
from edgeprune.errors import UsageError
from edgeprune.forms import (
    Affine,
    Constant,
    Elementwise,
    Form,
    Input,
    Maximum,
    Scale,
    Softmax,
    Structural,
    Twin,
)
from edgeprune.intervals import Interval


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a runtime computes.

    Attributes:
        name: of the profile.
        unit: relative error of one rounded operation.
        product: relative error of each factor of a product, where it is read in a shorter format.
        tiny: absolute error of one operation, where numbers underflow.
        kernels: absolute errors of unary kernels on all inputs, by name of the curve; of those that
            are not named 8 units of (1 + |φ|) are assumed.
        assumes: in words, for the certificate.
    """

    name: str
    unit: float
    product: float = 0.0
    tiny: float = 2.0**-126
    kernels: Mapping[str, float] | None = None
    assumes: str = ""


ORT_KERNELS = {"tanh": 2.6e-7, "sigmoid": 1.6e-7, "erf": 6e-8}
"""Largest absolute errors seen on a 1/256 share of all float32 numbers, onnxruntime 1.31 on x86-64."""

ARITHMETICS: dict[str, Arithmetic] = {
    a.name: a
    for a in (
        Arithmetic(
            "float32",
            2.0**-24,
            kernels=ORT_KERNELS,
            assumes="float32, sums of products in any order; kernels as measured with onnxruntime 1.31",
        ),
        Arithmetic(
            "tf32",
            2.0**-23,
            product=2.0**-11,
            kernels=ORT_KERNELS,
            assumes="factors rounded to TF32, truncated float32 sums; kernels as in float32",
        ),
        Arithmetic("bfloat16", 2.0**-8, assumes="every result rounded to bfloat16"),
        Arithmetic("float16", 2.0**-11, tiny=2.0**-14, assumes="every result rounded to float16"),
    )
}


def rounding(
    twins: Sequence[Twin],
    domains: Sequence[Domain],
    shapes: Sequence[tuple[int, ...]],
    names: Sequence[str],
    outputs: Sequence[str],
    arithmetic: str,
    effort: Effort | None = None,
) -> Difference:
    """Bound |g(x) − ĝ(x)| for every x of a domain: g exact, ĝ computed by a runtime.

    Args:
        twins: of the original and the pruned net, every node after its sources; only g is looked at.
        arithmetic: one of `ARITHMETICS`.

    Raises:
        UnsupportedOperation: a node has no rule.
        UsageError: the arithmetic is not known.
    """
    profile = ARITHMETICS.get(arithmetic)
    if profile is None:
        raise UsageError(f"no arithmetic is called '{arithmetic}'; there are {', '.join(ARITHMETICS)}.")
    inputs = enclose(domains, shapes, names)
    rounded, last = _rounded_twins(fold(twins, frozenset(outputs)), inputs, profile)
    return crown(rounded, domains, shapes, names, [last[name] for name in outputs], effort)


def _rounded_twins(
    twins: Sequence[Twin], inputs: Mapping[str, Interval], profile: Arithmetic
) -> tuple[list[Twin], dict[str, str]]:
    """(g, ĝ) with an offset behind every node; and by name of a node the one that stands for it."""
    made: list[Twin] = []
    last: dict[str, str] = {}
    reached: dict[str, Reach] = {}

    def walk(twin: Twin) -> None:
        made.append(twin)
        reached[twin.name] = visit(twin, [reached[name] for name in twin.sources], inputs)

    for twin in twins:
        sources = tuple(last[name] for name in twin.sources)
        kept = tuple(None for _ in twin.kept)
        walk(Twin(twin.name, twin.g, twin.g, sources, kept))
        heard = [reached[name].g.hull(reached[name].f) for name in sources]
        here = reached[twin.name]
        error = error_of(twin.g, heard, here.g.hull(here.f), profile)
        last[twin.name] = twin.name
        if error is None:
            continue
        one = torch.ones((), dtype=torch.float64)
        exact = Affine.given(Scale(), one)
        noisy = Affine(Scale(), one, one * 0, one * 0, error)
        last[twin.name] = f"{twin.name}.rounded"
        walk(Twin(last[twin.name], exact, noisy, (twin.name,), kept))
    return made, last


def error_of(form: Form, heard: Sequence[Interval], value: Interval, profile: Arithmetic) -> Tensor | None:
    """How far the computed value of one node can be from the exact one of the same inputs; None for 0."""
    u, size = profile.unit, value.magnitude
    match form:
        case Affine():
            n = form.kernel.terms(form.weight) + 1
            share = n * u / (1 - n * u) if n * u < 1 else torch.inf
            product = (1 + profile.product) ** 2 * (1 + share) - 1
            terms = form.kernel.apply(form.weight.abs(), heard[0].magnitude)
            return (terms + form.bias.abs()) * product * 1.0001 + n * profile.tiny
        case Elementwise(curve):
            known = (profile.kernels or {}).get(curve.name)
            if curve.straight:
                return None if curve.ulps == 0 else size * 2 * u + profile.tiny
            return (size + 1) * 8 * u + profile.tiny if known is None else known + size * u
        case Structural():
            if not form.terms:
                return None
            return form.linear([h.magnitude for h in heard]) * (form.terms + 1) * 1.01 * u + profile.tiny
        case Maximum() | Constant() | Input():
            return None
        case Softmax():
            return (size + 1) * (16 + value.low.shape[form.axis]) * u + profile.tiny
        case _:
            total = sum((h.magnitude for h in heard), torch.zeros((), dtype=torch.float64))
            return (total + size) * (len(heard) + 1) * u + profile.tiny


__all__ = ["ARITHMETICS", "Arithmetic", "error_of", "rounding"]
