"""Spectral norms are never below the largest singular value, and near it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeprune.bounds import spectral
from edgeprune.bounds.spectral import matrix_norm, operator_norm
from edgeprune.functions.forms import Affine, Convolve, Dense, Scale


def exact(form: Affine, shape: tuple[int, ...]) -> float:
    n = int(torch.tensor(shape).prod())
    columns = form.kernel.apply(form.weight, torch.eye(n, dtype=torch.float64).reshape(n, *shape[1:]))
    return float(torch.linalg.matrix_norm(columns.flatten(1), 2))


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


FORMS = {
    "dense": (Affine.given(Dense(), draw(7, 5)), (1, 5), 1.01),
    "conv1d": (Affine.given(Convolve((1,), (1,), (1,), 1), draw(4, 3, 3)), (1, 3, 9), 1.1),
    "conv2d": (Affine.given(Convolve((1, 1), (1, 1), (1, 1), 1), draw(4, 3, 3, 3)), (1, 3, 6, 6), 1.3),
    "strided": (Affine.given(Convolve((2, 2), (1, 1), (1, 1), 1), draw(4, 3, 3, 3)), (1, 3, 8, 8), 1.3),
    "uneven": (Affine.given(Convolve((3, 1), (0, 2), (1, 1), 1), draw(4, 3, 2, 5)), (1, 3, 9, 7), 1.5),
    "depthwise": (Affine.given(Convolve((1, 1), (1, 1), (1, 1), 3), draw(6, 1, 3, 3)), (1, 3, 6, 6), 1.3),
    "dilated": (Affine.given(Convolve((1, 1), (2, 2), (2, 2), 1), draw(4, 3, 3, 3)), (1, 3, 7, 7), 9.0),
    "scale": (Affine.given(Scale(), draw(1, 3, 1, 1)), (1, 3, 4, 4), 1.01),
}


@pytest.mark.parametrize("name", FORMS)
def test_norms_are_upper_bounds(name: str) -> None:
    form, shape, factor = FORMS[name]
    norm = exact(form, shape)
    assert norm <= operator_norm(form, shape) <= factor * norm


@pytest.mark.parametrize("name", ["dense", "conv2d", "strided", "depthwise"])
def test_large_layers_are_bounded_by_sums(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "WORK", 1.0)
    form, shape, _ = FORMS[name]
    norm = exact(form, shape)
    assert norm <= operator_norm(form, shape) <= 4 * norm


def test_dead_inputs_do_not_count() -> None:
    form, shape, _ = FORMS["conv2d"]
    live = torch.ones(shape, dtype=torch.bool)
    live[:, 1] = False
    assert operator_norm(form, shape, live) < operator_norm(form, shape)
    assert operator_norm(form, shape, torch.zeros(shape, dtype=torch.bool)) == 0.0


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1.0, 1e120])
def test_any_size_of_number(scale: float) -> None:
    m = draw(3, 6, 6) * scale
    norm = float(torch.linalg.matrix_norm(m / scale, 2).max()) * scale
    assert norm <= matrix_norm(m) <= 1.02 * norm


def test_zero() -> None:
    assert matrix_norm(torch.zeros(2, 3, 3, dtype=torch.float64)) == 0.0
