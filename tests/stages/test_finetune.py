from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nets import mlp, noise, seeded
from torch import Tensor, nn

from edgeprune.errors import CalibrationError, UsageError
from edgeprune.inputs.losses import resolve_augmentation, resolve_loss
from edgeprune.stages.finetune import Queries, Recipe, from_scratch, relative_error, tune


def original() -> nn.Module:
    return seeded(lambda: mlp((6, 16, 12, 3)))


def student() -> nn.Module:
    return seeded(lambda: mlp((6, 8, 6, 3)), seed=5)


def queries(count: int = 256, *, labelled: bool = False) -> Queries:
    x = noise(count, 6, seed=3)
    labels = original()(x).argmax(1) if labelled else None
    return Queries.of(original(), (x,), labels)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("loss", ["match", "distil", "cross-entropy", "mixed"])
def test_training_lowers_every_loss(loss: str) -> None:
    net = student()
    history = tune(net, queries(labelled=True), Recipe(loss, epochs=8, batch=32), seed=0)
    assert history[-1] < 0.9 * history[0]
    assert not net.training


def test_matching_brings_the_outputs_nearer_on_queries_it_has_not_seen() -> None:
    net, fresh = student(), Queries.of(original(), (noise(64, 6, seed=9),), None)
    before = relative_error(net, fresh)
    tune(net, queries(), Recipe(epochs=30, batch=32, rate=1e-2), seed=0)
    assert relative_error(net, fresh) < 0.6 * before
    assert relative_error(original(), fresh) == 0.0


def test_the_net_with_the_least_loss_on_validation_queries_stays() -> None:
    every = queries()
    order = torch.arange(256)
    train, aside = every.part(order[:200]), every.part(order[200:])
    net = original()  # perfect from the start: nothing may make it worse
    tune(net, train, Recipe(epochs=3, batch=32, rate=0.1), aside, seed=0)
    assert same(net, original())


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole, part = student(), student()
    recipe = Recipe(epochs=4, batch=64)
    full = tune(whole, queries(), recipe, queries(32), seed=1)

    class Stop(Exception):
        pass

    def stopping(items, label, total):  # type: ignore[no-untyped-def]
        for k, item in enumerate(items):
            if k == 2:
                raise Stop
            yield item

    with pytest.raises(Stop):
        tune(
            part,
            queries(),
            recipe,
            queries(32),
            seed=1,
            checkpoint=tmp_path / "c.safetensors",
            progress=stopping,
        )
    again = student()
    history = tune(again, queries(), recipe, queries(32), seed=1, checkpoint=tmp_path / "c.safetensors")
    assert history == pytest.approx(full)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_the_control_starts_elsewhere_and_is_reproducible() -> None:
    net = student()
    first, second = from_scratch(net, 1), from_scratch(net, 1)
    assert same(first, second)
    assert not same(first, net)
    assert not same(first, from_scratch(net, 2))
    assert same(net, student()), "the net itself is left alone"


def mine(output: Tensor, label: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, label)


def test_a_loss_of_ones_own_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    loss = resolve_loss("test_finetune:mine", labelled=True)
    given = queries(16, labelled=True)
    assert given.labels is not None
    assert float(loss(given.outputs, given.outputs, given.labels)) == pytest.approx(
        float(mine(given.outputs[0], given.labels))
    )


def test_losses_that_cannot_be_are_refused() -> None:
    with pytest.raises(CalibrationError, match="needs labels"):
        resolve_loss("cross-entropy", labelled=False)
    with pytest.raises(UsageError, match="match"):
        resolve_loss("matsch", labelled=True)
    with pytest.raises(UsageError, match="cannot be imported"):
        resolve_loss("nowhere:fn", labelled=True)
    with pytest.raises(UsageError, match="the loss became"):
        tune(student(), queries(), Recipe(epochs=2, rate=1e200), seed=0)


def test_the_mean_of_the_weights_stays_and_survives_a_stop(tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch=256, rate=5e-2, average=0.9)  # one step an epoch
    steps: list[Tensor] = []

    averaged, plain = student(), student()
    tune(averaged, queries(), recipe, seed=1, checkpoint=tmp_path / "c.safetensors")

    def kept(items, label, total):  # type: ignore[no-untyped-def]
        for item in items:
            yield item
            steps.append(flat(plain))

    tune(plain, queries(), replace(recipe, average=0.0), seed=1, progress=kept)
    mean = steps[0]
    for k, weights in enumerate(steps[1:], start=1):
        decay = min(0.9, (1 + k) / (10 + k))
        mean = decay * mean + (1 - decay) * weights
    torch.testing.assert_close(flat(averaged), mean)
    again = student()
    tune(again, queries(), recipe, seed=1, checkpoint=tmp_path / "c.safetensors")
    assert same(again, averaged), "read back behind the last epoch"


def flat(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


def doubled(x: Tensor, generator: torch.Generator) -> Tensor:
    return x * (1 + torch.rand(len(x), 1, generator=generator))


def test_varied_inputs_are_answered_anew_by_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    augment = resolve_augmentation("test_finetune:doubled")
    assert augment is not None
    given = queries(32)
    varied = given.varied(augment, torch.Generator().manual_seed(0), asked=True)
    assert not torch.equal(varied.inputs[0], given.inputs[0])
    torch.testing.assert_close(varied.outputs[0], original()(varied.inputs[0]).detach())
    kept = given.varied(augment, torch.Generator().manual_seed(0), asked=False)
    assert torch.equal(kept.outputs[0], given.outputs[0])
    first, second = student(), student()
    recipe = Recipe(epochs=2, batch=64, augment="test_finetune:doubled")
    assert tune(first, queries(), recipe, seed=1) == tune(second, queries(), recipe, seed=1)
    assert same(first, second), "the same seed varies alike"
