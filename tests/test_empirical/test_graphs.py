"""Recorded steps do what steps do. On a CPU the recorder is replaced by one that does the work again at each call."""

import numpy as np
import pytest
import torch

import empirical.graphs
from empirical import Ensemble
from empirical.shard import TrainingConfig

NETWORKS = {
    "mlp": {"depth": 3, "width": 8},
    "smooth": {"depth": 3, "width": 8, "activation": "tanh"},
    "cnn": {"arch": "cnn", "depth": 3, "width": 4},
    "resnet": {"arch": "resnet", "width": 4, "blocks": 1, "norm": "layer"},
    "vit": {"arch": "vit", "width": 8, "blocks": 1, "patch": 7},
}


@pytest.fixture(autouse=True)
def step_by_step(monkeypatch):
    """Networks train as on a GPU: compiled loops have no step to record."""
    monkeypatch.setattr("empirical.models.fused.can_train", lambda device: False)


STEPS, GAMMA, ETA = 60, np.array([1e-3, 0.1, 1.0, 10.0, 0.1, 1.0]), np.array([1e-8, 1e-4, 1e-2, 0.1, 1e3, 1e4])
"""The last two cells diverge: their group goes on without them, and is recorded anew."""


def train(network, device="cpu", dtype="float64", **options):
    config = TrainingConfig(**network, image_size=7, batch_size=8, steps=STEPS)
    ensemble = Ensemble(
        config.spec(), GAMMA, ETA, [0, 1, 0, 1, 0, 1], stream=config.stream, dtype=dtype, device=device, **options
    )
    return ensemble.run(STEPS)


class Recorder:
    """Does the work again at each call; counts both."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, work):
        self.recorded += 1

        def replay():
            self.replayed += 1
            work()

        return replay


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "sign"])
@pytest.mark.parametrize("name", NETWORKS)
def test_recorded_steps_equal_plain_steps(name, optimizer, monkeypatch):
    plain = train(NETWORKS[name], optimizer=optimizer)
    recorder = Recorder()
    monkeypatch.setitem(empirical.graphs.RECORDERS, "cpu", recorder)
    recorded = train(NETWORKS[name], optimizer=optimizer)
    assert recorder.recorded >= 2  # lazy cells are a group of their own
    assert recorder.replayed > STEPS / 2
    np.testing.assert_array_equal(recorded.loss_curve, plain.loss_curve)
    np.testing.assert_array_equal(recorded.accuracy_curve, plain.accuracy_curve)
    for field, values in plain.cells.fields().items():
        np.testing.assert_array_equal(recorded.cells.fields()[field], values)


@pytest.mark.parametrize("schedule", ["warmup", "cosine"])
def test_steps_under_a_schedule_are_not_recorded(schedule, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(empirical.graphs.RECORDERS, "cpu", recorder)
    train(NETWORKS["mlp"], schedule=schedule)
    assert recorder.recorded == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_trains_the_same_networks(name, optimizer, loss, monkeypatch):
    here = train(NETWORKS[name], optimizer=optimizer, loss=loss)
    there = train(NETWORKS[name], "cuda", optimizer=optimizer, loss=loss)
    monkeypatch.delitem(empirical.graphs.RECORDERS, "cuda")
    unrecorded = train(NETWORKS[name], "cuda", optimizer=optimizer, loss=loss)
    # other kernels add in another order; Adam divides by a second moment that is near zero at first
    tolerance = 1e-6 if optimizer == "adam" else 1e-9
    for other in (there, unrecorded):
        np.testing.assert_array_equal(other.cells.outcome, here.cells.outcome)
        np.testing.assert_allclose(other.loss_curve[:4], here.loss_curve[:4], rtol=tolerance)
    np.testing.assert_allclose(there.loss_curve[:4], unrecorded.loss_curve[:4], rtol=1e-9)
