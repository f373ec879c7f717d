"""Everything a run needs, found and checked before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgeprune.config import Resolved, Settings
from edgeprune.domains.declarations import declared
from edgeprune.domains.sets import Domain
from edgeprune.domains.spec import DomainSpec
from edgeprune.errors import CalibrationError, ModelError, UsageError
from edgeprune.graph.calling import input_names
from edgeprune.graph.groups import flatten_outputs
from edgeprune.inputs.models import Loaded, parse_inputs
from edgeprune.inputs.samples import Array, CalibrationData
from edgeprune.inputs.splits import halves, refuse_overlap, split_of
from edgeprune.profiles import Calibration, Target, find_calibration, find_target
from edgeprune.records.folder import key_of
from edgeprune.records.run import Environment, ModelRecord, Run, Split, TensorRecord, to_json

HURRIED = (
    "--quick: a first impression. Latencies are of at most three processes, bounds of one pass and a few "
    "seconds, attacks short; run without it for figures to rely on."
)
"""What a quick run's record begins with."""

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
        domains: of each input, None if nothing is known.
        select: held-out inputs to choose among ratios by; the same as `holdout` where nothing was split off.
        splits: what was used for what.
        local: whether these are neighbourhoods of single inputs only.
        fit_labels: classes of the calibration inputs, where known.
        distribution: what the held-out samples are, in words.
    """

    loaded: Loaded
    settings: Settings
    inputs: tuple[Tensor, ...]
    fit: tuple[Tensor, ...] | None
    holdout: tuple[Array, ...]
    labels: Array | None
    domains: tuple[Domain, ...] | None
    distribution: str
    calibration_sha256: str
    targets: tuple[Target, ...]
    fit_labels: Array | None = None
    local: bool = False
    select: tuple[Array, ...] = ()
    splits: tuple[Split, ...] = ()

    @property
    def everywhere(self) -> tuple[Domain, ...] | None:
        """The domains that may decide what is pruned: none where they are neighbourhoods of single inputs."""
        return None if self.local else self.domains

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Of every input value, None if nothing is known."""
        if self.everywhere is None:
            return None
        pairs = zip(self.everywhere, self.inputs, strict=True)
        boxes = [domain.bounds(tuple(x.shape[1:])) for domain, x in pairs]
        return min(float(b.low.min()) for b in boxes), max(float(b.high.max()) for b in boxes)

    @property
    def batch(self) -> int:
        """Samples that the example inputs hold, which a file of fixed sizes takes at once."""
        return len(self.inputs[0]) if self.inputs[0].dim() else 1


