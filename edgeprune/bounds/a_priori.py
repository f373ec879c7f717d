"""What the coreset theorem promises before anything is run: explicit constants, and the paper's form.

Setting. A layer has units hᵢ(x) = φ(p̃ᵢ·x̃), x̃ = [x; 1], ‖x‖₂ ≤ β, so ‖x̃‖₂ ≤ β̃ = √(β² + 1); φ is
L-Lipschitz. Its k readers are z_j = Σᵢ W_ji hᵢ. With any

    sᵢ ≥ max_j |W_ji| · (|φ(0)| + L β̃ ‖p̃ᵢ‖),   t = Σ sᵢ,

m independent draws I₁ … I_m with P(I = i) = sᵢ/t give the coreset z̃_j = (1/m) Σ_r Z_r^j,
Z_r^j(x) = (t / s_I) W_jI h_I(x). It is unbiased, E Z^j = z_j, and |Z^j| ≤ t since |hᵢ| ≤ |φ(0)| + Lβ̃‖p̃ᵢ‖.

Derivation of  P( sup_{x, j} |z_j − z̃_j| ≤ (t/√m)(2 + √(2 ln(2k/δ))) ) ≥ 1 − δ.

1. Fix j and a sign; Φ = sup_x ±(z_j − z̃_j). Another value of one draw changes Φ by at most
   sup|Z − Z′|/m ≤ 2t/m, so McDiarmid: P(Φ ≥ EΦ + η) ≤ exp(−2η² / (m (2t/m)²)) = exp(−η²m / (2t²)).
   A union over the 2k pairs of output and sign makes this δ at η = (t/√m) √(2 ln(2k/δ)).
2. Symmetrisation, one-sided: EΦ ≤ 2 E sup_x (1/m) Σ_r ε_r Z_r(x), ε_r = ±1 fair.
3. Contraction, one-sided (Ledoux & Talagrand, theorem 4.12; constant 1 without absolute values
   and without φ(0) = 0): Z_r is a 1-Lipschitz function of c_r p̃_I·x̃ with c_r = L t |W_jI| / s_I, so
   E_ε sup_x Σ ε_r Z_r ≤ E_ε sup_x Σ ε_r c_r p̃_{I_r}·x̃ ≤ β̃ E_ε ‖Σ ε_r c_r p̃_{I_r}‖₂
   ≤ β̃ √(Σ c_r² ‖p̃_{I_r}‖²) ≤ t √m,   because c_r β̃ ‖p̃_I‖ = t · L|W_jI|β̃‖p̃_I‖ / s_I ≤ t.
   Hence EΦ ≤ 2t/√m, and 1. and 3. add up to the claim.

Other probabilities qᵢ than sᵢ/t: the same with t replaced by max sᵢ/qᵢ. A reader with T taps (a
convolution; φ(0) = 0; sᵢ from Σ_taps max over outputs): Z is a sum over taps, the T Rademacher terms
are added, and by Cauchy–Schwarz Σ_τ ‖v_τ‖₂ ≤ √T (Σ_τ ‖v_τ‖₂²)^½ ≤ √T · t√m: 2 becomes 2√T.
Several layers whose values are added (a residual stream): hᵢ = F(p̃₁ᵢ·x̃₁, …, p̃_Kᵢ·x̃_K), F built of sums,
averages and Lipschitz activations, changing by at most ℓ_k per unit of its k-th argument, |F(0)| = c.
Contraction is applied at every activation, suprema of sums are split, and with a_ki = ℓ_k β̃_k ‖p̃_ki‖

    |hᵢ| ≤ c + Σ_k a_ki ≤ c + √K (Σ_k a_ki²)^½ =: rᵢ,
    Σ_k β̃_k ℓ_k ‖Σ_r ε_r c_r p̃_kI_r‖ ≤ √K (Σ_r c_r² Σ_k a_kI_r²)^½ ≤ (Σ_r c_r² r_{I_r}²)^½ ≤ t √m,

so sᵢ = max_j |W_ji| rᵢ serves as before; K = 1 is the case above. An average over positions has no larger
supremum than its parts. A zero that a reader pads with is F at x̃ = 0, if c = 0.

The binary step has no slope. But h(x) ∈ {0, 1}ⁿ takes few values: sets cut out by half-spaces through the
origin of R^{d+1} have Vapnik–Chervonenkis dimension d + 1, so at most C = min(2ⁿ, Σ_{l≤d+1} (n over l))
vectors (Sauer 1972, Shelah 1972), Cᵀ with T taps. For each of them, and each output, Hoeffding gives
P(|z − z̃| ≥ η) ≤ 2 exp(−η²m/(2t²)); the union is δ at η = (t/√m) √(2 ln(2kCᵀ/δ)).

A coreset for each neuron, confined to units S that were drawn for all: the neuron's positive (or negative)
weights have mass b = Σ sᵢ, b_S inside S. M draws inside S with probability sᵢ/b_S, each worth b/b_S times its
weight, estimate (b/b_S) Σ_S w h to within (b/√M)(2 + √(2 ln(4k/δ))), a union over k neurons, two signs and
two sides. As 0 ≤ w h ≤ s, that differs from Σ w h by at most b − b_S. Both signs add up.

There is no VC dimension in the Lipschitz case, no sign condition on W, and no constant left open. It is far
from tight (12–55 times the largest error that search finds on one layer): a promise made in advance,
never the headline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgeprune.errors import UsageError


def unit_bounds(
    incoming: Tensor,
    bias: Tensor,
    outgoing: Tensor,
    beta: float,
    *,
    lipschitz: float = 1.0,
    at_zero: float = 0.0,
) -> Tensor:
    """The sᵢ of the module's docstring: how much of an output unit i can ever be.

    Args:
        incoming: (units, inputs) the units' weights p.
        bias: (units,).
        outgoing: (outputs, units), or (outputs, units, taps) for a convolution that reads them.
        beta: β, sup ‖x‖₂ of what the units see.
        lipschitz: L of the activation.
        at_zero: φ(0) of the activation.

    Returns:
        (units,) float64.
    """
    p = torch.cat([incoming, bias[:, None]], 1).to(torch.float64)
    heard = outgoing.to(torch.float64).abs().amax(0)
    if heard.dim() > 1:
        heard = heard.sum(1)
    size: Tensor = abs(at_zero) + lipschitz * math.sqrt(beta**2 + 1) * torch.linalg.vector_norm(p, dim=1)
    return heard * size


def reach(
    norms: Sequence[Tensor], radii: Sequence[float], steepness: Sequence[float], constant: float = 0.0
) -> Tensor:
    """The rᵢ of the module's docstring: how large a unit's value can become; (units,) float64.

    Args:
        norms: by layer that makes the units, (units,) ‖p̃ᵢ‖.
        radii: by layer, β: sup ‖x‖₂ of what it hears.
        steepness: by layer, ℓ: how much a unit's value can change per unit of that layer's.
        constant: c, a unit's value where every layer gives 0.
    """
    parts = [
        (slope * math.sqrt(beta**2 + 1) * norm.to(torch.float64)) ** 2
        for norm, beta, slope in zip(norms, radii, steepness, strict=True)
    ]
    return constant + math.sqrt(len(parts)) * torch.stack(parts).sum(0).sqrt()


def stepped(
    t: float,
    draws: int,
    outputs: int,
    delta: float,
    *,
    units: int,
    inputs: int,
    taps: int = 1,
    any_time: bool = False,
) -> float:
    """(t/√m) √(2 ln(2kCᵀ/δ)) for the binary step, whose units say 0 or 1.

    Args:
        units: n.
        inputs: d, the dimension of what the units hear.
        taps: T.
        any_time: as in `explicit`.

    Raises:
        UsageError: a number is out of its range.

    Source:
        Derived in the module's docstring; Sauer, J. Combin. Theory A 13 (1972).
    """
    _check(draws, delta, outputs, taps)
    dimension = min(inputs + 1, units)
    few = dimension < units
    patterns = (
        math.log(sum(math.comb(units, size) for size in range(dimension + 1))) if few else units * math.log(2)
    )
    log = math.log(2 * outputs / _spent(delta, draws, any_time)) + taps * patterns
    return t / math.sqrt(draws) * math.sqrt(2 * log)


def confined(inside: Tensor, outside: Tensor, draws: int, delta: float) -> float:
    """What a coreset of each neuron within a common set of units promises, over all of them.

    Args:
        inside: (neurons, 2) b_S, of the positive and of the negative weights.
        outside: (neurons, 2) b − b_S.
        draws: M, of each neuron and sign.

    Returns:
        max over neurons of Σ_signs (b − b_S) + (b/√M)(2 + √(2 ln(4k/δ))); b alone where b_S = 0.
    """
    _check(draws, delta, len(inside))
    whole = inside + outside
    random = _constant(2 * len(inside), delta, 1) / math.sqrt(draws)
    each = torch.where(inside > 0, outside + whole * random, whole)
    return float(each.sum(1).max())


def spread(sensitivities: Tensor, probabilities: Tensor | None = None) -> float:
    """The t of the theorem: Σ sᵢ, or max sᵢ/qᵢ where the draws had other probabilities than sᵢ/t.

    Raises:
        UsageError: a sensitivity is negative, or a unit that matters can never be drawn.
    """
    s = sensitivities.to(torch.float64)
    if not bool((s >= 0).all()):
        raise UsageError("sensitivities must be numbers ≥ 0.")
    if probabilities is None:
        return float(s.sum())
    q = probabilities.to(torch.float64)
    if q.shape != s.shape or abs(float(q.sum()) - 1) > 1e-9 or bool((q < 0).any()):
        raise UsageError(f"the probabilities must be {len(s)} numbers ≥ 0 that sum to 1.")
    if bool(((q == 0) & (s > 0)).any()):
        raise UsageError("a unit of positive sensitivity has probability 0: the coreset would be biased.")
    return float(torch.where(s > 0, s / q, torch.zeros_like(s)).max()) if len(s) else 0.0


def _check(draws: int, delta: float, outputs: int = 1, taps: int = 1) -> None:
    if draws < 1 or not 0 < delta < 1:
        raise UsageError(f"needs at least 1 draw and 0 < delta < 1, not {draws} and {delta:g}.")
    if outputs < 1 or taps < 1:
        raise UsageError(f"needs outputs and taps ≥ 1, not {outputs} and {taps}.")


def _constant(outputs: int, delta: float, taps: int) -> float:
    _check(1, delta, outputs, taps)
    return 2 * math.sqrt(taps) + math.sqrt(2 * math.log(2 * outputs / delta))


def explicit(
    t: float, draws: int, outputs: int, delta: float, *, taps: int = 1, any_time: bool = False
) -> float:
    """(t/√m)(2√T + √(2 ln(2k/δ))): bounds |z_j − z̃_j| for all inputs and outputs at once.

    Args:
        t: from `spread`.
        draws: m, independent draws with replacement (not distinct units).
        outputs: k, the readers' outputs.
        delta: δ, over the sampling.
        taps: T, kernel taps of the readers; 1 for a linear layer.
        any_time: m was not fixed in advance (drawn until enough distinct units): δ is then
            spent as 6δ/(π²m²) over all m, which sums to δ.

    Returns:
        The bound (ℓ∞ over outputs), in the unit of z. Holds with probability ≥ 1 − δ.

    Raises:
        UsageError: a number is out of its range.

    Source:
        Derived in the module's docstring; sampling scheme of Mussay et al. (ICLR 2020), algorithm 2.
    """
    _check(draws, delta)
    return t / math.sqrt(draws) * _constant(outputs, _spent(delta, draws, any_time), taps)


def _spent(delta: float, draws: int, any_time: bool) -> float:
    return delta * 6 / (math.pi * draws) ** 2 if any_time else delta


def stepped_draws_for(
    epsilon: float, t: float, outputs: int, delta: float, *, units: int, inputs: int, taps: int = 1
) -> int:
    """The least m with `stepped(t, m, …)` ≤ ε.

    Raises:
        UsageError: ε is not positive, or a number is out of its range.
    """
    return _least(epsilon, lambda m: stepped(t, m, outputs, delta, units=units, inputs=inputs, taps=taps))


def _least(epsilon: float, bound: Callable[[int], float]) -> int:
    """The least m with bound(m) ≤ ε, for a bound that is bound(1)/√m."""
    if not epsilon > 0:
        raise UsageError(f"epsilon must be positive, not {epsilon:g}.")
    m = max(1, math.ceil((bound(1) / epsilon) ** 2 * (1 - 1e-12)))
    while bound(m) > epsilon:
        m += 1
    return m


def draws_for(epsilon: float, t: float, outputs: int, delta: float, *, taps: int = 1) -> int:
    """The least m with `explicit(t, m, outputs, delta)` ≤ ε: ⌈(t/ε)² (2√T + √(2 ln(2k/δ)))²⌉.

    Raises:
        UsageError: ε is not positive, or a number is out of its range.
    """
    return _least(epsilon, lambda m: explicit(t, m, outputs, delta, taps=taps))


def paper_draws_for(epsilon: float, t: float, inputs: int, delta: float, *, c: float = 1.0) -> int:
    """The least m with `paper_form(t, m, inputs, delta)` ≤ ε: the paper's sample size, its constant open.

    Raises:
        UsageError: ε is not positive, or a number is out of its range.
    """
    return _least(epsilon, lambda m: paper_form(t, m, inputs, delta, c=c))


def paper_form(t: float, draws: int, inputs: int, delta: float, *, c: float = 1.0) -> float:
    """What the paper's sample size says about ε, *for a constant c that the paper leaves open*.

    m ≥ (c t²/ε²)(d ln t + ln 1/δ), solved for ε = t √(c (d ln t + ln 1/δ) / m). The paper prints t
    where t² stands here; an additive error needs t²: multiply every weight by λ, and t and ε
    both grow by λ while m cannot change. As c is unknown this is no bound; it is printed beside
    `explicit` for comparison only.

    Args:
        t: total sensitivity; ln t counts as 0 below 1.
        draws: m.
        inputs: d, the dimension of the units' inputs.
        delta: δ.
        c: the open constant.

    Raises:
        UsageError: a number is out of its range.

    Source:
        Mussay et al. (ICLR 2020), arXiv 1907.04018, theorem on additive error.
    """
    _check(draws, delta)
    return t * math.sqrt(c * (inputs * math.log(max(t, 1.0)) + math.log(1 / delta)) / draws)
