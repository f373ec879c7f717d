"""The certify stage: what it promises, what it refuses to, and what it does with a broken promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nets import net, seeded
from plans import coupled, plan_of, random_keep
from torch import nn

from edgeprune.certificates.deterministic import Bounded, Proof
from edgeprune.certificates.distribution import Odds, Samples
from edgeprune.domains.sets import Box
from edgeprune.graph.groups import Coupling
from edgeprune.plan import Shrunk
from edgeprune.progress import silent
from edgeprune.stages import certify as stage
from edgeprune.stages.certify import Certified, Search, certify
from edgeprune.stages.shrink import shrink

torch.set_num_threads(1)
ODDS, SEARCH = Odds(0.9, 0.8), Search(6, 2, 0)


def case(low: float = 0.0) -> tuple[nn.Module, Coupling, Shrunk, Samples]:
    model = seeded(
        lambda: nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
    )
    x = torch.rand(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + low
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 1)), (x[:4],))
    with torch.no_grad():
        f, g = model(x).numpy(), shrunk.module(x).numpy()
    samples = Samples((x.numpy(),), (f,), (g,), {"here": (g,)}, "the test's numbers")
    return model, coupling, shrunk, samples


def run(proof: Proof | None = None, domain: Box | None = None, low: float = 0.0) -> Certified:
    return certify(*case(low)[:3], (domain or Box(0.0, 1.0),), case(low)[3], ODDS, SEARCH, silent, proof)


def test_every_method_bounds_what_was_found() -> None:
    found = run(Proof(("intervals", "crown", "quadratic"), passes=2))
    proved = [c for c in found.certificates if c.scope == "global"]
    assert [c.name for c in proved] == ["difference intervals", "Δ-CROWN", "Δ-CROWN with quadratic layers"]
    assert found.violation is None
    assert found.attacked is not None
    for c in proved:
        assert c.label == "proved"
        assert c.bound is not None
        assert found.attacked <= c.bound
        assert c.observed is not None
        assert c.observed <= c.bound
    assert proved[1].bound is not None
    assert proved[0].bound is not None
    assert proved[1].bound <= proved[0].bound * (1 + 1e-12)
    assert found.best is not None
    assert found.best.bound == min(c.bound for c in proved if c.bound is not None)


def test_the_mean_is_claimed_only_where_every_sample_is_inside() -> None:
    inside = next(c for c in run().certificates if c.name == "mean error")
    assert inside.bound is not None
    outside = next(c for c in run(low=0.5).certificates if c.name == "mean error")
    assert outside.bound is None
    assert "outside the domain" in outside.reason


def test_balls_around_samples_give_a_robust_quantile() -> None:
    found = run(Proof(("crown",), radius=0.01))
    robust = next(c for c in found.certificates if c.name.startswith("robust quantile"))
    clean = next(c for c in found.certificates if c.name == "quantile 0.8")
    local = next(c for c in found.certificates if c.scope == "local")
    assert robust.bound is not None
    assert clean.bound is not None
    assert local.bound is not None
    assert clean.bound <= robust.bound <= local.bound
    assert (robust.label, local.label) == ("statistical", "proved")


def test_a_bound_below_a_measured_error_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "bounded", lambda *_: Bounded(1e-6))
    found = run(Proof(("crown",)))
    assert found.violation is not None
    assert found.violation.measured > found.violation.bound
    assert [x.shape for x in found.violation.inputs] == [(5,)]


def test_an_output_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = stage.attack

    def broken(*arguments: object, **named: object) -> stage.Attack:
        found = real(*arguments, **named)  # type: ignore[arg-type]
        return stage.Attack(math.inf, found.inputs, found.output, found.n_inputs)

    monkeypatch.setattr(stage, "attack", broken)
    found = run(Proof(("crown",)))
    assert found.attacked is None
    assert found.violation is not None
    assert all(c.attacked is None for c in found.certificates)


def test_without_a_domain_the_statistics_stand() -> None:
    model, coupling, shrunk, samples = case()
    found = certify(model, coupling, shrunk, None, samples, ODDS, SEARCH, silent)
    assert found.certificates[0].bound is None
    assert "--domain" in found.certificates[0].reason
    assert any(c.scope == "distribution" and c.bound is not None for c in found.certificates)
    assert found.attacked is None


def test_a_fixed_batch_is_attacked_in_its_own_size() -> None:
    """The last part of a batch is filled up, and what fills it is not counted."""
    model, coupling, shrunk, samples = case()

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[0] == 3
            y: torch.Tensor = model(x)
            return y

    fixed = Fixed().double()
    found = stage._Fight(fixed, fixed, SEARCH, 3).search(
        (Box(0.0, 1.0),), [(5,)], (torch.from_numpy(samples.inputs[0]),)
    )
    assert found.value == 0.0
    assert found.n_inputs > 0
    assert np.isfinite(samples.reference[0]).all()
    assert coupling.groups
    assert shrunk.graph is not None


def test_an_operation_without_a_form_is_named_and_the_statistics_stand() -> None:
    model, x = net("normed by group")
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 1)), (x,))
    many = torch.rand((30, *x.shape[1:]), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        f, g = model(many).numpy(), shrunk.module(many).numpy()
    samples = Samples((many.numpy(),), (f,), (g,), {"here": (g,)}, "the test's numbers")
    found = certify(
        model,
        coupling,
        shrunk,
        (Box(0.0, 1.0),),
        samples,
        ODDS,
        SEARCH,
        silent,
        Proof(("intervals", "crown")),
    )
    refused = [c for c in found.certificates if c.scope == "global"]
    assert len(refused) == 2
    assert all(c.bound is None and "group_norm" in c.reason for c in refused)
    assert any(c.scope == "distribution" and c.bound is not None for c in found.certificates)
    assert found.attacked is not None
