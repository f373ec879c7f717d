"""The chain from the original torch net to what the devices compute, link by link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from edgeprune.certificates.distribution import linf_errors
from edgeprune.inputs.preparation import Line
from edgeprune.inputs.samples import Array
from edgeprune.line.files_step import Exported, Half
from edgeprune.plan import Shrunk
from edgeprune.records.counterexample import abort
from edgeprune.records.run import Term
from edgeprune.stages.certify import Certified
from edgeprune.stages.parity import Parity, compare
from edgeprune.stages.roundoff import STORED, Roundoff
from edgeprune.stages.validate import Measured

COMPUTED = 1e-5
"""Share of the outputs by which two files that should agree may differ, since both are run in float32."""
_SEEN = "seen on these inputs only; nothing is claimed of others"


def chain(
    line: Line,
    shrunk: Shrunk,
    reference: tuple[Array, ...],
    pruned: tuple[Array, ...],
    parity: Exported,
    certified: Certified,
    assumed: Mapping[str, Roundoff],
    measured: Sequence[Measured],
    folder: Path,
) -> tuple[Term, ...]:
    """Every link, with what is claimed of it and what was seen.

    Args:
        assumed: bounds on the rounding, by precision of the targets.
        folder: where a counterexample is kept.

    Raises:
        BoundViolated: a target's rounding exceeds its bound.
    """
    every = np.ones(len(line.holdout[0]), dtype=bool)
    inside = every if certified.inside is None else certified.inside
    half = parity.half
    known = dict(assumed) if half is None else _of_a_half(half, assumed)
    stored = known.pop(STORED, None)
    return (
        _prune(certified, reference, pruned, inside),
        _masking(shrunk),
        _file("export", parity.export),
        _file("simplify", parity.simplify),
        *([] if half is None else [_fp16(line, half, stored, inside, folder)]),
        _rounding(line, pruned if half is None else half.stored, measured, known, inside, folder),
    )


def _of_a_half(half: Half, assumed: Mapping[str, Roundoff]) -> dict[str, Roundoff]:
    """Bounds for a file in float16; those of its rounding are held from the file on, not from torch.

    The rounding model bounds |pruned net − device|, the conversion of weights inside. The net of the
    converted weights is within their own bound of the pruned net, so within the sum of both of the device.
    """
    if half.scalars:
        why = f"the file rounds constants within operations too ({', '.join(half.scalars[:3])})"
        return {name: Roundoff(None, said.assumes, why) for name, said in assumed.items()}
    stored = assumed.get(STORED)
    if stored is None or stored.bound is None:
        return dict(assumed)
    beside = stored.bound
    return {
        name: said
        if name == STORED or said.bound is None
        else Roundoff(said.bound + beside, said.assumes, said.reason)
        for name, said in assumed.items()
    }


def _prune(
    certified: Certified, reference: tuple[Array, ...], pruned: tuple[Array, ...], inside: Array
) -> Term:
    """Original torch net → pruned torch net, both in exact arithmetic, on samples of the domain."""
    best = certified.best
    errors = linf_errors(reference, pruned)[inside if best else slice(None)]
    return Term(
        name="prune",
        norm="linf",
        bound=best.bound if best else None,
        label=best.label if best else "observed",
        method=best.name if best else "none",
        assumptions=(best.domain,) if best else (),
        observed=float(errors.max()) if len(errors) else None,
        attacked=certified.attacked,
        n_inputs=len(errors),
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
        observed=shrunk.masking if shrunk.n_inputs else None,
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
        method="onnxruntime, graph optimisations off, against torch in float64",
        assumptions=(_SEEN,),
        observed=parity.difference,
        attacked=None,
        n_inputs=parity.n_inputs,
    )


def _fp16(line: Line, half: Half, stored: Roundoff | None, inside: Array, folder: Path) -> Term:
    """The float32 file → the same with the float16 file's weights, both computed in float32.

    Raises:
        BoundViolated: they are further apart than the bound; the input is kept.
    """
    bound = stored.bound if stored is not None else None
    errors = linf_errors(half.whole, half.stored)
    if bound is not None:
        scale = max(float(np.abs(a).max(initial=0.0)) for a in half.whole)
        worst = int(np.argmax(np.where(inside, errors, -np.inf)))
        if inside[worst] and errors[worst] > bound + COMPUTED * scale:
            why = "This is a bug in edgeprune: please report it with that file, and do not rely on this run."
            inputs = [x[worst] for x in line.holdout]
            abort(folder, inputs, "fp16: the bound on converted weights", bound, float(errors[worst]), why)
        errors = errors[inside]
    reason = stored.reason if stored is not None else ""
    return Term(
        name="fp16",
        norm="linf",
        bound=bound,
        label="observed" if bound is None else "proved-modulo-rounding-model",
        method="the float32 file against itself with the float16 file's weights"
        if bound is None
        else "Δ-CROWN with converted weights",
        assumptions=(reason or (stored.assumes if stored is not None else _SEEN),),
        observed=float(errors.max()) if len(errors) else None,
        attacked=None,
        n_inputs=len(errors),
    )


def _rounding(
    line: Line,
    pruned: tuple[Array, ...],
    measured: Sequence[Measured],
    assumed: Mapping[str, Roundoff],
    inside: Array,
    folder: Path,
) -> Term:
    """The largest of the bounds for the precisions that were used; each target is held against its own.

    Raises:
        BoundViolated: a target's outputs are further from the pruned net in float64; the input is kept.
    """
    reached = [m for m in measured if m.pruned_outputs]
    for m in reached:
        compare(pruned, m.pruned_outputs)  # shapes and numbers are what they should be
    errors = [linf_errors(pruned, m.pruned_outputs) for m in reached]
    for m, e in zip(reached, errors, strict=True):
        said = assumed.get(m.validation.precision)
        worst = int(np.argmax(np.where(inside, e, -np.inf)))
        if said is None or said.bound is None or not inside[worst] or e[worst] <= said.bound:
            continue
        abort(
            folder,
            [x[worst] for x in line.holdout],
            f"rounding: for {m.validation.target} ({m.validation.precision}) the rounding model",
            said.bound,
            float(e[worst]),
            "Either the target computes in a lower precision than its file says, or its outputs were "
            "changed, or this is a bug in edgeprune: please report it, and do not rely on it.",
        )
    bounds = [said.bound for said in assumed.values()]
    bound = None if not bounds or None in bounds else max(b for b in bounds if b is not None)
    seen = [e[inside] if bound is not None else e for e in errors]
    how = "Δ-CROWN with injected rounding"
    if bound is None:
        how = "each target against the pruned net in a higher precision"
    reasons = [said.reason for said in assumed.values() if said.reason]
    return Term(
        name="rounding",
        norm="linf",
        bound=bound,
        label="observed" if bound is None else "proved-modulo-rounding-model",
        method=how,
        assumptions=tuple(dict.fromkeys(reasons or [said.assumes for said in assumed.values()])),
        observed=max((float(e.max()) for e in seen if len(e)), default=None),
        attacked=None,
        n_inputs=len(seen[0]) if seen else 0,
    )
