"""Random nets, plans, domains and inputs against every deterministic bound: no error may exceed its bound.

    python -m benchmarks.fuzz_certificates [--quick] [--json FILE] [--nets 400] [--first 0] [--log FILE]

Each net (linear, convolutional, with batch norm, residuals, max-pools, gates, attention; eleven activations)
gets a random plan, weights moved at random behind it, and a random domain (box, box around a point, l2 ball,
both, ellipsoid, mean-free frames, given points). Difference intervals, Δ-CROWN, Δ-CROWN with quadratic
layers and with branches are held against samples of the domain, extreme points and gradient ascent. A case
is one input of one net against one bound: 400 nets make more than 200 000. With --log each net is written as
it ends, and a second run goes on behind the last one. A violation prints the seed and ends with exit code 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune.bounds.attack import attack
from edgeprune.bounds.crown import Effort, crown
from edgeprune.bounds.differential import difference, enclose
from edgeprune.certificates.twins import Pair, twins_of
from edgeprune.domains.regions import Ellipsoid, Frames, Meet, Points
from edgeprune.domains.sets import Box, Domain, L2Ball
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import narrow_graph
from edgeprune.stages.trace import trace

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    *(F.relu, F.relu, F.relu, F.relu6, F.leaky_relu, F.gelu),
    *(F.silu, torch.tanh, torch.sigmoid, F.hardswish, F.softplus),
)
EFFORTS = {
    "Δ-CROWN": Effort(budget_s=20.0, steps=0),
    "Δ-CROWN, no symbols, optimised": Effort(budget_s=20.0, steps=5, symbols=0),
    "Δ-CROWN, quadratic": Effort(budget_s=20.0, steps=0, quadratic=True),
    "Δ-CROWN, branches": Effort(budget_s=20.0, steps=3, branches=16),
}
KINDS = ("linear", "linear", "conv", "residual", "pooled", "gate", "attention")


class Random(nn.Module):
    """A net of one of `KINDS`; all sizes are drawn."""

    def __init__(self, kind: str, random: np.random.Generator) -> None:
        super().__init__()
        self.kind = kind
        self.act = ACTIVATIONS[int(random.integers(len(ACTIVATIONS)))]
        widths = [int(w) for w in random.integers(3, 10, 3)]
        if kind == "linear":
            sizes = [6, *widths[: int(random.integers(1, 4))], 3]
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        elif kind == "attention":
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.norm, self.up, self.head = nn.LayerNorm(4), nn.Linear(4, widths[0]), nn.Linear(widths[0], 3)
        else:
            same = widths[0] if kind == "residual" else widths[1]
            self.stem, self.body = (
                nn.Conv2d(1, widths[0], 3, padding=1),
                nn.Conv2d(widths[0], same, 3, padding=1),
            )
            self.norm, self.head = nn.BatchNorm2d(same), nn.Linear(same * 4, 3)
            for value in (self.norm.weight, self.norm.bias, self.norm.running_mean):
                value.data += 0.3 * torch.randn_like(value)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Three outputs."""
        if self.kind == "linear":
            for layer in self.layers[:-1]:
                x = self.act(layer(x))
            return self.layers[-1](x)  # type: ignore[no-any-return]
        if self.kind == "attention":
            q, k, v = (layer(x).unflatten(-1, (2, 2)).transpose(1, 2) for layer in self.layers)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return self.head(self.act(self.up(self.norm(x + mixed)))).mean(1)  # type: ignore[no-any-return]
        h = self.act(self.stem(x))
        z = self.norm(self.body(h))
        if self.kind == "residual":
            z = z + h
        if self.kind == "gate":
            z = z * torch.sigmoid(z.mean((2, 3), keepdim=True))
        z = F.max_pool2d(z, 2) if self.kind == "pooled" else F.avg_pool2d(self.act(z), 2)
        return self.head(z.flatten(1))  # type: ignore[no-any-return]


def shape_of(kind: str) -> tuple[int, ...]:
    """Of one input."""
    return {"linear": (6,), "attention": (2, 4)}.get(kind, (1, 4, 4))


