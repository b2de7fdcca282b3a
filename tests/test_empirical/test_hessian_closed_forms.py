"""Hessian spectra that are known in closed form, at γ from 10⁻⁸ to 10⁸."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from empirical import Networks
from empirical.measure.hessian import sharpness, top_eigenvalues


def networks_of(module, gamma, multiplier, displacement, example_shape):
    """One cell at a given displacement."""
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    gammas, rates = torch.tensor([gamma], dtype=torch.float64), dict.fromkeys(start, multiplier)
    return Networks(module, start, displacement, {}, gammas, rates, example_shape, 0, np.arange(1))


def assert_close(values, expected, rtol):
    np.testing.assert_allclose(np.asarray(values), expected, rtol=rtol)


class Product(nn.Module):
    """Deep linear scalar network F(x) = x ∏ w, from w = 1."""

    def __init__(self, depth):
        super().__init__()
        self.w = nn.ParameterList([torch.ones(1, dtype=torch.float64) for _ in range(depth)])

    def forward(self, x):
        for w in self.w:
            x = x * w
        return x


class Linear(nn.Module):
    def __init__(self, classes, inputs):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(classes, inputs, dtype=torch.float64))

    def forward(self, x):
        return x @ self.w.T


@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("gamma", [1e-8, 1.0, 1e8])
def test_a_linear_network_has_the_spectrum_of_its_inputs_once_for_each_class(gamma, curvature):
    # MSE: H = M I ⊗ XᵀX / (n γ²); cross-entropy where f = 0: one of ten copies is lost, and the others have 1/10
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((40, 30)) + 0.3)
    y = torch.from_numpy(np.eye(10)[rng.integers(10, size=40)])
    networks = networks_of(Linear(10, 30), gamma, 3.0, {"w": torch.zeros(1, 10, 30).double()}, (30,))
    squares = np.linalg.svd(x.numpy(), compute_uv=False) ** 2 * 3.0 / (40 * gamma**2)
    for loss, copies, factor in (("mse", 10, 1.0), ("cross-entropy", 9, 0.1)):
        spectrum = top_eigenvalues(networks, x, y, 20, loss=loss, curvature=curvature)
        assert_close(spectrum.values[0], factor * np.repeat(squares, copies)[:20], 1e-6)
        assert spectrum.converged.all()


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("gamma", [1e-8, 1e-3, 1.0, 1e3, 1e8])
def test_deep_linear_scalar_networks_have_the_sharpness_of_theory(depth, gamma):
    # THEORY: λ* = L (1 + γ)^{2 − 2/L} / γ² at the minimum; L/γ² − (L−1)/γ along and 1/γ across at the start
    x, y = torch.ones(1, 1).double(), torch.ones(1, 1).double()
    moved = {f"w.{i}": torch.full((1, 1), np.expm1(np.log1p(gamma) / depth), dtype=torch.float64) for i in range(depth)}
    networks = networks_of(Product(depth), gamma, 1.0, moved, (1,))
    at_minimum = sharpness(networks, x, y)
    # at γ = 10⁻⁸ the output is a difference of two numbers that agree to eight digits
    assert_close(at_minimum.sharpness, [depth * (1 + gamma) ** (2 - 2 / depth) / gamma**2], 1e-7)
    at_start = top_eigenvalues(networks.at_start(), x, y, depth)
    along = depth / gamma**2 - (depth - 1) / gamma
    # across is γ times along, so that rounding leaves 10⁻¹⁶/γ of it
    assert_close(at_start.values[0], sorted([along] + [1 / gamma] * (depth - 1))[::-1], 1e-6)


@pytest.mark.parametrize("gamma", [0.1, 3.0])
def test_a_trained_deep_linear_network_ends_at_the_sharpness_of_theory(gamma):
    depth, w = 3, 1.0
    eta = 0.3 * gamma**2 / (depth * (1 + gamma) ** (2 - 2 / depth))
    for _ in range(600):
        w -= eta / gamma * w ** (depth - 1) * ((w**depth - 1) / gamma - 1)
    moved = {f"w.{i}": torch.full((1, 1), w - 1, dtype=torch.float64) for i in range(depth)}
    ones = torch.ones(1, 1).double()
    found = sharpness(networks_of(Product(depth), gamma, 1.0, moved, (1,)), ones, ones)
    assert_close(found.sharpness, [depth * (1 + gamma) ** (2 - 2 / depth) / gamma**2], 1e-9)
