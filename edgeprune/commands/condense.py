"""`calibrate`, put together: read a set, learn a small one, judge it, write it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeprune.errors import UsageError
from edgeprune.files import sha256_of, write_bytes, write_text
from edgeprune.inputs.query_nets import KIND, NetQueries, metric_of
from edgeprune.inputs.samples import CalibrationData
from edgeprune.profiles import Calibration, Stated, find_calibration
from edgeprune.progress import Progress, silent
from edgeprune.stages.calibrate import (
    Judged,
    Loss,
    Samples,
    WeightedSet,
    directions,
    judge,
    learn_set,
    losses,
    second_moment,
)

Queries = Callable[[int, Any, int], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Wish:
    """What a set is learned for.

    Attributes:
        name: of the loss.
        loss: of a query on each sample.
        queries: (count, one sample, seed) → that many queries.
        words: what the queries are.
    """

    name: str
    loss: Loss
    queries: Queries
    words: str

    @staticmethod
    def of(loss: Loss | None, queries: Queries | None) -> Wish:
        """A loss and queries of the user's own; second moments in random directions where there are none."""
        chosen = loss or second_moment
        words = f"queries of {getattr(queries, '__name__', 'your own')}" if queries else "random directions"
        return Wish(getattr(chosen, "__name__", "loss"), chosen, queries or directions, words)

    @staticmethod
    def of_nets(model: nn.Module, metric: str, labelled: bool) -> Wish:
        """A metric of nets like the model."""
        asked = NetQueries(model, metric_of(metric, labelled))
        return Wish(metric, asked.loss, asked.queries, KIND)


def condense(
    data: str,
    output: Path,
    *,
    loss: Loss | None = None,
    queries: Queries | None = None,
    model: nn.Module | None = None,
    metric: str = "cross-entropy",
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
        loss: of a query on each sample; gets a tuple of tensors where the set has several inputs.
        queries: (count, one sample, seed) → that many queries.
        model: learn for nets like this one, by `metric`, in place of a loss.
        metric: `cross-entropy`, `error`, or `module:function` of (outputs, labels).
        count: queries to learn on; half as many others judge.

    Returns:
        What was made and how good it is, in words.

    Raises:
        UsageError: the set holds whole numbers and no loss was given, or the loss does not fit.
    """
    if output.suffix != ".toml":
        raise UsageError(f"-o {output}: must end in .toml.")
    if model is not None and (loss is not None or queries is not None):
        raise UsageError("--model learns for nets like it; leave --loss and --queries out.")
    big = find_calibration(data)
    halves = big.load()
    samples: Samples = tuple(torch.from_numpy(x) for x in halves.fit)
    samples = samples[0] if len(samples) == 1 else samples
    if halves.fit[0].dtype.kind != "f" and loss is None and model is None:
        raise UsageError(
            f"{data}: holds whole numbers, which have no useful second moments; say what is to be kept, with "
            "--model MODEL --metric, or with --loss and --queries."
        )
    labels = None if halves.fit_labels is None else torch.from_numpy(halves.fit_labels)
    wish = Wish.of(loss, queries) if model is None else Wish.of_nets(model, metric, labels is not None)
    one = samples[0] if isinstance(samples, Tensor) else tuple(x[0] for x in samples)
    train = wish.queries(count, one, seed)
    fresh = wish.queries(max(count // 2, 2), one, seed + 100_003)
    found = learn_set(samples, labels, wish.loss, train, size, seed=seed, moving=move, progress=progress)
    kept = losses(wish.loss, fresh, found.samples, found.labels)
    judged = judge(found, losses(wish.loss, fresh, samples, labels), kept, 1 - confidence)
    stated = _stated(found, judged, wish, confidence)
    words = _words(found, stated)
    _write(output, big, found, halves, stated, words)
    return f"{output}: {words}"


def _stated(found: WeightedSet, judged: Judged, wish: Wish, confidence: float) -> Stated:
    bound = min(x for x in (judged.hoeffding, judged.bernstein.bound, judged.betting.bound) if x is not None)
    return Stated(
        wish.name,
        wish.words,
        found.size,
        len(judged.errors),
        confidence,
        judged.mean,
        bound,
        judged.quantile,
    )


def _words(found: WeightedSet, stated: Stated) -> str:
    one = (
        ""
        if stated.quantile is None
        else f"; one more query exceeds {stated.quantile:.2g} in at most "
        f"{100 * (1 - stated.confidence):.2g} % of cases"
    )
    return (
        f"{len(found.weights)} weighted samples stand for {found.size}; mean relative error of {stated.loss} "
        f"{stated.mean:.2g} on {stated.fresh} fresh queries, at most {stated.bound:.2g} on average over all "
        f"queries ({100 * stated.confidence:g} % confidence; errors above 1 count as 1){one}"
    )


def _named(half: str, arrays: tuple[Any, ...], inputs: tuple[str, ...]) -> dict[str, Any]:
    names = [half] if len(arrays) == 1 else [f"{half}.{name}" for name in inputs]
    return dict(zip(names, arrays, strict=True))


def _write(
    output: Path,
    big: Calibration,
    found: WeightedSet,
    halves: CalibrationData,
    stated: Stated,
    words: str,
) -> None:
    kept = (found.samples,) if isinstance(found.samples, Tensor) else found.samples
    inputs = big.data.inputs
    arrays = {
        **_named("fit", tuple(x.numpy() for x in kept), inputs),
        "fit_weights": found.weights,
        **_named("holdout", halves.holdout, inputs),
    }
    if found.labels is not None:
        arrays["fit_labels"] = found.labels.numpy()
    if halves.holdout_labels is not None:
        arrays["holdout_labels"] = halves.holdout_labels
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
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
        *([f"inputs = {json.dumps(list(inputs))}"] if inputs else []),
        *(['dtype = "int64"'] if big.data.dtype == "int64" else []),
        "",
        "[learned]",
        f"loss = {json.dumps(stated.loss)}",
        f"queries = {json.dumps(stated.queries, ensure_ascii=False)}",
        f"size = {stated.size}",
        f"fresh = {stated.fresh}",
        f"confidence = {stated.confidence!r}",
        f"mean = {stated.mean!r}",
        f"bound = {float(stated.bound)!r}",
        *([] if stated.quantile is None else [f"quantile = {stated.quantile!r}"]),
    ]
    if big.domain is not None and found.index is not None:
        text += ["", *big.domain.toml()]
    write_text(output, "\n".join(text) + "\n")
