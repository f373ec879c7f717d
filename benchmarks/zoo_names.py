"""Which nets of timm the zoo prunes: of every architecture module, the smallest of each family name.

A family name is what stands before the first digit or underscore (`resnet`, `resnext`, `gcresnet`).
Sizes are counted on the meta device, with no memory; nothing is downloaded.

    python benchmarks/zoo_names.py > benchmarks/zoo_timm.txt
"""

from __future__ import annotations

import importlib
import re
import sys

import torch
from zoo_models import HARD, import_torchvision

LARGEST = 100e6
"""Parameters of the largest net that is taken where its module has smaller ones."""


def main() -> None:
    import_torchvision()
    timm = importlib.import_module("timm")
    for module in sorted(timm.list_modules()):
        best: dict[str, tuple[float, str]] = {}
        for name in timm.list_models(module=module):
            size = parameters(timm, name)
            family = re.match(r"[a-z]+", name)
            key = family.group() if family else name
            if size is not None and (size, name) < best.get(key, (float("inf"), "")):
                best[key] = (size, name)
        ranked = sorted(best.values())
        chosen = ranked[:1] + [(size, name) for size, name in ranked[1:] if size <= LARGEST]
        hard = [name for name in HARD if name in timm.list_models(module=module)]
        print(module, *dict.fromkeys([name for _, name in chosen] + hard), flush=True)


def parameters(timm: object, name: str) -> float | None:
    """How many parameters a net has; None where it cannot be made without memory."""
    try:
        with torch.device("meta"):
            net = timm.create_model(name, pretrained=False)  # type: ignore[attr-defined]
    except Exception as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None
    return float(sum(p.numel() for p in net.parameters()))


if __name__ == "__main__":
    main()
