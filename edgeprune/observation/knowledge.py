"""Where second moments come from: samples, inputs made from batch norms, mean and covariance, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from edgeprune.errors import CalibrationError, UsageError
from edgeprune.graph.groups import Coupling, Graph
from edgeprune.observation.audibility import audible, sequences
from edgeprune.observation.propagation import InputMoments, gaussian_inputs, propagate
from edgeprune.observation.synthetic import synthesise
from edgeprune.progress import Progress, silent

logger = logging.getLogger(__name__)

Source = Literal["samples", "synthetic", "moments", "none"]
SOURCES: tuple[str, ...] = get_args(Source)

GAUSSIANS = 4096
"""Gaussian inputs that are drawn where moments cannot be carried through the net in closed form."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known of the inputs.

    Attributes:
        source: as the user names it.
        samples: inputs that can be run through the net, one tensor each, or None.
        moments: of the inputs, where they are carried through the net in closed form.
        audible: positions of the samples that count, by name of a value (see `audibility`); where there is
            none, all do.
    """

    source: Source
    samples: tuple[Tensor, ...] | None = None
    moments: tuple[InputMoments, ...] | None = None
    audible: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def anything(self) -> bool:
        """Whether second moments can be had (from nothing but the weights, if need be)."""
        return self.source == "none" or self.samples is not None or self.moments is not None


def know(
    coupling: Coupling,
    source: str,
    samples: Sequence[Tensor] | None,
    seed: int,
    *,
    bounds: tuple[float, float] | None = None,
    progress: Progress = silent,
) -> Knowledge:
    """What a source tells about a net's inputs.

    Args:
        samples: calibration inputs; they may be None for `synthetic` and `none`, which do not look at them.
        bounds: of every input value, for synthetic inputs.

    Raises:
        UsageError: there is no such source.
        CalibrationError: the source needs samples and there are none.
        UnsupportedModel: the source cannot serve this net.
    """
    generator = torch.Generator().manual_seed(seed)
    match source:
        case "samples":
            if samples is None:
                return Knowledge("samples")
            counted = audible(coupling.graph, sequences(coupling), samples, generator)
            return Knowledge("samples", tuple(samples), audible=counted)
        case "none":
            return Knowledge("none")
        case "synthetic":
            shapes = [sample_shape(coupling.graph, name) for name in coupling.graph.inputs]
            made = synthesise(coupling.graph, shapes, generator, bounds=bounds, progress=progress)
            return Knowledge("synthetic", made)
        case "moments":
            if samples is None:
                raise CalibrationError(
                    "--moments moments needs a calibration set to take mean and covariance from; give one "
                    "with --calibration, or use --moments none."
                )
            return _from_moments(coupling, samples, generator)
        case _:
            raise UsageError(f"--moments {source}: there is no such source; choose {', '.join(SOURCES)}.")


def sample_shape(graph: Graph, name: str) -> tuple[int, ...]:
    """The shape of one sample of an input."""
    return tuple(graph.nodes[name].shape or ())[1:]


def _from_moments(coupling: Coupling, samples: Sequence[Tensor], generator: torch.Generator) -> Knowledge:
    if any(not x.is_floating_point() for x in samples):
        raise CalibrationError(
            "--moments moments: an input holds whole numbers, which have no useful covariance; use "
            "--moments samples."
        )
    known = tuple(InputMoments.of(x) for x in samples)
    reached = propagate(coupling.graph, {}, known)
    heard = {
        reader.data for group in coupling.groups for reader in group.readers if reader.weight is not None
    }
    if heard <= set(reached):
        return Knowledge("moments", moments=known)
    logger.info("moments cannot be carried to %s; Gaussian inputs are run", sorted(heard - set(reached))[0])
    drawn = [gaussian_inputs(one, GAUSSIANS, generator) for one in known]
    return Knowledge("moments", tuple(x.to(given.dtype) for x, given in zip(drawn, samples, strict=True)))
