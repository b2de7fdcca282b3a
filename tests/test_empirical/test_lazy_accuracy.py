"""Float32 against float64 on the whole γ axis, below eta_crit.

Lazy cells move by less than one unit in the last place of a weight, and F(θ) and F(θ₀) agree in all but their last
digits; the split path holds the displacement apart and sends it forward by itself.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empirical import MLP, Ensemble, data_stream
from empirical import ensemble as engine
from theory import ToyModel

SIZE = 7
GAMMA = np.concatenate([np.geomspace(1e-8, 1e5, 14), [0.99e-2, 1.01e-2]])
"""A γ a decade, and both sides of where the path changes."""


def curves(depth, factor, dtype, loss="mse", gamma=GAMMA, steps=300, **options):
    def stream(seed):
        return data_stream("fashion-mnist-deformed", 32, seed, size=SIZE, dtype=torch.float64)

    eta = factor * ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=depth)
    spec, seed = MLP(depth, 32, SIZE**2, 10), np.resize([0, 1], len(gamma))
    ensemble = Ensemble(spec, gamma, eta, seed, stream=stream, dtype=dtype, loss=loss, **options)
    return ensemble.run(steps, np.arange(steps)).loss_curve


def worst(a, b):
    return np.max(np.abs(a - b) / np.abs(b), axis=1)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("factor", [1e-3, 0.02, 0.3])
@pytest.mark.parametrize("depth", [2, 3])
def test_float32_curves_are_those_of_float64(depth, factor, loss):
    single, double = (curves(depth, factor, dtype, loss) for dtype in ("float32", "float64"))
    assert worst(single, double).max() <= 1e-3


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("momentum", {}),
        ("adam", {}),
        ("gd", {"weight_decay": 0.01, "schedule": "warmup-cosine"}),
        ("adam", {"weight_decay": 0.01, "schedule": "warmup-cosine"}),
    ],
)
def test_float32_is_enough_for_every_smooth_optimizer(optimizer, options, loss):
    # sign descent is left out: one gradient whose sign is lost in rounding moves a weight by 2η, at any γ. The heavy
    # ball's edge is ten times lower here; Adam moves weights by about η, and F by 3η of γ
    factor, gamma = (0.03 if optimizer == "momentum" else 0.3), 10.0 ** np.arange(-16, 1, 2)
    if optimizer == "adam":
        factor = 0.1 * gamma / ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=3) / (1 + gamma) ** (2 / 3)
    single, double = (
        curves(3, factor, dtype, loss, gamma, steps=100, optimizer=optimizer, **options)
        for dtype in ("float32", "float64")
    )
    assert np.ptp(double, axis=1).min() > 1e-2  # every cell learns
    assert worst(single, double).max() <= 1e-3


def test_the_two_paths_are_one_training(monkeypatch):
    # float64, everything direct against everything split; the direct path loses 1e-16 F/(γ f) to cancellation
    gamma = np.geomspace(1e-3, 1e3, 7)
    monkeypatch.setattr(engine, "LAZY_BELOW", 0.0)
    direct = curves(3, 0.3, "float64", gamma=gamma, steps=60)
    monkeypatch.setattr(engine, "LAZY_BELOW", np.inf)
    split = curves(3, 0.3, "float64", gamma=gamma, steps=60)
    assert worst(split, direct).max() <= 1e-10


def test_without_the_split_float32_is_wrong(monkeypatch):
    """Otherwise the test above would prove nothing."""
    gamma = np.array([1e-5, 1e-4])
    double = curves(3, 0.02, "float64", gamma=gamma)
    monkeypatch.setattr(engine, "LAZY_BELOW", 0.0)
    assert worst(curves(3, 0.02, "float32", gamma=gamma), double)[0] > 3e-3
