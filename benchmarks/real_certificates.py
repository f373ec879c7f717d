"""Certificates of two real nets, CREPE and MiniLM: local and statistical ones, with seconds and memory.

    python -m benchmarks.real_certificates [--quick] [--json FILE] [--only NAME]

CREPE (full, or its tiny variant with --quick) loses a quarter of the channels of its convolutions, MiniLM-L6
a quarter of its feed-forward units (`gram`, compensated on frames, or on embedded sentences). MiniLM is
bounded behind its word embeddings, on a sentence of eight tokens. Local certificates speak of every input
near a real one: in an ellipsoid along random directions (affine forms carried through both nets), and in an
l2 ball in all directions. The statistical ones are quantiles over fresh inputs. Each domain is attacked; a
bound below the error found ends the script.
"""

from __future__ import annotations

import importlib
import math
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import crepe, minilm
from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from benchmarks.zoo_models import import_torchvision, real_cases
from edgeprune.bounds.attack import attack
from edgeprune.bounds.crown import Effort, Progression
from edgeprune.bounds.differential import enclose, fold
from edgeprune.bounds.statistical import quantile
from edgeprune.certificates.twins import Pair, twins_of
from edgeprune.domains.regions import Ellipsoid
from edgeprune.domains.sets import Domain, L2Ball
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

SEED = 0
DIRECTIONS = 16
FRESH = 299
SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Real:
    """A pruned net beside its original.

    Attributes:
        gap: inputs to the difference of both, float64.
        fresh: inputs used for nothing else, float32.
    """

    name: str
    pair: Pair
    gap: Callable[[tuple[Tensor, ...]], Tensor]
    fresh: Tensor


class Embedded(nn.Module):
    """Word embeddings (n, 8, 384) to sentence embeddings (n, 384), without the last scaling."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, words: Tensor) -> Tensor:
        """Mean of the last hidden states."""
        states: Tensor = self.encoder(inputs_embeds=words).last_hidden_state
        return states.mean(1)


def pruned(name: str, net: nn.Module, seen: Tensor, fresh: Tensor, chosen: Callable[[str], bool]) -> Real:
    """A share of the chosen groups' channels stays."""
    coupling = couple(trace(net, (seen[:2],)))
    widths = {g.name: round(SHARE * g.size) if chosen(g.name) else g.size for g in coupling.groups}
    plan = choose(coupling, widths, "gram", (seen,), seed=SEED)
    small = shrink(net, coupling, plan, (seen[:2],))
    alive = coupling.alive({key: selection.keep for key, selection in plan.selections.items()})
    pair = twins_of(coupling.graph, small.graph, alive, (seen[:1],))
    f, g = (module.double().requires_grad_(False).eval() for module in (net, small.module))

    def gap(inputs: tuple[Tensor, ...]) -> Tensor:
        difference: Tensor = f(*inputs) - g(*inputs)
        return difference

    return Real(name, pair, gap, fresh)


def pitch_tracker(size: str) -> Real:
    """CREPE."""
    net = next(case for case in real_cases() if case.name == f"crepe_{size}").make().eval()
    seen, fresh = crepe.tones(64, seed=0), crepe.tones(FRESH, seed=3)
    return pruned(f"CREPE {size}", net, seen, fresh, lambda name: name in crepe.PRUNED)


def sentence_encoder() -> Real:
    """MiniLM-L6 from its word embeddings on."""
    import_torchvision()
    transformers = importlib.import_module("transformers")
    encoder = transformers.AutoModel.from_pretrained(minilm.folder(), attn_implementation="sdpa").eval()
    fit, tests = minilm.sentences()
    ids = [minilm.encoded(texts)[0][:, :8] for texts in (fit[:64], tests[:FRESH])]
    with torch.no_grad():
        seen, fresh = (encoder.embeddings.word_embeddings(x) for x in ids)
    return pruned("MiniLM-L6", Embedded(encoder), seen, fresh, lambda name: ".intermediate." in name)


