"""Compensation that minds the worst case lowers it, and never raises its own objective."""

from __future__ import annotations

import pytest
import torch

from edgeprune.bounds.minimax import compensate
from edgeprune.errors import UsageError


def test_the_worst_error_falls_as_lambda_grows() -> None:
    g = torch.Generator().manual_seed(0)
    h = torch.randn((200, 12), generator=g, dtype=torch.float64).relu()
    hard = 5 * torch.randn((40, 12), generator=g, dtype=torch.float64).relu()
    w = torch.randn((4, 12), generator=g, dtype=torch.float64)
    kept = torch.arange(0, 12, 2)
    design = torch.cat([h[:, kept], torch.ones(200, 1, dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(design, h @ w.T).solution
    start, offset = solution[:-1].T.contiguous(), solution[-1]
    worst, mean = [], []
    for trade in (0.0, 0.1, 10.0):
        u, c = compensate(h, w, kept, start, offset, trade, worst=hard)
        worst.append(float((hard @ w.T - hard[:, kept] @ u.T - c).abs().max()))
        mean.append(float((h @ w.T - h[:, kept] @ u.T - c).square().mean()))
    assert worst[2] < worst[0]
    assert mean[0] <= mean[1] * (1 + 1e-9)
    assert mean[0] <= mean[2]


def test_lambda_is_not_negative() -> None:
    one = torch.ones((1, 1), dtype=torch.float64)
    with pytest.raises(UsageError, match="lambda"):
        compensate(one, one, torch.tensor([0]), one, one[0], -1.0)
