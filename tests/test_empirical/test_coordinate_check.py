"""Coordinate check of every architecture in μP, and that the standard parametrisation fails it.

What is watched is held against forward hooks of PyTorch's own layers, which the check does not use.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from empirical.coordinate_check import FACTOR, StandardParametrization, coordinate_check, layer_outputs
from empirical.models import CNN, MLP, ResNet, ViT
from theory import InputError

IMAGE = (1, 4, 4)
ARCHITECTURES = {
    "mlp": lambda n: MLP(3, n, 16, 10),
    "mlp-tanh": lambda n: MLP(4, n, 16, 10, "tanh"),
    "mlp-gelu": lambda n: MLP(3, n, 16, 10, "gelu"),
    "mlp-linear": lambda n: MLP(3, n, 16, 10, "linear"),
    "cnn": lambda n: CNN((2, 2), n, 4, 10),
    "resnet": lambda n: ResNet(1, n, IMAGE, 10),
    "resnet-norm": lambda n: ResNet(1, n, IMAGE, 10, norm="layer", final_norm=True, norm_gain=True),
    "vit": lambda n: ViT(1, n, IMAGE, 10, patch=2),
    "vit-norm": lambda n: ViT(1, n, IMAGE, 10, patch=2, final_norm=True, norm_gain=True),
}
WIDTHS = (64, 256, 1024)


def widths(name: str) -> tuple[int, ...]:
    """A 3×3 kernel at width 1024 has 9 million weights: the two residual nets have their full range in tests/heavy."""
    return (64, 256) if name.startswith("resnet") else WIDTHS


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_mup_passes(name):
    check = coordinate_check(ARCHITECTURES[name], widths(name), seeds=1)
    assert check.passed, (check.layers, check.size_spread, check.change_spread)
    assert check.change.min() > 1e-3  # something moved


@pytest.mark.parametrize("eta", [0.1, 0.01])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_standard_parametrisation_fails(name, eta):
    check = coordinate_check(lambda n: StandardParametrization(ARCHITECTURES[name](n)), widths(name), eta=eta, seeds=1)
    assert not check.passed
    assert (check.size_spread < FACTOR).all()  # it starts as well as μP: what is wrong is how it moves


def test_a_wrong_rate_of_one_layer_is_found():
    class Wrong:
        def __init__(self, n: int) -> None:
            self.spec, self.n = MLP(3, n, 16, 10), n
            self.example_shape, self.module = self.spec.example_shape, self.spec.module

        def rates(self, normalized=False):
            rates = self.spec.rates()
            return rates | {"layers.1": rates["layers.1"] * (self.n / 64) ** 0.5}

    check = coordinate_check(Wrong, WIDTHS, seeds=1)
    assert not check.passed
    assert check.change_spread[1] > FACTOR


def test_outputs_are_those_of_the_layers():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5, bias=False), nn.Tanh())
    seen = {}
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.detach()}))
    x = torch.randn(2, 1, 4, 4)
    outputs = layer_outputs(network, x)
    assert list(outputs) == ["0.weight", "3.weight"]
    assert all(torch.equal(outputs[f"{name}.weight"], seen[name]) for name in ("0", "3"))


def test_sizes_are_root_mean_squares():
    check = coordinate_check(ARCHITECTURES["mlp"], (8, 16), seeds=1, examples=3, dtype=torch.float64)
    spec = MLP(3, 8, 16, 10)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = x @ spec.initial_weights(0)[0].T
    assert check.size[0, 0] == pytest.approx(first.square().mean().sqrt().item(), rel=1e-12)
    assert check.layers == ("layers.0", "layers.1", "layers.2")
    np.testing.assert_array_equal(check.size_spread, (check.size.max(0) / check.size.min(0))[:-1])


@pytest.mark.parametrize(
    ("change", "field"),
    [({"widths": (64,)}, "widths"), ({"widths": (64, 0)}, "widths"), ({"eta": 0.0}, "eta"), ({"steps": 0}, "steps")],
)
def test_bad_input_names_the_field(change, field):
    with pytest.raises(InputError) as caught:
        coordinate_check(ARCHITECTURES["mlp"], **{"widths": (8, 16)} | change)
    assert caught.value.field == field
