"""Every architecture: traced, coupled, halved at random, compared with its masked self.

Each net runs in a child process with a time limit; rows are appended to a JSON file as they come, and
those that are there already are not made again.

    python benchmarks/zoo.py --family torchvision --json rows.json
    python benchmarks/zoo.py --models resnet50 densenet121 --against-torch-pruning
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

FAMILIES = ("torchvision", "timm", "transformers", "real")
QUICK = (
    "resnet18",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "levit_128s",
    "xcit_nano_12_p16_224",
    "bert",
    "llama",
)
STRUCTURAL = (
    "normalised over",
    "reduced over",
    "vocabulary",
    "an output",
    "the model's input",
    "a size that",
    "taps",
    "tap axis",
    "attended over",
)
"""Beginnings and parts of reasons that lie in what the net computes, not in a rule that is missing."""


def main() -> None:
    arguments = parser().parse_args()
    rows = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    done = {(row["family"], row["model"]) for row in rows}
    todo = names(arguments)
    warm_up(arguments.threads)
    for family, name in todo:
        if (family, name) in done and not arguments.again:
            continue
        row = child(family, name, arguments)
        rows = [r for r in rows if (r["family"], r["model"]) != (family, name)] + [row]
        print(line(row), flush=True)
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(summary(rows))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--family", choices=(*FAMILIES, "all"), default="all")
    made.add_argument("--models", nargs="*", default=[], help="names, instead of a whole family")
    made.add_argument("--quick", action="store_true", help="a few small nets")
    made.add_argument("--json", type=Path, help="file of rows; resumed where it exists")
    made.add_argument("--again", action="store_true", help="make rows again that are there already")
    made.add_argument(
        "--onnx",
        type=float,
        default=0.0,
        metavar="MILLIONS",
        help="also export shrunk nets of up to so many parameters, and run them on onnxruntime",
    )
    made.add_argument("--against-torch-pruning", action="store_true", help="time Torch-Pruning beside it")
    made.add_argument("--limit", type=float, default=300.0, help="seconds a net may take")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--part", default="1/1", metavar="K/N", help="every N-th net, from the K-th on")
    return made


def names(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    from zoo_models import real_cases, timm_cases, torchvision_cases, transformers_cases

    cases: list[Any] = []
    wanted = FAMILIES if arguments.family == "all" else (arguments.family,)
    makers = {
        "torchvision": torchvision_cases,
        "timm": timm_cases,
        "transformers": transformers_cases,
        "real": real_cases,
    }
    for family in wanted:
        cases += makers[family]()
    found = [(case.family, case.name) for case in cases]
    chosen = set(QUICK) if arguments.quick else set(arguments.models)
    known = {name for _, name in found}
    found += [("timm", name) for name in arguments.models if name not in known]
    if arguments.models:  # in the order that was asked for
        found.sort(key=lambda pair: arguments.models.index(pair[1]) if pair[1] in chosen else -1)
    first, _, step = arguments.part.partition("/")
    return [pair for pair in found if not chosen or pair[1] in chosen][int(first) - 1 :: int(step)]


def child(family: str, name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one net in a process of its own, forked off so that torch is imported once."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        began = time.perf_counter()
        process = multiprocessing.get_context("fork").Process(
            target=guarded, args=(family, name, out, arguments)
        )
        process.start()
        process.join(arguments.limit)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        row = json.loads(out.read_text()) if out.exists() else {"family": family, "model": name}
        if late:
            row["error"] = f"took longer than {arguments.limit:g} s"
        elif process.exitcode:
            row.setdefault("error", f"died with code {process.exitcode}")
        row["wall_s"] = round(time.perf_counter() - began, 1)
        return row


def warm_up(threads: int) -> None:
    """Import and use once what every child needs."""
    import torch
    from torch import nn

    from edgeprune.stages.trace import trace

    torch.set_num_threads(threads)
    trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).eval(), [torch.zeros(1, 1, 4, 4)])


def guarded(family: str, name: str, out: Path, arguments: argparse.Namespace) -> None:
    """All figures of one net; what goes wrong is noted too."""
    row = Row(out, family=family, model=name)
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    try:
        one(row, arguments)
    except Exception as error:
        text = str(error).strip().splitlines()
        row.note(error=f"{type(error).__name__}: {text[0] if text else ''}"[:300])


class Row(dict[str, Any]):
    """The figures of one net, written down as they become known."""

    def __init__(self, path: Path, **known: Any) -> None:
        super().__init__(**known)
        self.path = path

    def note(self, **known: Any) -> None:
        """Add figures and write all of them to the file."""
        self.update(known)
        self.path.write_text(json.dumps(self))


def one(row: Row, arguments: argparse.Namespace) -> None:
    """All that is measured of one net."""
    from edgeprune.stages.trace import trace

    row.note(stage="build")
    net, inputs = build(row["family"], row["model"])
    params = sum(p.numel() for p in net.parameters())
    row.note(params=params, stage="trace")
    began = time.perf_counter()
    graph = trace(net, inputs)
    row.note(trace_s=since(began), nodes=len(graph.nodes), peak_trace_mb=peak_mb(), stage="couple")
    prune(row, net, graph, inputs)
    if arguments.onnx * 1e6 >= params:
        onnx(row, graph, inputs)
    if arguments.against_torch_pruning:
        torch_pruning(row, net, inputs)


def build(family: str, name: str) -> tuple[Any, tuple[Any, ...]]:
    """The net with weights under which nothing vanishes, and its inputs."""
    import torch
    from zoo_models import real_cases, timm_case, torchvision_cases, transformers_cases

    from edgeprune.graph.calling import positional

    torch.manual_seed(0)
    if family == "timm":
        torchvision_cases()
        case = timm_case(name)
    else:
        cases = {"torchvision": torchvision_cases, "transformers": transformers_cases, "real": real_cases}
        case = next(c for c in cases[family]() if c.name == name)
    net = case.make().eval()
    if family != "real":
        randomise(net)
    args, kwargs = case.inputs(net)
    if kwargs:
        net, args = positional(net, args, kwargs)
    return net, tuple(args)


def randomise(net: Any) -> None:
    """Statistics and scales as a trained net has them; nothing that was set to zero stays zero."""
    import torch
    from torch import nn

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for value in net.parameters():
            if value.numel() <= 1 or (value.dim() > 1 and min(value.shape) > 1 and bool(value.any())):
                continue
            low, high = float(value.min()), float(value.max())
            if low == high and value.dim() > 1 and min(value.shape) > 1:
                value.normal_(0, 0.05)
            elif low == high:
                value.add_(torch.randn_like(value) * 0.1).add_(0.3 if abs(low) < 0.1 else 0.0)


def prune(row: Row, net: Any, graph: Any, inputs: tuple[Any, ...]) -> None:
    """Couple, plan by magnitude, and shrink a random half of every group."""
    from edgeprune.plan import Plan, Selection
    from edgeprune.stages.allocate import allocate
    from edgeprune.stages.choose import choose
    from edgeprune.stages.couple import couple
    from edgeprune.stages.shrink import shrink
    from edgeprune.widths.budget import Budget, Multiples, cost

    began = time.perf_counter()
    coupling = couple(graph)
    row.note(label_s=since(began), groups=len(coupling.groups), stage="plan", **shares(coupling))
    try:
        began = time.perf_counter()
        widths = allocate(coupling, Budget("keep", 0.5), Multiples())
        choose(coupling, widths, "magnitude", None, seed=0)
        row.note(plan_s=since(began))
    except Exception as error:
        row.note(plan_error=f"{type(error).__name__}: {error}"[:200])
    plan = Plan("random", {name: Selection(keep) for name, keep in random_half(coupling).items()}, {})
    row.note(stage="shrink")
    inputs = batched(graph, inputs)
    began = time.perf_counter()
    shrunk = shrink(net, coupling, plan, inputs)
    row.note(
        shrink_s=since(began),
        cut_s=cutting(net, coupling, plan),
        kind=shrunk.kind,
        reason=shrunk.reason,
        peak_mb=peak_mb(),
    )
    before, after = cost(coupling, {}), cost(coupling, plan.keep)
    row.note(
        params_left=round(after.params / before.params, 3),
        macs_left=round(after.macs / max(1, before.macs), 3),
        scale=shrunk.scale,
        exactness=shrunk.masking / max(shrunk.scale, 1e-30),
        change=change(graph, shrunk, inputs),
        stage="done",
    )


def cutting(net: Any, coupling: Any, plan: Any) -> float:
    """Seconds that cutting the graph and the module takes, without the comparison that shrink makes."""
    from edgeprune.graph.copies import sharing
    from edgeprune.ops.narrowing import narrow_graph, narrow_module, narrow_weights
    from edgeprune.plan import Cuts

    began = time.perf_counter()
    alive = coupling.alive(plan.keep)
    ready = narrow_weights(coupling.graph, alive, {})
    narrow_graph(coupling.graph, alive, {}, ready, written=False)
    with contextlib.suppress(Exception):  # a module that cannot be narrowed is left; shrink said why
        narrow_module(sharing(net), Cuts.of(coupling, plan, "module", (), alive), ready)
    return since(began)


def random_half(coupling: Any) -> dict[str, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    return {
        group.name: np.sort(random.permutation(group.size)[: max(1, group.size // 2)])
        for group in coupling.groups
    }


def change(graph: Any, shrunk: Any, inputs: tuple[Any, ...]) -> float:
    """How much the outputs moved, relatively: a net that does not feel its pruning proves nothing."""
    import torch

    from edgeprune.graph.groups import flatten_outputs

    whole, _ = graph.run(inputs)
    with torch.no_grad():
        small = flatten_outputs(shrunk.graph(*inputs))
    pairs = [(a.double(), b.double()) for a, b in zip(whole, small, strict=True) if a.numel()]
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in pairs)


def shares(coupling: Any) -> dict[str, Any]:
    """Shares of the parameters: cut by a plan, fixed by the net's nature, and the rest by reason."""
    import numpy as np

    graph, labels = coupling.graph, coupling.labels
    parameters = {name for name, _ in graph.module.named_parameters(remove_duplicate=False)}
    free = np.zeros(len(labels), dtype=bool)
    for group in coupling.groups:
        if group.size > 1:
            free[group.roots] = True
    cut = kept = total = 0.0
    lost: Counter[str] = Counter()
    for node in {n.target: n for n in graph.nodes.values() if n.operation == "weight"}.values():
        if node.target not in parameters:
            continue
        size = int(np.prod(node.shape or (1,)))
        stay, reasons = 1.0, []
        for axis in coupling.axes[node.name]:
            share = float(free[labels.find(axis)].mean()) if len(axis) else 0.0
            stay *= 1 - share
            pinned = axis[labels.pinned(axis)]
            if len(axis) > 1:
                reasons.append(
                    labels.reason(int(pinned[0])) if len(pinned) else "no layer makes it, or alone"
                )
        total += size
        cut += size * (1 - stay)
        if stay == 1.0 and size > 1:
            other = [r for r in reasons if not any(word in r for word in STRUCTURAL)]
            if other:
                lost[other[0]] += size
            else:
                kept += size
    top = {reason: round(size / total, 4) for reason, size in lost.most_common(3)}
    return {
        "prunable": round(cut / total, 4),
        "by_nature": round(kept / total, 4),
        "lost": round(sum(lost.values()) / total, 4),
        "lost_to": top,
    }


