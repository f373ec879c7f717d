"""Inputs of a job, read piece by piece so that they do not count as the model's memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeprune.runtimes.agent.sessions import JobError

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


def batches(path: Path, size: int) -> Iterator[tuple[list[np.ndarray], int]]:
    """Batches of all inputs.

    Yields the arrays and how many of their samples are real: the last batch is filled up by
    repeating its last sample.
    """
    with zipfile.ZipFile(path) as archive:
        streams = [archive.open(f"input_{i}.npy") for i in range(len(archive.namelist()))]
        headers = []
        for stream in streams:
            np.lib.format.read_magic(stream)
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            headers.append((shape, dtype))
        for start in range(0, headers[0][0][0], size):
            real = min(size, headers[0][0][0] - start)
            batch: list[np.ndarray] = []
            for stream, (shape, dtype) in zip(streams, headers, strict=True):
                block = stream.read(real * int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize)
                array: np.ndarray[Any, Any] = np.frombuffer(block, dtype).reshape(real, *shape[1:])
                batch.append(
                    array if real == size else np.concatenate([array, array[-1:].repeat(size - real, 0)])
                )
            yield batch, real


def feed(session: Any, batch: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The batch under the model's input names and dtypes.

    Raises:
        JobError: the model takes other inputs than were given.
    """
    inputs = session.get_inputs()
    if len(inputs) != len(batch):
        names = ", ".join(i.name for i in inputs)
        raise JobError(f"the model takes {len(inputs)} inputs ({names}), {len(batch)} were given")
    result = {}
    for described, given in zip(inputs, batch, strict=True):
        kind = _DTYPES.get(described.type)
        if kind is None:
            raise JobError(f"input '{described.name}' is {described.type}, which is not supported")
        array: np.ndarray[Any, Any] = given.astype(kind)
        if np.issubdtype(kind, np.integer) and not np.array_equal(array, given):
            raise JobError(f"input '{described.name}' is {described.type}, the values given are no integers")
        result[described.name] = array
    return result


def fixed_batch(session: Any, asked: int) -> int:
    """The model's own batch where it is a number, else the asked one."""
    shape = session.get_inputs()[0].shape
    return shape[0] if shape and isinstance(shape[0], int) else asked
