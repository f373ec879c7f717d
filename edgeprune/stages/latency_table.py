"""What a layer costs at each width on a target, measured once by nets of a single layer.

A layer's cost is a function of two widths, of what it reads and of what it makes. Both are
measured at a few points of the target's grid and interpolated linearly between. Widths off the
grid are not in the table: there the runtime leaves its fast layout, and cost is no smooth function.

The table predicts, it does not prove: layers alone share no cache, and a net pays for what stands
between them. Candidates that it picks are measured whole afterwards.

Measurements are kept in `$XDG_CACHE_HOME/edgeprune/latency`, one file a fingerprint of the target
(its runtime, threads and transport, the device's processor and the version of onnxruntime).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeprune.errors import TargetUnavailable
from edgeprune.files import write_text
from edgeprune.progress import Progress
from edgeprune.runtimes import RUNTIMES, places, probe
from edgeprune.runtimes.jobs import read_layers, write_job
from edgeprune.target import Target

POINTS = 4
"""Widths that are measured along each axis of a layer."""
CHUNK = 64
"""Layers a process measures."""
VERSION = 1
"""Of the cached files; raised when layers are measured differently."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution (any number of spatial axes) or linear layer, of full width.

    Attributes:
        kind: `conv` or `linear`.
        inputs: channels it reads.
        outputs: channels it makes.
        size: conv: spatial size of its input; linear: rows of its input beside the batch, if any.
        kernel: of a convolution, one number a spatial axis.
        stride: the same.
        padding: the same, on both ends of each axis.
        dilation: the same.
        groups: of a convolution; a depthwise one has as many as it has inputs.
    """

    kind: Literal["conv", "linear"]
    inputs: int
    outputs: int
    size: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved alone, so that both widths are one."""
        return self.groups > 1 and self.groups == self.inputs == self.outputs

    def at(self, inputs: int, outputs: int) -> Layer:
        """The same layer with other widths."""
        if self.depthwise:
            return dataclasses.replace(self, inputs=outputs, outputs=outputs, groups=outputs)
        return dataclasses.replace(self, inputs=inputs, outputs=outputs)

    def step(self, multiple: int) -> int:
        """The multiple that its widths keep: each group of a grouped convolution has as many channels."""
        return multiple if self.depthwise else math.lcm(multiple, self.groups)

    def key(self, batch: int) -> str:
        """Equal for layers that cost the same."""
        numbers = (self.inputs, self.outputs, self.groups, *self.size)
        rest = (self.kernel, self.stride, self.padding, self.dilation)
        return f"{self.kind} {batch} {numbers} {rest}"


@dataclass(frozen=True, slots=True)
class CostTable:
    """Milliseconds of layers by width.

    Attributes:
        target: where it was measured.
        batch: samples a run.
        multiple: the grid that it was measured on.
        ms: by `Layer.key`.
    """

    target: str
    batch: int
    multiple: int
    ms: Mapping[str, float]

    def cost_ms(self, layer: Layer, inputs: int, outputs: int) -> float:
        """A layer's cost at two widths, interpolated between what was measured.

        Args:
            layer: one of those the table was made for, at its full width.
            inputs: channels it is to read.
            outputs: channels it is to make.

        Raises:
            KeyError: the table was not made for this layer.
        """
        across = points(layer.outputs, layer.step(self.multiple))
        if layer.depthwise:
            costs = [self.ms[layer.at(w, w).key(self.batch)] for w in across]
            return float(np.interp(outputs, across, costs))
        along = points(layer.inputs, layer.step(self.multiple))
        columns = [
            float(np.interp(inputs, along, [self.ms[layer.at(i, o).key(self.batch)] for i in along]))
            for o in across
        ]
        return float(np.interp(outputs, across, columns))

    def total_ms(self, widths: Sequence[tuple[Layer, int, int]]) -> float:
        """The cost of a net's layers, each with the widths it would have."""
        return sum(self.cost_ms(layer, inputs, outputs) for layer, inputs, outputs in widths)

    def curve(self, layer: Layer) -> tuple[tuple[int, float], ...]:
        """Cost by width made, at full width read: (width, ms) over the whole grid, narrowest first."""
        return tuple((w, self.cost_ms(layer, layer.inputs, w)) for w in grid(layer.outputs, self.multiple))


def grid(width: int, multiple: int) -> tuple[int, ...]:
    """Every width a layer may have: the multiples below its own, and its own."""
    return (*range(multiple, width, multiple), width)


def points(width: int, multiple: int) -> tuple[int, ...]:
    """The widths that are measured: at most `POINTS` of the grid, from the narrowest to the full one."""
    every = grid(width, multiple)
    if len(every) <= POINTS:
        return every
    chosen = np.unique(np.round(np.linspace(0, len(every) - 1, POINTS)).astype(int))
    return tuple(every[k] for k in chosen)