def onnx(row: Row, graph: Any, inputs: tuple[Any, ...]) -> None:
    """Export a halved net, run it on onnxruntime, and compare; a failure is noted beside the rest."""
    import torch

    from edgeprune.graph.groups import flatten_outputs
    from edgeprune.plan import Plan, Selection
    from edgeprune.stages.couple import couple
    from edgeprune.stages.export import export
    from edgeprune.stages.shrink import narrow_graph

    coupling = couple(graph)
    plan = Plan("random", {name: Selection(keep) for name, keep in random_half(coupling).items()}, {})
    small = narrow_graph(graph, coupling.alive(plan.keep), {})
    inputs = batched(graph, inputs)
    with torch.no_grad():
        expected = flatten_outputs(small(*inputs))
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.onnx"
            export(small, inputs, path)
            row.note(onnx_s=since(began))
            row.note(onnx_error=on_runtime(path, inputs, expected))
    except Exception as error:
        text = str(error).strip().splitlines()
        row.note(onnx_failed=f"{type(error).__name__}: {text[0] if text else ''}"[:300])


def on_runtime(path: Path, inputs: tuple[Any, ...], expected: tuple[Any, ...]) -> float:
    """Largest difference between onnxruntime's outputs and torch's, relative to the largest of each."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = dict(zip([i.name for i in session.get_inputs()], [x.numpy() for x in inputs], strict=False))
    outputs = session.run(None, feeds)
    return max(
        float(np.abs(a.numpy().astype(np.float64) - b).max() / max(float(a.abs().max()), 1e-30))
        for a, b in zip(expected, outputs, strict=True)
        if a.numel()
    )


def batched(graph: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs, twice where the batch size is free."""
    import torch

    if graph.traced_batch == 1 or graph.batch is not None:
        return inputs
    return tuple(torch.cat([x, x.flip(-1)]) if x.dim() and x.shape[0] == 1 else x for x in inputs)


