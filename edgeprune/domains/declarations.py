"""Declared domains → sets of tensors that fit a model's inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgeprune.domains.regions import Ellipsoid, Frames, Meet, Points
from edgeprune.domains.sets import Box, Domain, L2Ball, Shape
from edgeprune.domains.spec import DomainSpec, Number, listed
from edgeprune.errors import CalibrationError, UsageError
from edgeprune.functions.intervals import down, up
from edgeprune.inputs.samples import Array

POINTS, DIRECTIONS = 16, 32
"""Held-out samples of a finite set, and directions of an ellipsoid, where no number is given."""


def declared(
    specs: Sequence[DomainSpec],
    shapes: Sequence[Shape],
    fit: Sequence[Tensor] | None,
    holdout: Sequence[Array] | None,
) -> tuple[Domain, ...]:
    """One set for each input.

    Args:
        specs: one for all inputs, or one each.
        shapes: of one sample each, without the batch.
        fit: calibration samples of each input, None without a calibration set.
        holdout: held-out samples of each input, None without a calibration set.

    Raises:
        UsageError: the numbers of domains and inputs differ, or a number does not fit an input's shape.
        CalibrationError: the domain is made from samples, and there are none.
    """
    if len(specs) not in (1, len(shapes)):
        raise UsageError(
            f"--domain: {len(specs)} domains for {len(shapes)} inputs; give one, or one for each."
        )
    many = list(specs) * len(shapes) if len(specs) == 1 else list(specs)
    return tuple(
        _made(spec, shape, None if fit is None else fit[k], None if holdout is None else holdout[k])
        for k, (spec, shape) in enumerate(zip(many, shapes, strict=True))
    )


def _made(spec: DomainSpec, shape: Shape, fit: Tensor | None, holdout: Array | None) -> Domain:
    match spec.kind:
        case "box":
            return _box(spec, shape)
        case "frames":
            if not shape or shape[-1] < 2:
                raise UsageError(
                    f"domain: frames need a last axis of at least 2, the input has shape {shape}."
                )
            return Frames(spec.radius or math.sqrt(shape[-1]))
        case "ellipsoid":
            samples = _needed(fit, "ellipsoid", "fitting")
            return Ellipsoid.of_data(
                samples, spec.reach or 0.0, min(spec.directions or DIRECTIONS, len(samples) - 1)
            )
        case "points":
            held = _needed(holdout, "points", "held-out")
            some = held[: spec.count or POINTS]
            return Points(some, f"each of the first {len(some)} held-out samples and nothing else")
        case "linf" | "l2":
            return _ball(spec, shape, fit, holdout)


def _ball(spec: DomainSpec, shape: Shape, fit: Tensor | None, holdout: Array | None) -> Domain:
    center, where = _center(spec.centre, shape, fit, holdout)
    radius = spec.radius or 0.0
    cut = None if spec.within is None else _made(spec.within, shape, fit, holdout)
    if spec.kind == "l2":
        words = "" if spec.centre == "zero" else f"every input within ℓ2 distance {radius:g} of {where}"
        ball = L2Ball(center, radius, words)
        if cut is None:
            return ball
        assert isinstance(cut, Box)
        meet = Meet(cut, ball)
        if not bool(meet.contains(meet.project(center.expand(1, *shape))).all()):
            raise UsageError("domain: the box and the ball have no point in common; widen one of them.")
        return meet
    words = f"each coordinate within ±{radius:g} of {where}"
    if cut is None:
        return Box(down(center - radius), up(center + radius), words)
    assert isinstance(cut, Box)
    low, high = cut.bounds(shape).low, cut.bounds(shape).high
    around = Box.around(center, radius, low, high)
    return Box(around.low, around.high, f"{words}, and {cut.describe()}")


def _box(spec: DomainSpec, shape: Shape) -> Box:
    assert spec.low is not None
    assert spec.high is not None
    low, high = _channels(spec.low, shape), _channels(spec.high, shape)
    if spec.mean is None or spec.std is None:
        # what is declared in decimals reaches the model in float32
        return Box(torch.minimum(low, low.float().double()), torch.maximum(high, high.float().double()))
    mean, std = _channels(spec.mean, shape), _channels(spec.std, shape)
    words = f"raw values between {_said(spec.low)} and {_said(spec.high)}, normalised per channel"
    # the model receives values that were normalised in float32: two roundings, and those of the constants
    slack = 4 * 2.0**-24 * (torch.maximum(low.abs(), high.abs()) + mean.abs()) / std
    return Box(down((low - mean) / std - slack), up((high - mean) / std + slack), words)


def _said(value: Number) -> str:
    return "/".join(f"{number:g}" for number in listed(value))


def _channels(value: Number, shape: Shape) -> Tensor:
    """One number, or one for each channel: the first axis of an input."""
    numbers = torch.tensor(listed(value), dtype=torch.float64)
    if len(numbers) == 1:
        return numbers.reshape(())
    if not shape or shape[0] != len(numbers):
        raise UsageError(
            f"domain: {len(numbers)} channels are given, the input has shape {shape}; give one number, or "
            f"{shape[0] if shape else 1} of them."
        )
    return numbers.reshape(-1, *[1] * (len(shape) - 1))


def _center(name: str, shape: Shape, fit: Tensor | None, holdout: Array | None) -> tuple[Tensor, str]:
    if name == "zero":
        return torch.zeros(shape, dtype=torch.float64), "zero"
    if name == "mean":
        return _needed(fit, "mean", "fitting").mean(0), "the mean of the fitting samples"
    if name.startswith("sample") and not name.endswith(".npy"):
        held, index = _needed(holdout, name, "held-out"), int(name.removeprefix("sample"))
        if index >= len(held):
            raise UsageError(f"domain: @{name}: there are {len(held)} held-out samples, counted from 0.")
        return held[index], f"held-out sample {index}"
    try:
        value = np.load(Path(name), allow_pickle=False)
        return torch.from_numpy(np.asarray(value, dtype=np.float64)).reshape(shape), f"the input in {name}"
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"domain: @{name}: holds no input of shape {shape} ({error}).") from error


def _needed(samples: Tensor | Array | None, what: str, half: str) -> Tensor:
    if samples is None:
        raise CalibrationError(
            f"domain: '{what}' is made from {half} samples, and there are none; give --calibration."
        )
    found = samples if isinstance(samples, Tensor) else torch.from_numpy(samples)
    if not found.is_floating_point():
        raise UsageError(f"domain: '{what}': the input holds whole numbers; a domain is of real ones.")
    return found.double()


__all__ = ["declared"]
