"""Moments of φ(z) for Gaussian z, in closed form: what a unit says when only mean and covariance are known.

*ReLU.* Let u, v be jointly normal with means μ, deviations σ, correlation ρ; a = μ_u/σ_u, b = μ_v/σ_v. Then

    E[u⁺]   = μ_u Φ(a) + σ_u φ(a)
    E[u⁺v⁺] = σ_u σ_v { (ab + ρ) Φ₂(a, b; ρ) + a φ(b) Φ((a − ρb)/s) + b φ(a) Φ((b − ρa)/s)
                        + s² φ₂(a, b; ρ) },                                  s = √(1 − ρ²),

which follows from E[(a + x)(b + y); x > −a, y > −b] and the first moments of a truncated bivariate normal
(Rosenbaum 1961). Φ₂ is written with Owen's T:

    Φ₂(a, b; ρ) = ½(Φ(a) + Φ(b)) − T(a, (b − ρa)/(a s)) − T(b, (a − ρb)/(b s)) − ½ [ab < 0].

With μ = 0 and Cov = P Pᵀ this is the arc-cosine kernel ‖p‖‖q‖(sin θ + (π − θ) cos θ)/2π.

*Step.* E[1{u ≥ 0}] = Φ(a), E[1{u ≥ 0} 1{v ≥ 0}] = Φ₂(a, b; ρ).

*Any other activation.* φ(μ + σz) = Σ_k c_k(μ, σ) He_k(z)/√k!, so E[φ(u)φ(v)] = Σ_k c_k(u) c_k(v) ρᵏ
(Mehler). The c_k come from Gauss–Hermite quadrature, the diagonal directly from quadrature. The sum is
positive semidefinite term by term (Schur), also when it is cut off.

Source:
    Rosenbaum, JRSS B 23 (1961); Owen, Ann. Math. Statist. 27 (1956); Cho and Saul, NIPS 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Scalar = Callable[[Floats], Floats]

NODES = 64
"""Points of the Gauss–Hermite quadrature."""

TERMS = 24
"""Terms of the Hermite series."""

ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "relu6": lambda z: np.clip(z, 0.0, 6.0),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "silu": lambda z: np.asarray(z * special.expit(z)),
    "gelu": lambda z: np.asarray(z * special.ndtr(z)),
    "softplus": lambda z: np.logaddexp(0.0, z),
    "hardsigmoid": lambda z: np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "hardswish": lambda z: np.asarray(z * np.clip(z / 6.0 + 0.5, 0.0, 1.0)),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0.0))),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
    "abs": np.abs,
}
"""Activations besides ReLU, step and the identity, with their default parameters, by name."""


def activated(mean: Floats, covariance: Floats, activation: str | Scalar) -> tuple[Floats, Floats]:
    """E[h] and E[h hᵀ] of h = φ(z), z ~ N(mean, covariance).

    Args:
        mean: (n,) float64.
        covariance: (n, n) float64, positive semidefinite.
        activation: '' for the identity, `relu` or `step` (closed forms), a name of `ACTIVATIONS`, or any
            function of numbers (both by the series).

    Returns:
        (n,) and (n, n) float64.
    """
    if activation == "":
        return mean, covariance + np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diagonal(covariance), 1e-24))
    if activation == "relu":
        return _rectified(mean, deviation, covariance)
    if activation == "step":
        return _stepped(mean, deviation, covariance)
    function = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    return _by_series(mean, deviation, covariance, function)


def isotropic(rows: Floats, activation: str | Scalar) -> tuple[Floats, Floats]:
    """E[h] and E[h hᵀ] of h = φ(P x), x standard normal: the arc-cosine kernel for ReLU.

    Args:
        rows: (n, d) float64, P; a bias is the weight of one more standard normal input.
    """
    return activated(np.zeros(len(rows)), rows @ rows.T, activation)


def _correlation(deviation: Floats, covariance: Floats) -> Floats:
    rho = covariance / np.outer(deviation, deviation)
    return np.asarray(np.clip(rho, -1.0 + 1e-12, 1.0 - 1e-12), dtype=np.float64)


def _rectified(mean: Floats, deviation: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    scaled = mean / deviation
    density = np.exp(-0.5 * scaled**2) / math.sqrt(2 * math.pi)
    below = special.ndtr(scaled)
    first = mean * below + deviation * density
    upper = np.triu_indices(len(mean), 1)
    a, b = scaled[upper[0]], scaled[upper[1]]
    rho = _correlation(deviation, covariance)[upper]
    s = np.sqrt(1 - rho**2)
    both = _orthant(a, b, rho, s)
    joint = np.exp(-0.5 * (a**2 - 2 * rho * a * b + b**2) / s**2) / (2 * math.pi * s)
    pairs = (a * b + rho) * both + s**2 * joint
    pairs += a * density[upper[1]] * special.ndtr((a - rho * b) / s)
    pairs += b * density[upper[0]] * special.ndtr((b - rho * a) / s)
    second = np.zeros_like(covariance)
    second[upper] = np.maximum(pairs, 0.0) * deviation[upper[0]] * deviation[upper[1]]
    second += second.T
    own = (mean**2 + deviation**2) * below + mean * deviation * density
    np.fill_diagonal(second, np.maximum(own, 0.0))
    return first, second


def _stepped(mean: Floats, deviation: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Of [z ≥ 0]: Φ(a), and Φ₂(a, b; ρ) off the diagonal."""
    scaled = mean / deviation
    first = special.ndtr(scaled)
    upper = np.triu_indices(len(mean), 1)
    rho = _correlation(deviation, covariance)[upper]
    second = np.zeros_like(covariance)
    second[upper] = _orthant(scaled[upper[0]], scaled[upper[1]], rho, np.sqrt(1 - rho**2))
    second += second.T
    np.fill_diagonal(second, first)
    return np.asarray(first, dtype=np.float64), second


def _orthant(a: Floats, b: Floats, rho: Floats, s: Floats) -> Floats:
    """Φ₂(a, b; ρ) = P(x ≤ a, y ≤ b). Arguments of exactly 0 are moved by 1e-12, which changes nothing."""
    a = np.where(np.abs(a) < 1e-12, 1e-12, a)
    b = np.where(np.abs(b) < 1e-12, 1e-12, b)
    apart = np.where(a * b < 0, 0.5, 0.0)
    first = special.owens_t(a, (b - rho * a) / (a * s))
    second = special.owens_t(b, (a - rho * b) / (b * s))
    both = 0.5 * (special.ndtr(a) + special.ndtr(b)) - first - second - apart
    return np.asarray(np.clip(both, 0.0, 1.0), dtype=np.float64)


def _by_series(
    mean: Floats, deviation: Floats, covariance: Floats, function: Callable[[Floats], Floats]
) -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    values = function(mean[:, None] + deviation[:, None] * nodes)
    basis = np.stack(
        [special.eval_hermitenorm(k, nodes) / math.sqrt(math.factorial(k)) for k in range(TERMS)]
    )
    coefficients = (values * weights) @ basis.T
    rho = _correlation(deviation, covariance)
    power, second = np.ones_like(rho), np.zeros_like(rho)
    for k in range(TERMS):
        second += np.outer(coefficients[:, k], coefficients[:, k]) * power
        power *= rho
    np.fill_diagonal(second, (values**2) @ weights)
    return coefficients[:, 0].copy(), second