def cost_table(
    layers: Sequence[Layer],
    target: Target,
    *,
    batch: int | None = None,
    multiple: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    work: Path,
    progress: Progress,
) -> CostTable:
    """Measure what layers cost, or read back what was measured before.

    Args:
        layers: at full width; those that cost the same are measured once.
        target: where they are to run.
        batch: samples a run; the target's when not given.
        multiple: the channel grid; the target's when not given.
        seed: of the order in which they are measured.
        cache: folder of what was measured before; edgeprune's own when not given.
        work: a scratch folder.
        progress: wraps the loop over processes.

    Raises:
        TargetUnavailable: the target cannot be reached, or says that its times mean nothing.
    """
    if not target.measure.latency:
        raise TargetUnavailable(
            f"{target.name}: says that its times mean nothing ([measure] latency = false), so widths cannot "
            "be chosen by its latency; name another target."
        )
    batch = batch or target.measure.batch
    multiple = multiple or target.conv_multiple()
    wanted = {}
    for layer in layers:
        pairs = (
            ((w, w) for w in points(layer.outputs, multiple))
            if layer.depthwise
            else itertools.product(*(points(w, layer.step(multiple)) for w in (layer.inputs, layer.outputs)))
        )
        for inputs, outputs in pairs:
            narrow = layer.at(inputs, outputs)
            wanted[narrow.key(batch)] = narrow
    path = (cache or places.cache() / "latency") / f"{_fingerprint(target, work / 'probe')}.json"
    known = _known(path)
    missing = [key for key in wanted if key not in known]
    chunks = [missing[at : at + CHUNK] for at in range(0, len(missing), CHUNK)]
    for number, chunk in enumerate(progress(chunks, f"timing layers on {target.name}", len(chunks))):
        known |= _measured({key: wanted[key] for key in chunk}, batch, target, work / f"l{number}", seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(
            path, json.dumps({"version": VERSION, "target": target.name, "ms": known}, indent=0) + "\n"
        )
    return CostTable(target.name, batch, multiple, {key: known[key] for key in wanted})


def slower(
    table: CostTable, before: Sequence[tuple[Layer, int, int]], after: Sequence[tuple[Layer, int, int]]
) -> tuple[str, ...]:
    """Why a smaller net need not be quicker: layers that cost as much as before, each with a reason.

    Args:
        table: made for these layers.
        before: each layer with the widths it had.
        after: the same layers with the widths they have now.
    """
    reasons = []
    for (layer, i0, o0), (_, i1, o1) in zip(before, after, strict=True):
        if (i0, o0) == (i1, o1):
            continue
        was, now = table.cost_ms(layer, i0, o0), table.cost_ms(layer, i1, o1)
        off = [w for w, full in ((i1, i0), (o1, o0)) if w % table.multiple and w != full]
        what = f"{layer.kind} {i0}→{o0}, now {i1}→{o1}"
        if off:
            reasons.append(
                f"{what}: {off[0]} is no multiple of {table.multiple}: {table.target} leaves its fast layout"
            )
        elif now >= was * 0.98:
            reasons.append(
                f"{what}: costs {now:.3g} ms, was {was:.3g}: {table.target} gains nothing from these widths"
            )
    return tuple(reasons)


def _measured(
    layers: Mapping[str, Layer], batch: int, target: Target, work: Path, seed: int
) -> dict[str, float]:
    work.mkdir(parents=True, exist_ok=True)
    names = {f"layer{k}": key for k, key in enumerate(layers)}
    files = {name: _written(work / f"{name}.onnx", layers[key], batch) for name, key in names.items()}
    job = write_job(work / "job", target, "layers", files, seed=seed)
    answer = RUNTIMES[target.transport].run(job.folder, target, target.measure.limit_s)
    return {names[name]: ms for name, ms in read_layers(job, answer, target).items()}


def _written(path: Path, layer: Layer, batch: int) -> Path:
    """An ONNX file of the one layer, with a ReLU behind a convolution as nets have it."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    if layer.kind == "conv":
        weight = random.standard_normal((layer.outputs, layer.inputs // layer.groups, *layer.kernel))
        given: dict[str, Any] = {
            "kernel_shape": layer.kernel, "strides": layer.stride, "dilations": layer.dilation,
            "pads": (*layer.padding, *layer.padding),
        }  # fmt: skip
        given = {name: list(value) for name, value in given.items() if value} | {"group": layer.groups}
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["h"], **given),
            helper.make_node("Relu", ["h"], ["y"]),
        ]
        shape = [batch, layer.inputs, *layer.size]
    else:
        weight = random.standard_normal((layer.inputs, layer.outputs))
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
        shape = [batch, *layer.size, layer.inputs]
    scale = 1 / max(float(np.sqrt(weight[0].size)), 1.0)
    weights = {"w": weight * scale, "b": random.standard_normal(layer.outputs)}
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _fingerprint(target: Target, work: Path) -> str:
    environment = probe(target, work).environment
    device = {name: environment.get(name) for name in ("onnxruntime", "machine", "cpu", "cores", "browser")}
    asked = {
        "runtime": dataclasses.asdict(target.runtime),
        "threads": dataclasses.asdict(target.threads),
        "transport": target.transport,
        "connection": target.connection,
        "bind": target.measure.bind,
    }
    text = json.dumps([VERSION, asked, device], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _known(path: Path) -> dict[str, float]:
    """What was measured before; a damaged file is measured anew."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] == VERSION:
            return {str(key): float(ms) for key, ms in content["ms"].items() if ms > 0}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}
