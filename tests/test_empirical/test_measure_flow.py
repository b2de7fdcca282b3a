"""Gradient flow of networks: against the toy's exact law, kernel regression, and descent in small steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from empirical import MLP, Ensemble, flow_time, kernel_growth, networks_of, ntk
from empirical.models import ResNet, ViT
from empirical.trace import exact_law
from theory.errors import InputError

ONE = torch.ones(1, 1, dtype=torch.float64)


class Product(nn.Module):
    """The toy: L weights, one after the other."""

    def __init__(self, depth: int, start: float = 1.0) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.tensor(start)) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.stack(list(self.weights)).prod()


def toy(depth: int, gamma: object = 1.0, start: float = 1.0):
    cells = np.ravel(gamma)
    module = Product(depth, start)
    return networks_of(module, [module] * len(cells), example_shape=(1,), gamma=cells)


def examples(count: int, inputs: int = 9, classes: int = 3):
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(count, inputs, generator=draw, dtype=torch.float64)
    return x, torch.eye(classes, dtype=torch.float64)[torch.arange(count) % classes]


def at_start(spec, gamma):
    module = spec.module(0)
    gammas = np.ravel(gamma)
    return networks_of(
        module, [module] * len(gammas), example_shape=spec.example_shape, gamma=gammas, rates=spec.rates()
    )  # fmt: skip


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
@pytest.mark.parametrize("level", [0.9, 0.3])
def test_the_toy_takes_the_time_of_its_law(depth, level):
    gamma = np.geomspace(1e-7, 1e5, 13)
    law = exact_law("eta_min", gamma, depth=depth, steps=1000, level=level) * 1000 / gamma
    np.testing.assert_allclose(flow_time(toy(depth, gamma), ONE, ONE, level=level), law, rtol=6e-3)


@given(st.floats(0.3, 3.0), st.floats(-6, 4), st.integers(2, 5))
def test_another_start_moves_the_crossover(start, log_gamma, depth):
    gamma = 10**log_gamma
    law = exact_law("eta_min", [gamma / start**depth], depth=depth, steps=1) * start**2 / gamma
    np.testing.assert_allclose(flow_time(toy(depth, gamma, start), ONE, ONE), law, rtol=6e-3)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_kernel_of_the_toy(depth):
    alignment = np.geomspace(1e-3, 1e6, 19)
    growth = kernel_growth(toy(depth), ONE, ONE, alignment)
    assert growth.start == pytest.approx(depth, rel=1e-6)
    np.testing.assert_allclose(growth.kernel, depth * (1 + alignment) ** (2 - 2 / depth), rtol=2e-2)
    power = 2 / depth - 1
    tau = np.log1p(alignment) / depth if depth == 2 else ((1 + alignment) ** power - 1) / (depth * power)
    np.testing.assert_allclose(growth.tau, tau, rtol=6e-3)


def test_lazy_networks_do_kernel_regression():
    x, y = examples(40)
    networks = at_start(MLP(3, 32, 9, 3), 1e-7)
    kernel = ntk(networks, x)[0].reshape(120, 120) / 40
    values, vectors = np.linalg.eigh(kernel)
    weight = (vectors.T @ y.reshape(-1).numpy()) ** 2

    def left(time):
        return (weight * np.exp(-2 * values * time)).sum() / weight.sum()

    for level in (0.9, 0.5):
        low, high = 0.0, 1e4
        for _ in range(60):
            low, high = ((low + high) / 2, high) if left((low + high) / 2) > level else (low, (low + high) / 2)
        assert flow_time(networks, x, y, level=level)[0] / 1e-7 == pytest.approx(low, rel=3e-3)


SPECS = {
    "mlp": MLP(3, 16, 9, 3),
    "resnet": ResNet(1, 4, (1, 3, 3), 3, norm="layer"),
    "vit": ViT(1, 8, (1, 3, 3), 3, patch=1, heads=2),
}


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("name", SPECS)
def test_descent_in_small_steps_takes_as_long(name, loss):
    """Training itself, on one batch of all examples: the loss gets to 0.9 of itself at the τ of flow."""
    x, y = examples(24)

    class Whole:
        num_classes, example_shape = 3, SPECS[name].example_shape

        def __call__(self, step):
            return x.float(), y.float()

        def test_set(self):
            return x.float(), y.float()

    steps, gamma = 400, np.array([1e-3, 0.5, 20.0])
    networks = at_start(SPECS[name], gamma)
    tau = flow_time(networks, x, y, loss=loss)
    ensemble = Ensemble(
        SPECS[name], gamma, 1.25 * gamma * tau / steps, seed=0, stream=lambda seed: Whole(), loss=loss, dtype="float64"
    )  # fmt: skip
    found = ensemble.run(steps, curve_steps=np.arange(steps))
    curves = found.loss_curve / found.loss_curve[:, :1]
    reached = (curves > 0.9).sum(axis=1) / steps * 1.25
    np.testing.assert_allclose(reached, 1, atol=0.03)  # kinks of 24 examples cost flow up to 2 %


def test_the_kernel_starts_as_the_tangent_kernel_and_ends_as_the_degree_has_it():
    x, y = examples(30)
    network = at_start(MLP(3, 32, 9, 3), 1.0)
    growth = kernel_growth(network, x, y, np.geomspace(1e-4, 1e7, 12))
    target = y.reshape(-1).numpy()
    quadratic = target @ ntk(network, x)[0].reshape(90, 90) @ target
    assert growth.start == pytest.approx(quadratic / 30 / (target**2).sum(), rel=1e-6)
    assert growth.kernel[0] == pytest.approx(growth.start, rel=1e-2)
    slopes = np.diff(np.log(growth.kernel)) / np.diff(np.log(growth.alignment))
    assert slopes[-1] == pytest.approx(2 - 2 / 3, abs=0.01)
    assert (np.diff(growth.tau) > 0).all()


def test_one_path_serves_every_gamma():
    """While f is small the loss falls by 2B/γ: the time of every γ is that of one path without γ."""
    x, y = examples(30)
    gamma, level = np.geomspace(1e-2, 1e4, 7), 0.99
    times = flow_time(at_start(MLP(3, 32, 9, 3), gamma), x, y, level=level)
    growth = kernel_growth(at_start(MLP(3, 32, 9, 3), 1.0), x, y, gamma * (1 - level) / 2)
    np.testing.assert_allclose(growth.tau, times, rtol=0.06)


def test_precision_changes_nothing():
    x, y = examples(40)
    below, above = flow_time(at_start(MLP(3, 16, 9, 3), [0.00999999, 0.01000001]), x, y)
    assert below == pytest.approx(above, rel=2e-3)


def test_several_levels_are_those_of_one_path():
    x, y = examples(30)
    networks = at_start(MLP(3, 32, 9, 3), [0.1, 30.0])
    times = flow_time(networks, x, y, level=[0.95, 0.9, 0.6])
    assert times.shape == (2, 3)
    assert (np.diff(times, axis=1) > 0).all()
    for column, level in enumerate((0.95, 0.9, 0.6)):
        np.testing.assert_allclose(times[:, column], flow_time(networks, x, y, level=level), rtol=2e-2)


def test_where_no_flow_leads():
    x = torch.ones(2, 9, dtype=torch.float64)
    network = at_start(MLP(2, 8, 9, 3), 1.0)
    even = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    assert np.isnan(flow_time(network, x, even, loss="cross-entropy")).all()  # nothing to learn
    y = torch.eye(3, dtype=torch.float64)[:2]  # one input, two targets: half of the loss stays
    assert np.isfinite(flow_time(network, x, y, level=0.6)).all()
    assert np.isnan(flow_time(network, x, y, level=0.4)).all()


def test_bad_input():
    x, y = examples(4)
    network = at_start(MLP(2, 8, 9, 3), 1.0)
    for wrong in ({"level": 1.0}, {"level": 0.0}, {"level": [0.8, 0.9]}, {"loss": "hinge"}):
        with pytest.raises(InputError):
            flow_time(network, x, y, **wrong)
    with pytest.raises(InputError, match="x"):
        flow_time(network, x[:, :2], y)
    for wrong in ([], [0.0, 1.0], [2.0, 1.0]):
        with pytest.raises(InputError, match="alignment"):
            kernel_growth(network, x, y, wrong)


def test_the_displacement_does_not_count():
    x, y = examples(20)
    network = at_start(MLP(2, 8, 9, 3), 3.0)
    moved = replace(network, displacement={name: 1.0 + d for name, d in network.displacement.items()})
    assert flow_time(moved, x, y) == flow_time(network, x, y)
