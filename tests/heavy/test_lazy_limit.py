"""The table of docs/measure.md, "The lazy limit" (minutes): trained networks against training of their linearisation.

    pytest -m heavy -s tests/heavy/test_lazy_limit.py

Largest ‖f − f_lin‖/‖f_lin‖ on 200 test examples over the whole run, the worst of three seeds, at η/γ² = 0.3 of the edge
2B/λ_max(K₀). ``Ensemble`` trains one side and ``train_linearized`` the other; they share data and θ₀ only.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from empirical import MLP, Ensemble, data_stream
from empirical.measure.kernels import ntk
from empirical.measure.linearized import relative_error, train_linearized
from empirical.measure.modules import networks_of
from empirical.measure.record import Recorder, recorded_steps
from empirical.models.cnn import CNN
from empirical.models.module import ModuleArchitecture

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(3600)]

GAMMA = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
SIDE, BATCH, SHARE, SEEDS = 14, 32, 0.3, (0, 1, 2)


def tanh_network():
    return nn.Sequential(nn.Linear(SIDE**2, 64, bias=False), nn.Tanh(), nn.Linear(64, 10, bias=False)).double()


NETWORKS = {
    "ReLU MLP, L = 2, N = 64": (MLP(2, 64, SIDE**2, 10), 500),
    "ReLU MLP, L = 3, N = 64": (MLP(3, 64, SIDE**2, 10), 500),
    "ReLU CNN, L = 3, N = 16": (CNN((2, 2), 16, SIDE, 10), 200),
    "tanh MLP, L = 2, N = 64": (ModuleArchitecture(tanh_network, SIDE**2, 10), 500),
}


@pytest.fixture(scope="module", autouse=True)
def head():
    names = ["network", "loss", "T", *(f"γ = {gamma:g}" for gamma in GAMMA)]
    print("", "| " + " | ".join(names) + " |", "|---" * len(names) + "|", sep="\n")


def stream(seed):
    return data_stream("fashion-mnist-deformed", BATCH, seed, size=SIDE, dtype=torch.float64)


def distance(spec, steps, loss, seed):
    """Largest distance over the run, by γ, shape ``(6,)``; and the size of f_lin at its end."""
    kept, x = recorded_steps(steps, 20)[1:], stream(seed).test_set()[0][:200]
    start = networks_of(spec.module(seed), example_shape=spec.example_shape, rates=spec.rates(), seed=seed)
    kernel = ntk(start, stream(seed)(0)[0])[0]
    size = kernel.shape[0] * kernel.shape[1]
    rate = SHARE * 2 * BATCH / np.linalg.eigvalsh(kernel.reshape(size, size))[-1]
    recorder = Recorder({"f": lambda networks: networks.output(x)})
    run = Ensemble(spec, GAMMA, rate * GAMMA**2, seed, stream=stream, loss=loss, dtype="float64")
    run.run(steps, probe=recorder, probe_steps=kept)
    linear = train_linearized(start, rate, stream(seed), steps, x, at=kept, loss=loss).output[:, 0]
    return relative_error(recorder.dataset(run).f.values, linear).max(1), np.abs(linear[-1]).max()


@pytest.mark.parametrize(
    ("name", "loss"),
    [(name, loss) for loss in ("mse", "cross-entropy") for name in NETWORKS if (name[:4], loss[0]) != ("tanh", "c")],
)
def test_lazy_networks_are_kernel_regression_along_the_whole_run(name, loss):
    spec, steps = NETWORKS[name]
    apart, sizes = zip(*(distance(spec, steps, loss, seed) for seed in SEEDS), strict=True)
    worst = np.max(apart, axis=0)
    print("|", " | ".join([name, loss, str(steps), *(f"{error:.1e}" for error in worst)]), "|", flush=True)
    assert min(sizes) > 0.3  # far from f = 0, where everything agrees
    assert worst[2] <= 1e-2  # γ = 10⁻⁴
    assert (np.diff(worst) > 0).all()  # nearer and nearer as γ falls
    if name.startswith("tanh"):  # smooth: f − f_lin = γ g + O(γ²)
        np.testing.assert_allclose(np.diff(np.log10(worst[:5])), 1, atol=0.05)
