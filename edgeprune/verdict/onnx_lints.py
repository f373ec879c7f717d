"""Lints of one ONNX file; see `edgeprune.verdict.lints` for the rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from edgeprune.verdict.lints import Lint, lint

KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.preview.training")
LARGEST = 2**31 - 1
_PATH = re.compile(
    rb"(?:/home/|/Users/|/root/|/usr/lib/python|[A-Za-z]:\\Users\\|site-packages)[^\0\s\"']{0,80}"
)


def lint_onnx(path: Path) -> tuple[Lint, ...]:
    """Everything in an ONNX file that deserves a second look. Nothing in the file is run.

    Args:
        path: the file; weights beside it are not read.
    """
    import onnx

    try:
        if not path.is_file():
            raise ValueError("there is no such file")
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
        if not model.graph.node and not model.graph.output:
            raise ValueError("it holds no graph")
    except Exception as error:
        return (lint("EP501", path.name, f"{path}: is no ONNX model ({_first_line(error)})"),)
    found: list[Lint] = []
    outside = list(_outside(model, path))
    if not outside:
        try:
            onnx.checker.check_model(model)
        except Exception as error:
            found.append(lint("EP501", path.name, f"{path}: breaks the format ({_first_line(error)})"))
    found += [*outside, *_weights(model, path), *_operations(model, path)]
    leaked = _PATH.search(content)
    if leaked is not None:
        words = leaked.group().decode("utf-8", "replace")
        found.append(lint("EP502", path.name, f"{path}: holds a path of the exporting machine ({words})"))
    if not any(entry.key.startswith("edgeprune.") for entry in model.metadata_props):
        found.append(lint("EP507", path.name, f"{path}: carries no edgeprune.* metadata"))
    return tuple(found)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _outside(model: Any, path: Path) -> Iterator[Lint]:
    """Weights in other files."""
    places = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for place in sorted(places):
        leaves = PurePosixPath(place).is_absolute() or PureWindowsPath(place).is_absolute() or ".." in place
        gone = not leaves and not (path.parent / place).is_file()
        if leaves:
            yield lint("EP504", place, f"{path}: takes weights from {place}, outside its folder", "error")
        elif gone:
            yield lint("EP504", place, f"{path}: takes weights from {place}, which is missing", "error")
        else:
            yield lint("EP504", place, f"{path}: takes weights from {place}; ship both")


def _weights(model: Any, path: Path) -> Iterator[Lint]:
    import numpy as np
    import onnx

    doubles = []
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.DOUBLE and len(tensor.dims):
            doubles.append(tensor.name)
        if tensor.external_data or any(d < 0 or d > LARGEST for d in tensor.dims):
            continue
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except Exception as error:
            words = f"{path}: the weight {tensor.name} cannot be read ({_first_line(error)})"
            yield lint("EP501", tensor.name, words)
            continue
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            words = f"{path}: {bad} of {values.size} entries of {tensor.name} are NaN or infinite"
            yield lint("EP503", tensor.name, words)
    if doubles:
        yield lint("EP506", "weights", f"{path}: {len(doubles)} weights are in float64, {doubles[0]} first")


def _operations(model: Any, path: Path) -> Iterator[Lint]:
    own = {function.domain for function in model.functions}
    strange = {(n.domain, n.op_type) for n in model.graph.node if n.domain not in (*KNOWN_DOMAINS, *own)}
    for domain, operation in sorted(strange):
        yield lint("EP505", f"{domain}::{operation}", f"{path}: {operation} is of the domain {domain}")
