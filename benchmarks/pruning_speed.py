"""How long labels, plan and cut take beside Torch-Pruning, how that grows, and how much memory it needs.

    python -m benchmarks.pruning_speed [--quick] [--json FILE] [--threads N] [--nets NET …]

Every net is traced in a child process; then its channels are labelled, half of every group is chosen by
magnitude, and graph and module are cut, without the comparison that `shrink` makes. Torch-Pruning builds
its dependencies and takes one step at the same ratio in another child. Times are medians over repetitions.

Memory is the highest resident set from the labels to the end of `shrink`, comparison included, minus the
highest one of tracing in the same process, in units of the weights' size (Linux only).

Growth is measured on residual nets of growing depth and of growing width; the exponent is the slope of a
line through the logarithms.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import ENVIRONMENT, Row, Table, environment_line, environment_rows, options, save
from edgeprune.graph.copies import copied, sharing
from edgeprune.graph.groups import Graph
from edgeprune.graph.silenced import loud
from edgeprune.ops import restated
from edgeprune.ops.narrowing import narrow_graph, narrow_module, narrow_weights
from edgeprune.plan import Cuts
from edgeprune.stages.allocate import allocate
from edgeprune.stages.choose import choose
from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace
from edgeprune.widths.budget import Budget, Multiples

NETS = ("mobilenet_v2", "resnet50", "convnext_base", "densenet121", "swin_t")
REPEATS = 5
LIMIT_S = 60.0
"""All repetitions of Torch-Pruning may take so long; it does not end on some nets."""
DEPTHS, WIDTHS = (8, 16, 32, 64), (64, 128, 256, 512)

Stages = dict[str, float]
Inputs = tuple[Tensor, ...]


class Residual(nn.Module):
    """A stem, and blocks of two convolutions that are added to it."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) → (n, 10)."""
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def zoo() -> Any:
    """The nets' script, which stands by itself."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from benchmarks import zoo as found

    return found


def halved(net: nn.Module, graph: Graph) -> Stages:
    """Seconds of labels, plan and cut."""
    began = time.perf_counter()
    coupling = couple(graph)
    labelled = time.perf_counter()
    widths = allocate(coupling, Budget("keep", 0.5), Multiples())
    plan = choose(coupling, widths, "magnitude", None, seed=0)
    planned = time.perf_counter()
    alive = coupling.alive(plan.keep)
    given = loud(plan.weights)
    ready = narrow_weights(graph, alive, {**given, **restated(graph, alive, given)})
    narrow_graph(graph, alive, given, ready, written=False)
    narrow_module(sharing(net), Cuts.of(coupling, plan, "module", (), alive), ready)
    ended = time.perf_counter()
    return {"labels": labelled - began, "plan": planned - labelled, "cut": ended - planned}


def ours(name: str, repeats: int) -> Stages:
    """Times and memory of a net of the zoo."""
    net, inputs = zoo().build("torchvision", name)
    weights = sum(value.numel() * value.element_size() for value in net.state_dict().values())
    low()
    graph = trace(net, inputs)
    export = peak()
    low()
    coupling = couple(graph)
    plan = choose(coupling, allocate(coupling, Budget("keep", 0.5), Multiples()), "magnitude", None, seed=0)
    shrink(net, coupling, plan, zoo().batched(graph, inputs))
    above = max(peak() - export, 0) / weights
    del coupling, plan
    found = middle(lambda: halved(net, graph), repeats)
    return {**found, "operations": float(len(graph.nodes)), "weights": weights / 2**20, "memory": above}


def middle(measured: Callable[[], Stages], repeats: int) -> Stages:
    """The median of each stage; the first repetition warms up."""
    runs = [measured() for _ in range(repeats + 1)][1:]
    return {stage: median(run[stage] for run in runs) for stage in runs[0]}


def theirs(name: str, repeats: int) -> Stages:
    """Torch-Pruning's times."""
    import torch_pruning

    whole, inputs = zoo().build("torchvision", name)

    def once() -> Stages:
        net = copied(whole)
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1:]
        began = time.perf_counter()
        pruner = torch_pruning.pruner.MagnitudePruner(
            net,
            inputs,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=last,
        )
        built = time.perf_counter()
        pruner.step()
        return {"build": built - began, "step": time.perf_counter() - built}

    return middle(once, repeats)


def grown(depth: int, width: int, repeats: int) -> Stages:
    """Times of a residual net."""
    torch.manual_seed(0)
    net = Residual(depth, width).eval()
    graph = trace(net, [torch.randn(1, 3, 8, 8)])
    params = float(sum(value.numel() for value in net.parameters()))
    found = middle(lambda: halved(net, graph), repeats)
    return {**found, "operations": float(len(graph.nodes)), "parameters": params}


