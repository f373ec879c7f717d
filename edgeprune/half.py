"""ONNX files in float16: converted, held against the float32 file weight by weight, and told apart from it.

The converter is onnxruntime's. Inputs and outputs stay float32; operations that have no float16 kernel are
left in float32 with casts around them. What it did to the weights is read back: each must be within half a
unit in the last place, 2⁻¹¹ relatively, or one step of 2⁻²⁴ where it underflows. A weight beyond 65 504 would
be cut to that, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import BrokenPromise, UnsupportedModel
from edgeprune.files import atomic

Array = npt.NDArray[Any]
UNIT, STEP = 2.0**-11, 2.0**-24
"""Relative error of a float32 number as float16, and the absolute one where it underflows."""
FREE = 1e-12
"""Slack of the comparison itself, which is made in float64."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a file's numbers.

    Attributes:
        stored: how many of them are float16 now.
        scalars: names of single numbers that changed: not weights of a layer, but constants that the exporter
            writes where it takes an operation apart (the √2 of a gelu, the ε of a norm).
    """

    stored: int
    scalars: tuple[str, ...]


def halved(model: Path, path: Path) -> Converted:
    """Write the float16 form of an ONNX file; its inputs and outputs stay float32.

    Raises:
        UnsupportedModel: the file is in float16 already, or holds a number that float16 cannot.
        BrokenPromise: the converter changed a weight by more than rounding.
        StorageError: the file cannot be written.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    convert: Any = convert_float_to_float16  # it has no types
    before = {name: value for name, value in _numbers(onnx.load(model).graph) if value.dtype == np.float32}
    if not before:
        raise UnsupportedModel(f"{model}: holds no float32 weights to convert; is it in float16 already?")
    worst = max((float(np.abs(value).max(initial=0.0)) for value in before.values()), default=0.0)
    if not worst <= float(np.finfo(np.float16).max):
        raise UnsupportedModel(
            f"{model}: holds a number of size {worst:.4g}, float16 ends at 65504; keep this model in float32."
        )
    smaller = convert(onnx.load(model), keep_io_types=True)
    converted = _compared(before, dict(_numbers(smaller.graph)), model)
    with atomic(path) as temporary:
        temporary.write_bytes(smaller.SerializeToString(deterministic=True))
    return converted


def with_weights_of(model: Path, half: Path, path: Path) -> Converted:
    """The float32 file with the numbers of its float16 form: what the conversion of the weights alone does.

    Raises:
        BrokenPromise: the two are not forms of one file.
        StorageError: the file cannot be written.
    """
    import onnx

    loaded, stored = onnx.load(model), dict(_numbers(onnx.load(half).graph))
    before = {name: value for name, value in _numbers(loaded.graph) if value.dtype == np.float32}
    converted = _compared(before, stored, model)
    for name, tensor in _tensors(loaded.graph):
        if name in before and name in stored:
            tensor.CopyFrom(onnx.numpy_helper.from_array(stored[name].astype(np.float32), tensor.name))
    with atomic(path) as temporary:
        temporary.write_bytes(loaded.SerializeToString(deterministic=True))
    return converted


def _compared(before: dict[str, Array], after: dict[str, Array], model: Path) -> Converted:
    stored, scalars = 0, []
    for name, value in before.items():
        found = after.get(name)
        if found is None or found.dtype != np.float16:
            continue
        exact, rounded = value.astype(np.float64), found.astype(np.float64)
        off = np.abs(exact - rounded) - (UNIT * np.abs(exact) + STEP)
        if found.shape != value.shape or not (off <= FREE).all():
            raise BrokenPromise(
                f"{model}: the conversion to float16 changed '{name}'; please report this model."
            )
        stored += value.size
        if value.size == 1 and exact.ravel()[0] != rounded.ravel()[0]:
            scalars.append(name)
    return Converted(stored, tuple(scalars))


def _numbers(graph: Any) -> Iterator[tuple[str, Array]]:
    from onnx import numpy_helper

    for name, tensor in _tensors(graph):
        yield name, numpy_helper.to_array(tensor)


def _tensors(graph: Any) -> Iterator[tuple[str, Any]]:
    """Weights and constants by name, as the file holds them."""
    for initializer in graph.initializer:
        yield initializer.name, initializer
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                yield node.output[0], attribute.t


__all__ = ["Converted", "halved", "with_weights_of"]
