"""Widths by an integer programme: a multiple-choice knapsack whose prices depend on pairs of groups.

Each group g takes exactly one of its widths, x_gk ∈ {0, 1}, Σ_k x_gk = 1. With err_g the error of each width,

    minimise Σ_gk err_g(k) x_gk   subject to   Σ price ≤ limit.

A piece of the price that hangs on one group is linear in x. One on two groups, f(k, l), is made linear by
y_kl ≥ 0 with Σ_l y_kl = x_gk and Σ_k y_kl = x_hl: for 0/1 x these allow y_kl = x_gk x_hl only, so the sum
Σ f(k, l) y_kl is exact. A piece on more groups (a layer behind a concatenation) is taken as the sum of what
each group changes alone about a known answer; since that is an approximation, the answer is priced anew by
whoever asked. Each group offers a few widths of its grid: its ends, some between, and those around the known
answer.

Source: the local-polytope linearisation (Wainwright & Jordan, 2008, section 4.1.1); solved by HiGHS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import optimize, sparse

from edgeprune.graph.groups import Ints
from edgeprune.widths.costs import Costs, Floats, Piece

solver: Any = optimize  # scipy has no types
matrices: Any = sparse

CHOICES = 12
"""Widths that a group offers."""
NEAR = 2
"""How many steps of the grid on each side of the known answer are among them."""
SECONDS = 20.0
GAP = 1e-3
"""Relative gap to the optimum at which the solver may stop."""


def programmed(
    grids: Mapping[str, Ints],
    errors: Mapping[str, Floats],
    costs: Costs,
    limit: float,
    known: Mapping[str, int],
    seconds: float = SECONDS,
) -> dict[str, int] | None:
    """The widths that lose least within the limit, or None where the solver found none in time.

    Args:
        grids: the widths that each group may have, ascending.
        errors: by group, the error of every width from 0 on.
        costs: what is limited.
        limit: the largest price.
        known: widths that meet it, about which pieces on more than two groups are taken apart.
        seconds: for the solver.
    """
    offered = {name: _offered(grid, known[name]) for name, grid in grids.items()}
    rows = _Rows.of(offered)
    objective = np.concatenate([errors[name][widths] for name, widths in offered.items()])
    price, fixed = rows.priced(costs, offered, known)
    objective = np.concatenate([objective, np.zeros(len(price) - len(objective))])
    matrix = matrices.csr_array(
        (rows.values, (rows.lines, rows.columns)), shape=(len(rows.right), len(price)), dtype=np.float64
    )
    scale = max(float(np.abs(price).max(initial=0.0)), 1e-300)
    found = solver.milp(
        objective,
        integrality=np.r_[np.ones(rows.binaries), np.zeros(len(price) - rows.binaries)],
        bounds=solver.Bounds(0, 1),
        constraints=[
            solver.LinearConstraint(matrix, rows.right, rows.right),
            solver.LinearConstraint(price[None] / scale, -np.inf, (limit - fixed) / scale),
        ],
        options={"time_limit": seconds, "mip_rel_gap": GAP},
    )
    if found.x is None:
        return None
    return {
        name: int(widths[int(np.argmax(found.x[rows.start[name] : rows.start[name] + len(widths)]))])
        for name, widths in offered.items()
    }


def _offered(grid: Ints, known: int) -> Ints:
    """Some widths of a grid, ascending, the known one among them."""
    if len(grid) <= CHOICES:
        return grid
    here = int(np.searchsorted(grid, known))
    near = np.arange(max(here - NEAR, 0), min(here + NEAR + 1, len(grid)))
    spread = np.round(np.linspace(0, len(grid) - 1, CHOICES - len(near))).astype(np.int64)
    return np.asarray(grid[np.unique(np.concatenate([near, spread]))])


@dataclass(slots=True)
class _Rows:
    """The equations that are being written down: Σ values · columns = right, line by line."""

    start: Mapping[str, int]
    binaries: int
    lines: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, offered: Mapping[str, Ints]) -> _Rows:
        """Each group takes one of its widths."""
        ends = np.cumsum([0, *(len(widths) for widths in offered.values())])
        rows = cls(dict(zip(offered, ends[:-1].tolist(), strict=True)), int(ends[-1]))
        for name, widths in offered.items():
            rows._line({rows.start[name] + k: 1.0 for k in range(len(widths))}, 1.0)
        return rows

    def _line(self, entries: Mapping[int, float], right: float) -> None:
        self.lines += [len(self.right)] * len(entries)
        self.columns += list(entries)
        self.values += list(entries.values())
        self.right.append(right)

    def priced(
        self, costs: Costs, offered: Mapping[str, Ints], known: Mapping[str, int]
    ) -> tuple[Floats, float]:
        """The price of every variable, those of pairs behind the others; and what is always paid."""
        linear, fixed = np.zeros(self.binaries), costs.fixed
        pairs: list[Floats] = []
        for piece in costs.pieces:
            if len(piece.groups) == 2:
                pairs.append(self._pair(piece, offered, self.binaries + sum(map(len, pairs))))
                continue
            here = tuple(known[name] for name in piece.groups)
            base = piece.at(here)
            fixed += base
            for k, name in enumerate(piece.groups):
                alone = [piece.at((*here[:k], int(w), *here[k + 1 :])) - base for w in offered[name]]
                linear[self.start[name] : self.start[name] + len(alone)] += alone
        return np.concatenate([linear, *pairs]), fixed

    def _pair(self, piece: Piece, offered: Mapping[str, Ints], start: int) -> Floats:
        """Variables of a piece on two groups: their prices, row by row of the first group's widths."""
        first, second = piece.groups
        wide, deep = len(offered[first]), len(offered[second])
        at = np.arange(wide * deep).reshape(wide, deep) + start
        for k in range(wide):
            self._line({self.start[first] + k: -1.0} | dict.fromkeys(at[k].tolist(), 1.0), 0.0)
        for k in range(deep):
            self._line({self.start[second] + k: -1.0} | dict.fromkeys(at[:, k].tolist(), 1.0), 0.0)
        return np.array([piece.at((int(a), int(b))) for a in offered[first] for b in offered[second]])
