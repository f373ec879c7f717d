"""The way from the layers that make units to their readers, however activations are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from plans import coupled
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.observation.ways import Way, way


class Bent(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.activation = nn.Linear(4, 6), nn.Linear(6, 3), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.activation(self.a(x)))


def found(activation: Callable[[Tensor], Tensor]) -> Way:
    coupling = coupled(Bent(activation).eval(), torch.randn(2, 4))
    (group,) = coupling.groups
    return way(coupling.graph, group, group.readers[0])


WRITTEN: dict[str, tuple[tuple[str, ...], Callable[[Tensor], Tensor]]] = {
    "clamp from 0": (("relu",), lambda z: z.clamp(min=0)),
    "hardtanh 0 … 6": (("relu6",), lambda z: F.hardtanh(z, 0.0, 6.0)),
    "comparison": (("step",), lambda z: (z >= 0).to(z.dtype)),
    "strict comparison": (("step",), lambda z: (z > 0).to(z.dtype)),
    "choice": (("step",), lambda z: torch.where(z >= 0, 1.0, 0.0)),
    "heaviside": (("step",), lambda z: torch.heaviside(z, torch.ones((), dtype=z.dtype))),
    "soft clipping": (("soft_clip",), lambda z: F.softplus(z, 5.0) - F.softplus(z - 1, 5.0)),
    "soft clipping by a sum": (("soft_clip",), lambda z: F.softplus(z) - F.softplus(z + -1)),
    "two activations": (("relu", "sigmoid"), lambda z: torch.sigmoid(torch.relu(z))),
    "nothing": ((), lambda z: z),
    "gated by itself": (("sigmoid",), lambda z: z * torch.sigmoid(z)),
    "no difference of clips": (("softplus",), lambda z: F.softplus(z) - F.softplus(z - 2)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_activations_are_read_from_the_graph_and_computed(name: str) -> None:
    names, activation = WRITTEN[name]
    seen = found(activation)
    assert seen.activations == names
    assert seen.function is not None
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)
    torch.testing.assert_close(seen.function({seen.makers[0]: z}), activation(z).double(), rtol=0, atol=1e-12)
    assert (seen.reason != "") == (name in ("gated by itself", "no difference of clips"))


@pytest.mark.parametrize("name", [n for n in WRITTEN if WRITTEN[n][0] != ("step",)])
def test_the_steepness_is_not_below_any_slope(name: str) -> None:
    seen = found(WRITTEN[name][1])
    if seen.reason:
        return
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    assert seen.function is not None
    values = seen.function({seen.makers[0]: z})
    assert float((values.diff() / z.diff()).abs().max()) <= seen.steepness[0] + 1e-9
    assert abs(float(values[2000])) == pytest.approx(seen.constant, abs=1e-12)
