"""The exponent along the ray: 2/L for homogeneous networks, and that of exactly solved toys of several degrees."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from empirical.campaign.rays import summary
from empirical.measure.modules import networks_of
from empirical.measure.ray import ray_exponent, scaled
from empirical.models import CNN, MLP
from theory.residual import ResidualToy


def grown(module: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for p in module.parameters():
            p *= factor
    return module


@pytest.mark.parametrize("spec", [MLP(2, 8, 16, 3), MLP(4, 8, 16, 3), CNN((2, 1), 4, 4, 3)], ids=str)
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_homogeneous_networks(spec, loss):
    growth = 1e3
    end = grown(spec.module(1), growth)
    networks = networks_of(spec.module(0), [end], example_shape=spec.example_shape, gamma=growth**spec.depth)
    x = torch.randn(12, spec.input_dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    targets = torch.softmax(networks.output(x)[0], 1) if loss == "cross-entropy" else networks.output(x)[0]
    np.testing.assert_allclose(ray_exponent(networks, x, targets, loss=loss, tolerance=1e-6), 2 / spec.depth, rtol=1e-3)


class Toy(nn.Module):
    """A residual toy of separate weights, on one input of size 1."""

    def __init__(self, weights: tuple[float, float, float], blocks: int, normalized: bool) -> None:
        super().__init__()
        readout, stream, branch = weights
        self.readout, self.stream = (nn.Parameter(torch.tensor(float(value))) for value in (readout, stream))
        self.branches = nn.Parameter(torch.full((blocks, 2), float(branch)))
        self.normalized = normalized

    def forward(self, x):
        h, scale = self.stream, len(self.branches) ** -0.5
        for pair in self.branches:
            h = h + scale * pair.prod() * (1 if self.normalized else h)
        return self.readout * h * x


@pytest.mark.parametrize(("blocks", "normalized"), [(1, True), (2, True), (1, False), (2, False)])
def test_toys_with_terms_of_several_degrees(blocks, normalized):
    toy, gammas = ResidualToy(blocks, normalized), np.array([30.0, 3000.0])
    ends = [Toy(tuple(map(float, toy.weights(gamma))), blocks, normalized) for gamma in gammas]  # type: ignore[arg-type]
    networks = networks_of(Toy((1, 1, 1), blocks, normalized), ends, example_shape=(1,), gamma=gammas)
    x = torch.ones(1, 1, dtype=torch.float64)
    found = ray_exponent(networks, x, torch.ones(1, 1, dtype=torch.float64), tolerance=1e-8)
    np.testing.assert_allclose(found, toy.ray_exponent(gammas), atol=2e-3)  # the square of the step


def test_scaled_networks_have_scaled_outputs():
    spec = MLP(3, 6, 5, 2)
    networks = networks_of(spec.module(0), [grown(spec.module(1), 50.0)], example_shape=(5,), gamma=50.0**3)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    there = scaled(networks, 1.7, np.array([3.0]))
    torch.testing.assert_close(there.raw(x), 1.7**3 * networks.raw(x))
    assert float(there.gamma[0]) == pytest.approx((1.7 * 50) ** 3)
    torch.testing.assert_close(there.output(x), networks.output(x), rtol=1e-3, atol=1e-3)


def test_a_degree_that_is_not_positive_has_no_ray():
    class Inverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return x / self.w

    networks = networks_of(Inverse(), example_shape=(1,))
    assert np.isnan(ray_exponent(networks, torch.ones(1, 1), torch.ones(1, 1, dtype=torch.float64))).all()


def test_the_summary_puts_exponents_side_by_side():
    gamma = np.tile(np.geomspace(10, 1e4, 6), 3)
    cells = pd.DataFrame({
        "entry": "e", "steps": 100, "gamma": gamma, "eta": 1.0, "seed": np.repeat([0, 1, 2], 6), "degree": 2.5,
        "sharpness": 3 * gamma**-0.7, "ray_exponent": 0.6,
    })  # fmt: skip
    cells.loc[0, "ray_exponent"] = np.nan
    (row,) = summary(cells).to_dict("records")
    assert row["slope"] == pytest.approx(0.7)
    assert (row["two_over_degree"], row["ray_exponent"], row["gammas"]) == pytest.approx((0.8, 0.6, 6))
