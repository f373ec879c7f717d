"""An input on which a promise was seen broken: kept beside the run, and the run is aborted."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from edgeprune.errors import BoundViolated
from edgeprune.files import write_bytes
from edgeprune.inputs.samples import Array

FILE = "counterexample.npz"


def abort(
    folder: Path, inputs: Sequence[Array], promise: str, bound: float, found: float, why: str
) -> NoReturn:
    """Keep the input and raise.

    Args:
        inputs: one array per model input, without a batch axis.
        promise: which one was broken.
        why: what it can mean and what to do.

    Raises:
        BoundViolated: always.
    """
    stream = io.BytesIO()
    np.savez(stream, **{f"input{k}": x for k, x in enumerate(inputs)})  # type: ignore[arg-type]
    path = folder / FILE
    write_bytes(path, stream.getvalue())
    raise BoundViolated(
        f"{promise} promises at most {bound:.6g}, and an error of {found:.6g} was measured; the input is "
        f"kept in {path}. {why}"
    )


__all__ = ["abort"]
