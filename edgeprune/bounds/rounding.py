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

In float16 and bfloat16 what is stored or handed in (weights, constants, inputs) is converted too, each
number v to one within s|v| + t, and results are stored in that format: a file in float16 computes so on
every runtime, even one that adds in float32. γ(k) is infinite from k = 1/u on (2 048 in float16), so
(1 + u)^k − 1 stands for it, which bounds k roundings of any kind and is never larger. No sum may reach the
format's largest number: where its size |W||ĥ| + |c| may, there is no bound.

Conversion alone (`stored`) is what a file with weights in float16 is from the one with float32 weights, both
computed exactly.

What is assumed, and said in the certificate: operations are computed one by one as above, with no overflow
and no algorithm that is not a sum of products (no Winograd, no FFT). In float32 and TF32 weights are those of
the file.

Source:
    Higham (2002), section 3.1 and lemma 3.1; Jeannerod & Rump (2013) for any order of summation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgeprune.bounds.crown import Effort, crown
from edgeprune.bounds.differential import Difference, Reach, enclose, fold, visit
from edgeprune.bounds.kernel_errors import KernelErrors
from edgeprune.domains.sets import Domain
from edgeprune.errors import UnsupportedOperation, UsageError
from edgeprune.functions.forms import (
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
from edgeprune.functions.intervals import Interval


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a runtime computes.

    Attributes:
        name: of the profile.
        unit: relative error of one rounded operation.
        product: relative error of each factor of a product, where it is read in a shorter format.
        tiny: absolute error of one operation, where numbers underflow.
        stored: relative error of converting a weight, a constant or an input.
        stored_tiny: absolute error of that, where numbers underflow.
        largest: a result of this size overflows.
        kernels: absolute errors of unary kernels on all inputs, by name of the curve; of those that
            are not named 8 units of (1 + |φ|) are assumed.
        assumes: in words, for the certificate.
    """

    name: str
    unit: float
    product: float = 0.0
    tiny: float = 2.0**-126
    stored: float = 0.0
    stored_tiny: float = 0.0
    largest: float = math.inf
    kernels: Mapping[str, float] | None = None
    assumes: str = ""


MEASURED = KernelErrors.read()
"""Largest absolute errors of unary kernels, and the versions of onnxruntime they hold for."""

ARITHMETICS: dict[str, Arithmetic] = {
    a.name: a
    for a in (
        Arithmetic(
            "float32",
            2.0**-24,
            kernels=MEASURED.largest,
            assumes="float32, sums of products in any order; kernels as measured with onnxruntime "
            f"{', '.join(MEASURED.versions)}",
        ),
        Arithmetic(
            "tf32",
            2.0**-23,
            product=2.0**-11,
            kernels=MEASURED.largest,
            assumes="factors rounded to TF32, truncated float32 sums; kernels as in float32",
        ),
        Arithmetic(
            "bfloat16",
            2.0**-8,
            stored=2.0**-8,
            stored_tiny=2.0**-126,
            assumes="weights, inputs and every result rounded to bfloat16",
        ),
        Arithmetic(
            "float16",
            2.0**-11,
            tiny=2.0**-14,
            stored=2.0**-11,
            stored_tiny=2.0**-14,
            largest=65504.0,
            assumes="weights, inputs and every result rounded to float16, subnormal numbers kept or not",
        ),
    )
}


def elsewhere(arithmetic: Arithmetic, runtimes: Iterable[tuple[str, str]]) -> Arithmetic:
    """The arithmetic for runtimes of which some may not be those that kernels were measured on.

    Args:
        runtimes: (provider, version of onnxruntime) of each.

    Returns:
        The same where kernels of all were measured; else one that assumes 8 units of every kernel.
    """
    unknown = sorted({where for where in runtimes if not MEASURED.hold(*where)})
    if arithmetic.kernels is None or not unknown:
        return arithmetic
    told = ", ".join(f"onnxruntime {version} ({provider})" for provider, version in unknown)
    words = (
        f"{arithmetic.name}, sums of products in any order; of exp, tanh, … errors of 8 units of (1 + |φ|)"
    )
    return replace(arithmetic, kernels=None, assumes=f"{words}, as they were not measured on {told}")


HALF_STORED = Arithmetic(
    "float16 weights",
    0.0,
    tiny=0.0,
    stored=2.0**-11,
    stored_tiny=2.0**-24,
    largest=65504.0,
    assumes="weights rounded to float16, computed exactly",
)
"""Nothing but a file's weights in float16; one that underflows is off by a step of 2⁻²⁴ at most."""


def rounding(
    twins: Sequence[Twin],
    domains: Sequence[Domain],
    shapes: Sequence[tuple[int, ...]],
    names: Sequence[str],
    outputs: Sequence[str],
    arithmetic: str | Arithmetic,
    effort: Effort | None = None,
) -> Difference:
    """Bound |g(x) − ĝ(x)| for every x of a domain: g exact, ĝ computed by a runtime.

    Args:
        twins: of the original and the pruned net, every node after its sources; only g is looked at.
        arithmetic: one of `ARITHMETICS`, or an arithmetic itself.

    Raises:
        UnsupportedOperation: a node has no rule, or a result may overflow.
        UsageError: the arithmetic is not known.
    """
    profile = arithmetic if isinstance(arithmetic, Arithmetic) else ARITHMETICS.get(arithmetic)
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
    """How far the computed value of one node can be from the exact one of the same inputs; None for 0.

    Raises:
        UnsupportedOperation: the value may overflow.
    """
    match form:
        case Affine():
            return _sum_of_products(form, heard[0].magnitude, profile)
        case Constant() | Input():
            if not profile.stored or (isinstance(form, Input) and profile.unit == 0):
                return None
            _refuse_overflow(value.magnitude, profile)
            return value.magnitude * profile.stored + profile.stored_tiny
        case Maximum():
            return None
        case _ if profile.unit == 0:
            return None
        case _:
            _refuse_overflow(value.magnitude, profile)
            return _result(form, heard, value, profile)


def _sum_of_products(form: Affine, heard: Tensor, profile: Arithmetic) -> Tensor:
    """Weights converted, factors read, and (terms + 1) results rounded in any order."""
    n = form.kernel.terms(form.weight) + 1
    weight, tiny = form.weight.abs(), profile.stored_tiny
    terms = form.kernel.apply(weight, heard) + form.bias.abs()
    lost = form.kernel.apply(torch.full_like(weight, tiny), heard) + tiny if tiny else torch.zeros_like(terms)
    grown = (1 + profile.product) ** 2 * (1 + _rounded_often(n, profile.unit))
    _refuse_overflow((terms * (1 + profile.stored) + lost) * grown, profile)
    return (terms * (grown * (1 + profile.stored) - 1) + lost * grown) * 1.0001 + 2 * n * profile.tiny


def _rounded_often(times: float, unit: float) -> float:
    """(1 + u)ᵏ − 1, a little up; infinite where that overflows."""
    exponent = times * math.log1p(unit)
    return math.expm1(exponent) * (1 + 1e-12) if exponent < 700 else math.inf


def _refuse_overflow(size: Tensor, profile: Arithmetic) -> None:
    worst = float(size.max()) if size.numel() else 0.0
    if math.isfinite(profile.largest) and not worst < profile.largest:
        raise UnsupportedOperation(
            f"a result could reach {worst:.3g} and overflow, {profile.name.split()[0]} ends at "
            f"{profile.largest:g}"
        )


def _result(form: Form, heard: Sequence[Interval], value: Interval, profile: Arithmetic) -> Tensor | None:
    u, size = profile.unit, value.magnitude
    match form:
        case Elementwise(curve):
            known = (profile.kernels or {}).get(curve.name)
            if curve.straight:
                return None if curve.ulps == 0 else size * 2 * u + profile.tiny
            return (size + 1) * 8 * u + profile.tiny if known is None else known + size * u
        case Structural():
            if not form.terms:
                return None
            return form.linear([h.magnitude for h in heard]) * (form.terms + 1) * 1.01 * u + profile.tiny
        case Softmax():
            return (size + 1) * (16 + value.low.shape[form.axis]) * u + profile.tiny
        case _:
            total = sum((h.magnitude for h in heard), torch.zeros((), dtype=torch.float64))
            return (total + size) * (len(heard) + 1) * u + profile.tiny


__all__ = ["ARITHMETICS", "HALF_STORED", "Arithmetic", "error_of", "rounding"]
