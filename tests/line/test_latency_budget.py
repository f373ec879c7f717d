"""Budgets of time: what a net is predicted to cost, which candidate is taken, and the line end to end."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plans import coupled
from terminal import Terminal
from torch import nn

from edgeprune.graph.groups import Coupling
from edgeprune.line.latency_budget import FREE, Tried, best_of, dense_groups, evenly_filled, whole_where_free
from edgeprune.line.layer_costs import latency_costs, placed
from edgeprune.profiles import find_target
from edgeprune.records.run import GroupRecord, Latency, OperationTime, PlanRecord, Run, Validation
from edgeprune.stages.distribute import Answer
from edgeprune.stages.latency_table import CostTable, Layer, points
from edgeprune.verdict.advice import advice
from edgeprune.widths.costs import Costs, Extents, Piece


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.b = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.head(self.b(self.deep(self.a(x).relu())).relu().mean((2, 3)))


def small() -> Coupling:
    torch.manual_seed(0)
    return coupled(Small().eval(), torch.randn(2, 3, 8, 8))


def on_paper(coupling: Coupling, multiple: int) -> CostTable:
    """A table in which a layer costs inputs × outputs, a depthwise one its channels."""
    ms = {}
    for one in placed(coupling):
        layer = one.layer
        pairs = itertools.product(points(layer.inputs, multiple), points(layer.outputs, multiple))
        for i, o in ((w, w) for w in points(layer.outputs, multiple)) if layer.depthwise else pairs:
            ms[layer.at(i, o).key(1)] = float(o if layer.depthwise else i * o)
    return CostTable("board", 1, multiple, ms)


def test_layers_are_read_off_the_graph() -> None:
    found = [one.layer for one in placed(small())]
    assert found == [
        Layer("conv", 3, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
        Layer("conv", 16, 16, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), groups=16),
        Layer("conv", 16, 32, (8, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
        Layer("linear", 32, 5),
    ]


def test_the_price_is_the_tables_scaled_to_the_whole_net() -> None:
    coupling = small()
    costs = latency_costs(coupling, on_paper(coupling, 4), whole_ms=10.0)
    assert costs.price({}) == pytest.approx(10.0)
    first, second = (g.name for g in coupling.groups)
    whole = 3 * 16 + 16 + 16 * 32 + 32 * 5
    for a, b in ((16, 32), (8, 32), (4, 20), (6, 9)):
        layers = 3 * a + a + a * b + b * 5
        # what stands between layers is a few thousandths of a millisecond here
        assert costs.price({first: a, second: b}) == pytest.approx(10 * layers / whole, rel=1e-3)


def test_sizes_by_width_are_those_of_the_narrowed_net() -> None:
    coupling = small()
    widths = {g.name: g.size // 2 for g in coupling.groups}
    alive = coupling.alive({name: np.arange(width) for name, width in widths.items()})
    sizes = Extents.of(coupling).at(widths)
    for one in placed(coupling):
        assert sizes(one.node.name) == alive.shape(one.node.name)
        assert one.widths(sizes) == (alive.shape(one.node["input"].name)[1], alive.shape(one.node.name)[1])


def tried(ratio: float, error: float) -> Tried:
    latency = Latency(1.0, ratio, ratio, ratio - 0.01, ratio + 0.01, 0.95, 4, 0.01, "settled")
    return Tried(Answer({}, "greedy", error), ratio, latency)


def test_the_best_candidate_keeps_to_the_budget_and_loses_least() -> None:
    wide, fits, narrow = tried(0.56, 0.1), tried(0.505, 0.2), tried(0.45, 0.3)
    assert best_of((wide, fits, narrow), 0.5) is fits
    assert best_of((wide, narrow), 0.5) is narrow
    assert best_of((wide, tried(0.6, 0.0)), 0.5) is wide, "none keeps to it: the quickest"
    assert best_of((tried(0.40, 0.0), fits), 0.5) is not None
    uniform = tried(0.42, 0.0), tried(0.49, 0.0)
    assert best_of(uniform, 0.5) is uniform[1], "no errors are known: the widest that keeps to it"


def test_a_group_that_gains_nothing_stays_whole_and_that_is_said() -> None:
    flat = Piece(("flat",), lambda w: 50.0)
    steep = Piece(("steep",), lambda w: 5.0 * w[0])
    costs = Costs("latency", "ms", {"flat": 32, "steep": 10}, 0.0, (flat, steep), False)
    widths = whole_where_free(costs, {"flat": 16, "steep": 5})
    assert widths == {"flat": 32, "steep": 5}
    assert costs.price(widths) <= costs.price({"flat": 16, "steep": 5}) * (1 + FREE)
    (said,) = dense_groups(costs, widths, {"flat": 16, "steep": 1}).items()
    assert said == ("flat", "16 units instead of 32 would save 0 of 75 ms")
    assert dense_groups(costs, {"flat": 32, "steep": 10}, {"flat": 32, "steep": 1}) == {}


def test_what_equal_shares_leave_is_spent_evenly() -> None:
    costs = Costs("latency", "ms", {"a": 32, "b": 64}, 0.0, (Piece(("a", "b"), lambda w: 1.0 * w[0] * w[1]),))
    grids = {"a": np.array([8, 16, 24, 32]), "b": np.array([8, 16, 24, 32, 40, 48, 56, 64])}
    # a keeps least of itself, then b: 16 · 24 = 384, then 16 · 32 = 512; 24 · 24 would be too much
    assert evenly_filled(costs, {"a": 8, "b": 24}, grids, 520.0) == {"a": 16, "b": 32}
    assert evenly_filled(costs, {"a": 16, "b": 32}, grids, 512.0) == {"a": 16, "b": 32}
    assert evenly_filled(costs, {"a": 8, "b": 8}, grids, 1e9) == {"a": 32, "b": 64}


def test_a_slower_net_is_told_what_is_to_blame() -> None:
    target = find_target("cpu-1t")
    latency = Latency(1.0, 1.2, 1.2, 1.1, 1.3, 0.95, 8, 0.01, "settled")
    operations = (OperationTime("conv1", "Conv", 100.0, 160.0), OperationTime("fc", "Gemm", 9.0, 5.0))
    slower = Validation("cpu-1t", True, "", {}, "fp32", latency=latency, operations=operations)
    plan = PlanRecord(
        "gram", (GroupRecord("conv1", (), 64, 63), GroupRecord("b", (), 64, 64)), (2, 1), (2, 1)
    )
    (said,) = advice(target, slower, plan)
    assert "1 groups lie off the target's grid" in said
    assert "conv1 (63)" in said
    assert "conv1 (100 → 160 µs)" in said
    faster = Latency(1.0, 0.8, 0.8, 0.7, 0.9, 0.95, 8, 0.01, "settled")
    assert advice(target, Validation("cpu-1t", True, "", {}, "fp32", latency=faster), plan) == ()


MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
    )

def example_inputs():
    return (torch.zeros(1, 3, 24, 24),)
"""

