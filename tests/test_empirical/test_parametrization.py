"""μP multipliers, the centring and γ: what `rescale` and `mup_layers` promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical import MLP, Ensemble, data_stream, mup_layers, rescale
from theory import InputError


@settings(max_examples=25, deadline=None)
@given(gamma=st.floats(1e-6, 1e6), seed=st.integers(0, 1000))
def test_rescaled_output_is_zero_now_and_the_scaled_change_later(gamma, seed):
    generator = torch.Generator().manual_seed(seed)
    module = torch.nn.Linear(3, 2, bias=False).double()
    network = rescale(module, gamma)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    assert torch.equal(network(x), torch.zeros(5, 2, dtype=torch.float64))
    move = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        module.weight += move
    # (W + Δ)x − Wx loses digits to the size of W x, nothing else
    np.testing.assert_allclose(network(x).detach(), (x @ move.T) / gamma, rtol=1e-9, atol=1e-12 / gamma)


def test_only_the_module_trains():
    module = torch.nn.Linear(3, 2)
    network = rescale(module, 0.1)
    assert [p for p in network.parameters() if p.requires_grad] == list(module.parameters())


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan"), float("inf"), "1", True])
def test_gamma_is_checked(gamma):
    with pytest.raises(InputError, match="gamma"):
        rescale(torch.nn.Linear(1, 1), gamma)


def test_batch_statistics_are_refused_by_the_name_of_the_layer():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    with pytest.raises(InputError, match=r"1 \(BatchNorm1d\)"):
        rescale(module, 1.0)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_learning_rates_are_the_width_times_the_squared_multiplier(depth):
    for width in (1, 64):
        layers = mup_layers(depth, width, 7, 3)
        assert len(layers) == depth
        assert [layers[0].fan_in, layers[-1].fan_out] == [7, 3]
        for layer in layers:
            assert layer.learning_rate == pytest.approx((width if depth > 1 else 1) * layer.multiplier**2)


def test_one_step_moves_the_function_alike_at_every_width():
    # the μP promise: Δf of the first step has a limit. At widths 64 … 1024 it changes by less than a third, seeds
    # averaged; with a learning rate that does not grow with N it would fall sixteenfold
    def change(width):
        def stream(seed):
            return data_stream("fashion-mnist-deformed", 32, seed, size=7)

        seeds = np.arange(4)
        ensemble = Ensemble(MLP(3, width, 49, 10), np.ones(4), np.full(4, 0.05), seeds, stream=stream, dtype="float64")
        losses = ensemble.run(2, [0, 1]).loss_curve
        return float(np.mean(losses[:, 0] - losses[:, 1]))

    changes = [change(width) for width in (64, 256, 1024)]
    assert min(changes) > 0
    assert max(changes) / min(changes) < 4 / 3


@pytest.mark.parametrize("field", ["depth", "width", "input_dim", "num_classes"])
@pytest.mark.parametrize("value", [0, -3, 2.5, True])
def test_sizes_are_counted_from_one(field, value):
    sizes = {"depth": 2, "width": 4, "input_dim": 3, "num_classes": 2} | {field: value}
    with pytest.raises(InputError, match=field):
        MLP(**sizes)
