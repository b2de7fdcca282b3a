"""Compiled loops of CNNs against the stack that GPUs train with, whose oracle is PyTorch's own convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical import Ensemble, data_stream
from empirical.kernels.tiles import vector_registers
from empirical.models import CNN, FusedCNNStack, fused_cnn
from empirical.models.stack import Lesson, Placement
from empirical.optimizers import make_optimizer
from tests.test_empirical.test_cnn import plain
from tests.test_empirical.test_fused_mlp import assert_same, both

SIZE = 7

pytestmark = pytest.mark.skipif(vector_registers() is None, reason="this processor has no fused multiply-add")


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "sign"])
def test_every_optimizer_and_loss(optimizer, loss):
    gamma = np.array([1e-5, 1e-3, 0.1, 1.0, 30.0, 0.3])
    eta = 0.02 * np.minimum(gamma, 1) * gamma
    if optimizer in {"adam", "sign"}:
        eta = 1e-3 * np.minimum(gamma, 1)
    spec, options = CNN((2, 1), 5, SIZE, 10), {"loss": loss, "optimizer": optimizer}
    # the other stack makes F − F₀ of two numbers that agree in more digits the smaller γ: both lose what it loses
    assert_same(*both(spec, gamma, eta, [0, 1, 0, 1, 1, 1], 15, 6, **options), tolerance=1e-8)


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "sign"])
def test_schedules_and_weight_decay(optimizer):
    gamma, options = np.array([0.03, 0.1, 3.0]), {"schedule": "warmup-cosine", "weight_decay": 0.03}
    eta = 1e-3 * np.minimum(gamma, 1) ** (1 if optimizer in {"adam", "sign"} else 2)
    assert_same(*both(CNN((2, 2), 4, SIZE, 10), gamma, eta, 0, 24, 16, optimizer=optimizer, **options), tolerance=1e-9)


@settings(max_examples=15, deadline=None)
@given(
    strides=st.lists(st.sampled_from([1, 2]), min_size=2, max_size=5), width=st.integers(1, 20),
    batch=st.integers(1, 40), column=st.sampled_from([1.0, 1e9]),
)  # fmt: skip
def test_networks_and_batches_of_any_size(strides, width, batch, column):
    gamma, seed = np.array([0.1, 10.0, 1.0]), np.array([0, 1, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_cnn, "COLUMN_BYTES", column)  # narrow columns, or one for the whole batch
        found = both(CNN(tuple(strides), width, SIZE, 10), gamma, 0.02 * gamma, seed, 6, batch)
    assert_same(*found, tolerance=1e-8, ties=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_and_updates_are_those_of_autograd(channels):
    spec, draw = CNN((2, 1, 2), 4, 13, 3, image_channels=channels), torch.Generator().manual_seed(0)
    seeds, sections, ones = [0, 7], [1, 2], torch.ones(3, dtype=torch.float64)
    place = Placement(
        seeds,
        sections,
        make_optimizer("gd", ones, ones, ones, torch.float64),
        False,
        torch.float64,
        torch.device("cpu"),
    )
    stack = spec.stack(place)
    assert isinstance(stack, FusedCNNStack)
    owners = [0, 7, 7]
    networks, initial = ([plain(spec, seed) for seed in owners] for _ in range(2))
    x = [torch.randn(3, 5, spec.input_dim, generator=draw, dtype=torch.float64) for _ in seeds]
    y = [torch.randn(3, 3, 5, generator=draw, dtype=torch.float64) for _ in seeds]
    lesson = Lesson("mse", 0.5 * ones, [1.0] * 3, [False] * 3)
    told, _ = stack.train(x, y, lesson)
    for cell, network in enumerate(networks):
        mine = seeds.index(owners[cell])
        for step in range(3):
            output = (network(x[mine][step]) - initial[cell](x[mine][step]).detach()) / 2
            loss = ((output - y[mine][step].T) ** 2).sum(1).mean() / 2
            assert abs(told[0, step, cell] / loss.item() - 1) < 1e-12
            weights = list(network.parameters())
            with torch.no_grad():
                # the stack's output_scale is η/γ with the γ of its optimizer, 1; f has the lesson's
                for p, g, s in zip(weights, torch.autograd.grad(loss, weights), spec.layers, strict=True):
                    p -= 2 * s.learning_rate * g
        for layer, moved in enumerate(stack.displacements().values()):
            expected = weights[layer].detach() - spec.initial_weights(owners[cell])[layer]
            torch.testing.assert_close(moved[cell], expected, rtol=1e-10, atol=1e-12)
        fresh = torch.randn(11, spec.input_dim, generator=draw, dtype=torch.float64)
        torch.testing.assert_close(
            stack.forward([fresh, fresh])[cell].T,
            (network(fresh) - initial[cell](fresh)).detach(),
            rtol=1e-10,
            atol=1e-12,
        )


def stream(seed):
    return data_stream("fashion-mnist-deformed", 20, seed, size=SIZE, dtype=torch.float64)


def test_bits_do_not_depend_on_companions_seeds_or_looks():
    gamma, steps, seed = np.array([1e-4, 0.1, 1.0, 10.0]), 25, np.array([0, 1, 0, 1])
    spec = CNN((2, 2), 6, SIZE, 10)

    def run(cells, **looks):
        ensemble = Ensemble(
            spec, gamma[cells], 0.02 * np.minimum(gamma, 1)[cells] * gamma[cells], seed[cells], stream=stream
        )
        return ensemble.run(steps, np.arange(steps), **looks).loss_curve

    together = run(np.arange(4))
    looked_at = run(np.arange(4), probe=lambda step, networks: None, probe_steps=range(0, steps, 7))
    np.testing.assert_array_equal(looked_at, together)
    for cell in range(4):
        np.testing.assert_array_equal(run(np.array([cell]))[0], together[cell])


def test_cells_without_an_active_unit_die():
    ensemble = Ensemble(CNN((2, 2), 4, SIZE, 10), [1.0, 1.0], [1e-3, 300.0], stream=stream)
    result = ensemble.run(200).cells
    assert result.steps_run[0] == 200
    assert result.steps_run[1] < 200