def domain_of(shape: tuple[int, ...], random: np.random.Generator, generator: torch.Generator) -> Domain:
    """One of seven kinds, of one of four sizes."""
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    radius = float(random.choice([1e-6, 1e-3, 0.05, 0.5]))
    ways = torch.randn((3, *shape), generator=generator, dtype=torch.float64)
    kinds: tuple[Callable[[], Domain], ...] = (
        lambda: Box(-radius, 2 * radius),
        lambda: Box.around(x, radius),
        lambda: L2Ball(x, radius),
        lambda: Meet(Box.around(x, radius), L2Ball(x, 1.5 * radius)),
        lambda: Ellipsoid(x, radius * ways),
        lambda: Frames(2 * radius),
        lambda: Points(x + radius * ways),
    )
    return kinds[int(random.integers(len(kinds)))]()


def twins(net: nn.Module, x: Tensor, random: np.random.Generator) -> tuple[Pair, Callable[..., Tensor]]:
    """A random plan, and parameters of what is left moved at random."""
    coupling = couple(trace(net, (x,)))
    keep = {}
    for group in coupling.groups:
        left = int(random.integers(1, group.size + 1))
        keep[group.name] = np.sort(random.permutation(group.size)[:left])
    alive = coupling.alive(keep)
    small = narrow_graph(coupling.graph, alive, {})
    by = float(random.choice([0.0, 1e-3, 0.1]))
    with torch.no_grad():
        for value in small.parameters():
            value += by * torch.randn_like(value)

    def gap(inputs: tuple[Tensor, ...]) -> Tensor:
        difference: Tensor = net(*inputs) - small(*inputs)
        return difference

    return twins_of(coupling.graph, small, alive, (x[:1],)), gap


def one(seed: int, hard: bool) -> dict[str, float | int | str]:
    """A net, its plan and domain, and all its bounds: the largest share of a bound that an error reached."""
    torch.manual_seed(seed)
    random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    kind = KINDS[seed % len(KINDS)]
    net = Random(kind, random).double().eval().requires_grad_(False)
    shape = shape_of(kind)
    x = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    pair, gap = twins(net, x, random)
    domain = domain_of(shape, random, generator)
    tries = {"samples": 40, "steps": 12 if hard else 6, "restarts": 2, "goals": 6}
    found = attack(gap, [domain], pair.shapes, generator=generator, **tries)
    size = 1e-9 * (1 + found.value)
    worst, loosest = 0.0, 0.0
    inputs = enclose([domain], pair.shapes, pair.inputs)
    bounds = {"intervals": difference(pair.twins, inputs, pair.outputs).linf}
    for name, effort in EFFORTS.items():
        bounds[name] = crown(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, effort).linf
    for name, bound in bounds.items():
        if bound is None:
            continue
        worst = max(worst, found.value / max(bound, size))
        loosest = max(loosest, bound / max(found.value, size))
        if found.value > bound + size:
            return {"seed": seed, "kind": kind, "cases": found.n_inputs, "violated": name, "worst": worst}
    return {"seed": seed, "kind": kind, "cases": found.n_inputs, "worst": worst, "loosest": loosest}


def fuzzed(seeds: range, hard: bool, log: Path | None) -> Iterator[dict[str, float | int | str]]:
    """All of them; what the log has is not done again."""
    known: dict[int, dict[str, float | int | str]] = {}
    if log is not None and log.is_file():
        for line in log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            known[int(entry["seed"])] = entry
    for seed in seeds:
        if seed in known:
            yield known[seed]
            continue
        entry = one(seed, hard)
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        yield entry


def main() -> None:
    """Fuzz, print the counts, write the rows."""
    parser = options(__doc__)
    parser.add_argument("--nets", type=int, default=400, help="random nets")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--log", type=Path, help="a line of JSON for each net; makes the run resumable")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    count = min(chosen.nets, 28) if chosen.quick else chosen.nets
    entries = []
    for entry in fuzzed(range(chosen.first, chosen.first + count), not chosen.quick, chosen.log):
        entries.append(entry)
        if "violated" in entry:
            print(f"violation: {entry}", file=sys.stderr)
    broken = sum("violated" in entry for entry in entries)
    cases = sum(int(entry["cases"]) for entry in entries) * (1 + len(EFFORTS))
    worst = max(float(entry["worst"]) for entry in entries)
    rows = [
        Row("fuzzed certificates", "", "", "nets", len(entries), "", chosen.first),
        Row("fuzzed certificates", "", "", "cases", cases, "", chosen.first),
        Row("fuzzed certificates", "", "", "violations", broken, "", chosen.first),
        Row("fuzzed certificates", "", "", "largest error ÷ bound", worst, "", chosen.first),
    ]
    finish([*rows, *environment_rows()], by_figure, chosen.json)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
