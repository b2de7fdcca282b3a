"""Tensors that stay at θ₀: who moves, what is measured on the rest, and networks that are then exactly solved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empirical import Ensemble
from empirical.law import degree_at_large_weights
from empirical.measure.degree import euler_degree
from empirical.measure.linearized import train_linearized
from empirical.models import FusedNetworkStack, ResNet, ViT
from empirical.models.module import ModuleStack
from empirical.models.stack import Placement
from empirical.networks import Networks
from empirical.optimizers import make_optimizer
from empirical.shard import TrainingConfig
from tests.test_empirical.test_fused_mlp import assert_same, both, stream
from theory.errors import InputError

IMAGE = (1, 7, 7)
FROZEN = {
    "resnet": ResNet(3, 4, IMAGE, 10, norm="layer", frozen=("stem", "shortcut")),
    "vit": ViT(1, 6, IMAGE, 10, patch=3, frozen=("query", "key")),
}


def trained(spec, gamma=(0.5, 5.0), eta=1e-2, steps=12):
    """Networks at the start and at the end of a short training, and their stream."""
    seen: dict[int, Networks] = {}
    ensemble = Ensemble(spec, list(gamma), [eta] * len(gamma), 0, stream=stream(8), dtype="float64")
    ensemble.run(steps, probe=lambda step, networks: seen.__setitem__(step, networks), probe_steps=(0, steps))
    return seen[0], seen[steps], stream(8)(0)


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "sign"])
@pytest.mark.parametrize("name", FROZEN)
def test_both_stacks_agree_with_weight_decay_too(name, optimizer):
    gamma, options = np.array([0.1, 1.0, 30.0]), {"optimizer": optimizer, "weight_decay": 0.03}
    eta = 1e-3 * np.minimum(gamma, 1) ** (1 if optimizer in {"adam", "sign"} else 2)
    assert_same(*both(FROZEN[name], gamma, eta, 0, 15, 6, **options), tolerance=1e-7)


def test_frozen_tensors_are_constants_and_the_others_move():
    spec = FROZEN["vit"]
    before, after, _ = trained(spec)
    still = {"blocks.0.attention.query.weight", "blocks.0.attention.key.weight"}
    assert set(after.displacement) == set(after.rates) == set(spec.scales) - still
    assert still <= set(after.fixed)
    for name in still:
        torch.testing.assert_close(after.fixed[name], before.fixed[name], rtol=0, atol=0)
    assert all(moved.abs().amax() > 0 for moved in after.displacement.values())
    assert spec.parameter_count() == sum(p.numel() for p in spec.module(0).parameters() if p.requires_grad)


@pytest.mark.parametrize("device_stack", [FusedNetworkStack, ModuleStack])
def test_both_stacks_leave_frozen_tensors_where_they_were(device_stack):
    spec = FROZEN["resnet"]
    gamma = torch.tensor([1.0, 2.0], dtype=torch.float64)
    make = make_optimizer("adam", 1e-2 * gamma, gamma, torch.full_like(gamma, 0.9), torch.float64, 0.1)
    place = Placement([0], [2], make, False, torch.float64, torch.device("cpu"))
    stack = spec.stack(place) if device_stack is FusedNetworkStack else ModuleStack(spec, place)
    assert set(stack.displacements()) == set(spec.trained())


def test_a_network_with_a_trained_readout_alone_is_linear_in_its_weights():
    """Everything below the readout frozen: the linearized network is the network, at any γ and learning rate."""
    names = tuple(name for name in ResNet(2, 4, IMAGE, 10).scales if name != "readout.weight")
    spec = ResNet(2, 4, IMAGE, 10, frozen=names)
    assert spec.trained() == ("readout.weight",)
    start, end, batches = trained(spec)
    x = batches(99)[0]
    linear = train_linearized(start, [1e-2, 1e-2], batches, 12, x).output[-1]
    assert np.abs(linear).max() > 1e-3
    np.testing.assert_allclose(end.output(x).numpy(), linear, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(euler_degree(end, x), 1, rtol=1e-12)


def test_the_degree_at_large_weights_is_that_of_what_is_trained():
    # a frozen stem takes one from every term, a frozen readout another
    assert degree_at_large_weights(ResNet(2, 4, IMAGE, 10)) == pytest.approx(6, abs=0.01)
    assert degree_at_large_weights(ResNet(2, 4, IMAGE, 10, frozen=("stem",))) == pytest.approx(5, abs=0.01)
    assert degree_at_large_weights(ResNet(2, 4, IMAGE, 10, frozen=("stem", "readout"))) == pytest.approx(4, abs=0.01)
    assert degree_at_large_weights(ViT(1, 8, IMAGE, 10, frozen=("query", "key"))) == pytest.approx(3, abs=0.01)


def test_configurations_say_what_is_frozen():
    options = {"arch": "vit", "image_size": 7, "batch_size": 8, "width": 8, "blocks": 1, "frozen": ["query", "key"]}
    config = TrainingConfig(**options)
    assert config.frozen == ("query", "key")
    assert config.spec().frozen == ("query", "key")
    assert "frozen query key" in config.variant()
    assert TrainingConfig(**{**options, "frozen": None}).frozen == ()
    hash(config)
    with pytest.raises(InputError, match=r"frozen.*queries"):
        TrainingConfig(**{**options, "frozen": ["queries"]})
    with pytest.raises(InputError, match=r"frozen.*nothing is left"):
        TrainingConfig(**{**options, "frozen": ["weight", "position"]})
    with pytest.raises(InputError, match=r"frozen.*mlp"):
        TrainingConfig(arch="mlp", frozen=("layers",))
