"""Distances and norms against loops; balance against what flow conserves, with the order of the steps' error."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from empirical import MLP
from empirical.measure.modules import networks_of
from empirical.measure.weights import (
    balance_matrices,
    distance_by_layer,
    distance_from_start,
    layer_balance,
    layer_norms,
    neuron_balance,
)
from empirical.models.cnn import CNN
from theory.errors import InputError

RELU, LINEAR, CONV = MLP(3, 7, 12, 2), (12, 7, 6, 2), CNN((2, 1), 5, 4, 2)


def linear_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(LINEAR))).double()


LINEAR_RATES = {"0.weight": 2.0, "1.weight": 0.5, "2.weight": 0.1}


def trained(module: nn.Module, shape, rates, eta: float, time: float) -> nn.Module:
    """Full-batch descent for a fixed time ηT on the raw output, by autograd alone."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(9, int(np.prod(shape)), generator=draw, dtype=torch.float64).reshape(9, *shape)
    y = torch.randn(9, 2, generator=draw, dtype=torch.float64)
    for _ in range(round(time / eta)):
        loss = (module(x) - y).square().sum(1).mean() / 2
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(module.named_parameters(), gradients, strict=True):
                p -= eta * rates[name] * g
    return module


def changes(measure, build, shape, rates, time=1.6):
    """Largest change of a conserved quantity at three step sizes, and that of the norms themselves."""
    out = []
    for eta in (1.6e-2, 8e-3, 4e-3):
        networks = networks_of(build(), [trained(build(), shape, rates, eta, time)], example_shape=shape, rates=rates)
        pairs = zip(measure(networks), measure(networks.at_start()), strict=True)
        out.append(max(float(np.abs(now - first).max()) for now, first in pairs))
    moved = float(np.abs(layer_norms(networks) - layer_norms(networks.at_start())).max())
    return np.array(out), moved


CONSERVED = {
    "units of a ReLU MLP": (neuron_balance, lambda: RELU.module(0), (12,), RELU.rates()),
    "channels of a ReLU CNN": (neuron_balance, lambda: CONV.module(0), (1, 4, 4), CONV.rates()),
    "layers of a ReLU MLP": (lambda n: layer_balance(n).T, lambda: RELU.module(0), (12,), RELU.rates()),
    "matrices of a linear network": (balance_matrices, linear_module, (12,), LINEAR_RATES),
}


@pytest.mark.parametrize("name", CONSERVED)
def test_flow_conserves_the_balance(name):
    found, moved = changes(*CONSERVED[name])
    # a step changes it by order η², T = time/η of them by order η: half the step, half the change. ReLU gates that
    # switch a step earlier or later leave some scatter about 2
    assert moved > 0.01
    assert found[-1] < 0.05 * moved
    np.testing.assert_allclose(found[:-1] / found[1:], 2, atol=0.3)


def test_without_the_multipliers_nothing_is_conserved():
    """The metric matters: with other multipliers than those of the update the same quantity moves at order one."""
    measure, build, shape, rates = CONSERVED["units of a ReLU MLP"]
    wrong = dict.fromkeys(rates, 1.0)
    networks = networks_of(build(), [trained(build(), shape, rates, 4e-3, 1.6)], example_shape=shape, rates=wrong)
    apart = max(np.abs(a - b).max() for a, b in zip(measure(networks), measure(networks.at_start()), strict=True))
    right = changes(measure, build, shape, rates)[0][-1]
    assert apart > 5 * right


def test_balance_against_loops():
    module = CONV.module(0)
    networks = networks_of(module, [CONV.module(1), CONV.module(2)], example_shape=(1, 4, 4), rates=CONV.rates())
    rates = list(CONV.rates().values())
    for cell, found in ((1, 0), (2, 1)):
        first, second, readout = (p.detach() for p in CONV.module(cell).layers)
        for i in range(5):
            into = float((first[i] ** 2).sum()) / rates[0]
            away = sum(float((second[j, i] ** 2).sum()) for j in range(5)) / rates[1]
            assert neuron_balance(networks)[0][found, i] == pytest.approx(away - into)
        expected = float((readout**2).sum()) / rates[2] - float((second**2).sum()) / rates[1]
        assert layer_balance(networks)[found, 1] == pytest.approx(expected)
        assert np.diag(balance_matrices(networks)[1][found]) == pytest.approx(neuron_balance(networks)[1][found])


def test_in_unit_variance_weights_it_is_w_squared_over_n():
    networks = networks_of(RELU.module(0), example_shape=(12,), rates=RELU.rates())
    draws = [w / s.multiplier for w, s in zip(RELU.initial_weights(0), RELU.layers, strict=True)]
    expected = [float((w**2).sum() / 7) ** 0.5 for w in draws]
    np.testing.assert_allclose(layer_norms(networks)[0], expected, rtol=1e-12)
    found = balance_matrices(networks)[0][0]
    np.testing.assert_allclose(found, (draws[1].T @ draws[1] - draws[0] @ draws[0].T) / 7, rtol=1e-10, atol=1e-12)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = ((8, 5), (8, 8), (8, 8), (2, 8))
        self.layers = nn.ParameterList([torch.randn(*size, dtype=torch.float64) for size in sizes])

    def forward(self, x):
        embed, a, b, readout = self.layers
        h = x @ embed.T
        return (h + (h @ a.T).relu() @ b.T) @ readout.T


def test_chains_without_the_symmetry_are_refused():
    skip = networks_of(Skip(), example_shape=(5,))
    with pytest.raises(InputError, match="only ReLU"):
        layer_balance(skip)  # the shapes fit, the skip connection does not
    assert layer_balance(skip, ["layers.1", "layers.2"]).shape == (1, 1)  # inside of the block it does
    torch.manual_seed(0)
    biased = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    nn.init.zeros_(biased[0].bias)  # invisible at the start
    smooth = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False)).double()
    for module in (biased, smooth):
        with pytest.raises(InputError, match="only ReLU"):
            neuron_balance(networks_of(module, example_shape=(5,)))
    for chain in (["layers.1"], ["layers.1", "nowhere"]):
        with pytest.raises(InputError, match="chain"):
            layer_balance(skip, chain)


def test_distances_against_loops():
    rates = RELU.rates()
    networks = networks_of(RELU.module(0), [RELU.module(i) for i in (0, 1, 2)], example_shape=(12,), rates=rates)
    names = [f"layers.{i}" for i in range(3)]
    start = dict(zip(names, RELU.initial_weights(0), strict=True))
    for cell in range(3):
        now = dict(zip(names, RELU.initial_weights(cell), strict=True))
        each = [float((now[n] - start[n]).norm() / start[n].norm()) for n in names]
        np.testing.assert_allclose(distance_by_layer(networks)[cell], each, rtol=1e-12)
        moved = sum(float((now[n] - start[n]).square().sum()) / rates[n] for n in names)
        size = sum(float(start[n].square().sum()) / rates[n] for n in names)
        np.testing.assert_allclose(distance_from_start(networks)[cell], (moved / size) ** 0.5, rtol=1e-12)
    assert distance_from_start(networks)[0] == 0


def test_a_tensor_that_starts_at_zero_has_no_relative_distance():
    start = nn.Linear(3, 2).double()
    nn.init.zeros_(start.bias)
    after = nn.Linear(3, 2).double()
    networks = networks_of(start, [after], example_shape=(3,))
    assert np.isnan(distance_by_layer(networks)).tolist() == [[False, True]]
    assert np.isfinite(distance_from_start(networks)).all()
