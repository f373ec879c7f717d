"""Bounds over every input of a domain, by the methods asked for, with growing effort.

Any time: a quick pass first, then passes that refine and optimise, as long as the budget can be expected to
last; each pass is a bound by itself, and the smallest one counts. How tight it is depends on the passes that
were made, never on the clock alone: more of them cannot loosen it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from edgeprune.bounds.crown import Effort, crown
from edgeprune.bounds.differential import difference, enclose
from edgeprune.certificates.twins import Pair
from edgeprune.domains.regions import Points
from edgeprune.domains.sets import Box, Domain
from edgeprune.errors import UnsupportedOperation
from edgeprune.progress import Progress, Tell, teller

Method = Literal["intervals", "crown", "quadratic", "branches"]

SOURCES: dict[Method, str] = {
    "intervals": "Paulsen et al. 2020, extended to other widths and compensation",
    "crown": "Δ-CROWN: Zhang et al. 2018, on both nets and their difference (edgeprune.bounds.backward)",
    "quadratic": "Δ-CROWN with Shor-dual layer certificates (edgeprune.bounds.quadratic)",
    "branches": "Δ-CROWN with branch and bound over sides of ReLU units (edgeprune.bounds.branching)",
}
NAMES: dict[Method, str] = {
    "intervals": "difference intervals",
    "crown": "Δ-CROWN",
    "quadratic": "Δ-CROWN with quadratic layers",
    "branches": "Δ-CROWN by branches",
}


@dataclass(frozen=True, slots=True)
class Proof:
    """Which deterministic bounds are computed, and for how long.

    Attributes:
        methods: in the order they are tried; each that gives a bound is reported.
        budget_s: seconds for each of them, and for all local ones together.
        passes: most passes of growing effort; see `PASSES`.
        jobs: threads that share the outputs among them.
        radius: of the box around every held-out sample that the robust statements speak about, in
            units of the inputs; None for none.
        balls: held-out samples that get such a box at most.
        local: whether the domain is a neighbourhood of single inputs only.
    """

    methods: tuple[Method, ...] = ("intervals", "crown")
    budget_s: float = 60.0
    passes: int = 4
    jobs: int = 1
    radius: float | None = None
    balls: int = 100
    local: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of a linear bound.

    Attributes:
        refine: bound unstable units again.
        steps: of the optimisation.
        branches: cuts of the domain.
        dearer: how many times the time of the pass before it is expected to take.
    """

    refine: bool
    steps: int
    branches: int = 0
    dearer: float = 4.0


PASSES = (Pass(False, 0), Pass(True, 20), Pass(True, 100))
"""Of the linear bounds."""

BRANCHES = (Pass(False, 0), Pass(True, 20), Pass(True, 20, 64, 3.0), Pass(True, 20, 4096, 2.0))
"""Of branch and bound: the last one lasts until the budget is spent, or there is nothing to cut."""

BEYOND = "the bounds grew beyond all numbers"


@dataclass(frozen=True, slots=True)
class Bounded:
    """What a method found.

    Attributes:
        bound: on the largest |f − g| of any output; None with a reason.
        passes: how many were made.
    """

    bound: float | None
    reason: str = ""
    passes: int = 1


