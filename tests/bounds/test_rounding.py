"""What float32 really computes stays within the rounding bound, and the bound is small."""

from __future__ import annotations

import pytest
import torch
from nets import net, seeded
from plans import coupled, random_keep
from pruned import Of, prune
from torch import nn

from edgeprune.bounds.crown import Effort
from edgeprune.bounds.rounding import ARITHMETICS, HALF_STORED, MEASURED, elsewhere, rounding
from edgeprune.domains.sets import Box
from edgeprune.errors import UnsupportedOperation, UsageError
from edgeprune.stages.shrink import narrow_graph

torch.set_num_threads(1)
EFFORT = Effort(steps=0, budget_s=10.0)


def single(model: nn.Module) -> nn.Module:
    """The same weights in float32, so that the exact net is that of the rounded weights."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.float())
    return model


@pytest.mark.parametrize("name", ["mlp", "residual", "depthwise", "gate", "flattened"])
def test_float32_stays_within_its_bound(name: str) -> None:
    model, x = net(name)
    x = x.float().double()
    model = single(model)
    coupling = coupled(model, x)
    keep = random_keep(coupling, 0)
    small = narrow_graph(coupling.graph, coupling.alive(keep), {})
    pair, _ = prune(model, x, 0)
    domain = Box.around(x[0], 0.01)
    found = rounding(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, "float32", EFFORT)
    assert found.linf is not None
    rough = small.float()
    samples = domain.sample(64, tuple(x.shape[1:]), torch.Generator().manual_seed(1)).float()
    with torch.no_grad():
        low = torch.cat([rough(s[None])[0].double() for s in samples])
        exact = torch.cat(
            [
                narrow_graph(coupling.graph, coupling.alive(keep), {}).double()(s[None].double())[0]
                for s in samples[:8]
            ]
        )
    measured = float((low[: len(exact)] - exact).abs().max())
    assert measured <= found.linf
    assert found.linf <= 1e-3 * (1 + float(exact.abs().max()))


def test_shorter_formats_cost_more() -> None:
    model = single(seeded(lambda: Of(torch.tanh)))
    x = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair, _ = prune(model, x, 0)
    arguments = (pair.twins, [Box.around(x[0], 1e-3)], pair.shapes, pair.inputs, pair.outputs)
    bounds = [rounding(*arguments, name, EFFORT).linf for name in ("float32", "tf32", "float16", "bfloat16")]
    assert all(b is not None for b in bounds)
    assert bounds == sorted(b for b in bounds if b is not None)
    assert set(ARITHMETICS) == {"float32", "tf32", "float16", "bfloat16"}


@pytest.mark.parametrize("name", ["mlp", "residual", "depthwise", "gate"])
def test_float16_stays_within_its_bounds(name: str) -> None:
    """Torch's own half precision on the CPU, and weights that went through it and back."""
    model, x = net(name)
    x = x.float().double()
    model = single(model)
    coupling = coupled(model, x)
    alive = coupling.alive(random_keep(coupling, 0))
    pair, _ = prune(model, x, 0)
    domain = Box.around(x[0], 0.01)
    arguments = (pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs)
    whole = rounding(*arguments, "float16", EFFORT).linf
    stored = rounding(*arguments, HALF_STORED, EFFORT).linf
    assert stored is not None
    assert whole is not None
    samples = domain.sample(16, tuple(x.shape[1:]), torch.Generator().manual_seed(1)).double()

    def outputs(net_: nn.Module, dtype: torch.dtype) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([net_(s[None].to(dtype))[0].double() for s in samples])

    exact = outputs(narrow_graph(coupling.graph, alive, {}).double(), torch.float64)
    converted = outputs(narrow_graph(coupling.graph, alive, {}).half().double(), torch.float64)
    half = outputs(narrow_graph(coupling.graph, alive, {}).half(), torch.float16)
    assert 0 < float((converted - exact).abs().max()) <= stored < whole
    assert float((half - exact).abs().max()) <= whole


def test_what_may_overflow_in_float16_has_no_bound() -> None:
    model = single(seeded(lambda: Of(torch.tanh)))
    x = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair, _ = prune(model, x, 0)
    arguments = (pair.twins, [Box.around(1e6 * x[0], 1.0)], pair.shapes, pair.inputs, pair.outputs)
    with pytest.raises(UnsupportedOperation, match="overflow, float16 ends at 65504"):
        rounding(*arguments, "float16", EFFORT)
    assert rounding(*arguments, "bfloat16", EFFORT).linf is not None


def test_more_terms_than_float16_can_count_still_have_a_bound() -> None:
    """The classical γ(n) is infinite from 2 048 terms on."""
    model = nn.Sequential(nn.Linear(4096, 8), nn.ReLU(), nn.Linear(8, 2)).double().eval()
    x = torch.rand(1, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pair, _ = prune(model, x, 0)
    domain = Box.around(x[0], 1e-3)
    found = rounding(pair.twins, [domain], pair.shapes, pair.inputs, pair.outputs, "float16", EFFORT).linf
    assert found is not None
    assert 0 < found < 1e3


def test_an_arithmetic_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="no arithmetic is called 'int4'"):
        rounding((), [], (), (), (), "int4")


def test_kernels_are_as_measured_only_where_they_were_measured() -> None:
    float32, here = ARITHMETICS["float32"], ("CPUExecutionProvider", f"{MEASURED.versions[0]}.7")
    assert elsewhere(float32, [here]) is float32
    assert elsewhere(ARITHMETICS["float16"], [("CUDAExecutionProvider", "1.2.0")]) is ARITHMETICS["float16"]
    for other in (("CPUExecutionProvider", "1.3.1"), ("CUDAExecutionProvider", here[1])):
        wider = elsewhere(float32, [here, other])
        assert wider.kernels is None
        assert other[1] in wider.assumes
    model = single(seeded(lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), 3))
    pair, _ = prune(model, torch.rand(1, 3, dtype=torch.float64), 0)
    found = [
        rounding(
            pair.twins, [Box(-1.0, 1.0)], pair.shapes, pair.inputs, pair.outputs, arithmetic, EFFORT
        ).linf
        for arithmetic in (float32, elsewhere(float32, [("CPUExecutionProvider", "1.3.1")]))
    ]
    assert None not in found
    assert found[0] < found[1]
