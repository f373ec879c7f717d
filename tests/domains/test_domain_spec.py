"""Declared domains: what is written becomes the set that is meant, whatever way it is written."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch
from nets import seeded
from plans import coupled, plan_of, random_keep
from torch import nn

from edgeprune.certificates.deterministic import Proof
from edgeprune.certificates.distribution import Odds, Samples
from edgeprune.domains.declarations import declared
from edgeprune.domains.spec import DomainSpec, parse_domains
from edgeprune.errors import CalibrationError, UsageError
from edgeprune.progress import silent
from edgeprune.stages.certify import Search, certify
from edgeprune.stages.shrink import shrink
from edgeprune.tables import read_table

SHAPE = (2, 4)
FIT = torch.rand(30, *SHAPE, generator=torch.Generator().manual_seed(1))
HELD = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(2)).numpy()

WRITTEN = (
    "-1,2", "box:-1/-2,2", "raw:0,1,.5/.4,.25/.2", "linf:0.05", "linf:.1@sample3&box:0,1", "linf:.1@mean",
    "l2:1.5", "l2:.5@sample2&0,1", "linf:.2@sample1&l2:.3@sample1", "frames", "frames:1.5", "ellipsoid:2,5",
    "points:6",
)  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN)
def test_every_kind_survives_its_table_and_holds_its_own_points(text: str) -> None:
    (spec,) = parse_domains(text)
    table = tomllib.loads("\n".join(spec.toml()))["domain"]
    assert read_table(DomainSpec, table, "domain") == spec
    (domain,) = declared([spec], [SHAPE], (FIT,), (HELD,))
    g = torch.Generator().manual_seed(0)
    far = 3 * torch.randn(40, *SHAPE, generator=g, dtype=torch.float64)
    x = torch.cat([domain.sample(20, SHAPE, g), domain.project(far), domain.extreme(far)])
    x = torch.cat([x, domain.climb(x[:20], far[:20], 0.4)])
    assert domain.contains(domain.project(x)).all()
    assert domain.bounds(SHAPE).holds(domain.project(x))
    values = far.flatten(1) @ domain.project(x).flatten(1).T
    assert bool((values.amax(1) <= domain.support(far)).all())
    assert domain.describe()


def test_the_numbers_are_those_that_were_written() -> None:
    def box(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        (domain,) = declared(parse_domains(text), [SHAPE], (FIT,), (HELD,))
        bounds = domain.bounds(SHAPE)
        return bounds.low, bounds.high

    low, high = box("box:-1/-2,3")
    assert low[:, 0].tolist() == [-1, -2]
    assert high.unique().tolist() == [3]
    low, high = box("raw:0,1,.5/.4,.25/.2")
    assert low[:, 0].tolist() == pytest.approx([-2, -2], rel=1e-5)
    assert high[:, 0].tolist() == pytest.approx([2, 3], rel=1e-5)
    low, high = box("linf:.1@sample3&0,1")
    assert torch.allclose(low, torch.from_numpy(HELD[3]).double().sub(0.1).clamp(0, 1))
    assert torch.allclose(high, torch.from_numpy(HELD[3]).double().add(0.1).clamp(0, 1))
    low, _ = box("frames")
    assert float(low[0, 0]) == pytest.approx(-2 * np.sqrt(1 - 1 / 4), rel=1e-5)
    assert [spec.local for spec in parse_domains("0,1;linf:1;linf:1@mean;l2:1;points")] == [
        False, True, False, False, True,
    ]  # fmt: skip


def test_normalised_pixels_of_float32_lie_inside() -> None:
    pixels = torch.arange(256).div(255).float().reshape(-1, 1, 1).expand(-1, 2, 1)
    mean, std = torch.tensor([0.485, 0.456])[:, None], torch.tensor([0.229, 0.224])[:, None]
    (domain,) = declared(parse_domains("raw:0,1,.485/.456,.229/.224"), [(2, 1)], None, None)
    assert domain.contains(((pixels - mean) / std).double()).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cube:1", "'cube:1' is no domain"),
        ("1", "is no domain"),
        ("box:1", "box takes :LOW,HIGH, not 1 numbers"),
        ("1,0", "low must be below high"),
        ("0,nan", "high must be finite"),
        ("linf:-1", "radius must be positive"),
        ("linf:x", "radius is a number, not 'x'"),
        ("linf:1@nowhere", "the centre is zero, mean, sampleK"),
        ("0,1@mean", "around means nothing for a domain of kind box"),
        ("frames&0,1", "cannot be cut by"),
        ("l2:1&0,1&linf:1", "at most two"),
        ("points:0", "count must be at least 1"),
        ("raw:0,1,0,-1", "std must be finite and positive"),
        ("box:0/1,2/3/4", "equally long"),
    ],
)
def test_what_is_no_domain_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_domains(text)


@pytest.mark.parametrize(
    ("text", "data", "words"),
    [
        ("0,1;0,1", True, "2 domains for 1 inputs"),
        ("box:0/0/0,1", True, "3 channels are given"),
        ("linf:1@sample20", True, "there are 20 held-out samples"),
        ("linf:1@no.npy", True, "holds no input"),
        ("l2:.1&5,6", True, "no point in common"),
        ("points", False, "give --calibration"),
        ("ellipsoid:2", False, "give --calibration"),
    ],
)
def test_what_fits_no_model_is_refused(text: str, data: bool, words: str) -> None:
    with pytest.raises((UsageError, CalibrationError), match=words):
        declared(parse_domains(text), [SHAPE], (FIT,) if data else None, (HELD,) if data else None)


@pytest.mark.parametrize("text", WRITTEN)
def test_bounds_hold_and_attacks_stay_inside(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind through the stage: no attack leaves the domain, none exceeds a bound."""
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)))
    x = torch.from_numpy(HELD).double()
    coupling = coupled(model, x)
    shrunk = shrink(model, coupling, plan_of(random_keep(coupling, 1)), (x[:4],))
    with torch.no_grad():
        f, g = model(x).numpy(), shrunk.module(x).numpy()
    domains = declared(parse_domains(text), [SHAPE], (FIT,), (HELD,))
    tried: list[torch.Tensor] = []
    import edgeprune.stages.certify as stage

    gap = stage._Fight.gap
    monkeypatch.setattr(
        stage._Fight, "gap", lambda self, inputs: (tried.append(inputs[0]), gap(self, inputs))[1]
    )
    found = certify(
        model, coupling, shrunk, domains, Samples((x.numpy(),), (f,), (g,), {}, "numbers"), Odds(0.9, 0.8),
        Search(8, 2, 0), silent, Proof(passes=2, local=parse_domains(text)[0].local),
    )  # fmt: skip
    assert found.violation is None
    assert found.attacked is not None
    assert found.best is not None
    assert found.best.bound is not None
    assert found.attacked <= found.best.bound
    assert domains[0].describe() in found.best.domain
    assert domains[0].contains(torch.cat(tried)).all()
    if text.startswith("points"):
        assert found.best.bound == pytest.approx(np.abs(f - g)[:6].max(), rel=1e-9)
        assert found.best.scope == "local"
