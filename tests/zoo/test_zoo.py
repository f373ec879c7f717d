"""Architectures of torchvision and timm, small: halved at random, equal to the masked original.

Needs torchvision and timm (installed without their dependencies); skipped where they are missing.
The full sweep is benchmarks/zoo.py.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from plans import plan_of
from torch import nn

from edgeprune.stages.couple import couple
from edgeprune.stages.shrink import shrink
from edgeprune.stages.trace import trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("torchvision", "timm")),
        reason="torchvision and timm are not installed",
    ),
    pytest.mark.filterwarnings("ignore"),
]

TORCHVISION: Mapping[str, int] = {
    "resnet18": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "mnasnet0_5": 64,
    "googlenet": 64,
    "regnet_y_400mf": 64,
    "efficientnet_b0": 64,
}
TIMM: Mapping[str, Mapping[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "mixer_s32_224": {"img_size": 64},
    "levit_128s": {"img_size": 64},
    "xcit_nano_12_p16_224": {"img_size": 64, "depth": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 56,
        "depths": (1, 2, 1, 1),
        "embed_dim": 24,
        "num_heads": (1, 2, 4, 8),
    },
    "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
    "poolformer_s12": {},
    "edgenext_xx_small": {},
    "convnext_atto": {},
    "resnext26ts": {},
    "skresnet18": {},
    "gcresnet33ts": {},
    "efficientvit_b0": {},
    "repvgg_a0": {},
    "ghostnet_050": {},
    "res2net50_26w_4s": {"layers": (1, 1, 1, 1)},
}
LEAST_PRUNABLE = 0.35
"""Share of the parameters that can go, at least; most of the rest is normalised over."""


def torchvision_net(name: str, size: int) -> tuple[nn.Module, int]:
    models = importlib.import_module("torchvision.models")
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return models.get_model(name, weights=None, **options), size


def timm_net(name: str, options: Mapping[str, Any]) -> tuple[nn.Module, int]:
    timm = importlib.import_module("timm")
    return timm.create_model(name, pretrained=False, num_classes=10, **options), options.get("img_size", 64)


def shaken(net: nn.Module) -> nn.Module:
    """Statistics as a trained net has them, and nothing that vanishes."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for value in net.parameters():
            if value.numel() > 1 and float(value.min()) == float(value.max()):
                value.add_(torch.randn_like(value) * 0.1 + (0.3 if float(value.max()) < 0.1 else 0.0))
    return net.eval()


def cases() -> dict[str, Callable[[], tuple[nn.Module, int]]]:
    made: dict[str, Callable[[], tuple[nn.Module, int]]] = {}
    made |= {name: (lambda n=name, s=size: torchvision_net(n, s)) for name, size in TORCHVISION.items()}
    made |= {name: (lambda n=name, o=options: timm_net(n, o)) for name, options in TIMM.items()}
    return made


@pytest.mark.parametrize("name", sorted(cases()))
def test_an_architecture_is_halved_exactly(name: str) -> None:
    # torchvision's compiled operations do not load beside a CPU torch, and are not needed
    sys.modules.setdefault(
        "torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations")
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, size = cases()[name]()
        shaken(net)
        x = torch.randn(2, 3, size, size)
    coupling = couple(trace(net, [x]))
    random = np.random.default_rng(0)
    keep = {g.name: np.sort(random.permutation(g.size)[: max(1, g.size // 2)]) for g in coupling.groups}
    shrunk = shrink(net, coupling, plan_of(keep), [x])  # raises where it is not the masked net
    assert shrunk.scale > 1e-4
    assert shrunk.masking <= 1e-9 * shrunk.scale
    before, after = (sum(p.numel() for p in m.parameters()) for m in (net, shrunk.graph))
    assert after < (1 - LEAST_PRUNABLE / 2) * before
