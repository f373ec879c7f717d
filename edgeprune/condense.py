"""`calibrate`, put together: read a set, learn a small one, judge it, write it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeprune.errors import UsageError
from edgeprune.files import sha256_of, write_bytes, write_text
from edgeprune.profiles import Calibration, find_calibration
from edgeprune.progress import Progress, silent
from edgeprune.stages.calibrate import (
    Judged,
    Loss,
    WeightedSet,
    directions,
    judge,
    learn_set,
    losses,
    second_moment,
)

Queries = Callable[[int, Tensor, int], Tensor]


def condense(
    data: str,
    output: Path,
    *,
    loss: Loss | None = None,
    queries: Queries | None = None,
    size: int = 100,
    count: int = 600,
    move: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Progress = silent,
) -> str:
    """Learn a weighted set from the fitting half of a calibration set, and write it as one.

    Args:
        data: name or path of the big set.
        output: the `.toml` to write; the samples go beside it.
        queries: (count, one sample, seed) → that many queries.
        count: queries to learn on; half as many others judge.

    Returns:
        What was made and how good it is, in words.

    Raises:
        UsageError: the set has several inputs or whole numbers, or the loss does not fit.
    """
    if output.suffix != ".toml":
        raise UsageError(f"-o {output}: must end in .toml.")
    big = find_calibration(data)
    halves = big.load()
    if len(halves.fit) != 1 or halves.fit[0].dtype.kind != "f":
        raise UsageError(
            f"{data}: has several inputs or whole numbers; only one floating input can be weighed."
        )
    samples = torch.from_numpy(halves.fit[0])
    labels = None if halves.fit_labels is None else torch.from_numpy(halves.fit_labels)
    chosen, make = loss or second_moment, queries or directions
    train, fresh = make(count, samples[0], seed), make(max(count // 2, 2), samples[0], seed + 100_003)
    found = learn_set(samples, labels, chosen, train, size, seed=seed, moving=move, progress=progress)
    kept = losses(chosen, fresh, found.samples, found.labels)
    judged = judge(found, losses(chosen, fresh, samples, labels), kept, 1 - confidence)
    name = getattr(chosen, "__name__", "loss")
    words = _words(found, judged, name, confidence)
    _write(output, big, found, halves.holdout[0], halves.holdout_labels, words)
    return f"{output}: {words}"


def _words(found: WeightedSet, judged: Judged, name: str, confidence: float) -> str:
    bound = min(x for x in (judged.hoeffding, judged.bernstein.bound, judged.betting.bound) if x is not None)
    return (
        f"{len(found.weights)} weighted samples stand for {found.size}; mean relative error of {name} "
        f"{judged.mean:.2g} on {len(judged.errors)} fresh queries, at most {bound:.2g} on average over all "
        f"queries ({100 * confidence:g} % confidence; errors above 1 count as 1)"
    )


def _write(
    output: Path,
    big: Calibration,
    found: WeightedSet,
    holdout: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    holdout_labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None,
    words: str,
) -> None:
    arrays = {"fit": found.samples.numpy(), "fit_weights": found.weights, "holdout": holdout}
    if found.labels is not None:
        arrays["fit_labels"] = found.labels.numpy()
    if holdout_labels is not None:
        arrays["holdout_labels"] = holdout_labels
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type,unused-ignore]
    samples = output.with_suffix(".npz")
    write_bytes(samples, stream.getvalue())
    text = [
        f"name = {json.dumps(output.stem)}",
        f"description = {json.dumps(words, ensure_ascii=False)}",
        f"source = {json.dumps('learned from ' + big.name + (': ' + big.source if big.source else ''))}",
        f"licence = {json.dumps(big.licence, ensure_ascii=False)}",
        "",
        "[data]",
        f"file = {json.dumps(samples.name)}",
        f'sha256 = "{sha256_of(samples)}"',
    ]
    if big.domain is not None and found.index is not None:
        text += ["", *big.domain.toml()]
    write_text(output, "\n".join(text) + "\n")
