"""One pruned net on several runtimes: how far each is from the same net in float64.

    python -m benchmarks.drift [--quick] [--json FILE] [--target NAME ...]

LeNet-300-100 and, without `--quick`, the ResNet-20 of `benchmarks.cnn`, half of all units cut, exported and
simplified by edgeprune. Every runtime gets the same ONNX file and the same 16 MNIST images. A cell is the
largest difference of any logit to the pruned torch net in float64, in millionths of the largest logit;
float32 itself rounds to 0.06 of these. A browser does not tell how many nodes it ran (0). A target that is
not here is left out, with its reason on standard error.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune import compress
from edgeprune import load as loaded
from edgeprune.demo.lenet import build as lenet
from edgeprune.errors import TargetUnavailable
from edgeprune.profiles import find_calibration, find_target
from edgeprune.reference import Array
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.jobs import read_outputs, write_job

TARGETS = ("cpu-1t", "cpu", "webgpu-software", "browser-wasm", "arm64-emulated", "openvino")
IMAGES = 16
LAYOUT = by_figure


def pruned(build: Callable[[], nn.Module], images: Array, folder: Path) -> tuple[Path, Array]:
    """The pruned net's ONNX file, and what the pruned torch net makes of the images in float64."""
    compress(
        build(), torch.from_numpy(images[:1]), output=folder, keep=0.5, method="magnitude",
        target=("cpu-1t",), latency=False, certify=False,
    )  # fmt: skip
    net = loaded(build, folder).double().eval()
    with torch.no_grad():
        return folder / "pruned.onnx", net(torch.from_numpy(images).double()).numpy()


def drift(name: str, model: Path, images: Array, truth: Array, work: Path) -> tuple[float, int]:
    """Largest difference in millionths of the largest output, and nodes (0: it does not tell).

    Raises:
        TargetUnavailable: the target is not here.
    """
    target = find_target(name)
    job = write_job(work / name, target, "outputs", {"model": model}, (images,))
    folder = RUNTIMES[target.transport].run(job.folder, target, target.measure.limit_s)
    answer = read_outputs(job, folder, target)
    difference = np.abs(answer.outputs[0].astype(np.float64) - truth).max() / np.abs(truth).max()
    return float(difference * 1e6), sum(answer.ran.placement.values())


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--target", action="append", metavar="NAME", help="instead of all that are here")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    images = find_calibration("mnist").load().holdout[0][:IMAGES].astype(np.float32)
    subjects = {"LeNet-300-100": (lenet, images.reshape(IMAGES, -1))}
    if not chosen.quick:
        from benchmarks.resnet20 import build as resnet20

        subjects["ResNet-20"] = (resnet20, images.reshape(IMAGES, 1, 28, 28))
    rows = environment_rows()
    for subject, (build, samples) in subjects.items():
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
            model, truth = pruned(build, samples, Path(work) / "run")
            for name in chosen.target or TARGETS:
                try:
                    found, nodes = drift(name, model, samples, truth, Path(work))
                except TargetUnavailable as error:
                    print(f"left out: {error}", file=sys.stderr)
                    continue
                rows += [
                    Row(name, "", "", f"{subject} nodes", nodes, "", 0),
                    Row(name, "", "", subject, found, "1e-6", 0),
                ]
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
