"""Write the bundled calibration set: calibration/mnist.npz and calibration/mnist.toml.

    python -m benchmarks.make_calibration

2 048 training images to fit with and 2 048 test images to measure on, chosen at random with seed 0.
The archive is written with fixed timestamps, so the same script writes the same bytes again (with the
same zlib; another may pack the same arrays differently).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from benchmarks import mnist
from edgeprune.files import write_bytes, write_text

FOLDER = Path(__file__).resolve().parent.parent / "calibration"
SIZE = 2048
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip archive can tell
TOML = """\
name = "mnist"
description = "Handwritten digits: {size} training images to fit with, {size} test images to measure on"
source = "MNIST, LeCun, Cortes and Burges"
licence = "CC BY-SA 3.0"

[data]
file = "mnist.npz"
sha256 = "{sha256}"
inputs = ["x"]
shape = [784]
dtype = "float32"
scale = 0.00392156862745098  # 1/255: bytes become pixels in [0, 1]
offset = 0.0

[domain]
kind = "box"
low = 0.0
high = 1.0
"""


def choose(
    split: Literal["train", "test"], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """`SIZE` images and labels of one split, in a random order."""
    images, labels = mnist.load(split)
    chosen = rng.choice(len(images), SIZE, replace=False)
    return images[chosen], labels[chosen]


def archive(arrays: dict[str, npt.NDArray[np.uint8]]) -> bytes:
    """The arrays as a compressed .npz whose bytes depend on nothing but them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            target.writestr(entry, content.getvalue(), compresslevel=9)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    fit, fit_labels = choose("train", rng)
    holdout, holdout_labels = choose("test", rng)
    content = archive(
        {"fit": fit, "fit_labels": fit_labels, "holdout": holdout, "holdout_labels": holdout_labels}
    )
    digest = hashlib.sha256(content).hexdigest()
    write_bytes(options.out / "mnist.npz", content)
    write_text(options.out / "mnist.toml", TOML.format(size=SIZE, sha256=digest))
    print(f"{options.out / 'mnist.npz'}: {len(content):,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
