"""The lazy limit: weights against kernel, both against closed forms, and trained networks against both.

The networks of the last tests come out of ``Ensemble``, which knows nothing of ``linearized``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from empirical import MLP, Ensemble, data_stream
from empirical.measure.kernels import ntk
from empirical.measure.linearized import kernel_regression, relative_error, train_linearized
from empirical.measure.modules import networks_of
from empirical.measure.record import Recorder, recorded_steps
from empirical.models.cnn import CNN
from empirical.models.module import ModuleArchitecture
from theory.errors import InputError

CLASSES = 10


def stream(seed=0, batch=8):
    return data_stream("fashion-mnist-deformed", batch, seed, size=7, dtype=torch.float64)


def start_of(spec, gamma=1.0, seed=0):
    return networks_of(spec.module(seed), example_shape=spec.example_shape, rates=spec.rates(), gamma=gamma, seed=seed)


def stable_rate(networks, x, share):
    """η/γ² at a share of the edge 2B/λ of the kernel on a batch: what the linearised steps stand."""
    kernel = ntk(networks, x)[0]
    size = len(x) * kernel.shape[1]
    return share * 2 * len(x) / np.linalg.eigvalsh(kernel.reshape(size, size))[-1]


SPECS = {"mlp2": MLP(2, 24, 49, CLASSES), "mlp3": MLP(3, 24, 49, CLASSES), "cnn": CNN((2, 2), 12, 7, CLASSES)}


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("name", ["mlp3", "cnn"])
def test_weights_and_kernel_give_one_function(name, loss):
    networks = start_of(SPECS[name])
    networks = replace(networks, gamma=torch.tensor([1e-6, 1.0, 30.0], dtype=torch.float64))
    networks = replace(networks, displacement={n: d.expand(3, *d.shape[1:]) for n, d in networks.displacement.items()})
    x = stream().test_set()[0][:12]
    eta = stable_rate(start_of(SPECS[name]), stream()(0)[0], 0.5) * np.array([1e-12, 0.3, 900.0])
    arguments = (networks, eta, stream(), 6, x)
    weights, kernel = (f(*arguments, at=range(7), loss=loss) for f in (train_linearized, kernel_regression))
    assert weights.output.shape == (7, 3, 12, CLASSES)
    assert np.abs(weights.output[-1]).max() > 0.01
    np.testing.assert_allclose(weights.output, kernel.output, rtol=1e-10, atol=1e-13)
    # only η/γ² enters
    np.testing.assert_allclose(weights.output[:, 0], weights.output[:, 2], rtol=1e-10, atol=1e-13)
    assert np.abs(weights.output[-1, 0] - weights.output[-1, 1]).max() > 0.01


def test_one_layer_is_linear_regression_in_closed_form():
    # full batch, F = V x: f(x) = Σ_k (1 − (1 − η M s_k/B)^t) of the least-squares solution along singular vectors k
    spec = MLP(1, 5, 49, CLASSES)
    networks = start_of(spec, gamma=0.5)
    x, y = stream(batch=12)(0)
    probe = stream().test_set()[0][:9]
    u, s, v = np.linalg.svd(x.numpy(), full_matrices=False)
    rate = spec.rates()["layers.0"] / len(x) / 0.5**2
    eta, steps = 1 / (rate * s[0] ** 2), 10
    learned = (1 - (1 - eta * rate * s**2) ** steps) / s
    expected = probe.numpy() @ (v.T * learned) @ u.T @ y.numpy()
    for train in (train_linearized, kernel_regression):
        found = train(networks, eta, lambda step: (x, y), steps, probe)
        np.testing.assert_allclose(found.output[0, 0], expected, rtol=1e-9, atol=1e-12)


def errors(spec, gamma, *, share=0.3, steps=120, loss="mse", points=12):
    """Relative distance of trained networks from the linearised one, (cells, points); and the largest f_lin."""
    gamma, kept = np.asarray(gamma), recorded_steps(steps, points)[1:]
    x, batches = stream().test_set()[0][:60], stream(batch=32)
    rate = stable_rate(start_of(spec), batches(0)[0], share)
    recorder = Recorder({"f": lambda networks: networks.output(x)})
    run = Ensemble(spec, gamma, rate * gamma**2, 0, stream=lambda seed: batches, dtype="float64", loss=loss)
    run.run(steps, probe=recorder, probe_steps=kept)
    linear = train_linearized(start_of(spec), rate, batches, steps, x, at=kept, loss=loss).output[:, 0]
    return relative_error(recorder.dataset(run).f.values, linear), np.abs(linear).max()


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("name", SPECS)
def test_lazy_networks_are_kernel_regression_along_the_whole_run(name, loss):
    found, size = errors(SPECS[name], [1e-6, 1e-4], loss=loss)
    assert size > 0.3  # far from the start f = 0
    assert found[1].max() < 1e-2
    assert found[0].max() < 1e-3
    # until the first unit switches on an example the network is polynomial in Δ, and its error is exactly linear in γ
    np.testing.assert_allclose(found[1, 0] / found[0, 0], 100, rtol=0.05)


def tanh_network():
    return nn.Sequential(nn.Linear(49, 24, bias=False), nn.Tanh(), nn.Linear(24, CLASSES, bias=False)).double()


def test_the_error_of_a_smooth_network_is_linear_in_gamma_at_every_step():
    # ReLU networks add jumps where units switch, about γ of them, of either sign; without kinks f − f_lin = γ g + O(γ²)
    gamma = np.array([1e-5, 1e-4, 1e-3])
    spec = ModuleArchitecture(tanh_network, 49, CLASSES)
    found, size = errors(spec, gamma)
    assert size > 0.3
    slopes = np.diff(np.log10(found), axis=0)
    np.testing.assert_allclose(slopes, 1, atol=0.05)


def test_rich_networks_are_not():
    found, _ = errors(SPECS["mlp3"], [1.0], share=0.1)
    assert found.max() > 0.1


def test_relative_error():
    f = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    np.testing.assert_allclose(relative_error(1.5 * f, f), 0.5)
    assert np.isnan(relative_error(f, 0 * f)).all()


def test_bad_input_is_refused():
    networks, x = start_of(SPECS["mlp2"]), stream().test_set()[0][:3]
    for field, options in {
        "eta": {"eta": [1.0, 2.0]},
        "at": {"at": [4]},
        "steps": {"steps": 0},
        "loss": {"loss": "hinge"},
    }.items():
        arguments = {"eta": 1.0, "batches": stream(), "steps": 3, "x": x} | options
        for train in (train_linearized, kernel_regression):
            with pytest.raises(InputError, match=field):
                train(networks, **arguments)
