"""One pruned net on several runtimes: how far each is from the same net in float64.

    python -m benchmarks.drift [--quick] [--json FILE] [--target NAME ...]

LeNet-300-100 and, without `--quick`, the ResNet-20 of `benchmarks.cnn`, half of all units cut, exported and
simplified by edgeprune. Every runtime gets the same ONNX file and the same MNIST images, 16 of them (2 for
the ResNet). A cell is the largest difference of any logit to the pruned torch net in float64, in millionths
of the largest logit; float32 itself rounds to 0.06 of these. Beside it stands the largest bound on the
rounding term that `edgeprune.bounds.rounding` gives for the target's precision at these images. The script
fails where an image's difference exceeds its bound. A target that is not here is left out, with its reason on
standard error.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.harness import Row, by_figure, environment_rows, finish, options
from edgeprune import compress
from edgeprune import load as loaded
from edgeprune.demo.lenet import build as lenet
from edgeprune.domains.sets import Box
from edgeprune.errors import TargetUnavailable
from edgeprune.plan import Cuts
from edgeprune.profiles import find_calibration, find_target
from edgeprune.runtimes import RUNTIMES
from edgeprune.runtimes.jobs import read_outputs, write_job
from edgeprune.runtimes.reference import Array
from edgeprune.stages.couple import couple
from edgeprune.stages.roundoff import roundoff
from edgeprune.stages.shrink import restore
from edgeprune.stages.trace import trace

TARGETS = ("cpu-1t", "cpu", "webgpu-software", "browser-wasm", "arm64-emulated", "openvino")
IMAGES = {"LeNet-300-100": 16, "ResNet-20": 2}
UNKNOWN = ("any", "unknown")
"""Provider and version of a runtime whose kernels nobody measured: the bounds are those for such."""
BUDGET_S = 5.0
"""Seconds for the bound at one image."""
LAYOUT = by_figure


@dataclass(frozen=True, slots=True)
class Subject:
    """A pruned net on images.

    Attributes:
        model: its ONNX file.
        truth: what the pruned torch net makes of the images in float64.
        bounds: by precision, the bound on the rounding at each image.
    """

    model: Path
    images: Array
    truth: Array
    bounds: dict[str, Array]


def pruned(build: Callable[[], nn.Module], images: Array, precisions: set[str], folder: Path) -> Subject:
    """Prune, export, and bound what a runtime's rounding can add at each image."""
    compress(
        build(), torch.from_numpy(images[:1]), output=folder, keep=0.5, method="magnitude",
        target=("cpu-1t",), latency=False, certify=False,
    )  # fmt: skip
    net = loaded(build, folder).double().eval()
    with torch.no_grad():
        truth = net(torch.from_numpy(images).double()).numpy()
    original = build().eval()
    coupling = couple(trace(original, (torch.from_numpy(images[:1]),)))
    weights = load_file(folder / "pruned.safetensors")
    shrunk = restore(original, coupling, Cuts.load(folder / "plan.json"), weights)
    bounds: dict[str, list[float]] = {name: [] for name in precisions}
    anywhere = {name: [UNKNOWN] for name in precisions}
    for image in images:
        here = [Box.around(torch.from_numpy(image).double(), 0.0)]
        for name, found in roundoff(coupling, shrunk, here, (image[None],), anywhere, BUDGET_S).items():
            if found.bound is None:
                raise SystemExit(f"there is no bound on the rounding of {name}: {found.reason}")
            bounds[name].append(found.bound)
    return Subject(folder / "pruned.onnx", images, truth, {k: np.array(v) for k, v in bounds.items()})


def drift(name: str, subject: Subject, work: Path) -> tuple[float, float, int]:
    """Largest difference and largest bound in millionths of the largest output, and nodes (0: it tells none).

    Raises:
        TargetUnavailable: the target is not here.
        SystemExit: a difference exceeds its bound.
    """
    target = find_target(name)
    job = write_job(work / name, target, "outputs", {"model": subject.model}, (subject.images,))
    folder = RUNTIMES[target.transport].run(job.folder, target, target.measure.limit_s)
    answer = read_outputs(job, folder, target)
    difference = np.abs(answer.outputs[0].astype(np.float64) - subject.truth).max(axis=1)
    bound = subject.bounds[target.precision]
    if (difference > bound).any():
        k = int(np.argmax(difference / bound))
        raise SystemExit(f"{name}: image {k} is off by {difference[k]:.3g}, the bound is {bound[k]:.3g}.")
    scale = 1e6 / float(np.abs(subject.truth).max())
    return float(difference.max()) * scale, float(bound.max()) * scale, sum(answer.ran.placement.values())


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--target", action="append", metavar="NAME", help="instead of all that are here")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    images = find_calibration("mnist").load().holdout[0].astype(np.float32)
    names = chosen.target or TARGETS
    subjects: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {"LeNet-300-100": (lenet, (784,))}
    if not chosen.quick:
        from benchmarks.resnet20 import build as resnet20

        subjects["ResNet-20"] = (resnet20, (1, 28, 28))
    rows = environment_rows()
    for subject, (build, shape) in subjects.items():
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
            samples = images[: IMAGES[subject]].reshape(-1, *shape)
            precisions = {find_target(name).precision for name in names}
            net = pruned(build, samples, {str(p) for p in precisions}, Path(work) / "run")
            for name in names:
                try:
                    found, bound, nodes = drift(name, net, Path(work))
                except TargetUnavailable as error:
                    print(f"left out: {error}", file=sys.stderr)
                    continue
                rows += [
                    Row(name, "", "", f"{subject} nodes", nodes, "", 0),
                    Row(name, "", "", subject, found, "1e-6", 0),
                    Row(name, "", "", f"{subject} bound", bound, "1e-6", 0),
                ]
    finish(rows, LAYOUT, chosen.json)


if __name__ == "__main__":
    main()
