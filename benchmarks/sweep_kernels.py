"""Errors of onnxruntime's unary kernels over the float32 numbers: what the rounding bound assumes of them.

    python -m benchmarks.sweep_kernels [--quick] [--json FILE] [--every 256] [--table FILE]

A float32 function has 2³² inputs. Every 256th bit pattern is given to a graph of one operation on the CPU
provider (`--every 1` takes all of them, some minutes an operation), as a tensor and, at every 65 536th, as
single numbers, which other code paths treat; the results are held against float64. Printed are the largest
absolute error, the same in units of u (1 + |φ|), u = 2⁻²⁴, and the share of what `edgeprune.bounds.rounding`
assumes. A share above 1 ends with exit code 1: that table then does not hold for this onnxruntime. `--table
edgeprune/bounds/kernel_errors.json` adds this version to it, with whichever errors are larger.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper

from benchmarks.harness import Row, Table, by_figure, environment_rows, finish, options
from edgeprune.bounds.rounding import ARITHMETICS
from edgeprune.files import write_text

UNIT = 2.0**-24
BLOCK = 1 << 22
SHARE = "share of what is assumed"
Reference = Callable[[torch.Tensor], torch.Tensor]
OPERATIONS: dict[str, tuple[str, str, Reference]] = {
    "tanh": ("Tanh", "tanh", torch.tanh),
    "sigmoid": ("Sigmoid", "sigmoid", torch.sigmoid),
    "erf": ("Erf", "erf", torch.erf),
    "exp": ("Exp", "exp", torch.exp),
    "log": ("Log", "log", torch.log),
    "sqrt": ("Sqrt", "sqrt", torch.sqrt),
    "reciprocal": ("Reciprocal", "reciprocal", torch.reciprocal),
    "softplus": ("Softplus", "softplus", torch.nn.functional.softplus),
    "gelu": ("Gelu", "gelu", torch.nn.functional.gelu),
}
"""By name: the ONNX operation, the curve's name in `Arithmetic.kernels`, the truth in float64."""


def session(operation: str) -> onnxruntime.InferenceSession:
    """A graph of the one operation, at default options on one thread."""
    node = helper.make_node(operation, ["x"], ["y"])
    of = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([node], operation, of[:1], of[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    given = onnxruntime.SessionOptions()
    given.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), given, ["CPUExecutionProvider"])


def patterns(every: int) -> Iterator[NDArray[np.float32]]:
    """Finite float32 numbers by bit pattern, in blocks."""
    step = BLOCK * every
    for first in range(0, 1 << 32, step):
        bits = np.arange(first, min(first + step, 1 << 32), every, dtype=np.uint64).astype(np.uint32)
        found = bits.view(np.float32)
        yield found[np.isfinite(found)]


def largest(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], x: NDArray[np.float32], truth: Reference
) -> tuple[float, float, int]:
    """Largest absolute error, and in units of u (1 + |φ|); where the truth fits float32."""
    exact = truth(torch.from_numpy(x).double()).numpy()
    got = run(x).astype(np.float64)
    fits = np.isfinite(exact) & (np.abs(exact) < 3.4e38)
    error = np.abs(got[fits] - exact[fits])
    if not len(error):
        return 0.0, 0.0, 0
    return float(error.max()), float((error / (UNIT * (1 + np.abs(exact[fits])))).max()), int(fits.sum())


def swept(name: str, every: int) -> Iterator[Row]:
    """The rows of one operation."""
    operation, curve, truth = OPERATIONS[name]
    one = session(operation)

    def together(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(one.run(None, {"x": x})[0])

    def alone(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([together(x[k : k + 1]) for k in range(len(x))])

    worst, units, count = 0.0, 0.0, 0
    for x in patterns(every):
        for run, some in ((together, x), (alone, x[:: max(1, 65536 // every)])):
            error, relative, n = largest(run, some, truth)
            worst, units, count = max(worst, error), max(units, relative), count + n
    known = (ARITHMETICS["float32"].kernels or {}).get(curve)
    # of a kernel with a measured error its result's own rounding is assumed too, of all others 8 units
    share = units / 8.0 if known is None else worst / (known + UNIT)
    yield Row(name, "", "", "largest error", worst, "", 0)
    yield Row(name, "", "", "units of u + u·size", units, "", 0)
    yield Row(name, "", "", SHARE, share, "", 0)
    yield Row(name, "", "", "numbers", count, "", 0)


def layout(rows: Sequence[Row]) -> Table:
    """All but absolute errors, which say nothing of a kernel whose results are huge."""
    return by_figure([row for row in rows if row.figure != "largest error"])


LAYOUT = layout


def widen(path: Path, rows: list[Row], every: int) -> None:
    """Let a table hold for this onnxruntime too: the larger of its errors and of these, rounded up."""
    table = json.loads(path.read_text(encoding="utf-8"))
    errors, version = table["largest_absolute_error"], ".".join(onnxruntime.__version__.split(".")[:2])
    for row in rows:
        curve = OPERATIONS[row.subject][1]
        if row.figure == "largest error" and curve in errors:
            errors[curve] = max(errors[curve], math.ceil(float(row.value) * 1e9) / 1e9)
    table["versions"] = sorted({*table["versions"], version})
    table["every"] = max(table["every"], every)
    write_text(path, json.dumps(table, indent=1) + "\n")


def main() -> None:
    """Sweep, print the table, write the rows."""
    parser = options(__doc__)
    parser.add_argument("--table", type=Path, help="a table of errors to add these to")
    parser.add_argument("--every", type=int, default=256, help="which share of the float32 numbers")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in OPERATIONS:
        rows += swept(name, max(chosen.every, 8192) if chosen.quick else chosen.every)
    if chosen.table is not None:
        widen(chosen.table, rows, chosen.every)
    finish([*rows, *environment_rows()], LAYOUT, chosen.json)
    sys.exit(1 if any(row.figure == SHARE and float(row.value) > 1 for row in rows) else 0)


if __name__ == "__main__":
    main()
