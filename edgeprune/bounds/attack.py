"""The largest error that a search finds. It is no bound: it is what every bound is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.domains.sets import Domain, Shape
from edgeprune.errors import UsageError

Inputs = tuple[Tensor, ...]
Difference = Callable[[Inputs], Tensor]
"""Batched inputs, float64, to f(x) − g(x) flattened: (batch, outputs)."""


@dataclass(frozen=True, slots=True, eq=False)
class Attack:
    """What the search found.

    Attributes:
        value: the largest |f(x) − g(x)| over inputs and outputs (ℓ∞); inf where it was no number.
        inputs: the input that gave it, one tensor per model input, without a batch axis.
        output: index of the output it was seen on.
        n_inputs: how many inputs were tried.
    """

    value: float
    inputs: Inputs
    output: int
    n_inputs: int


def attack(
    difference: Difference,
    domains: Sequence[Domain],
    shapes: Sequence[Shape],
    *,
    generator: torch.Generator,
    seeds: Inputs | None = None,
    steps: int = 40,
    restarts: int = 4,
    samples: int = 256,
    goals: int = 8,
    batch: int = 128,
) -> Attack:
    """Search a domain for the input on which f and g differ most.

    Random samples, random corners (the extremes of random directions) and the seeds are tried
    first. The `goals` most promising pairs of output and sign are then climbed from their
    `restarts` best starting points by projected ascent: steepest in the domain's own norm, steps
    from half the domain's width down to a thousandth, with the extreme point of the last
    gradient as a final guess.

    Args:
        difference: see `Difference`; where it gives no gradient only the first part is done.
        domains: one per model input.
        shapes: of one input each, without the batch axis.
        generator: the only source of randomness; the same one gives the same attack.
        seeds: starting points, e.g. held-out samples, batched; they are projected into the domain.
        steps: of ascent from each starting point.
        restarts: starting points for each goal.
        samples: random inputs, and as many corners.
        goals: pairs of output and sign that are climbed.
        batch: inputs evaluated at once.

    Raises:
        UsageError: domains and shapes differ in number.
    """
    if len(domains) != len(shapes):
        raise UsageError(f"{len(shapes)} inputs but {len(domains)} domains: give one domain for each input.")
    search = _Search(difference, tuple(domains), batch)
    pairs = list(zip(domains, shapes, strict=True))
    random = tuple(d.sample(samples, s, generator) for d, s in pairs)
    corners = tuple(
        d.extreme(torch.randn((samples, *s), generator=generator, dtype=torch.float64)) for d, s in pairs
    )
    found = [_cat(random, tuple(d.project(x) for d, x in zip(domains, corners, strict=True)))]
    if seeds is not None:
        found.append(tuple(d.project(x) for d, x in zip(domains, seeds, strict=True)))
    starts = found[0] if len(found) == 1 else _cat(*found)
    values = search.evaluate(starts)
    rows, outputs, signs = _goals(values, goals, restarts)
    search.climb(tuple(x[rows] for x in starts), outputs, signs, steps)
    return search.result()


def _cat(first: Inputs, second: Inputs) -> Inputs:
    return tuple(torch.cat(pair) for pair in zip(first, second, strict=True))


def _goals(values: Tensor, goals: int, restarts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to start from, with the output and the sign that each shall climb."""
    signed = torch.cat([values, -values], 1)  # (n, 2 · outputs)
    promising = signed.amax(0).topk(min(goals, signed.shape[1])).indices
    best = signed[:, promising].topk(min(restarts, len(signed)), dim=0).indices  # (restarts, goals)
    goal = promising.expand(best.shape).reshape(-1)
    width = values.shape[1]
    return best.reshape(-1), goal % width, torch.where(goal < width, 1.0, -1.0).to(torch.float64)


class _Search:
    """Evaluates inputs and remembers the worst."""

    def __init__(self, difference: Difference, domains: tuple[Domain, ...], batch: int) -> None:
        self.difference = difference
        self.domains = domains
        self.batch = batch
        self.worst: tuple[float, Inputs, int] | None = None
        self.tried = 0

    def _note(self, inputs: Inputs, values: Tensor) -> None:
        self.tried += len(values)
        place = int(values.abs().argmax())
        row, output = divmod(place, values.shape[1])
        value = float(values[row, output].abs())
        if self.worst is None or value > self.worst[0]:
            self.worst = (value, tuple(x[row].detach().clone() for x in inputs), output)

    def _call(self, inputs: Inputs) -> Tensor:
        values = self.difference(inputs)
        values = values.reshape(len(inputs[0]), -1).to(torch.float64)
        self._note(inputs, values.detach().nan_to_num(torch.inf, torch.inf, -torch.inf))
        return values

    def evaluate(self, inputs: Inputs) -> Tensor:
        """The differences (n, outputs) at the inputs; what is no number counts as infinite."""
        with torch.no_grad():
            parts = [
                self._call(tuple(x[i : i + self.batch] for x in inputs))
                for i in range(0, len(inputs[0]), self.batch)
            ]
        return torch.cat(parts).nan_to_num(torch.inf, torch.inf, -torch.inf)

    def climb(self, starts: Inputs, outputs: Tensor, signs: Tensor, steps: int) -> None:
        """Ascend from each start on its own output and sign."""
        for i in range(0, len(outputs), self.batch):
            part = slice(i, i + self.batch)
            self._climb(tuple(x[part] for x in starts), outputs[part], signs[part], steps)

    def _climb(self, x: Inputs, outputs: Tensor, signs: Tensor, steps: int) -> None:
        rows = torch.arange(len(outputs))
        for step in range(steps):
            with torch.enable_grad():
                inputs = tuple(t.detach().requires_grad_() for t in x)
                values = self._call(inputs)
                if not values.requires_grad:
                    return
                goal = (values[rows, outputs] * signs).sum()
                try:
                    gradients = torch.autograd.grad(goal, inputs, allow_unused=True)
                except RuntimeError as error:
                    if "derivative" not in str(error):
                        raise
                    return  # torch.heaviside has none: what was tried at random is all there is
            uphill = tuple(
                torch.zeros_like(t) if g is None else g.nan_to_num()
                for t, g in zip(inputs, gradients, strict=True)
            )
            share = 0.5 * (1 - step / steps) ** 2 + 1e-3
            last = step == steps - 1
            x = tuple(
                d.project(d.extreme(g)) if last else d.climb(t.detach(), g, share)
                for d, t, g in zip(self.domains, inputs, uphill, strict=True)
            )
        if steps:
            self.evaluate(x)

    def result(self) -> Attack:
        """The worst input so far."""
        assert self.worst is not None
        value, inputs, output = self.worst
        return Attack(value, inputs, output, self.tried)