def bounded(
    pair: Pair, domains: Sequence[Domain], batch: int, method: Method, proof: Proof, progress: Progress
) -> Bounded:
    """The smallest bound that a method finds within its budget.

    Args:
        domains: one for each input; finite sets are bounded input by input.
        batch: how many inputs the graph takes at once.
        progress: shown a line a pass, with the best bound so far.
    """
    parts = _parts(domains)
    if method != "intervals" and batch != 1:
        return Bounded(None, f"the graph fixes a batch of {batch}; linear bounds need one of 1")
    if parts is None:
        return Bounded(None, "several inputs, of which one is a finite set; declare a domain of another kind")
    try:
        if method == "intervals":
            worst = _largest([_by_intervals(pair, part, batch) for part in parts])
            return Bounded(worst, "" if worst is not None else BEYOND)
        best, passes = math.inf, 0
        for effort, words in _efforts(method, proof, teller(progress)):
            so_far = f", at most {best:.4g} so far" if math.isfinite(best) else ""
            each = progress(parts, f"certifying: {NAMES[method]}, {words}{so_far}", len(parts))
            found = [crown(pair.twins, p, pair.shapes, pair.inputs, pair.outputs, effort).linf for p in each]
            worst, passes = _largest(found), passes + 1
            best = min(best, math.inf if worst is None else worst)
        return Bounded(best if math.isfinite(best) else None, "" if math.isfinite(best) else BEYOND, passes)
    except UnsupportedOperation as error:
        return Bounded(None, str(error))


def _by_intervals(pair: Pair, domains: Sequence[Domain], batch: int) -> float | None:
    inputs = enclose(domains, pair.shapes, pair.inputs, batch)
    return difference(pair.twins, inputs, pair.outputs).linf


def _parts(domains: Sequence[Domain]) -> list[Sequence[Domain]] | None:
    """A finite set as its inputs, one by one; anything else as it is."""
    if not any(isinstance(domain, Points) for domain in domains):
        return [domains]
    if len(domains) > 1:
        return None
    (points,) = domains
    assert isinstance(points, Points)
    return [[Box.around(point, 0.0)] for point in points.points]


def _efforts(method: Method, proof: Proof, tell: Tell) -> Iterator[tuple[Effort, str]]:
    """Passes, for as long as the next one can be expected to end within the budget."""
    began = last = time.monotonic()
    planned = (BRANCHES if method == "branches" else PASSES)[: proof.passes]
    for k, one in enumerate(planned):
        now = time.monotonic()
        left = proof.budget_s - (now - began)
        if k and left < one.dearer * (now - last) * (k > 1):
            return
        last = now
        effort = Effort(
            max(left, 0.0),
            refine=one.refine,
            steps=one.steps,
            quadratic=method == "quadratic" and k > 0,
            jobs=proof.jobs,
            branches=one.branches,
            tell=tell,
        )
        yield effort, f"pass {k + 1} of {len(planned)}"


def _largest(found: Sequence[float | None]) -> float | None:
    return None if None in found else max(f for f in found if f is not None)


def near(
    pair: Pair, domain: Domain, samples: Sequence[torch.Tensor], proof: Proof, progress: Progress
) -> list[float]:
    """For each of some samples, a bound on the largest error within ± `proof.radius` of it.

    Infinite where there is none. Balls are cut by the domain where that is a box of all inputs. None is begun
    after the budget.

    Raises:
        UnsupportedOperation: an operation has no linear bounds.
    """
    assert proof.radius is not None
    deadline = time.monotonic() + proof.budget_s
    found: list[float] = []
    some = samples[: proof.balls]
    for x in progress(some, f"certifying ±{proof.radius:g} around samples", len(some)):
        if found and time.monotonic() > deadline:
            break
        around = ball(x, proof.radius, domain, proof.local)
        effort = Effort(max(1.0, deadline - time.monotonic()), steps=0, jobs=proof.jobs)
        bound = crown(pair.twins, [around], pair.shapes, pair.inputs, pair.outputs, effort).linf
        found.append(math.inf if bound is None else bound)
    return found


def ball(x: torch.Tensor, radius: float, domain: Domain, local: bool) -> Box:
    """The inputs within ± radius of one, cut by a box that holds all inputs (and this one)."""
    x = x.double()
    if isinstance(domain, Box) and not local and bool(domain.contains(x[None]).all()):
        return Box.around(x, radius, domain.low, domain.high)
    return Box.around(x, radius)


__all__ = ["BEYOND", "NAMES", "SOURCES", "Bounded", "Method", "Proof", "ball", "bounded", "near"]
