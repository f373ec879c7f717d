"""The chain from the original torch net to what the devices compute, link by link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from edgeprune.errors import BoundViolated
from edgeprune.plan import Shrunk
from edgeprune.preparation import Line
from edgeprune.records import Term
from edgeprune.samples import Array
from edgeprune.stages.certify import Certified
from edgeprune.stages.parity import Parity, compare
from edgeprune.stages.roundoff import Roundoff
from edgeprune.stages.validate import Measured
from edgeprune.steps import Exported


def chain(
    line: Line,
    shrunk: Shrunk,
    reference: tuple[Array, ...],
    pruned: tuple[Array, ...],
    parity: Exported,
    certified: Certified,
    assumed: Mapping[str, Roundoff],
    measured: Sequence[Measured],
) -> tuple[Term, ...]:
    """Every link, with what is claimed of it and what was seen.

    Args:
        assumed: bounds on the rounding, by precision of the targets.

    Raises:
        BoundViolated: a target's rounding exceeds its bound.
    """
    n = len(line.holdout[0])
    rounding = [compare(pruned, m.pruned_outputs).difference for m in measured if m.pruned_outputs]
    return (
        _prune(certified, compare(reference, pruned).difference, n),
        _masking(shrunk),
        _file("export", parity.export),
        _file("simplify", parity.simplify),
        _rounding(rounding, assumed, n),
    )


def _prune(certified: Certified, observed: float, n: int) -> Term:
    """Original torch net → pruned torch net, both in exact arithmetic."""
    best = certified.best
    return Term(
        name="prune",
        norm="linf",
        bound=best.bound if best else None,
        label=best.label if best else "observed",
        method=best.name if best else "none",
        assumptions=(best.domain,) if best else (),
        observed=observed,
        attacked=certified.attacked,
        n_inputs=n,
    )


def _masking(shrunk: Shrunk) -> Term:
    """The original with muted channels → the shrunk net: the same sums without their zeros."""
    return Term(
        name="masking",
        norm="linf",
        bound=0.0,
        label="proved",
        method="cutting channels that nothing reads",
        assumptions=("exact arithmetic",),
        observed=shrunk.masking,
        attacked=None,
        n_inputs=shrunk.n_inputs,
    )


def _file(name: Literal["export", "simplify"], parity: Parity) -> Term:
    """The torch net → a file of it: compared on samples, nothing is claimed of other inputs."""
    return Term(
        name=name,
        norm="linf",
        bound=None,
        label="observed",
        method="onnxruntime, graph optimisations off",
        assumptions=(),
        observed=parity.difference,
        attacked=None,
        n_inputs=parity.n_inputs,
    )


def _rounding(observed: Sequence[float], assumed: Mapping[str, Roundoff], n: int) -> Term:
    """The weakest of the bounds for the precisions that were used; observed beside it."""
    bounds = [said.bound for said in assumed.values()]
    bound = None if not bounds or None in bounds else max(b for b in bounds if b is not None)
    seen = max(observed, default=None)
    if bound is not None and seen is not None and seen > bound:
        raise BoundViolated(
            f"rounding: a target's outputs differ from the pruned torch net by {seen:.3g}, and the "
            f"rounding model promises at most {bound:.3g}. Either the target computes in a lower precision "
            "than its file says, or this is a bug in edgeprune: please report it, and do not rely on it."
        )
    how = "Δ-CROWN with injected rounding"
    if bound is None:
        how = "each target against the pruned torch net in float64"
    reasons = [said.reason for said in assumed.values() if said.reason]
    return Term(
        "rounding",
        "linf",
        bound,
        "observed" if bound is None else "proved-modulo-rounding-model",
        how,
        tuple(dict.fromkeys(reasons or [said.assumes for said in assumed.values()])),
        seen,
        None,
        n if observed else 0,
    )
