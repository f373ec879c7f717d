"""Sensitivity sampling of neurons and channels: papers 1 and 2, data-independent.

Unit i is drawn with probability pr(i) ∝ s(i) = max_j |W_ji| · φ(β‖p̃_i‖), where p̃_i = [p_i; b_i]
are its incoming weights with the bias appended, β bounds the norm of [x; 1] and the maximum runs
over the reader's outputs (and taps). Each of the m draws adds w_i/(m·pr(i)) to the weight of the
unit drawn, so that Σ_i u_i φ(p̃_i·x̃) is an unbiased estimate of Σ_i w_i φ(p̃_i·x̃) for every x.
Negative weights keep their sign; their absolute value enters the score. One coreset serves a whole
layer (Algorithm 2); `sensitivity-neuron` draws one for each reading neuron (Algorithm 1), with the
positive and the negative weights apart.

Source: Mussay, Osadchy, Braverman, Zhou, Feldman, "Data-Independent Neural Pruning via Coresets",
ICLR 2020, Algorithms 1 and 2; for channels and residual streams (a unit's sensitivity is the
largest over the places it feeds) Mussay et al., "Data-Independent Structured Pruning of Neural
Networks via Coresets", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence, Floats, Hearing
from edgeprune.errors import UnsupportedModel
from edgeprune.plan import Selection

ADMISSIBLE: dict[str, Callable[[Floats], Floats]] = {
    "relu": lambda z: np.maximum(z, 0.0),
    "relu6": lambda z: np.clip(z, 0.0, 6.0),
    "sigmoid": lambda z: 1.0 / (1.0 + np.exp(-z)),
    "softplus": lambda z: np.logaddexp(0.0, z),
    "hardsigmoid": lambda z: np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "step": lambda z: np.where(z >= 0.0, 1.0, 0.0),
    "soft_clip": lambda z: np.logaddexp(0.0, z) - np.logaddexp(0.0, z - 1.0),
}
"""Activations that the theorem covers: non-negative and non-decreasing."""


class Sensitivity(Coreset):
    """Draw until exactly m distinct units are reached (the stopping rule of the papers' code).

    The number of draws is then random, and the estimate only nearly unbiased.
    """

    name: ClassVar[str] = "sensitivity"
    random: ClassVar[bool] = True
    source: ClassVar[str] = "Mussay et al., ICLR 2020, Algorithms 1 and 2"

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        score = scores(evidence)
        possible = int((score > 0).sum())
        if possible < size:
            raise UnsupportedModel(
                f"{evidence.name}: only {possible} of its {evidence.size} units have any sensitivity, "
                f"{size} were asked for; keep at most {possible}, or use --method gram."
            )
        counts = self._draw(score / score.sum(), size, generator)
        return selection(counts, score)

    def _draw(self, probability: Floats, size: int, generator: np.random.Generator) -> Floats:
        counts = np.zeros(len(probability))
        cumulative = np.cumsum(probability)
        cumulative /= cumulative[-1]
        while (missing := size - int((counts > 0).sum())) > 0:
            for unit in np.searchsorted(cumulative, generator.random(max(missing, 64)), side="right"):
                counts[unit] += 1
                if int((counts > 0).sum()) == size:
                    return counts
        return counts


class SensitivityDraws(Sensitivity):
    """Exactly m draws with replacement (Algorithm 2 of the paper): at most m units are kept."""

    name: ClassVar[str] = "sensitivity-draws"

    def _draw(self, probability: Floats, size: int, generator: np.random.Generator) -> Floats:
        return generator.multinomial(size, probability / probability.sum()).astype(np.float64)


class SensitivityNeuron(Coreset):
    """A coreset for each reading neuron (Algorithm 1), within a common set of m units.

    The m units are drawn as for a layer. Each neuron j then draws among them with pr_j(i) ∝ |W_ji| φ(β‖p̃_i‖),
    its positive and its negative weights apart, as often as the layer's draw took, and a unit's weight
    becomes W_ji · n_j(i)/(m_j pr_j(i)). What a neuron loses with the units outside the set is spread over
    those of the same sign in proportion, so that each signed sum keeps its expectation under the scores.
    No guarantee is stated: the neurons' draws are confined to units that were drawn for all.
    """

    name: ClassVar[str] = "sensitivity-neuron"
    random: ClassVar[bool] = True
    source: ClassVar[str] = "Mussay et al., ICLR 2020, Algorithm 1, confined to one set of units"

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        layer = Sensitivity().choose(evidence, size, generator)
        response = np.max([_largest_response(evidence, k) for k in range(len(evidence.rows))], axis=0)
        factors = {
            hearing.node: _per_neuron(hearing, response, layer, generator)
            for hearing in evidence.hearings
            if hearing.queries is not None
        }
        return Selection(layer.keep, factors=factors)


def _per_neuron(
    hearing: Hearing, response: Floats, layer: Selection, generator: np.random.Generator
) -> Floats:
    """For each output and unit, by what its weight is multiplied; (outputs, n)."""
    assert hearing.queries is not None
    factors = np.zeros_like(hearing.queries)
    draws = max(layer.draws or 0, len(layer.keep))
    for j, query in enumerate(hearing.queries):
        for sign in (1.0, -1.0) if hearing.taps == 1 else (1.0,):
            mass = np.maximum(sign * query, 0.0) * response
            inside = mass[layer.keep]
            if not inside.sum() > 0:
                continue
            probability = inside / inside.sum()
            counts = generator.multinomial(draws, probability)
            drawn = counts > 0
            lost = mass.sum() / inside.sum()
            factors[j, layer.keep[drawn]] = lost * counts[drawn] / (draws * probability[drawn])
    return factors


def selection(counts: Floats, score: Floats) -> Selection:
    """The weighted subset that the draws amount to: u_i = w_i · counts_i/(m·pr(i))."""
    keep = np.flatnonzero(counts)
    draws = int(counts.sum())
    probability = score / score.sum()
    mix = np.zeros((len(keep), len(score)))
    mix[np.arange(len(keep)), keep] = counts[keep] / (draws * probability[keep])
    return Selection(keep, mix, draws=draws, scores=score)


def scores(evidence: Evidence) -> Floats:
    """The sensitivities s(i), (n,): the largest over the layers that make and the readers that hear.

    Raises:
        UnsupportedModel: an activation is not covered by the theorem, or β is needed and unknown.
    """
    if not evidence.hearings:
        raise UnsupportedModel(
            f"{evidence.name}: nothing reads its units through a plain weight, so they have no sensitivity; "
            f"use --method gram or magnitude, or --exclude {evidence.name}."
        )
    peak = np.max([hearing.peak for hearing in evidence.hearings], axis=0)
    return np.asarray(
        peak * np.max([_largest_response(evidence, k) for k in range(len(evidence.rows))], axis=0)
    )


def _largest_response(evidence: Evidence, k: int) -> Floats:
    """φ(β‖p̃_i‖), the largest value unit i can take on inputs of norm β."""
    norms = np.linalg.norm(evidence.rows[k], axis=1)
    activation, radius = evidence.activations[k], evidence.radii[k]
    if activation in ("relu", ""):
        # φ is positively homogeneous (or absent: |p̃·x̃| ≤ β‖p̃‖): β would only scale all scores alike
        return np.asarray(norms, dtype=np.float64)
    if activation not in ADMISSIBLE:
        raise UnsupportedModel(
            f"{evidence.name}: the guarantee of sensitivity sampling needs a non-negative, non-decreasing "
            f"activation ({', '.join(ADMISSIBLE)}), not {activation}; use --method gram, or --exclude "
            f"{evidence.name}."
        )
    if radius is None:
        raise UnsupportedModel(
            f"{evidence.name}: with {activation} the sensitivities need a bound on the norm of what "
            "the layer hears, and none is known; give the inputs a bounded domain (--domain), or use "
            "--method gram."
        )
    return ADMISSIBLE[activation](math.sqrt(radius**2 + 1) * norms)
