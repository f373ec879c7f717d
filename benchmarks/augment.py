"""Digits moved a little: shifts, small rotations, scales and shears, for fine-tuning with labels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 1.0
"""Pixels, at most, each way."""
ANGLE = 10.0
"""Degrees, at most, each way."""
STRETCH = 0.1
"""Relative size and shear, at most, each way."""


def affine(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image by its own affine map; float32 (n, 784) or (n, 1, 28, 28), the shape stays."""
    images = x.reshape(-1, 1, 28, 28)
    n = len(images)
    turn, size, shear, right, down = (2 * torch.rand(5, n, generator=generator) - 1).unbind()
    angle, scale = turn * math.radians(ANGLE), 1 + STRETCH * size
    step = SHIFT / 14  # half the image is 1
    rows = (
        torch.stack([scale * angle.cos(), STRETCH * shear - angle.sin(), step * right], 1),
        torch.stack([angle.sin(), scale * angle.cos(), step * down], 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), [n, 1, 28, 28], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).reshape(x.shape)