BOARD = """
extends = "cpu-1t"
name = "quick"

[grid]
conv = 16

[measure]
pairs = 10
warm_up = 2
launches_min = 2
launches_max = 3
half_width = 0.5
"""


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_speed_up_is_asked_for_and_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    allocation: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("edgeprune.line.candidates.LAUNCHES", (2, 2))
    monkeypatch.setattr("edgeprune.line.latency_budget.ROUNDS", 2)
    Path("model.py").write_text(MODEL)
    Path("quick.toml").write_text(BOARD)
    Terminal(monkeypatch, capsys)(
        "prune", "model.py:build", "--speedup", "2", "--target", "./quick.toml", "--allocation", allocation,
        "--moments", "none", "-o", "run",
    )  # fmt: skip
    record = Run.load(Path("run"))
    found = record.plan and record.plan.allocation
    assert found is not None
    assert (found.budget, found.unit, found.asked, found.target) == ("--speedup 2", "ms", 0.5, "quick")
    assert 1 <= len(found.candidates) <= 4
    (chosen,) = [c for c in found.candidates if c.chosen]
    assert chosen.measured is not None
    assert chosen.measured[1] <= chosen.measured[0] <= chosen.measured[2]
    assert found.reached == chosen.measured[0]
    assert chosen.error is not None
    assert found.front
    assert [row.group for row in found.prices] == [
        g.name for g in record.plan.groups if not g.reason_if_pinned
    ]
    for row in found.prices:
        assert row.prices[-1] == pytest.approx(found.original)
        assert all(width % 16 == 0 for width in row.widths)
    assert any(g.after < g.before for g in record.plan.groups)
    assert json.loads(Path("run/run.json").read_text())["plan"]["allocation"]["budget"] == "--speedup 2"


def test_a_budget_of_time_needs_a_target_that_can_be_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    terminal = Terminal(monkeypatch, capsys)
    ended = terminal("prune", "model.py:build", "--speedup", "2", "--target", "webgpu-software", "-o", "r")
    assert ended.code == 2
    assert "the times of webgpu-software mean nothing" in ended.err
