"""Δ-CROWN: how far the pruned net can be from the original on a whole domain, by linear bounds.

Three tiers, each sound by itself, each the start of the next; the best bound so far counts:

1. difference intervals (`edgeprune.bounds.differential`), met with affine forms of the input
   (`edgeprune.bounds.forward`), node by node;
2. before each activation the units that can still be on both sides of a corner are bounded again by a
   backward walk (`edgeprune.bounds.backward`), and what was found is used for every later node;
3. the free choices of the backward walk from the outputs are optimised by gradient descent.

Source:
    Zhang et al. (2018), CROWN; Xu et al. (2021), α-CROWN (optimised slopes); the twin form and the
    bounds' rounding are derived in `edgeprune.bounds.backward`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from edgeprune.bounds.backward import Backward, Rows, Tuning, unit_rows
from edgeprune.bounds.branching import Branching
from edgeprune.bounds.descent import descended, tunings_of
from edgeprune.bounds.differential import Difference, Reach, enclose, fold, visit
from edgeprune.bounds.first_layer import FirstLayer
from edgeprune.bounds.forward import Forms, start
from edgeprune.bounds.layer import layer_of, quadratic_delta
from edgeprune.bounds.patches import conv_layer_of, patch_delta
from edgeprune.bounds.quadratic import Ascent
from edgeprune.bounds.watch import Watch
from edgeprune.domains.sets import Box, Domain, L2Ball
from edgeprune.errors import UnsupportedOperation
from edgeprune.functions.curves import Curve
from edgeprune.functions.forms import Affine, Elementwise, Input, Structural, Twin
from edgeprune.functions.intervals import Interval, up
from edgeprune.progress import Tell, unheard

MEMORY = 3e7
"""Numbers that the coefficients of one backward walk may hold at one node."""


@dataclass(frozen=True, slots=True, eq=False)
class Effort:
    """How hard to try.

    Attributes:
        budget_s: seconds after which no new refinement is begun; what was found so far stands.
        refine: bound unstable units again by backward walks.
        symbols: most input values that affine forms are carried for.
        steps: of the optimisation of the outputs' bounds; 0 for none.
        jobs: threads that share the rows of the outputs among them.
        quadratic: bound the Δ of linear layers behind a ReLU by `edgeprune.bounds.layer` too, and end every
            walk by `edgeprune.bounds.first_layer`, whatever it costs.
        work: multiplications that ending the walks from one node so may take otherwise.
        branches: most parts that the domain is cut into by sides of units; see `edgeprune.bounds.branching`.
        tell: hears how far it has come.
    """

    budget_s: float = 60.0
    refine: bool = True
    symbols: int = 1024
    steps: int = 20
    quadratic: bool = False
    jobs: int = 1
    work: float = 3e9
    branches: int = 0
    tell: Tell = unheard


class Progression:
    """Both nets walked once from the inputs on, every node refined before it is read."""

    def __init__(
        self,
        twins: Sequence[Twin],
        domains: Mapping[str, Domain],
        inputs: Mapping[str, Interval],
        effort: Effort,
    ) -> None:
        self.twins = tuple(twins)
        self.domains = domains
        self.inputs = inputs
        self.effort = effort
        self.watch = Watch.of(effort.budget_s, effort.tell)
        self.reached: dict[str, Reach] = {}
        self.backward = Backward(self.twins, self.reached, domains)
        self.rows = 0
        self._curved = {twin.sources[0] for twin in self.twins if isinstance(twin.f, Elementwise)}
        self._by_name = {twin.name: twin for twin in self.twins}
        self._exact: set[str] = set()
        self._first: FirstLayer | None = None

    @property
    def time_left(self) -> bool:
        """Whether the budget is not spent."""
        return self.watch.left

    def run(self) -> None:
        """Walk; `reached` holds every node afterwards.

        Raises:
            UnsupportedOperation: a node has no rule; see `edgeprune.bounds.differential.difference`.
        """
        forms = Forms(start(self.domains, self.inputs, self.effort.symbols), self.twins)
        for k, twin in enumerate(self.twins):
            self.watch.tell(f"node {k + 1} of {len(self.twins)}")
            reach = visit(twin, [self.reached[name] for name in twin.sources], self.inputs)
            reach = forms.step(twin, self.reached, reach)
            self.reached[twin.name] = reach
            self._note_exact(twin)
            if self.effort.quadratic and self.time_left:
                self._sharpen(twin)
            if self.effort.refine and twin.name in self._curved and twin.name not in self._exact:
                self._refine(twin)
                forms.tighten(twin.name, self.reached[twin.name])

    def _sharpen(self, twin: Twin) -> None:
        """Meet Δ with the quadratic certificate of the layer that the node reads, if it has one."""
        reach, watch = self.reached[twin.name], self.watch
        if not bool((reach.delta.high > reach.delta.low).any()):
            return
        layer = layer_of(twin, self._by_name)
        if layer is not None:
            found = quadratic_delta(layer, self.reached, self.domains, Ascent(), watch)
        else:
            layer = conv_layer_of(twin, self._by_name)
            if layer is None:
                return
            found = patch_delta(layer, self.reached, Ascent(), watch)
        self.reached[twin.name] = replace(reach, delta=reach.delta.meet(found))

    def ended(
        self, name: str, rows: Rows, tuning: Mapping[str, Tuning] | None = None, whole: int = 0
    ) -> Tensor | None:
        """Upper bounds by the quadratic form of the first layer; None where there is none, or no time.

        Args:
            whole: rows of which these are a part: their cost decides.
        """
        if self._first is None:
            self._first = FirstLayer.of(self.backward, Ascent())
        n = len(next(a for a in (rows.f, rows.g, rows.delta) if a is not None))
        most = math.inf if self.effort.quadratic else self.effort.work
        if self._first is None or not self.time_left or not self._first.cost(max(n, whole)) < most:
            return None
        with torch.no_grad():
            return self._first.upper(name, rows, tuning, self.watch)

    def _note_exact(self, twin: Twin) -> None:
        """Inputs that are only moved, and one affine map of them, are exact as intervals."""
        moved = isinstance(twin.f, Structural) and not twin.f.terms and len(twin.sources) == 1
        if isinstance(twin.f, Input):
            plain = isinstance(self.domains[twin.f.name], Box | L2Ball)
            self._exact.update({twin.name} if plain else ())
        elif moved and twin.sources[0] in self._exact:
            self._exact.add(twin.name)
        elif isinstance(twin.f, Affine) and twin.sources[0] in self._exact:
            source = self.twins[self.backward.place[twin.sources[0]]]
            if not isinstance(source.f, Affine):
                self._exact.add(twin.name)

    def _refine(self, twin: Twin) -> None:
        """Bound again what is not yet on one side of a corner of the activation that reads it."""
        name = twin.name
        reader = next(t for t in self.twins if isinstance(t.f, Elementwise) and t.sources[0] == name)
        assert isinstance(reader.f, Elementwise)
        curve = reader.f.curve
        for which in ("f", "g", "delta"):
            reach = self.reached[name]
            if which == "delta":
                index = _undecided(reach.f_kept, curve) & _undecided(reach.g, curve)
                index = index & (reach.delta.high > reach.delta.low)
            else:
                index = _undecided(reach.f if which == "f" else reach.g, curve)
            flat = index.reshape(-1).nonzero().reshape(-1)
            if len(flat) and self.time_left:
                self._bound_again(name, which, flat)

    def _bound_again(self, name: str, which: str, index: Tensor) -> None:
        reach = self.reached[name]
        before = {"f": reach.f, "g": reach.g, "delta": reach.delta}[which]
        low, high = before.low.reshape(-1).clone(), before.high.reshape(-1).clone()
        for part in torch.split(index, self.chunk()):
            if not self.time_left:
                break
            self.rows += 2 * len(part)
            with torch.no_grad():
                top = self.backward.upper(name, unit_rows(reach, which, part, 1.0))
                bottom = -self.backward.upper(name, unit_rows(reach, which, part, -1.0))
                both = self.ended(name, _both(reach, which, part))
                if both is not None:
                    top = torch.minimum(top, both[: len(part)])
                    bottom = torch.maximum(bottom, -both[len(part) :])
            high[part], low[part] = torch.minimum(high[part], top), torch.maximum(low[part], bottom)
        after = before.meet(Interval(low.reshape(before.shape), high.reshape(before.shape)))
        changed = {"f": reach.f, "g": reach.g, "delta": reach.delta, which: after}
        delta = changed["delta"]
        reach = Reach(changed["f"], changed["g"], delta, reach.kept)
        self.reached[name] = replace(reach, delta=delta.meet(reach.f_kept - reach.g))

    def chunk(self) -> int:
        """Rows of one backward walk."""
        widest = max(reach.f.low.numel() for reach in self.reached.values())
        return int(max(16, min(1024, MEMORY / max(1, widest))))


def _both(reach: Reach, which: str, index: Tensor) -> Rows:
    """Elements of f, g or delta, and the same with a minus."""
    up, down = (unit_rows(reach, which, index, sign) for sign in (1.0, -1.0))
    pairs = ((up.f, down.f), (up.g, down.g), (up.delta, down.delta))
    f, g, delta = (None if a is None or b is None else torch.cat([a, b]) for a, b in pairs)
    return Rows(f, g, delta)


def _undecided(z: Interval, curve: Curve) -> Tensor:
    """What can be on both sides of a corner, or where the curve bends, anything that is not a point."""
    if not curve.straight:
        return z.low < z.high
    found = torch.zeros_like(z.low, dtype=torch.bool)
    for place, *_ in (*curve.corners, *curve.jumps):
        found = found | ((z.low < place) & (z.high > place))
    return found


def crown(
    twins: Sequence[Twin],
    domains: Sequence[Domain],
    shapes: Sequence[tuple[int, ...]],
    names: Sequence[str],
    outputs: Sequence[str],
    effort: Effort | None = None,
) -> Difference:
    """Bound |f(x) − g(x)| for every x of a domain.

    Args:
        twins: every node after its sources.
        domains: one for each input.
        shapes: of one input each, without the batch axis.
        names: of the input nodes.
        outputs: names of the nodes that are the model's outputs.

    Raises:
        UnsupportedOperation: a node has a form without a rule; an output was narrowed.
    """
    effort = effort or Effort()
    folded = fold(twins, frozenset(outputs))
    inputs = enclose(domains, shapes, names)
    by_name = dict(zip(names, domains, strict=True))
    walk = Progression(folded, by_name, inputs, effort)
    walk.run()
    return _outputs(walk, outputs)


def _outputs(walk: Progression, outputs: Sequence[str]) -> Difference:
    bounds = []
    for name in outputs:
        reach = walk.reached[name]
        if any(index is not None for index in reach.kept):
            raise UnsupportedOperation(f"{name}: an output of the model was narrowed")
        sides = torch.stack([reach.delta.high.reshape(-1), -reach.delta.low.reshape(-1)])
        share = -(-sides.shape[1] // walk.effort.jobs)
        parts = torch.split(torch.arange(sides.shape[1]), max(1, min(share, walk.chunk() // 2)))
        with ThreadPoolExecutor(walk.effort.jobs) as threads:  # torch lets go of the interpreter's lock
            for index, found in zip(parts, threads.map(partial(_both_sides, walk, name), parts), strict=True):
                sides[:, index] = torch.minimum(sides[:, index], found)
        if walk.effort.branches:
            sides = _branched(walk, name, sides)
        bounds.append(up(sides.amax(0).clamp_min(0)).reshape(reach.delta.shape[1:]))
    worst = max((float(b.max()) for b in bounds if b.numel()), default=0.0)
    finite = all(bool(torch.isfinite(b).all()) for b in bounds)
    return Difference(worst if finite else None, tuple(bounds))


def _branched(walk: Progression, name: str, sides: Tensor) -> Tensor:
    """Bounds of Δ and of −Δ (2, elements), the largest of them cut into parts."""
    rows = _both(walk.reached[name], "delta", torch.arange(sides.shape[1]))
    branching = Branching(walk.backward, name, rows, walk.ended, walk.watch)
    return branching.run(sides.reshape(-1), walk.effort.branches).reshape(sides.shape)


def _both_sides(walk: Progression, name: str, index: Tensor) -> Tensor:
    """Upper bounds of Δ and of −Δ of some elements: (2, elements)."""
    reach = walk.reached[name]
    rows, whole = _both(reach, "delta", index), 2 * reach.delta.low.numel()
    with torch.no_grad():
        best = walk.backward.upper(name, rows)
    tuning: dict[str, Tuning] | None = None
    if walk.effort.steps and walk.time_left:
        start = tunings_of(walk.backward, name, 2 * len(index), whole)
        found, tuning = descended(walk.backward, name, rows, start, walk.effort.steps, walk.watch)
        best = torch.minimum(best, found)
    ended = walk.ended(name, rows, tuning, whole)
    if ended is not None:
        best = torch.minimum(best, ended)
    return best.reshape(2, -1)
