"""A plan: which units of each group stay, and what the weights of their readers become."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, fx, nn

from edgeprune.errors import UsageError
from edgeprune.files import write_text
from edgeprune.graph.attributes import Attributes
from edgeprune.graph.groups import Alive, Coupling, Ints

PLAN_VERSION = 1

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How units were drawn: all that a promise about them needs, beside the norm of what the layer hears.

    Attributes:
        draws: number of random draws, with repetitions.
        fixed: whether that number was fixed in advance.
        scores: (n,) float64, what the probabilities are proportional to.
        norms: by making layer, in the group's order, (n,) ‖p̃_i‖.
        loads: by reading node, (n,) Σ over taps of max |W| over outputs.
        masses: None where one coreset serves the layer. Where each reading neuron has its own, by reading
            node (2, outputs, 2) Σ |W_ji| ‖p̃_i‖ inside the set of kept units and outside it, of the
            positive and of the negative weights; a node is missing where that says nothing.
    """

    draws: int
    fixed: bool
    scores: Floats
    norms: tuple[Floats, ...] = ()
    loads: Mapping[str, Floats] = field(default_factory=dict)
    masses: Mapping[str, Floats] | None = None

    def to_json(self) -> dict[str, Any]:
        """Lists in place of arrays."""
        return {
            "draws": self.draws,
            "fixed": self.fixed,
            "scores": self.scores.tolist(),
            "norms": [norm.tolist() for norm in self.norms],
            "loads": {name: load.tolist() for name, load in self.loads.items()},
            "masses": None
            if self.masses is None
            else {name: mass.tolist() for name, mass in self.masses.items()},
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Sampling:
        """What `to_json` gave."""
        return Sampling(
            int(content["draws"]),
            bool(content["fixed"]),
            np.array(content["scores"], dtype=np.float64),
            tuple(np.array(norm, dtype=np.float64) for norm in content["norms"]),
            {name: np.array(load, dtype=np.float64) for name, load in content["loads"].items()},
            None
            if content["masses"] is None
            else {name: np.array(mass, dtype=np.float64) for name, mass in content["masses"].items()},
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """What a coreset method chose for one group of n units.

    Attributes:
        keep: (m,) int64, ascending, unique: the units that stay.
        mix: (m, n) float64 or None. Readers become W′ = W · mixᵀ: unit i is approximated by
            Σ_k mix[k, i] · (kept unit k). None leaves the kept weights as they are.
        shift: (n,) float64 or None: the constant part of that approximation; it goes into the
            readers' biases.
        error: expected relative squared error of what the readers hear, under the evidence the
            method used; None where the method states none.
        sampling: how the units were drawn by their sensitivities; None for other methods.
        factors: by reading node, (outputs, n): each of the reader's outputs weighs the units by itself
            (W′_ji = W_ji · factor_ji), in place of `mix`.
        curve: (n + 1,) float64: the same error by number of units kept, each time with the units that the
            method would keep; None where it does not come by.
    """

    keep: Ints
    mix: npt.NDArray[np.float64] | None = None
    shift: npt.NDArray[np.float64] | None = None
    error: float | None = None
    sampling: Sampling | None = None
    factors: Mapping[str, npt.NDArray[np.float64]] | None = None
    curve: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Selections by group, and the weights that changed.

    Attributes:
        weights: replacements by qualified name, at the *original* sizes; entries of removed
            units are meaningless and are cut away by `shrink`.
    """

    method: str
    selections: Mapping[str, Selection]
    weights: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    @property
    def keep(self) -> dict[str, Ints]:
        """The units that stay, by group."""
        return {name: selection.keep for name, selection in self.selections.items()}


@dataclass(frozen=True, slots=True)
class Cuts:
    """What is left of every narrowed weight: enough to rebuild the shrunk net from its code.

    Attributes:
        weights: qualified name → {axis: kept indices, ascending}.
        keep: group → kept units.
        shrunk: whether the user's module or the exported graph was narrowed.
        errors: group → the method's expected relative squared error, where it states one.
        sampling: group → how its units were drawn, for methods that sample by sensitivity.
        attributes: module → the new values of attributes that had to follow the weights' sizes.
        norm_axes: whether channels that are normalised over were allowed to go.
    """

    weights: Mapping[str, Mapping[int, tuple[int, ...]]]
    keep: Mapping[str, tuple[int, ...]]
    shrunk: str = "module"
    exclude: tuple[str, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)
    sampling: Mapping[str, Sampling] = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)
    norm_axes: bool = False

    @staticmethod
    def of(
        coupling: Coupling, plan: Plan, shrunk: str, exclude: tuple[str, ...], alive: Alive | None = None
    ) -> Cuts:
        """The cuts that a plan means for a coupled graph.

        Args:
            alive: what the plan leaves, where that is known already.
        """
        alive = alive or coupling.alive(plan.keep)
        weights: dict[str, dict[int, tuple[int, ...]]] = {}
        written: dict[int, tuple[int, ...]] = {}  # by identity: many axes share their indices
        for node in coupling.graph.nodes.values():
            if node.operation != "weight":
                continue
            for axis, index in enumerate(alive.left(node.name)):
                if index is not None:
                    if id(index) not in written:
                        written[id(index)] = tuple(index.tolist())
                    weights.setdefault(node.target, {})[axis] = written[id(index)]
        chosen = plan.selections.items()
        return Cuts(
            weights,
            {name: tuple(s.keep.tolist()) for name, s in chosen},
            shrunk,
            exclude,
            {name: s.error for name, s in chosen if s.error is not None},
            {name: s.sampling for name, s in chosen if s.sampling is not None},
            norm_axes=coupling.norm_axes,
        )

    def save(self, path: Path) -> None:
        """Write as JSON, atomically.

        Raises:
            StorageError: it cannot be written.
        """
        content = {
            "plan_version": PLAN_VERSION,
            "shrunk": self.shrunk,
            "exclude": list(self.exclude),
            "keep": {name: list(keep) for name, keep in self.keep.items()},
            "errors": dict(self.errors),
            "sampling": {name: one.to_json() for name, one in self.sampling.items()},
            "norm_axes": self.norm_axes,
            "attributes": {name: dict(values) for name, values in self.attributes.items()},
            "weights": {
                name: {str(axis): list(index) for axis, index in axes.items()}
                for name, axes in self.weights.items()
            },
        }
        write_text(path, json.dumps(content, separators=(",", ":")) + "\n")

    @staticmethod
    def load(path: Path) -> Cuts:
        """Read what `save` wrote.

        Raises:
            UsageError: missing, damaged, or of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["plan_version"] != PLAN_VERSION:
                raise UsageError(
                    f"{path}: has plan version {content['plan_version']}, this edgeprune reads "
                    f"{PLAN_VERSION}."
                )
            return Cuts(
                {
                    name: {int(axis): tuple(index) for axis, index in axes.items()}
                    for name, axes in content["weights"].items()
                },
                {name: tuple(keep) for name, keep in content["keep"].items()},
                str(content["shrunk"]),
                tuple(content["exclude"]),
                {name: float(error) for name, error in content["errors"].items()},
                {name: Sampling.from_json(one) for name, one in content.get("sampling", {}).items()},
                {name: dict(values) for name, values in content.get("attributes", {}).items()},
                bool(content.get("norm_axes", False)),
            )
        except FileNotFoundError:
            raise UsageError(
                f"{path.parent}: holds no plan.json; give the folder of a finished run."
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: is damaged ({error}); make the run again.") from error


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smaller net.

    Attributes:
        module: what to use from here on; parameters keep their names.
        graph: the narrowed graph, with the same weights, in the same memory; its nodes are named like the
            original's.
        kind: whether it is the user's module or the exported graph.
        reason: why it is the graph, '' for the module.
        cuts: what was cut from which weight.
        masking: largest output difference, absolute, between the masked and the shrunk net.
        scale: largest absolute output of the masked net.
        n_inputs: samples compared.
        full: the plan's weights at original sizes; empty where a resumed run did not keep them.
    """

    module: nn.Module
    graph: fx.GraphModule
    kind: Literal["module", "graph"]
    reason: str
    cuts: Cuts
    masking: float
    scale: float
    n_inputs: int
    full: Mapping[str, Tensor] = field(default_factory=dict)
