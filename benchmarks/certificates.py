"""How tight the certificates are: bound ÷ the largest error that search finds, and seconds.

Nets are trained here, in seconds, on scikit-learn's digits enlarged to their input size; half of the units go
(`gram`, compensated on 1 000 training images). An attack is a lower bound of the truth, so every ratio
overstates how loose a certificate is. Run with `python -m benchmarks.certificates`; scikit-learn is needed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune.bounds.attack import attack
from edgeprune.bounds.crown import Effort, crown
from edgeprune.bounds.differential import difference, enclose, fold, propagate
from edgeprune.bounds.layer import layer_of, region_of, residual_of
from edgeprune.bounds.quadratic import Ascent, layer_bounds
from edgeprune.bounds.rounding import rounding
from edgeprune.certificates.twins import Pair, twins_of
from edgeprune.domains.sets import Box, Domain, L2Ball
from edgeprune.errors import UsageError
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

TRAINED = 1000
SEED = 0


class Residual(nn.Module):
    """Nine weight layers with batch norm and two residual additions, 16 × 16 inputs."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, 32, 32, 32, 64, 64, 64, 128, 128)
        strides = (1, 1, 1, 2, 1, 1, 2, 2)
        widths = tuple(zip(sizes, sizes[1:], strides, strict=False))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, s, 1, bias=False) for a, b, s in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _ in widths)
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 1, 16, 16)."""
        kept = x
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            h = norm(conv(x))
            if k in (2, 5):
                h = h + kept
            x = F.relu(h)
            if k in (0, 3):
                kept = x
        return self.head(x.flatten(1))


def mlp() -> nn.Module:
    """784-300-100-10."""
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def five() -> nn.Module:
    """Three convolutions and two linear layers, 16 × 16 inputs."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU()),
        nn.Linear(64, 10),
    )


@dataclass(frozen=True, slots=True)
class Subject:
    """A trained net, pruned to a half."""

    name: str
    pair: Pair
    gap: Callable[[tuple[Tensor, ...]], Tensor]
    held_out: Tensor


def digits(size: int, flat: bool) -> tuple[Tensor, Tensor]:
    """All images (n, 1, size, size) or (n, size²) in a fixed random order, and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("this benchmark needs scikit-learn: pip install scikit-learn.") from error
    data = load_digits()
    images = torch.tensor(data.images / 16.0, dtype=torch.float32)[:, None]
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False).clamp(0, 1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images = images.flatten(1) if flat else images
    return images[order], torch.tensor(data.target)[order]


def subject(
    name: str, make: Callable[[], nn.Module], size: int, flat: bool, epochs: int, most: int = 100
) -> Subject:
    """Train, prune a half of the first `most` groups with compensation, and pair both nets."""
    torch.manual_seed(SEED)
    images, labels = digits(size, flat)
    net = trained(make(), images[:TRAINED], labels[:TRAINED], epochs)
    coupling = couple(trace(net, (images[:1],)))
    halved = coupling.groups[:most]
    widths = {g.name: g.size // 2 if g in halved else g.size for g in coupling.groups}
    plan = choose(coupling, widths, "gram", (images[:TRAINED],), seed=SEED)
    small = shrink(net, coupling, plan, (images[:4],))
    alive = coupling.alive({name: selection.keep for name, selection in plan.selections.items()})
    pair = twins_of(coupling.graph, small.graph, alive, (images[:1],))
    f, g = (module.double().requires_grad_(False) for module in (net, small.module))

    def gap(inputs: tuple[Tensor, ...]) -> Tensor:
        difference: Tensor = f(*inputs) - g(*inputs)
        return difference

    return Subject(name, pair, gap, images[TRAINED:].double())


def trained(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """Adam on noisy images, as a stand-in for a real training."""
    descent = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            noisy = (images[rows] + 0.1 * torch.randn_like(images[rows])).clamp(0, 1)
            descent.zero_grad()
            F.cross_entropy(net(noisy), labels[rows]).backward()
            descent.step()
    return net.eval()


def attacked(one: Subject, domain: Domain, hard: bool) -> float:
    """The largest error found."""
    generator = torch.Generator().manual_seed(SEED)
    found = attack(
        one.gap,
        [domain],
        one.pair.shapes,
        generator=generator,
        seeds=(one.held_out[:64],),
        steps=60 if hard else 25,
        restarts=6 if hard else 3,
        goals=20,
    )
    return found.value


def nets(one: Subject, where: str, domain: Domain, efforts: dict[str, Effort], hard: bool) -> Iterator[Row]:
    """Bound ÷ attacked and seconds, for difference intervals and each effort."""
    largest = attacked(one, domain, hard)
    pair = one.pair
    cheap = difference(pair.twins, enclose([domain], pair.shapes, pair.inputs), pair.outputs).linf
    name = f"{one.name}, {where}"
    yield Row(name, "", where, "attacked", largest, "", SEED)
    yield Row(name, "intervals", where, "intervals ÷ attacked", (cheap or math.inf) / largest, "", SEED)
    for label, effort in efforts.items():
        started = time.perf_counter()
        bound = crown(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, effort).linf
        seconds = time.perf_counter() - started
        if bound is not None and bound * (1 + 1e-9) < largest:
            raise AssertionError(f"{name}: the bound {bound} is below the error {largest}")
        yield Row(name, label, where, f"{label} ÷ attacked", (bound or math.inf) / largest, "", SEED)
        yield Row(name, label, where, f"{label} time", seconds, "s", SEED)


def layer(one: Subject, where: str, domain: Domain) -> Iterator[Row]:
    """The quadratic certificate of the first layer's reader, all outputs."""
    pair = one.pair
    twins = {twin.name: twin for twin in fold(pair.twins, frozenset(pair.outputs))}
    inputs = enclose([domain], pair.shapes, pair.inputs)
    reached = propagate(tuple(twins.values()), inputs)
    found = next(made for made in (layer_of(t, twins) for t in twins.values() if t.sources) if made)
    r, region = residual_of(found), region_of(found, reached, {pair.inputs[0]: domain})
    started = time.perf_counter()
    low, high = layer_bounds(r, region, Ascent())
    seconds = time.perf_counter() - started
    ratio = torch.cat([high, -low]) / searched(r.incoming, r.bias, r.outgoing, r.offset, domain)
    name = f"{one.name}, layer {r.incoming.shape[0]} → {r.outgoing.shape[0]}, {where}"
    if float(ratio.min()) < 1 - 1e-9:
        raise AssertionError(f"{name}: a bound is below the error found, {float(ratio.min())} of it")
    yield Row(name, "quadratic", where, "quadratic ÷ attacked", float(ratio.mean()), "", SEED)
    yield Row(name, "quadratic", where, "worst output", float(ratio.max()), "", SEED)
    yield Row(name, "quadratic", where, "quadratic time", seconds, "s", SEED)