def low() -> None:
    """Start measuring the highest resident set anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The highest resident set since, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def child(
    measured: Callable[..., Stages], *arguments: Any, threads: int, limit_s: float = 4 * LIMIT_S
) -> Stages:
    """Measure in a process of its own; empty where it took too long or failed."""
    context = multiprocessing.get_context("fork")
    ours_end, its_end = context.Pipe()

    def run() -> None:
        torch.set_num_threads(threads)
        its_end.send(measured(*arguments))

    process = context.Process(target=run)
    process.start()
    found: Stages = ours_end.recv() if ours_end.poll(limit_s) else {}
    process.kill()
    process.join()
    return found


def nets(names: Sequence[str], repeats: int, threads: int) -> list[Row]:
    """Beside Torch-Pruning."""
    rows = []
    for name in names:
        mine = child(ours, name, repeats, threads=threads)
        other = child(theirs, name, repeats, threads=threads, limit_s=LIMIT_S)
        total, rival = (
            sum(found.get(k, 0.0) for k in keys) for found, keys in ((mine, OURS), (other, THEIRS))
        )
        told = [(k, mine[k], "s") for k in OURS] + [(k, other[k], "s") for k in THEIRS if other]
        told += [("of Torch-Pruning", 100 * total / rival, "%")] if rival else []
        told += [("memory above export, ÷ weights", mine["memory"], ""), ("weights", mine["weights"], "MiB")]
        rows += [Row(name, "", "0.5", figure, round(value, 4), unit, 0) for figure, value, unit in told]
        print(name, {figure: round(value, 3) for figure, value, _ in told}, flush=True)
    return rows


OURS, THEIRS = ("labels", "plan", "cut"), ("build", "step")


def growth(depths: Sequence[int], widths: Sequence[int], repeats: int, threads: int) -> list[Row]:
    """Against the number of operations and of parameters, with the exponents."""
    rows = []
    for what, sizes in (("operations", [(d, 32) for d in depths]), ("parameters", [(8, w) for w in widths])):
        found = [child(grown, *size, repeats, threads=threads) for size in sizes]
        for of in found:
            seconds = sum(of[k] for k in OURS)
            rows.append(
                Row("growth", what, str(int(of[what])), "labels, plan and cut", round(seconds, 4), "s", 0)
            )
            print(what, int(of[what]), round(seconds, 4), flush=True)
        lines = np.log([[of[what], sum(of[k] for k in OURS)] for of in found])
        slope = float(np.polyfit(lines[:, 0], lines[:, 1], 1)[0])
        rows.append(Row("growth", what, "", "exponent", round(slope, 2), "", 0))
        print(what, "exponent", round(slope, 2), flush=True)
    return rows


def layout(rows: Sequence[Row]) -> Table:
    """A line per net; growth and versions below."""
    known: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.subject not in (ENVIRONMENT, "growth"):
            known.setdefault(row.subject, {})[row.figure] = float(row.value)
    head = (
        *("net", "weights, MiB", "labels, s", "plan, s", "cut, s", "Torch-Pruning: build, s", "step, s"),
        *("edgeprune of Torch-Pruning, %", "memory above export, ÷ weights"),
    )
    lines = []
    for name, of in known.items():
        shown = [f"{of[k]:.3f}" if k in of else "no end" for k in (*OURS, *THEIRS)]
        share = f"{of['of Torch-Pruning']:.0f}" if "of Torch-Pruning" in of else "–"
        memory = f"{of['memory above export, ÷ weights']:.1f}"
        lines.append((name, f"{of['weights']:.0f}", *shown, share, memory))
    told = []
    for what in ("operations", "parameters"):
        of_it = [row for row in rows if row.subject == "growth" and row.method == what]
        sizes = [f"{row.size}: {row.value} s" for row in of_it if row.size]
        told += [f"{what}: exponent {row.value} ({', '.join(sizes)})" for row in of_it if not row.size]
    return Table(head, tuple(lines), f"Growth with {'; with '.join(told)}. {environment_line(rows)}")


LAYOUT = layout


def main() -> None:
    """Measure, print, and keep."""
    parser = options(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nets", nargs="*", default=list(NETS), help="of torchvision")
    asked = parser.parse_args()
    names, repeats = (asked.nets[:1], 1) if asked.quick else (asked.nets, REPEATS)
    zoo().warm_up(asked.threads)
    rows = [*environment_rows(), *nets(names, repeats, asked.threads)]
    depths, widths = (DEPTHS[:2], WIDTHS[:2]) if asked.quick else (DEPTHS, WIDTHS)
    rows += growth(depths, widths, repeats, asked.threads)
    if asked.json:
        save(asked.json, rows)


if __name__ == "__main__":
    main()
