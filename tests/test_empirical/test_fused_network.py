"""Compiled loops of CNNs, ResNets and ViTs against the stacks that GPUs train with, and against PyTorch's autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical import Ensemble, data_stream
from empirical.kernels.tiles import vector_registers
from empirical.models import CNN, FusedNetworkStack, ResNet, ViT, fused_network
from empirical.models.stack import Lesson, Placement
from empirical.optimizers import make_optimizer
from tests.test_empirical.test_fused_mlp import assert_same, both

SIZE = 7
IMAGE = (1, SIZE, SIZE)
SMALL = {
    "cnn": CNN((2, 1), 5, SIZE, 10),
    "resnet": ResNet(2, 4, IMAGE, 10),
    "resnet-norms": ResNet(3, 4, IMAGE, 10, norm="layer", final_norm=True),  # with a shortcut that is no identity
    "vit": ViT(1, 6, IMAGE, 10, patch=3),
    "vit-norms": ViT(2, 4, IMAGE, 10, patch=4, heads=1, final_norm=True, activation="relu"),
}

pytestmark = pytest.mark.skipif(vector_registers() is None, reason="this processor has no fused multiply-add")


def rates(gamma, optimizer="gd"):
    """Learning rates at which small networks learn."""
    if optimizer in {"adam", "sign"}:
        return 1e-3 * np.minimum(gamma, 1)
    return 0.02 * np.minimum(gamma, 1) * gamma


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "sign"])
@pytest.mark.parametrize("name", SMALL)
def test_every_optimizer_and_loss(name, optimizer, loss):
    gamma = np.array([1e-5, 1e-3, 0.1, 1.0, 30.0, 0.3])
    if optimizer == "sign" and name != "cnn":
        gamma = gamma[1:]  # Euler's signs of gradients that both ways lose in the rounding of F − F₀
    eta, options = rates(gamma, optimizer), {"loss": loss, "optimizer": optimizer}
    seeds = [0, 1, 0, 1, 1, 1][-len(gamma) :]
    # the other stack makes F − F₀ of two numbers that agree in more digits the smaller γ: both lose what it loses
    assert_same(*both(SMALL[name], gamma, eta, seeds, 15, 6, **options), tolerance=1e-7)


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "sign"])
@pytest.mark.parametrize("name", ["cnn", "resnet-norms", "vit"])
def test_schedules_and_weight_decay(name, optimizer):
    gamma, options = np.array([0.03, 0.1, 3.0]), {"schedule": "warmup-cosine", "weight_decay": 0.03}
    eta = 1e-3 * np.minimum(gamma, 1) ** (1 if optimizer in {"adam", "sign"} else 2)
    assert_same(*both(SMALL[name], gamma, eta, 0, 24, 16, optimizer=optimizer, **options), tolerance=1e-8)


CNNS = st.builds(
    lambda strides, width: CNN(tuple(strides), width, SIZE, 10),
    strides=st.lists(st.sampled_from([1, 2]), min_size=2, max_size=5), width=st.integers(1, 20),
)  # fmt: skip
RESNETS = st.builds(
    ResNet, blocks=st.integers(1, 5), width=st.integers(1, 9), input_shape=st.just(IMAGE), num_classes=st.just(10),
    norm=st.sampled_from(["none", "layer"]), final_norm=st.booleans(),
)  # fmt: skip
VITS = st.builds(
    lambda width, **sizes: ViT(width=width * sizes["heads"], input_shape=IMAGE, num_classes=10, **sizes),
    blocks=st.integers(1, 2), width=st.integers(1, 7), heads=st.integers(1, 3), patch=st.integers(2, SIZE),
    final_norm=st.booleans(), activation=st.sampled_from(["gelu", "relu"]),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(spec=CNNS | RESNETS | VITS, batch=st.integers(1, 40), column=st.sampled_from([1.0, 1e9]))
def test_networks_and_batches_of_any_size(spec, batch, column):
    gamma, seed = np.array([0.1, 10.0, 1.0]), np.array([0, 1, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_network, "COLUMN_BYTES", column)  # narrow columns, or one for the whole batch
        found = both(spec, gamma, 2e-3 * np.minimum(gamma, 1), seed, 6, batch)
    assert_same(*found, tolerance=1e-7, ties=True)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_and_updates_are_those_of_autograd(name, channels):
    spec, draw = SMALL[name], torch.Generator().manual_seed(0)
    if isinstance(spec, CNN):
        spec = CNN((2, 1, 2), 4, 13, 3, image_channels=channels)
    else:
        spec = replace(spec, input_shape=(channels, 13, 13), num_classes=3)
    inputs, outputs = channels * 13**2, 3
    seeds, sections, ones = [0, 7], [1, 2], torch.ones(3, dtype=torch.float64)
    optimizer = make_optimizer("gd", ones, ones, ones, torch.float64)
    stack = spec.stack(Placement(seeds, sections, optimizer, False, torch.float64, torch.device("cpu")))
    assert isinstance(stack, FusedNetworkStack)
    owners, scale = [0, 7, 7], list(spec.rates().values())
    networks, initial = ([spec.module(seed) for seed in owners] for _ in range(2))

    def centred(cell, x):
        x = x.reshape(-1, *spec.example_shape)
        return networks[cell](x) - initial[cell](x).detach()

    x = [torch.randn(3, 5, inputs, generator=draw, dtype=torch.float64) for _ in seeds]
    y = [torch.randn(3, outputs, 5, generator=draw, dtype=torch.float64) for _ in seeds]
    told, _ = stack.train(x, y, Lesson("mse", 0.5 * ones, [1e-2] * 3, [False] * 3))
    for cell, network in enumerate(networks):
        mine = seeds.index(owners[cell])
        for step in range(3):
            loss = ((centred(cell, x[mine][step]) / 2 - y[mine][step].T) ** 2).sum(1).mean() / 2
            assert abs(told[0, step, cell] / loss.item() - 1) < 1e-12
            weights = list(network.parameters())
            with torch.no_grad():
                # the stack's output_scale is η/γ with the γ of its optimizer, 1; f has the lesson's
                for p, g, s in zip(weights, torch.autograd.grad(loss, weights), scale, strict=True):
                    p -= 2e-2 * s * g
        first = dict(initial[cell].named_parameters())
        moved = stack.displacements()
        assert list(moved) == [key for key, _ in network.named_parameters()]
        for key, weight in network.named_parameters():
            torch.testing.assert_close(moved[key][cell], (weight - first[key]).detach(), rtol=1e-9, atol=1e-11)
        fresh = torch.randn(11, inputs, generator=draw, dtype=torch.float64)
        found = stack.forward([fresh, fresh])[cell].T
        torch.testing.assert_close(found, centred(cell, fresh).detach(), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", SMALL)
def test_single_precision_stays_near_double(name):
    """Curves of T steps below the boundary, at γ on both sides of where cells become lazy."""
    gamma = np.array([1e-4, 0.02, 1.0, 30.0])
    curves = [
        Ensemble(SMALL[name], gamma, 0.1 * rates(gamma), 0, stream=stream, dtype=dtype)
        .run(60, np.arange(60))
        .loss_curve
        for dtype in ("float32", "float64")
    ]
    np.testing.assert_allclose(*curves, rtol=1e-3)


def stream(seed):
    return data_stream("fashion-mnist-deformed", 20, seed, size=SIZE, dtype=torch.float64)


@pytest.mark.parametrize("name", SMALL)
def test_bits_do_not_depend_on_companions_seeds_or_looks(name):
    gamma, steps, seed = np.array([1e-4, 0.1, 1.0, 10.0]), 25, np.array([0, 1, 0, 1])

    def run(cells, **looks):
        ensemble = Ensemble(SMALL[name], gamma[cells], rates(gamma)[cells], seed[cells], stream=stream)
        return ensemble.run(steps, np.arange(steps), **looks).loss_curve

    together = run(np.arange(4))
    looked_at = run(np.arange(4), probe=lambda step, networks: None, probe_steps=range(0, steps, 7))
    np.testing.assert_array_equal(looked_at, together)
    for cell in range(4):
        np.testing.assert_array_equal(run(np.array([cell]))[0], together[cell])


@pytest.mark.parametrize("name", SMALL)
def test_diverged_cells_leave_nothing_to_others(name):
    """Grids are the same memory for all cells: infinities of one must not reach the next."""
    gamma, eta = np.array([1.0, 1.0, 1.0]), np.array([1e-3, 1e12, 1e-3])
    curves = Ensemble(SMALL[name], gamma, eta, 0, stream=stream).run(30, np.arange(30)).loss_curve
    alone = Ensemble(SMALL[name], gamma[:1], eta[:1], 0, stream=stream).run(30, np.arange(30)).loss_curve[0]
    np.testing.assert_array_equal(curves[0], alone)
    np.testing.assert_array_equal(curves[2], alone)


def test_cells_without_an_active_unit_die():
    ensemble = Ensemble(CNN((2, 2), 4, SIZE, 10), [1.0, 1.0], [1e-3, 300.0], stream=stream)
    result = ensemble.run(200).cells
    assert result.steps_run[0] == 200
    assert result.steps_run[1] < 200


@pytest.mark.parametrize(
    "spec",
    [
        ResNet(1, 4, IMAGE, 10, activation="tanh"),
        ResNet(1, 4, IMAGE, 10, norm="layer", norm_gain=True),
        ViT(1, 4, IMAGE, 10, norm="none"),
        ViT(1, 4, IMAGE, 10, activation="tanh"),
        ViT(1, 4, IMAGE, 10, norm_gain=True),
    ],
)
def test_other_networks_train_through_torch_func(spec):
    assert not spec.trains_cell_by_cell(torch.device("cpu"))
    assert np.isfinite(Ensemble(spec, [1.0], [1e-3], stream=stream).run(3, [0, 2]).loss_curve).all()