def searched(p: Tensor, b: Tensor, a: Tensor, offset: Tensor, domain: Domain) -> Tensor:
    """The largest value of ± every output of a residual on a domain that ascent finds."""
    k = len(a)
    goals = torch.arange(2 * k).repeat_interleave(8)
    x = domain.sample(len(goals), (p.shape[1],), torch.Generator().manual_seed(SEED))
    best = torch.full((2 * k,), -torch.inf, dtype=torch.float64)
    for step in range(40):
        x = x.detach().requires_grad_()
        y = (x @ p.T + b).clamp_min(0) @ a.T + offset
        value = torch.cat([y, -y], 1)[torch.arange(len(goals)), goals]
        best = torch.maximum(best, value.detach().reshape(2 * k, -1).amax(1))
        gradient = torch.autograd.grad(value.sum(), x)[0]
        x = domain.climb(x.detach(), gradient, 0.4 * (1 - step / 40) ** 2 + 1e-3)
    return best


def figures(quick: bool) -> Iterator[Row]:
    """Every row of this benchmark."""
    plain = {"Δ-CROWN": Effort(steps=0)}
    full = plain | {"optimised": Effort(steps=20)}
    one = subject("MLP 784-300-100-10", mlp, 28, True, 20)
    x = one.held_out[0]
    for radius, where in ((4 / 255, "±4/255"), (0.05, "±0.05"), (0.1, "±0.1"), (None, "box")):
        domain = Box(0.0, 1.0) if radius is None else Box.around(x, radius, 0.0, 1.0)
        more = {} if quick else {"quadratic": Effort(quadratic=True, budget_s=120.0)}
        efforts = full | more
        yield from nets(one, where, domain, efforts, True)
    domain = Box.around(x, 4 / 255, 0.0, 1.0)
    pair, name = one.pair, f"{one.name}, ±4/255"
    rounded = rounding(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, "float32").linf
    yield Row(name, "rounding", "±4/255", "float32 rounding", rounded or math.inf, "", SEED)
    if not quick:
        whole = subject(one.name, mlp, 28, True, 20, most=1)
        for pruned in (one, whole):
            yield from layer(pruned, "box", Box(0.0, 1.0))
            yield from layer(pruned, "ball", L2Ball(0.5, 8.0))
    one = subject("CNN, 5 layers", five, 16, False, 12)
    for radius, where in ((1 / 255, "±1/255"), (4 / 255, "±4/255")):
        cut = {} if quick else {"branches": Effort(steps=20, branches=64, budget_s=300.0)}
        yield from nets(one, where, Box.around(one.held_out[0], radius, 0.0, 1.0), full | cut, True)
    if quick:
        return
    one = subject("CNN, 9 layers, BN, residual", Residual, 16, False, 8)
    for radius, where in ((1e-5, "±1e-5"), (1e-4, "±1e-4"), (1e-3, "±1e-3")):
        yield from nets(one, where, Box.around(one.held_out[0], radius, 0.0, 1.0), plain, False)


def main() -> None:
    """Print the table, write the rows."""
    arguments = options(__doc__).parse_args()
    torch.set_num_threads(1)
    finish([*figures(arguments.quick), *environment_rows()], by_figure, arguments.json)


if __name__ == "__main__":
    main()
