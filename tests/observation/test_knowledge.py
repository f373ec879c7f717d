from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import Flattened, mlp, noise, seeded
from plans import coupled
from torch import Tensor, nn

from edgeprune.errors import CalibrationError, UnsupportedModel, UsageError
from edgeprune.observation.knowledge import know
from edgeprune.observation.propagation import InputMoments, gaussian_inputs, propagate
from edgeprune.observation.synthetic import remembered, synthesise
from edgeprune.stages.choose import Manner, choose
from edgeprune.stages.shrink import shrink


def wide() -> nn.Module:
    return mlp((12, 32, 24, 5))


def data(count: int, seed: int = 1) -> Tensor:
    return noise(count, 4, seed=seed) @ noise(4, 12, seed=77) + 0.3 * noise(count, 12, seed=seed + 1) + 0.5


def halves(coupling):  # type: ignore[no-untyped-def]
    return {group.name: group.size // 2 for group in coupling.groups}


def error(model: nn.Module, plan, coupling, x: Tensor) -> float:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        expected = model(x)
        found = shrink(model, coupling, plan, [x[:2]]).module(x)
    return float((found - expected).norm() / expected.norm())


def test_moments_are_carried_exactly_to_the_first_layer_and_well_to_the_next() -> None:
    model = seeded(wide)
    coupling = coupled(model, data(2))
    known = InputMoments.of(data(20_000))
    drawn = gaussian_inputs(known, 40_000, torch.Generator().manual_seed(0)).to(data(1).dtype)
    reached = propagate(coupling.graph, {}, (known,))
    for group, room in zip(coupling.groups, (0.03, 0.35), strict=True):
        name = group.readers[0].data
        value = coupling.graph.values((drawn,), {}, frozenset({name}))[name].double().numpy()
        mean, second = reached[name]
        scale = np.abs(second).max()
        np.testing.assert_allclose(mean, value.mean(0), atol=room * np.sqrt(scale))
        np.testing.assert_allclose(second, value.T @ value / len(value), atol=room * scale)


@pytest.mark.parametrize("source", ["samples", "moments", "none"])
def test_each_source_beats_magnitude_on_a_plain_net(source: str) -> None:
    model, x = seeded(wide), data(512)
    coupling = coupled(model, x[:2])
    given = None if source == "none" else [x]
    plan = choose(coupling, halves(coupling), "gram", given, seed=0, manner=Manner(source))
    plain = choose(coupling, halves(coupling), "magnitude", None, seed=0)
    assert error(model, plan, coupling, data(64, 9)) < error(model, plain, coupling, data(64, 9))
    assert all(s.error is not None for s in plan.selections.values())


def test_where_moments_cannot_be_carried_gaussian_inputs_are_run() -> None:
    coupling = coupled(seeded(Flattened), noise(2, 3, 6, 6))
    known = know(coupling, "moments", [noise(64, 3, 6, 6)], 0)
    assert known.moments is None
    assert known.samples is not None
    assert known.samples[0].shape[1:] == (3, 6, 6)
    plain = know(coupled(seeded(wide), data(2)), "moments", [data(64)], 0)
    assert plain.samples is None
    assert plain.moments is not None


def test_synthetic_inputs_agree_with_the_batch_norms() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)
    )
    model.train()
    for _ in range(30):
        model(2 * torch.randn(64, 3, 6, 6) + 1)
    coupling = coupled(model.eval(), torch.randn(2, 3, 6, 6))
    made = synthesise(coupling.graph, [(3, 6, 6)], torch.Generator().manual_seed(0), count=64, steps=60)

    def mismatch(x: Tensor) -> float:
        total = 0.0
        for s in remembered(coupling.graph, coupling.graph.weights):
            value = coupling.graph.values((x,), {}, frozenset({s.source}))[s.source]
            axes = [k for k in range(value.dim()) if k != 1]
            total += float(((value.mean(axes) - s.mean) ** 2 / s.variance).mean())
        return total

    assert mismatch(made[0]) < 0.3 * mismatch(torch.randn(64, 3, 6, 6))
    inside = synthesise(
        coupling.graph, [(3, 6, 6)], torch.Generator().manual_seed(0), count=8, steps=5, bounds=(0.0, 1.0)
    )
    assert 0 <= float(inside[0].min()) <= float(inside[0].max()) <= 1


def test_sources_that_cannot_serve_say_why() -> None:
    plain = coupled(seeded(wide), data(2))
    with pytest.raises(UnsupportedModel, match="no batch norm"):
        know(plain, "synthetic", None, 0)
    with pytest.raises(CalibrationError, match="needs a calibration set"):
        know(plain, "moments", None, 0)
    with pytest.raises(UsageError, match="no such source"):
        know(plain, "dreams", None, 0)
    with pytest.raises(UnsupportedModel, match="at most 4096"):
        InputMoments.of(torch.zeros(2, 5000))
    with pytest.raises(CalibrationError, match="runs samples through the net"):
        choose(plain, halves(plain), "taylor", None, seed=0, manner=Manner("none"))


def test_top_down_is_for_methods_that_do_not_listen() -> None:
    coupling = coupled(seeded(wide), data(2))
    plan = choose(
        coupling, halves(coupling), "sensitivity", None, seed=0, manner=Manner(direction="top-down")
    )
    assert list(plan.selections) == ["2", "0"]
    with pytest.raises(UsageError, match="only bottom-up knows"):
        choose(coupling, halves(coupling), "gram", [data(64)], seed=0, manner=Manner(direction="top-down"))
    with pytest.raises(UsageError, match="choose bottom-up or top-down"):
        choose(coupling, halves(coupling), "sensitivity", None, seed=0, manner=Manner(direction="inward"))


def test_outputs_that_are_gone_no_longer_count() -> None:
    """Top-down: the upper group's choice decides which weights the lower group's sensitivities look at."""
    model = seeded(wide)
    coupling = coupled(model, data(2))
    plan = choose(coupling, {"0": 32, "2": 3}, "magnitude", None, seed=0)
    from edgeprune.observation import Scene, gather

    alive = coupling.alive(plan.keep)
    scene = Scene(coupling.graph, coupling.graph.weights, alive, None, {}, torch.Generator())
    found = gather(scene, coupling.groups[0]).hearings[0]
    kept = coupling.graph.weights["2.weight"][torch.from_numpy(plan.keep["2"])].double().numpy()
    np.testing.assert_allclose(found.peak, np.abs(kept).max(0))
    assert found.outputs == 3