def torch_pruning(row: Row, net: Any, inputs: tuple[Any, ...]) -> None:
    """Torch-Pruning's dependency graph and one step at ratio .5, in the same process."""
    import copy

    import torch_pruning as tp
    from torch import nn

    net = copy.deepcopy(net)
    last = [m for m in net.modules() if isinstance(m, nn.Linear)][-1:]
    began = time.perf_counter()
    try:
        importance = tp.importance.MagnitudeImportance(p=2)
        pruner = tp.pruner.MagnitudePruner(
            net, inputs, importance=importance, pruning_ratio=0.5, ignored_layers=last
        )
        row.note(tp_build_s=since(began))
        began = time.perf_counter()
        pruner.step()
        row.note(tp_step_s=since(began))
        net(*inputs)
        row.note(tp_params_left=round(sum(p.numel() for p in net.parameters()) / row["params"], 3))
    except Exception as error:
        row.note(tp_error=f"{type(error).__name__}: {error}"[:200])


def since(began: float) -> float:
    return round(time.perf_counter() - began, 3)


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    if "error" in row:
        return f"{row['model']:36} FAILED at {row.get('stage', 'start')}: {row['error'][:150]}"
    extra = f" onnx {row['onnx_error']:.0e}" if "onnx_error" in row else ""
    extra += f" ONNX FAILED {row['onnx_failed'][:120]}" if "onnx_failed" in row else ""
    extra += (
        f" TP {row.get('tp_build_s', '-')}+{row.get('tp_step_s', row.get('tp_error', '-'))}"
        if "tp_build_s" in row or "tp_error" in row
        else ""
    )
    return (
        f"{row['model']:36} {row['params'] / 1e6:6.1f}M trace {row['trace_s']:5.1f} "
        f"label {row['label_s']:5.2f} "
        f"plan {row.get('plan_s', -1):5.2f} shrink {row['shrink_s']:5.2f} | prunable {row['prunable']:.2f} "
        f"nature {row['by_nature']:.2f} lost {row['lost']:.2f} | left {row['params_left']:.2f} "
        f"macs {row['macs_left']:.2f} | exact {row['exactness']:.0e} change {row['change']:.0e} "
        f"{row['kind']}{extra} {row['lost_to'] if row['lost'] > 0.03 else ''} {row.get('plan_error', '')}"
    )


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [f"\n{platform.machine()}, Python {platform.python_version()}"]
    for family in FAMILIES:
        of = [row for row in rows if row["family"] == family]
        good = [row for row in of if "error" not in row]
        as_module = sum(row["kind"] == "module" for row in good)
        if of:
            lines.append(f"{family}: {len(good)} exact of {len(of)} tried, {as_module} as the user's module")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