def statistical(one: Real) -> Iterator[Row]:
    """The 0.95 quantile of the largest difference, with confidence 0.95, on fresh inputs."""
    started = time.perf_counter()
    with torch.no_grad():
        errors = torch.cat([one.gap((part.double(),)).abs().amax(1) for part in one.fresh.split(16)])
    said = quantile(errors.numpy(), 0.95, 0.05)
    yield Row(f"{one.name}, quantile 0.95", "statistical", "", "bound", said.bound or math.inf, "", SEED)
    yield Row(f"{one.name}, quantile 0.95", "statistical", "", "largest seen", float(errors.max()), "", SEED)
    yield Row(
        f"{one.name}, quantile 0.95", "statistical", "", "time", time.perf_counter() - started, "s", SEED
    )


def domains(x: Tensor) -> Iterator[tuple[str, Domain, Effort]]:
    """Shares of the input's own norm: along random directions, then in all of them."""
    generator = torch.Generator().manual_seed(SEED)
    ways = torch.randn((DIRECTIONS, *x.shape), generator=generator, dtype=torch.float64)
    ways = ways / ways.flatten(1).norm(dim=1).reshape(-1, *[1] * x.dim())
    for share in (1e-6, 1e-5, 1e-4, 1e-3):
        where = f"{DIRECTIONS} directions, ±{share:g} ‖x‖"
        axes = ways * share * float(x.norm())
        yield where, Ellipsoid(x, axes), Effort(600.0, refine=False, steps=0, work=0.0)
    for share in (1e-9, 1e-7):
        where = f"l2 ball, ±{share:g} ‖x‖"
        yield (
            where,
            L2Ball(x, share * float(x.norm())),
            Effort(600.0, refine=False, symbols=0, steps=0, work=0.0),
        )


def local(one: Real) -> Iterator[Row]:
    """Bound, bound ÷ attacked and seconds around the first fresh input."""
    pair, x = one.pair, one.fresh[0].double()
    for where, domain, effort in domains(x):
        generator = torch.Generator().manual_seed(SEED)
        found = attack(
            one.gap,
            [domain],
            pair.shapes,
            generator=generator,
            steps=6,
            restarts=1,
            samples=8,
            goals=4,
            batch=16,
        )
        started = time.perf_counter()
        bound = forwards(pair, domain, effort)
        seconds = time.perf_counter() - started
        if bound * (1 + 1e-9) + 1e-9 < found.value:
            raise AssertionError(f"{one.name}, {where}: the bound {bound} is below the error {found.value}")
        yield Row(f"{one.name}, {where}", "Δ-CROWN", where, "attacked", found.value, "", SEED)
        if math.isfinite(bound):
            ratio = bound / found.value
            yield Row(f"{one.name}, {where}", "Δ-CROWN", where, "bound ÷ attacked", ratio, "", SEED)
        yield Row(f"{one.name}, {where}", "Δ-CROWN", where, "time", seconds, "s", SEED)


def forwards(pair: Pair, domain: Domain, effort: Effort) -> float:
    """The bound of the walk from the inputs on alone."""
    inputs = enclose([domain], pair.shapes, pair.inputs)
    walk = Progression(fold(pair.twins, frozenset(pair.outputs)), {pair.inputs[0]: domain}, inputs, effort)
    walk.run()
    found = torch.cat([walk.reached[name].delta.magnitude.reshape(-1) for name in pair.outputs])
    return float(found.nan_to_num(math.inf).max())


def figures(quick: bool, only: str | None) -> Iterator[Row]:
    """Every row."""
    makers: dict[str, Callable[[], Real]] = {
        "crepe": lambda: pitch_tracker("tiny" if quick else "full"),
        "minilm": sentence_encoder,
    }
    for name, make in makers.items():
        if only not in (None, name):
            continue
        one = make()
        yield from statistical(one)
        yield from local(one)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        yield Row(one.name, "", "", "peak memory of the process", peak, "MiB", SEED)


def main() -> None:
    """Print the table, write the rows."""
    parser = options(__doc__)
    parser.add_argument("--only", choices=("crepe", "minilm"), help="one of both")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in figures(chosen.quick, chosen.only):
        print(row, flush=True)
        rows.append(row)
    finish([*rows, *environment_rows()], by_figure, chosen.json)


if __name__ == "__main__":
    main()
