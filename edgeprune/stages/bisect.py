"""Where an error comes from: the first group whose pruning breaks a limit, the first node that parts.

The groups are taken in the plan's order, and the plan's first k groups pruned alone. The errors need
not grow with k, so the search does not rest on it: it halves an interval whose left end keeps the
limit and whose right end breaks it, and so finds a group whose pruning carries the error across the
limit, in ⌈log₂ n⌉ + 1 plans; `every=True` tries all n and finds the very first.

Source: delta debugging by bisection, as in `git bisect` and Polygraphy's `debug reduce`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import UsageError

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Crossing:
    """The group that carries the error across the limit.

    Attributes:
        group: its name, None where the limit holds for the whole plan.
        before: largest output difference with every group before it pruned.
        after: the same with it pruned, too.
        tried: number of pruned groups → the error, as tried.
    """

    group: str | None
    before: float
    after: float
    tried: Mapping[int, float]


def first_group(
    groups: Sequence[str], error_of: Callable[[int], float], limit: float, *, every: bool = False
) -> Crossing:
    """Search for the group whose pruning carries the error across a limit.

    Args:
        groups: names, in the order of the plan.
        error_of: the error with so many groups pruned, from 0 (nothing) to all.
        limit: the error that shall not be exceeded.
        every: try every number of groups.
    """
    tried: dict[int, float] = {}

    def error(count: int) -> float:
        if count not in tried:
            tried[count] = error_of(count) if count else 0.0
        return tried[count]

    if every:
        low = next((k for k in range(len(groups)) if error(k + 1) > limit), len(groups))
        if low == len(groups):
            return Crossing(None, error(low), error(low), tried)
        return Crossing(groups[low], error(low), error(low + 1), tried)
    if not groups or error(len(groups)) <= limit:
        return Crossing(None, error(len(groups)), error(len(groups)), tried)
    low, high = 0, len(groups)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if error(middle) > limit else (middle, high)
    return Crossing(groups[low], error(low), error(high), tried)


# ------------------------------------------------------------------------------------ the nodes


@dataclass(frozen=True, slots=True)
class Parting:
    """The first node at which a runtime and torch part.

    Attributes:
        node: its name, None where they agree everywhere.
        operation: its type.
        output: the value it makes.
        difference: largest absolute difference there.
        scale: largest absolute value there.
        compared: values that both have, in the order of the file.
    """

    node: str | None
    operation: str
    output: str
    difference: float
    scale: float
    compared: tuple[str, ...]


def with_intermediate_outputs(model: Path, names: Sequence[str], output: Path) -> tuple[str, ...]:
    """Write a copy of an ONNX file that also gives its intermediate values.

    Args:
        names: the values wanted; those that the file does not make are left out.

    Returns:
        The values that the copy gives, in the order of the file's nodes.

    Raises:
        UsageError: the file is no ONNX model.
    """
    import onnx

    try:
        content = onnx.load(model)
        inferred = onnx.shape_inference.infer_shapes(content)
    except Exception as error:
        raise UsageError(f"{model}: is no ONNX model ({type(error).__name__}); check the path.") from error
    known = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
    wanted, made = set(names), []
    for node in content.graph.node:
        made += [name for name in node.output if name in wanted and name in known]
    del content.graph.output[:]
    content.graph.output.extend(known[name] for name in made)
    onnx.save(content, output)
    return tuple(made)


def first_parting(
    model: Path, made: Sequence[str], found: Sequence[Array], expected: Mapping[str, Array], tolerance: float
) -> Parting:
    """The first node whose output differs from torch's by more than a share of its largest value.

    Args:
        made: names of `found`, in the order of the nodes.
        found: what the runtime gave.
        expected: what torch gives, by the same names, float64.
        tolerance: relative to the largest value there.
    """
    import onnx

    makers = {output: node for node in onnx.load(model).graph.node for output in node.output}
    for name, value in zip(made, found, strict=True):
        truth = expected[name]
        if truth.shape != value.shape:
            return Parting(
                makers[name].name or name, makers[name].op_type, name, float("inf"), 0.0, tuple(made)
            )
        difference = float(np.abs(truth - value.astype(np.float64)).max(initial=0.0))
        scale = float(np.abs(truth).max(initial=0.0))
        if not difference <= tolerance * max(scale, 1e-12):
            node = makers[name]
            return Parting(node.name or name, node.op_type, name, difference, scale, tuple(made))
    return Parting(None, "", "", 0.0, 0.0, tuple(made))


def without_weights(model: Path, output: Path, seed: int) -> None:
    """Write a copy whose weights are seeded noise with the mean and the spread of the real ones.

    Shapes, types and operations stay, so a crash or a wrong kernel shows as before; constants of
    whole numbers (sizes, axes, indices) stay as they are.
    """
    import onnx

    content = onnx.load(model)
    random = np.random.default_rng(seed)
    for tensor in content.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype.kind != "f" or value.size < 2:
            continue
        finite = value[np.isfinite(value)].astype(np.float64)
        mean, spread = (float(finite.mean()), float(finite.std())) if finite.size else (0.0, 1.0)
        noise = (random.standard_normal(value.shape) * spread + mean).astype(value.dtype)
        tensor.CopyFrom(onnx.numpy_helper.from_array(noise, tensor.name))
    for entry in list(content.metadata_props):
        content.metadata_props.remove(entry)
    onnx.save(content, output)
