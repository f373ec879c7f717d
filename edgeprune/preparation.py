"""Everything a run needs, found and checked before anything is done."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.config import Resolved, Settings
from edgeprune.domains import Box
from edgeprune.errors import CalibrationError, ModelError, UsageError
from edgeprune.folder import key_of
from edgeprune.graph import flatten_outputs
from edgeprune.models import Loaded, parse_inputs
from edgeprune.profiles import Calibration, Target, find_calibration, find_target
from edgeprune.records import Environment, ModelRecord, Run, TensorRecord, to_json
from edgeprune.samples import Array, CalibrationData

NOISE = 256
"""Samples of noise that stand in for a calibration set when none is given."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a run works on, resolved and checked before the first stage.

    Attributes:
        inputs: example inputs, one tensor each, as the model takes them.
        fit: calibration inputs to choose with, None without a calibration set.
        holdout: inputs to measure on, one array each, samples first.
        labels: classes of the held-out samples, where known.
        domain: of every input value, None if nothing is known.
        fit_labels: classes of the calibration inputs, where known.
        distribution: what the held-out samples are, in words.
    """

    loaded: Loaded
    settings: Settings
    inputs: tuple[Tensor, ...]
    fit: tuple[Tensor, ...] | None
    holdout: tuple[Array, ...]
    labels: Array | None
    domain: Box | None
    distribution: str
    calibration_sha256: str
    targets: tuple[Target, ...]
    fit_labels: Array | None = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Of every input value, None if nothing is known."""
        return None if self.domain is None else (float(self.domain.low), float(self.domain.high))

    @property
    def batch(self) -> int:
        """Samples that the example inputs hold, which a file of fixed sizes takes at once."""
        return len(self.inputs[0]) if self.inputs[0].dim() else 1


def prepare(loaded: Loaded, settings: Settings) -> Line:
    """Find and check everything that a run needs, before anything is done.

    Raises:
        UsageError: a target, a calibration set or the inputs are missing or do not fit.
    """
    targets = tuple(find_target(name) for name in settings.target)
    doubled = [t.name for t in targets if [u.name for u in targets].count(t.name) > 1]
    if doubled:
        raise UsageError(f"--target {doubled[0]}: is given twice; name each target once.")
    calibration = find_calibration(settings.calibration) if settings.calibration else None
    data = calibration.load().repeated(settings.samples) if calibration is not None else None
    inputs = _example_inputs(loaded, settings, data)
    if data is not None:
        _check_fit(data, inputs, str(settings.calibration))
    holdout, distribution = _holdout(settings, data, calibration, inputs)
    given = None if settings.domain is None else (settings.domain[0], settings.domain[1])
    pair = given or (
        (calibration.domain.low, calibration.domain.high) if calibration and calibration.domain else None
    )
    return Line(
        loaded=loaded,
        settings=settings,
        inputs=inputs,
        fit=None if data is None else tuple(torch.from_numpy(x[: settings.samples]) for x in data.fit),
        holdout=holdout,
        labels=None if data is None else data.holdout_labels,
        domain=None if pair is None else Box(*pair),
        distribution=distribution,
        calibration_sha256=calibration.data.sha256 if calibration is not None else "",
        targets=targets,
        fit_labels=None if data is None else data.fit_labels,
    )


def _example_inputs(loaded: Loaded, settings: Settings, data: CalibrationData | None) -> tuple[Tensor, ...]:
    if settings.input:
        return parse_inputs(settings.input, settings.seed)
    if loaded.inputs is not None:
        return loaded.inputs
    if data is not None:
        return tuple(torch.from_numpy(x[:1]) for x in data.fit)
    raise ModelError(
        "nothing tells what the model takes; give --input (such as 1x3x224x224), --calibration, or write "
        "a function example_inputs() beside the factory."
    )


def _check_fit(data: CalibrationData, inputs: tuple[Tensor, ...], name: str) -> None:
    if len(data.fit) != len(inputs):
        raise CalibrationError(
            f"--calibration {name}: has {len(data.fit)} inputs, the model takes {len(inputs)}; store one "
            "array an input, named in [data] inputs."
        )
    for k, (samples, example) in enumerate(zip(data.fit, inputs, strict=True)):
        if samples.shape[1:] != tuple(example.shape[1:]):
            raise CalibrationError(
                f"--calibration {name}: samples of input {k} have shape {list(samples.shape[1:])}, the model "
                f"takes {list(example.shape[1:])} behind the batch; reshape the set ([data] shape) or "
                "correct --input."
            )


def _holdout(
    settings: Settings,
    data: CalibrationData | None,
    calibration: Calibration | None,
    inputs: tuple[Tensor, ...],
) -> tuple[tuple[Array, ...], str]:
    """What to measure on: the held-out half, or seeded noise."""
    if data is not None:
        assert calibration is not None
        return data.holdout, f"the held-out samples of {calibration.name}"
    generator = torch.Generator().manual_seed(settings.seed + 1)
    noise = []
    for x in inputs:
        shape = (NOISE, *x.shape[1:])
        if not x.is_floating_point():
            low, high = int(x.min()), int(x.max()) + 1
            noise.append(torch.randint(low, high, shape, generator=generator).to(x.dtype))
        elif settings.domain is not None:
            low_f, high_f = settings.domain
            noise.append((torch.rand(shape, generator=generator) * (high_f - low_f) + low_f).to(x.dtype))
        else:
            noise.append(torch.randn(shape, generator=generator).to(x.dtype))
    words = "uniform noise over the domain" if settings.domain else "standard normal noise"
    return tuple(x.numpy() for x in noise), words


def empty_run(line: Line, resolved: Resolved, about: Environment) -> Run:
    """The record that a run begins with."""
    outputs = _outputs(line)
    model = ModelRecord(
        name=line.loaded.name,
        factory=line.loaded.factory,
        weights_sha256=line.loaded.weights_sha256,
        inputs=tuple(_tensor(f"input{k}", x) for k, x in enumerate(line.inputs)),
        outputs=tuple(_tensor(f"output{k}", y) for k, y in enumerate(outputs)),
        notes=line.loaded.notes,
    )
    return Run(model=model, environment=about, settings=resolved.records())


def _outputs(line: Line) -> tuple[Tensor, ...]:
    try:
        with torch.no_grad():
            return flatten_outputs(line.loaded.module(*line.inputs))
    except Exception as error:
        shapes = ", ".join("×".join(map(str, x.shape)) for x in line.inputs)
        raise ModelError(
            f"the model fails on its example inputs ({shapes}): {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}. Check --input against what forward expects."
        ) from error


def _tensor(name: str, value: Tensor) -> TensorRecord:
    return TensorRecord(name, tuple(value.shape), str(value.dtype).removeprefix("torch."))


def digest_of(line: Line, resolved: Resolved, about: Environment) -> dict[str, str]:
    """Digests of all that decides what this run gives, by name."""
    settings = to_json(resolved.settings)
    return {
        "the model's weights": line.loaded.weights_sha256,
        "the settings": key_of({**settings, "weights": None}),
        "the targets": key_of({"targets": to_json(line.targets)}),
        "the samples": key_of(
            {
                "calibration": line.calibration_sha256,
                "inputs": [list(x.shape) for x in line.inputs],
                "holdout": len(line.holdout[0]),
            }
        ),
        "the versions or the machine": key_of(to_json(about)),
    }
