"""Sensitivity sampling of neurons and channels: papers 1 and 2, data-independent.

Unit i is drawn with probability pr(i) ∝ s(i) = max_j |W_ji| · φ(β‖p̃_i‖), where p̃_i = [p_i; b_i]
are its incoming weights with the bias appended, β bounds the norm of [x; 1] and the maximum runs
over the reader's outputs (and taps). Each of the m draws adds w_i/(m·pr(i)) to the weight of the
unit drawn, so that Σ_i u_i φ(p̃_i·x̃) is an unbiased estimate of Σ_i w_i φ(p̃_i·x̃) for every x.
Negative weights keep their sign; their absolute value enters the score. One coreset serves a whole
layer (Algorithm 2); `sensitivity-neuron` draws one for each reading neuron (Algorithm 1), with the
positive and the negative weights apart. Each selection carries its `Sampling`: what the guarantee of
`edgeprune.bounds.a_priori` is computed from.

Source: Mussay, Osadchy, Braverman, Zhou, Feldman, "Data-Independent Neural Pruning via Coresets",
ICLR 2020, Algorithms 1 and 2; for channels and residual streams (a unit's sensitivity is the
largest over the places it feeds) Mussay et al., "Data-Independent Structured Pruning of Neural
Networks via Coresets", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np

from edgeprune.coresets.coreset import Coreset, Evidence, Floats, Hearing
from edgeprune.errors import UnsupportedModel
from edgeprune.graph.groups import Ints
from edgeprune.plan import Sampling, Selection

ADMISSIBLE: dict[str, Callable[[Floats], Floats]] = {
    "relu": lambda z: np.maximum(z, 0.0),
    "relu6": lambda z: np.clip(z, 0.0, 6.0),
    "sigmoid": lambda z: 1.0 / (1.0 + np.exp(-z)),
    "softplus": lambda z: np.logaddexp(0.0, z),
    "hardsigmoid": lambda z: np.clip(z / 6.0 + 0.5, 0.0, 1.0),
    "clip": lambda z: np.clip(z, 0.0, 1.0),
    "step": lambda z: np.where(z >= 0.0, 1.0, 0.0),
    "soft_clip": lambda z: np.logaddexp(0.0, z) - np.logaddexp(0.0, z - 1.0),
}
"""Activations that the theorem covers, non-negative and non-decreasing, with their default numbers."""


class Sensitivity(Coreset):
    """Draw until exactly m distinct units are reached (the stopping rule of the papers' code).

    The number of draws is then random, and the estimate only nearly unbiased.
    """

    name: ClassVar[str] = "sensitivity"
    random: ClassVar[bool] = True
    fixed: ClassVar[bool] = False
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
        return selection(counts, sampled(evidence, int(counts.sum()), score, fixed=self.fixed))

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
    fixed: ClassVar[bool] = True

    def _draw(self, probability: Floats, size: int, generator: np.random.Generator) -> Floats:
        return generator.multinomial(size, probability / probability.sum()).astype(np.float64)


class SensitivityNeuron(Coreset):
    """A coreset for each reading neuron (Algorithm 1), within a common set of m units.

    The m units are drawn as for a layer. Each neuron j then draws among them with pr_j(i) ∝ |W_ji| φ(β‖p̃_i‖),
    its positive and its negative weights apart, as often as the layer's draw took, and a unit's weight
    becomes W_ji · n_j(i)/(m_j pr_j(i)). What a neuron loses with the units outside the set is spread over
    those of the same sign in proportion, so that each signed sum keeps its expectation under the scores.
    What is promised of it is `a_priori.confined`: the draws err as any do, and what lies outside the set is
    counted in full.
    """

    name: ClassVar[str] = "sensitivity-neuron"
    random: ClassVar[bool] = True
    source: ClassVar[str] = "Mussay et al., ICLR 2020, Algorithm 1, confined to one set of units"

    def choose(self, evidence: Evidence, size: int, generator: np.random.Generator) -> Selection:
        layer = Sensitivity().choose(evidence, size, generator)
        assert layer.sampling is not None
        response = np.max([_largest_response(evidence, k) for k in range(len(evidence.rows))], axis=0)
        factors, masses = {}, {}
        for hearing in evidence.hearings:
            if hearing.queries is not None:
                factors[hearing.node] = _per_neuron(hearing, response, layer, generator)
                if hearing.taps == 1 and len(evidence.rows) == 1 and evidence.activations[0] == "relu":
                    masses[hearing.node] = _masses(hearing.queries * response, layer.keep)
        sampling = replace(layer.sampling, fixed=True, masses=masses)
        return Selection(layer.keep, factors=factors, sampling=sampling)


def _masses(weighted: Floats, keep: Ints) -> Floats:
    """Sums of the positive and of the negative parts of (outputs, n) inside `keep` and outside it.

    Returns:
        (2, outputs, 2).
    """
    signed = np.stack([np.maximum(weighted, 0.0), np.maximum(-weighted, 0.0)], axis=1)
    inside = signed[:, :, keep].sum(axis=2)
    return np.stack([inside, np.maximum(signed.sum(axis=2) - inside, 0.0)])


def _per_neuron(
    hearing: Hearing, response: Floats, layer: Selection, generator: np.random.Generator
) -> Floats:
    """For each output and unit, by what its weight is multiplied; (outputs, n)."""
    assert hearing.queries is not None
    assert layer.sampling is not None
    factors = np.zeros_like(hearing.queries)
    draws = layer.sampling.draws
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


def sampled(evidence: Evidence, draws: int, score: Floats, *, fixed: bool) -> Sampling:
    """What there is to remember of draws with probabilities proportional to `score`."""
    return Sampling(
        draws,
        fixed,
        score,
        tuple(np.linalg.norm(rows, axis=1) for rows in evidence.rows),
        {h.node: h.peak * h.taps if h.load is None else h.load for h in evidence.hearings},
    )


def selection(counts: Floats, sampling: Sampling) -> Selection:
    """The weighted subset that the draws amount to: u_i = w_i · counts_i/(m·pr(i))."""
    keep = np.flatnonzero(counts)
    probability = sampling.scores / sampling.scores.sum()
    mix = np.zeros((len(keep), len(counts)))
    mix[np.arange(len(keep)), keep] = counts[keep] / (sampling.draws * probability[keep])
    return Selection(keep, mix, sampling=sampling)


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
    given = evidence.responses[k] if evidence.responses else None
    return (given or ADMISSIBLE[activation])(math.sqrt(radius**2 + 1) * norms)
