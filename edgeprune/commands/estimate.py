"""The metric of the whole set from a few weighted samples, with the error that the set states for it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from edgeprune.errors import CalibrationError
from edgeprune.inputs.models import load_model
from edgeprune.inputs.query_nets import measured, metric_of, outputs_of
from edgeprune.profiles import Stated, find_calibration
from edgeprune.stages.parity import file_outputs


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric's mean over the whole set, estimated.

    Attributes:
        value: the weighted mean.
        low: least mean over the whole set that is in keeping with it; None where no error is stated.
        high: the largest.
        confidence: of the two, for one more net drawn like those that the set was learned on.
        samples: that were looked at.
        size: of the whole set, as far as it is known.
        reason: why no error is stated, '' where one is.
        queries: what the set was learned on, in words.
    """

    metric: str
    value: float
    low: float | None
    high: float | None
    confidence: float | None
    samples: int
    size: int
    reason: str
    queries: str


def estimate(
    model: str, calibration: str, metric: str, *, weights: str | None = None, trust_pickle: bool = False
) -> Estimate:
    """Run a net on a weighted set and take the weighted mean of a metric.

    The relative error of the set on one more query exceeds its stated quantile q with probability
    1 − confidence at most: |1 − C/A| ≤ q, so the whole mean A lies in C/(1 + q) … C/(1 − q).

    Args:
        model: what `run` takes, or an ONNX file.
        calibration: a set that `edgeprune calibrate` made.

    Raises:
        CalibrationError: the set has no weights, or the metric needs labels that it has not.
        EdgepruneError: the model or the metric cannot be loaded.
    """
    chosen = find_calibration(calibration)
    data = chosen.load()
    if data.fit_weights is None:
        raise CalibrationError(
            f"--calibration {calibration}: its samples have no weights, so they stand for themselves only; "
            "make a weighted set with `edgeprune calibrate`."
        )
    function = metric_of(metric, data.fit_labels is not None)
    if model.endswith(".onnx"):
        with tempfile.TemporaryDirectory(prefix="edgeprune-") as work:
            outputs = file_outputs(Path(model), data.fit, Path(work) / "estimate")
    else:
        net = load_model(model, weights, trust_pickle=trust_pickle).module
        outputs = outputs_of(net, tuple(torch.from_numpy(x) for x in data.fit))
    each = measured(function, outputs, data.fit_labels)
    stated = chosen.learned
    size = stated.size if stated is not None else round(float(data.fit_weights.sum()))
    value = float(each @ data.fit_weights) / size
    reason = _unstated(stated, metric)
    low = high = None
    if stated is not None and stated.quantile is not None and not reason:
        low = value / (1 + stated.quantile)
        high = value / (1 - stated.quantile)
    return Estimate(
        metric,
        value,
        low,
        high,
        stated.confidence if stated is not None and not reason else None,
        len(each),
        size,
        reason,
        stated.queries if stated is not None else "",
    )


def _unstated(stated: Stated | None, metric: str) -> str:
    """Why no error can be stated, '' if it can."""
    if stated is None:
        return "the set does not say what it was learned for"
    if stated.loss != metric:
        return (
            f"the set was learned for {stated.loss}, not for {metric}; learn one with --model MODEL "
            f"--metric {metric}"
        )
    if stated.quantile is None:
        return f"{stated.fresh} fresh queries are too few for a confidence of {stated.confidence:g}"
    if stated.quantile >= 1:
        return f"the relative error can reach {stated.quantile:.2g}; learn a larger set"
    return ""
