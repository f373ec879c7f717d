"""What a runtime's rounding can add: a bound on |pruned net − what is computed| for each precision.

The statement is about a model of floating-point arithmetic (`edgeprune.bounds.rounding`), so its
label is never stronger than `proved-modulo-rounding-model`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgeprune.bounds.crown import Effort
from edgeprune.bounds.rounding import ARITHMETICS, HALF_STORED, Arithmetic, elsewhere, rounding
from edgeprune.certificates.twins import twins_of
from edgeprune.domains.sets import Domain
from edgeprune.errors import UnsupportedOperation
from edgeprune.graph.groups import Coupling
from edgeprune.inputs.samples import Array
from edgeprune.plan import Shrunk

STORED = "float16 weights"
PRECISIONS = {
    "fp32": ARITHMETICS["float32"],
    "tf32": ARITHMETICS["tf32"],
    "bf16": ARITHMETICS["bfloat16"],
    "fp16": ARITHMETICS["float16"],
    STORED: HALF_STORED,
}
"""A target's `precision` → the arithmetic that is assumed; and what converting a file does on its own."""


@dataclass(frozen=True, slots=True)
class Roundoff:
    """The bound for one precision; None with a reason where there is none."""

    bound: float | None
    assumes: str
    reason: str = ""


def roundoff(
    coupling: Coupling,
    shrunk: Shrunk,
    domains: Sequence[Domain] | None,
    inputs: tuple[Array, ...],
    precisions: Mapping[str, Collection[tuple[str, str]]],
    budget_s: float,
) -> dict[str, Roundoff]:
    """Bound the rounding error of the pruned net, over the whole domain, by precision.

    Args:
        inputs: samples, of which the first is the example that shapes are read from.
        precisions: as targets name them, see `PRECISIONS`; the providers and versions of onnxruntime that
            computed in each.
        budget_s: seconds for each.
    """
    found = {}
    for name, runtimes in precisions.items():
        arithmetic = elsewhere(PRECISIONS[name], runtimes)
        assumes = arithmetic.assumes
        try:
            found[name] = Roundoff(_bound(coupling, shrunk, domains, inputs, arithmetic, budget_s), assumes)
        except UnsupportedOperation as error:
            found[name] = Roundoff(None, assumes, str(error))
    return found


def _bound(
    coupling: Coupling,
    shrunk: Shrunk,
    domains: Sequence[Domain] | None,
    inputs: tuple[Array, ...],
    arithmetic: Arithmetic,
    budget_s: float,
) -> float | None:
    if domains is None or any(x.dtype.kind != "f" for x in inputs):
        raise UnsupportedOperation("no domain of the inputs is known")
    if coupling.graph.batch not in (None, 1):
        raise UnsupportedOperation(f"the graph fixes a batch of {coupling.graph.batch}")
    alive = coupling.alive({name: np.array(keep) for name, keep in shrunk.cuts.keep.items()})
    pair = twins_of(coupling.graph, shrunk.graph, alive, tuple(torch.from_numpy(x[:1]) for x in inputs))
    effort = Effort(budget_s, steps=0)
    return rounding(pair.twins, domains, pair.shapes, pair.inputs, pair.outputs, arithmetic, effort).linf