def prepare(
    loaded: Loaded, settings: Settings, noise: str | tuple[float, ...] | Literal[False] | None = False
) -> Line:
    """Find and check everything that a run needs, before anything is done.

    Args:
        noise: the domain that noise was drawn from where it stands in for held-out samples, when a run is
            gone on with under another one; the settings' own where False.

    Raises:
        UsageError: a target, a calibration set or the inputs are missing or do not fit.
    """
    targets = tuple(find_target(name) for name in settings.target)
    if settings.quick:
        targets = tuple(replace(target, measure=target.measure.hurried()) for target in targets)
    if settings.fp16:
        targets = tuple(target.for_float16() for target in targets)
    doubled = [t.name for t in targets if [u.name for u in targets].count(t.name) > 1]
    if doubled:
        raise UsageError(f"--target {doubled[0]}: is given twice; name each target once.")
    calibration = find_calibration(settings.calibration) if settings.calibration else None
    data = calibration.load().repeated(settings.samples) if calibration is not None else None
    inputs = _example_inputs(loaded, settings, data)
    if data is not None:
        _check_fit(data, inputs, str(settings.calibration))
    specs = settings.domains or ((calibration.domain,) if calibration and calibration.domain else None)
    fit = None if data is None else tuple(torch.from_numpy(x[: settings.samples]) for x in data.fit)
    domains = _domains(specs, inputs, fit, None if data is None else data.holdout)
    if domains is not None and settings.domain is None and data is not None:
        _check_inside(domains, data, specs, str(settings.calibration))
    drawn = domains
    if noise is not False and data is None:
        drawn = _domains(replace(settings, domain=noise).domains, inputs, None, None)
    held, distribution = _holdout(settings, data, calibration, inputs, drawn)
    sets = _split(settings, data, held, distribution)
    return Line(
        loaded=loaded,
        settings=settings,
        inputs=inputs,
        fit=fit,
        holdout=tuple(x[sets.certify] for x in held),
        select=tuple(x[sets.select] for x in held),
        splits=sets.splits,
        labels=None if data is None or data.holdout_labels is None else data.holdout_labels[sets.certify],
        domains=domains,
        distribution=distribution,
        calibration_sha256=calibration.data.sha256 if calibration is not None else "",
        targets=targets,
        fit_labels=None if data is None else data.fit_labels,
        local=any(spec.local for spec in specs or ()),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Sets:
    """Places of the held-out samples that choose and that certify, and the record of both."""

    select: Array
    certify: Array
    splits: tuple[Split, ...]


def _split(settings: Settings, data: CalibrationData | None, held: tuple[Array, ...], words: str) -> _Sets:
    """All held-out samples certify, but for the half that a fresh split lets choose.

    Raises:
        CalibrationError: a sample is in both halves, or one that was fitted to certifies.
    """
    every = np.arange(len(held[0]))
    fresh = bool(settings.ratios) and settings.selection == "fresh-split"
    select, certify = halves(len(every), settings.seed) if fresh else (every, every)
    certifying = [x[certify] for x in held]
    splits = []
    if data is not None:
        fitting = [x[: settings.samples] for x in data.fit]
        splits.append(
            split_of("fit", words.replace("held-out", "fitting"), np.arange(len(fitting[0])), fitting)
        )
    if settings.ratios:
        choosing = [x[select] for x in held]
        splits.append(split_of("select", words, select, choosing))
        if fresh:  # that nothing fitted is held out was seen when the set was read
            refuse_overlap({"select": choosing}, certifying)
    return _Sets(select, certify, (*splits, split_of("certify", words, certify, certifying)))


def _domains(
    specs: Sequence[DomainSpec] | None,
    inputs: tuple[Tensor, ...],
    fit: tuple[Tensor, ...] | None,
    holdout: tuple[Array, ...] | None,
) -> tuple[Domain, ...] | None:
    """What is declared, as sets of inputs; whole numbers have none."""
    if specs is None:
        return None
    if not all(x.is_floating_point() and x.dim() for x in inputs):
        return None
    return declared(specs, [tuple(x.shape[1:]) for x in inputs], fit, holdout)


def _check_inside(
    domains: tuple[Domain, ...], data: CalibrationData, specs: Sequence[DomainSpec] | None, name: str
) -> None:
    """A set that declares where its samples come from must not hold others.

    Raises:
        CalibrationError: a sample lies outside.
    """
    if any(spec.local or spec.kind == "ellipsoid" for spec in specs or ()):
        return
    for half, arrays in (("fit", data.fit), ("holdout", data.holdout)):
        for domain, samples in zip(domains, arrays, strict=True):
            outside = int((~domain.contains(torch.from_numpy(samples).double())).sum())
            if outside:
                raise CalibrationError(
                    f"--calibration {name}: {outside} of {len(samples)} samples of {half} lie outside the "
                    f"set's own domain ({domain.describe()}); correct scale and offset, or [domain]."
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
    domains: tuple[Domain, ...] | None,
) -> tuple[tuple[Array, ...], str]:
    """What to measure on: the held-out half, or seeded noise."""
    if data is not None:
        assert calibration is not None
        return data.holdout, f"the held-out samples of {calibration.name}"
    generator = torch.Generator().manual_seed(settings.seed + 1)
    noise = []
    for k, x in enumerate(inputs):
        shape = (NOISE, *x.shape[1:])
        if not x.is_floating_point():
            low, high = int(x.min()), int(x.max()) + 1
            noise.append(torch.randint(low, high, shape, generator=generator).to(x.dtype))
        elif domains is not None:
            noise.append(domains[k].sample(NOISE, tuple(x.shape[1:]), generator).to(x.dtype))
        else:
            noise.append(torch.randn(shape, generator=generator).to(x.dtype))
    words = "random inputs of the domain" if domains else "standard normal noise"
    return tuple(x.numpy() for x in noise), words


def empty_run(line: Line, resolved: Resolved, about: Environment) -> Run:
    """The record that a run begins with."""
    outputs = _outputs(line)
    names = input_names(line.loaded.module, len(line.inputs))
    model = ModelRecord(
        name=line.loaded.name,
        factory=line.loaded.factory,
        weights_sha256=line.loaded.weights_sha256,
        inputs=tuple(_tensor(name, x) for name, x in zip(names, line.inputs, strict=True)),
        outputs=tuple(_tensor(f"output{k}", y) for k, y in enumerate(outputs)),
        notes=line.loaded.notes,
    )
    warnings = (HURRIED,) if resolved.settings.quick else ()
    return Run(
        model=model, environment=about, settings=resolved.records(), splits=line.splits, warnings=warnings
    )


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
