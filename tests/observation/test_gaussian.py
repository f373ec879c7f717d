from __future__ import annotations

import numpy as np
import pytest

from edgeprune.observation import gaussian


def law(n: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    root = random.normal(size=(n, n))
    mean = random.normal(size=n)
    mean[0] = 0.0
    return mean, root @ root.T


@pytest.mark.parametrize("activation", ["", "relu", *gaussian.ACTIVATIONS])
def test_moments_are_those_of_many_samples(activation: str) -> None:
    mean, covariance = law()
    z = np.random.default_rng(1).multivariate_normal(mean, covariance, size=400_000)
    h = (
        z
        if activation == ""
        else np.maximum(z, 0)
        if activation == "relu"
        else gaussian.ACTIVATIONS[activation](z)
    )
    first, second = gaussian.activated(mean, covariance, activation)
    np.testing.assert_allclose(first, h.mean(0), atol=0.03)
    np.testing.assert_allclose(second, h.T @ h / len(h), atol=0.01 * np.abs(second).max() + 0.02)
    assert np.linalg.eigvalsh(second - np.outer(first, first)).min() > -1e-6 * np.abs(second).max()


def test_isotropic_inputs_give_the_arc_cosine_kernel() -> None:
    rows = np.random.default_rng(2).normal(size=(7, 4))
    rows[3] = 2 * rows[2]
    rows[5] = -rows[2]
    size = np.linalg.norm(rows, axis=1)
    angle = np.arccos(np.clip(rows @ rows.T / np.outer(size, size), -1, 1))
    expected = np.outer(size, size) * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    np.testing.assert_allclose(gaussian.isotropic(rows, "relu")[1], expected, atol=1e-5)


def test_what_never_varies_is_no_trouble() -> None:
    first, second = gaussian.activated(np.array([1.0, -1.0, 0.0]), np.zeros((3, 3)), "relu")
    np.testing.assert_allclose(first, [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(second, np.outer([1, 0, 0], [1, 0, 0]), atol=1e-9)
