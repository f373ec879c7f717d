"""MobileNetV2 and ResNet-50 as ONNX files of any widths: random weights, batch norms folded, batch 1.

Only the shapes matter for latency. `width` maps the channels of a group to what is left of them; groups are
those that pruning has: a residual stream is one group, a depthwise convolution shares its input's.

Sources: Sandler et al., "MobileNetV2", CVPR 2018, table 2; He et al., "Deep residual learning", CVPR 2016,
table 1 (with the stride in the 3 × 3 convolution, as torchvision has it).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Width = Callable[[int], int]


class Net:
    """A chain of nodes that grows at its end."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.channels = {"x": 3}

    def _node(self, kind: str, inputs: list[str], channels: int, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        self.channels[name] = channels
        return name

    def _weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        scale = np.sqrt(2 / max(int(np.prod(shape[1:])), 1))
        value = (self.random.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def conv(
        self, x: str, out: int, kernel: int, stride: int = 1, *, depthwise: bool = False, then: str = ""
    ) -> str:
        """A convolution with bias, and `Relu` or `Clip` (to 0 … 6) behind it."""
        given = self.channels[x]
        groups = given if depthwise else 1
        weights = [self._weight(out, given // groups, kernel, kernel), self._weight(out)]
        y = self._node(
            "Conv", [x, *weights], out,
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, group=groups,
        )  # fmt: skip
        if then == "Clip":
            return self._node("Clip", [y, "zero", "six"], out)
        return self._node(then, [y], out) if then else y

    def add(self, x: str, y: str, then: str = "") -> str:
        """The sum of two streams, and what stands behind it."""
        z = self._node("Add", [x, y], self.channels[x])
        return self._node(then, [z], self.channels[x]) if then else z

    def pool(self, x: str) -> str:
        """The largest of 3 × 3, every second pixel."""
        shape = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}
        return self._node("MaxPool", [x], self.channels[x], **shape)

    def save(self, x: str, path: Path, classes: int = 1000, size: int = 224) -> Path:
        """The mean over the picture, a linear layer, and the file."""
        pooled = self._node("GlobalAveragePool", [x], self.channels[x])
        flat = self._node("Flatten", [pooled], self.channels[x])
        y = self._node(
            "Gemm", [flat, self._weight(self.channels[x], classes), self._weight(classes)], classes
        )
        constants = [
            numpy_helper.from_array(np.float32(v).reshape(()), n) for n, v in (("zero", 0), ("six", 6))
        ]
        graph = helper.make_graph(
            self.nodes, "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, classes])],
            [*self.weights, *constants],
        )  # fmt: skip
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path


def mobilenet_v2(path: Path, width: Width) -> Path:
    """MobileNetV2 1.0; the residual streams and the expanded channels of each block are groups."""
    net = Net()
    x = net.conv("x", width(32), 3, 2, then="Clip")
    table = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    full = 32
    for expand, channels, repeats, first_stride in table:
        for k in range(repeats):
            stride, before = first_stride if k == 0 else 1, x
            if expand > 1:
                x = net.conv(x, width(full * expand), 1, then="Clip")
            x = net.conv(x, net.channels[x], 3, stride, depthwise=True, then="Clip")
            x = net.conv(x, width(channels), 1)
            if k > 0:
                x = net.add(x, before)
            full = channels
    return net.save(net.conv(x, width(1280), 1, then="Clip"), path)


def resnet_50(path: Path, width: Width) -> Path:
    """ResNet-50; each stage's residual stream and each block's two inner widths are groups."""
    net = Net()
    x = net.pool(net.conv("x", width(64), 7, 2, then="Relu"))
    for inner, blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for k in range(blocks):
            stride = first_stride if k == 0 else 1
            y = net.conv(x, width(inner), 1, then="Relu")
            y = net.conv(y, width(inner), 3, stride, then="Relu")
            y = net.conv(y, width(4 * inner), 1)
            shortcut = net.conv(x, width(4 * inner), 1, stride) if k == 0 else x
            x = net.add(y, shortcut, "Relu")
    return net.save(x, path)


NETS: dict[str, Callable[[Path, Width], Path]] = {"MobileNetV2": mobilenet_v2, "ResNet-50": resnet_50}
