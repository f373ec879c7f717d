"""Which samples were used for what: recorded, and never the same one to choose by and to certify with.

A statistical certificate holds for samples that nothing was chosen by. So every set is recorded with digests
of its indices and of its content, the digests of single samples are kept with the run, and a sample that
comes back among those that certify is refused, whatever its index or file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeprune.errors import CalibrationError
from edgeprune.files import write_bytes
from edgeprune.inputs.samples import Array, digests
from edgeprune.records.run import Split

KEPT = Path("logs") / "splits.npz"
"""Digests of every sample that the run was made with, 16 bytes each, by use."""


def split_of(use: str, source: str, index: npt.NDArray[np.int64], inputs: Sequence[Array]) -> Split:
    """The record of one set.

    Args:
        use: `fit`, `select` or `certify`.
        source: where the samples come from, in words.
        index: (n,) places of the samples in their source.
        inputs: the samples themselves.
    """
    content = hashlib.sha256(b"".join(digests(tuple(inputs)))).hexdigest()
    places = hashlib.sha256(np.ascontiguousarray(index, dtype="<i8").tobytes()).hexdigest()
    return Split(use, source, len(index), places, content)


def halves(count: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Two disjoint halves of `count` places, each ascending: to choose by, and to certify with."""
    order = np.random.default_rng([seed, 7]).permutation(count)
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def refuse_overlap(used: Mapping[str, Sequence[Array]], certifying: Sequence[Array]) -> None:
    """Refuse samples to certify with that were used before, by content.

    Raises:
        CalibrationError: says which one, and what it was used for.
    """
    _refuse({use: set(digests(tuple(inputs))) for use, inputs in used.items()}, certifying)


def _refuse(used: Mapping[str, set[bytes]], certifying: Sequence[Array]) -> None:
    mine = digests(tuple(certifying))
    for use, seen in used.items():
        shared = [i for i, digest in enumerate(mine) if digest in seen]
        if shared:
            raise CalibrationError(
                f"{len(shared)} of {len(mine)} samples to certify with were also used to {use} (the first is "
                f"number {shared[0]}); a certificate needs samples that decided nothing: remove them, "
                "or give other held-out samples."
            )


def keep(folder: Path, used: Mapping[str, Sequence[Array]]) -> None:
    """Keep the digests of what a run was made with, for `refuse_used`."""
    arrays: dict[str, Any] = {
        use: np.frombuffer(b"".join(digests(tuple(inputs))), np.uint8).reshape(-1, 16)
        for use, inputs in used.items()
    }
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    (folder / KEPT).parent.mkdir(exist_ok=True)
    write_bytes(folder / KEPT, stream.getvalue())


def refuse_used(folder: Path, certifying: Sequence[Array]) -> None:
    """Refuse samples to certify with that the run in this folder was made with.

    Raises:
        CalibrationError: a sample was used, or the kept digests are damaged.
    """
    path = folder / KEPT
    if not path.is_file():
        return
    try:
        with np.load(path, allow_pickle=False) as kept:
            used = {use: {row.tobytes() for row in kept[use]} for use in kept.files}
    except (OSError, ValueError, EOFError) as error:
        raise CalibrationError(f"{path}: is damaged ({error}); make the run again.") from error
    _refuse(used, certifying)


def refuse_others(before: Sequence[Split], now: Sequence[Split]) -> None:
    """Refuse to certify with samples that are not those whose outputs the targets gave.

    Raises:
        CalibrationError: the contents differ.
    """
    made, mine = ({s.use: s.content_sha256 for s in found}.get("certify") for found in (before, now))
    if made is not None and made != mine:
        raise CalibrationError(
            "the held-out samples are not those that the targets of this run were measured with (the "
            "calibration set or the seed has changed); make the run again."
        )


__all__ = ["halves", "keep", "refuse_others", "refuse_overlap", "refuse_used", "split_of"]
