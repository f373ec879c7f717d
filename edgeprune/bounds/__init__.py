"""What can be promised about the error of a pruned net; one file a guarantee.

    a_priori       what the coreset theorem promises before anything is run
    statistical    quantile, rate and mean of the error over the data's distribution
    exceeding      the whole distribution of the error, tail included
    interval       what every node of one net can be on a domain
    differential   how far two nets can be apart on a domain, by intervals
    crown          the same by linear bounds: affine forms forwards, coefficients backwards
    forward        affine forms of the input, with the same symbols in both nets
    backward       linear bounds of any node, walked back to the inputs
    walk           one such walk, a rule for each form
    coefficients   what is walked back: three blocks, and the gauge between them
    peaks          maxima over windows, as the elements that win
    descent        the free choices of such walks, optimised
    branching      the domain cut into parts, the worst first
    relax          lines around activations and their differences
    spectral       norms of layers that are really upper bounds
    quadratic      one layer by a quadratic form: what cancels between units is seen
    parabolas      the units of such a layer, and parabolas around them
    primal         the search that chooses the parabolas
    shor           the dual bound, and the proof that a matrix is positive definite
    first_layer    the end of a walk: the first activations, by a quadratic form
    patches        the same for convolutions, patch by patch
    watch          deadlines, progress and threads of long computations
    layer          where a net has such layers
    rounding       what the runtime's arithmetic can add
    kernel_errors  which errors of exp, tanh, … were measured, and on which versions
    minimax        compensation that minds the worst error
    attack         no bound: the largest error that a search finds, held against all of the above

`BOUNDS` names what can be asked for, what each statement is about, and what it needs. To add one,
write its file and name it here, or register a `Bound` from another distribution under the entry
point `edgeprune.bounds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeprune.records.run import Label
from edgeprune.registry import Registry

Scope = Literal["layer", "local", "global", "distribution"]
Need = Literal["domain", "forms", "draws", "samples", "labels of classes", "range"]


@dataclass(frozen=True, slots=True)
class Bound:
    """One kind of guarantee.

    Attributes:
        name: what users ask for.
        scopes: what it can speak about; local and global differ only in the domain.
        label: how strong it is.
        needs: domain (a bounded set of inputs), forms (every operation fits a form), draws (the
            units were sampled with known probabilities), samples (held out, used for nothing
            else), labels of classes (the model classifies), range (no error can exceed it).
        says: the statement in words.
        function: where it is, as `module.function`.
    """

    name: str
    scopes: tuple[Scope, ...]
    label: Label
    needs: tuple[Need, ...]
    says: str
    function: str


BOUNDS: Registry[Bound] = Registry(
    "bounds",
    (
        Bound(
            "differential",
            ("local", "global"),
            "proved",
            ("domain", "forms"),
            "for every input of the domain, no output differs by more than the bound",
            "edgeprune.bounds.differential.difference",
        ),
        Bound(
            "crown",
            ("local", "global"),
            "proved",
            ("domain", "forms"),
            "for every input of the domain, no output differs by more than the bound",
            "edgeprune.bounds.crown.crown",
        ),
        Bound(
            "quadratic",
            ("layer",),
            "proved",
            ("domain", "forms"),
            "for every input of the layer's region, no reader hears more than the bound differently",
            "edgeprune.bounds.quadratic.layer_bounds",
        ),
        Bound(
            "rounding",
            ("local", "global"),
            "proved-modulo-rounding-model",
            ("domain", "forms"),
            "the runtime's outputs differ from exact arithmetic by at most the bound",
            "edgeprune.bounds.rounding.rounding",
        ),
        Bound(
            "a-priori",
            ("layer",),
            "statistical",
            ("domain", "draws"),
            "with a probability over the sampling of the coreset, no reader of the layer hears more "
            "than the bound differently, whatever the input",
            "edgeprune.bounds.a_priori.explicit",
        ),
        Bound(
            "quantile",
            ("distribution",),
            "statistical",
            ("samples",),
            "a given share of all inputs has an error of at most the bound",
            "edgeprune.bounds.statistical.quantile",
        ),
        Bound(
            "rate",
            ("distribution",),
            "statistical",
            ("samples", "labels of classes"),
            "the most likely class changes for at most this share of all inputs",
            "edgeprune.bounds.statistical.rate",
        ),
        Bound(
            "mean",
            ("distribution",),
            "statistical",
            ("samples", "range"),
            "the mean error over all inputs is at most the bound",
            "edgeprune.bounds.statistical.mean_betting",
        ),
        Bound(
            "exceedance",
            ("distribution",),
            "statistical",
            ("samples",),
            "the error exceeds a threshold, chosen after the fact, for at most this share of all inputs",
            "edgeprune.bounds.statistical.exceedance",
        ),
        Bound(
            "whole distribution",
            ("distribution",),
            "statistical",
            ("samples",),
            "for every threshold at once, the error exceeds it for at most the stated share of all inputs",
            "edgeprune.bounds.exceeding.whole_distribution",
        ),
        Bound(
            "chosen ratio",
            ("distribution",),
            "statistical",
            ("samples",),
            "the candidate chosen on these samples keeps a given share of all inputs below the limit",
            "edgeprune.bounds.statistical.chosen_ratio",
        ),
    ),
)

__all__ = ["BOUNDS", "Bound", "Need", "Scope"]
