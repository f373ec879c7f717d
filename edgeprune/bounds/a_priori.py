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
There is no VC dimension, no sign condition on W, and no constant left open. It is far from
tight (12–55 times the largest error that search finds on one layer): a promise made in advance,
never the headline.
"""

from __future__ import annotations

import math

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


def _constant(outputs: int, delta: float, taps: int) -> float:
    if not 0 < delta < 1 or outputs < 1 or taps < 1:
        raise UsageError(f"needs 0 < delta < 1, outputs and taps ≥ 1, not {delta:g}, {outputs}, {taps}.")
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
    if draws < 1:
        raise UsageError(f"a coreset has at least 1 draw, not {draws}.")
    spent = delta * 6 / (math.pi * draws) ** 2 if any_time else delta
    return t / math.sqrt(draws) * _constant(outputs, spent, taps)


def draws_for(epsilon: float, t: float, outputs: int, delta: float, *, taps: int = 1) -> int:
    """The least m with `explicit(t, m, outputs, delta)` ≤ ε: ⌈(t/ε)² (2√T + √(2 ln(2k/δ)))²⌉.

    Raises:
        UsageError: ε is not positive, or a number is out of its range.
    """
    if not epsilon > 0:
        raise UsageError(f"epsilon must be positive, not {epsilon:g}.")
    m = max(1, math.ceil((t / epsilon * _constant(outputs, delta, taps)) ** 2))
    while explicit(t, m, outputs, delta, taps=taps) > epsilon:
        m += 1
    return m


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
    if draws < 1 or not 0 < delta < 1:
        raise UsageError(f"needs at least 1 draw and 0 < delta < 1, not {draws} and {delta:g}.")
    return t * math.sqrt(c * (inputs * math.log(max(t, 1.0)) + math.log(1 / delta)) / draws)
