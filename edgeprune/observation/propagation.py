"""Mean and covariance carried through a net: what every layer hears when only the inputs' moments are known.

A linear layer maps N(m, C) exactly: W m + b, W C Wᵀ. An activation of Gaussians has moments in closed form
(`gaussian`); behind it the values count as Gaussian again, with those moments. So the first layer's
moments are exact for Gaussian inputs, and deeper ones are an approximation that is good where many
inputs are summed. Only nets of flat features are walked: everywhere else draw `gaussian_inputs` and
run the net on them.

LeNet-300-100 on MNIST (1.78 % test error), 60-30 and 30-30 units left, mean and covariance of 4 000 images:
2.5 and 5.9 % test error by propagation, 2.5 and 5.5 % by 8 192 Gaussian inputs, 2.3 and 4.8 % by the images.
Refitting each reader against the original's moments (both nets stacked) gave 2.5 and 5.9 % too and is left
out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeprune.errors import UnsupportedModel
from edgeprune.graph.groups import Graph, Node
from edgeprune.observation import gaussian

Floats = npt.NDArray[np.float64]

LARGEST = 4096
"""Most input values for which a covariance is formed."""

PASSES = ("dropout", "clone", "contiguous", "alias", "detach", "flatten", "view", "reshape")

PLAIN: dict[str, dict[str, float]] = {
    "leaky_relu": {"negative_slope": 0.01},
    "elu": {"alpha": 1, "scale": 1, "input_scale": 1},
    "softplus": {"beta": 1},
}
"""The parameters with which `gaussian` has an activation."""


@dataclass(frozen=True, slots=True)
class InputMoments:
    """What is known of one input: its mean and covariance, over flattened values.

    Attributes:
        mean: (d,) float64.
        covariance: (d, d) float64.
        shape: of one sample.
    """

    mean: Floats
    covariance: Floats
    shape: tuple[int, ...]

    @staticmethod
    def of(samples: Tensor) -> InputMoments:
        """Of samples (n, …).

        Raises:
            UnsupportedModel: a sample has more values than a covariance can be formed for.
        """
        rows = samples.flatten(1).double()
        if rows.shape[1] > LARGEST:
            raise UnsupportedModel(
                f"--moments moments: one input has {rows.shape[1]} values, and covariances are formed for at "
                f"most {LARGEST}; use --moments samples, or --moments synthetic for a net with batch norms."
            )
        mean = rows.mean(0)
        centred = rows - mean
        covariance = centred.T @ centred / len(rows)
        return InputMoments(mean.numpy(), covariance.numpy(), tuple(samples.shape[1:]))


def gaussian_inputs(known: InputMoments, count: int, generator: torch.Generator) -> Tensor:
    """Inputs drawn from the normal distribution of these moments, (count, …) float32.

    Drawn in pairs x, 2m − x, so that their mean is exact.
    """
    values, vectors = np.linalg.eigh(known.covariance)
    root = torch.from_numpy(vectors * np.sqrt(np.maximum(values, 0.0)))
    half = torch.randn(-(-count // 2), len(known.mean), generator=generator, dtype=torch.float64) @ root.T
    mean = torch.from_numpy(known.mean)
    return torch.cat([mean + half, mean - half])[:count].reshape(count, *known.shape).float()


@dataclass(frozen=True, slots=True)
class _Law:
    """Mean (d,) and covariance (d, d) of a node's values."""

    mean: Floats
    covariance: Floats


def propagate(
    graph: Graph, weights: Mapping[str, Tensor], inputs: Sequence[InputMoments]
) -> dict[str, tuple[Floats, Floats]]:
    """Mean and second moment of every node whose values are flat features.

    Args:
        weights: replacements for the graph's weights at original sizes, by qualified name.
        inputs: one per input of the graph.

    Returns:
        By node name: E[h] (d,) and E[h hᵀ] (d, d). Nodes behind an operation that is not covered are
        missing.
    """
    found: dict[str, _Law] = {
        name: _Law(known.mean, known.covariance) for name, known in zip(graph.inputs, inputs, strict=True)
    }
    current = {**graph.weights, **weights}
    for node in graph.nodes.values():
        law = _of(graph, node, current, found)
        if law is not None:
            found[node.name] = law
    return {name: (law.mean, law.covariance + np.outer(law.mean, law.mean)) for name, law in found.items()}


def _of(graph: Graph, node: Node, weights: Mapping[str, Tensor], found: Mapping[str, _Law]) -> _Law | None:
    moving = [name for name in node.sources() if graph.moves(name)]
    if node.operation in ("input", "weight", "output") or len(moving) != 1 or moving[0] not in found:
        return None
    law, shape = found[moving[0]], node.shape
    if shape is None or not shape or math.prod(shape) % graph.traced_batch:
        return None
    size = math.prod(shape) // graph.traced_batch
    if node.operation in PASSES:
        return law if size == len(law.mean) and shape[0] == graph.traced_batch else None
    if node.operation == "linear" and len(shape) == 2:
        return _linear(graph, node, weights, law)
    if node.operation == "batch_norm" and len(shape) == 2 and not node.get("training"):
        return _normalised(graph, node, weights, law)
    if node.operation == "relu" or _plain(node):
        mean, second = gaussian.activated(law.mean, law.covariance, node.operation)
        return _Law(mean, second - np.outer(mean, mean))
    return None


def _plain(node: Node) -> bool:
    """Whether a node is an activation with the parameters that `gaussian` has."""
    if node.operation not in gaussian.ACTIVATIONS or node.operation == "relu6":
        return node.operation == "relu6"
    return all(node.get(name, value) == value for name, value in PLAIN.get(node.operation, {}).items())


def _value(graph: Graph, node: Node, weights: Mapping[str, Tensor], argument: str) -> Floats | None:
    name = graph.weight_of(node.get(argument))
    return None if name is None else weights[name].double().numpy()


def _linear(graph: Graph, node: Node, weights: Mapping[str, Tensor], law: _Law) -> _Law | None:
    weight = _value(graph, node, weights, "weight")
    if weight is None or weight.shape[1] != len(law.mean):
        return None
    bias = _value(graph, node, weights, "bias")
    mean = weight @ law.mean
    return _Law(mean if bias is None else mean + bias, weight @ law.covariance @ weight.T)


def _normalised(graph: Graph, node: Node, weights: Mapping[str, Tensor], law: _Law) -> _Law | None:
    mean, spread = _value(graph, node, weights, "running_mean"), _value(graph, node, weights, "running_var")
    if mean is None or spread is None:
        return None
    scale = 1.0 / np.sqrt(spread + float(node["eps"]))
    factor, offset = _value(graph, node, weights, "weight"), _value(graph, node, weights, "bias")
    scale = scale if factor is None else scale * factor
    centre = (law.mean - mean) * scale
    return _Law(centre if offset is None else centre + offset, law.covariance * np.outer(scale, scale))
