"""Stacks of convolutional networks against ``nn.Conv2d`` and autograd, one at a time, and against ``torch.func``.

The oracle is PyTorch's own convolution: it shares with the stack the draws of θ₀ and nothing of the layout, the
products or the backward passes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from empirical import Ensemble, data_stream
from empirical.models.cnn import CNN, PASSES, CNNStack
from empirical.models.module import ModuleArchitecture, ModuleStack
from empirical.models.stack import Placement
from empirical.optimizers import make_optimizer
from theory import InputError

BATCH = 5


def placed(seeds: list[int], sections: list[int], optimizer) -> Placement:
    return Placement(seeds, sections, optimizer, False, torch.float64, torch.device("cpu"))


def plain(spec: CNN, seed: int) -> nn.Sequential:
    """The same network of PyTorch's layers, with the effective weights of a seed."""
    layers: list[nn.Module] = [nn.Unflatten(1, (spec.image_channels, spec.image_size, spec.image_size))]
    into = spec.image_channels
    for stride in spec.strides:
        layers += [nn.Conv2d(into, spec.width, 3, stride, 1, bias=False), nn.ReLU()]
        into = spec.width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, spec.num_classes, bias=False)]
    network = nn.Sequential(*layers).double()
    with torch.no_grad():
        for p, weight in zip(network.parameters(), spec.initial_weights(seed), strict=True):
            p.copy_(weight)
    return network


def optimizer_of(cells: int, eta: float = 1.0, name: str = "gd"):
    ones = torch.ones(cells, dtype=torch.float64)
    return make_optimizer(name, eta * ones, ones, 0.5 * ones, torch.float64)


def inputs_of(spec: CNN, count: int, step: int = 0, batch: int = BATCH) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    return [torch.randn(batch, spec.input_dim, generator=draw, dtype=torch.float64) for _ in range(count)]


CASES = [
    CNN((2, 2), 4, 14, 3),
    CNN((1, 1), 3, 7, 2, image_channels=2),
    CNN((1, 2), 3, 9, 2),
    CNN((2, 1, 2), 4, 13, 3, image_channels=3),
    CNN((2, 2, 2, 2), 3, 8, 2),  # down to one pixel
    CNN((1, 2, 1, 2, 1, 1), 3, 10, 2),
]


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("spec", CASES, ids=lambda spec: f"{spec.strides}-{spec.image_size}")
def test_outputs_and_updates_equal_autograd(spec, passes):
    # three steps of sizes that keep the weights of order one; sums of at most 10³ terms in float64
    sections, seeds = [1, 2], [0, 7]
    stack = CNNStack(spec, placed(seeds, sections, optimizer_of(3)), passes=passes)
    networks, initial = ([plain(spec, seed) for seed in (0, 7, 7)] for _ in range(2))
    for step in range(3):
        first, second = inputs_of(spec, 2, step)
        moved = stack.forward([first, second])
        push = 0.02 * torch.randn(moved.shape, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        for cell, x in enumerate((first, second, second)):
            raw = networks[cell](x)
            torch.testing.assert_close(moved[cell].T, (raw - initial[cell](x)).detach(), rtol=1e-11, atol=1e-12)
            weights = list(networks[cell].parameters())
            found = torch.autograd.grad(raw, weights, push[cell].T)
            with torch.no_grad():
                for p, g, scale in zip(weights, found, spec.layers, strict=True):
                    p -= scale.learning_rate * g
        stack.update(push)
        for layer, stacked in enumerate(stack.displacements().values()):
            for cell in range(3):
                start = spec.initial_weights((0, 7, 7)[cell])[layer]
                expected = list(networks[cell].parameters())[layer].detach() - start
                torch.testing.assert_close(stacked[cell], expected, rtol=1e-11, atol=1e-12)
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gd", "momentum"])
def test_equals_copies_of_the_module(name):
    spec = CNN((2, 2), 4, 10, 3)
    rates = {
        f"{key}": s.learning_rate for (key, _), s in zip(plain(spec, 0).named_parameters(), spec.layers, strict=True)
    }
    module = ModuleArchitecture(lambda: plain(spec, 0), spec.input_dim, 3, learning_rates=rates)
    ours = CNNStack(spec, placed([0], [2], optimizer_of(2, name=name)))
    theirs = ModuleStack(module, placed([0], [2], optimizer_of(2, name=name)))
    for step in range(5):
        x = inputs_of(spec, 1, step)
        a, b = ours.forward(x), theirs.forward(x)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
        ours.update(0.02 * (a - 1))
        theirs.update(0.02 * (b - 1))
    assert a.abs().max() > 1e-3


def test_cells_that_cancel_go_in_double_precision():
    ones = torch.ones(2, dtype=torch.float64)
    moves = make_optimizer("gd", ones, ones, ones, torch.float32)
    stack = CNNStack(CNN((2, 2), 4, 7, 3), Placement([0], [2], moves, True, torch.float32, torch.device("cpu")))
    assert (stack.passes, stack.weights[0].dtype) == ("cells", torch.float64)


def stream(seed: int):
    return data_stream("fashion-mnist-deformed", 8, seed, size=7, dtype=torch.float64)


def curves(gamma, eta, seed, steps=25, **options):
    ensemble = Ensemble(CNN((2, 2), 4, 7, 10), gamma, eta, seed, stream=stream, **{"dtype": "float64"} | options)
    return ensemble.run(steps, np.arange(steps)).loss_curve


def test_a_cell_does_not_depend_on_its_companions_nor_on_their_leaving():
    # companions above eta_max leave the stack within the first twenty steps
    gamma, seed = np.array([1.0, 0.1, 1.0, 10.0, 1.0]), np.array([0, 0, 1, 1, 1])
    eta = 0.05 * np.minimum(gamma, 1.0) * gamma * np.array([1, 1, 1e5, 1, 1])
    beside = curves(gamma, eta, seed)
    assert np.isnan(beside[2, -1])
    for cell in (0, 1, 3, 4):
        alone = curves(gamma[cell : cell + 1], eta[cell : cell + 1], seed[cell : cell + 1])[0]
        np.testing.assert_allclose(beside[cell], alone, rtol=1e-10)


def test_lazy_cells_in_float32_follow_float64():
    gamma = np.array([1e-5, 1e-4, 1e-3])
    eta = 0.05 * gamma**2
    narrow, wide = (curves(gamma, eta, 0, dtype=dtype) for dtype in ("float32", "float64"))
    np.testing.assert_allclose(narrow, wide, rtol=1e-5)
    assert (wide[:, -1] < 0.99 * wide[:, 0]).all()


def test_batches_of_another_size_in_between_change_nothing():
    spec = CNN((2, 2), 4, 7, 3)
    straight, interrupted = (CNNStack(spec, placed([0], [2], optimizer_of(2))) for _ in range(2))
    for step in range(3):
        x = inputs_of(spec, 1, step)
        interrupted.forward(inputs_of(spec, 1, 100, batch=11))
        a, b = straight.forward(x), interrupted.forward(x)
        assert torch.equal(a, b)
        straight.update(0.02 * (a - 1))
        interrupted.update(0.02 * (b - 1))


def test_silent_cells_are_found_and_do_not_move():
    spec = CNN((2, 2), 4, 7, 3)
    stack = CNNStack(spec, placed([0], [2], optimizer_of(2)))
    x = [inputs_of(spec, 1)[0].abs()]
    stack.weights[0][1].neg_().abs_().neg_()  # negative weights on positive images: the second cell has no active unit
    stack.forward(x)
    assert stack.inactive().tolist() == [False, True]
    stack.update(torch.ones(2, 3, BATCH, dtype=torch.float64))
    assert [moved[1].abs().max().item() for moved in stack.displacement] == [0, 0, 0]
    assert stack.displacement[0][0].abs().max() > 0


def test_initial_weights_are_a_pure_function_of_the_seed_with_the_spread_of_the_table():
    spec = CNN((2, 1, 2), 32, 28, 10, image_channels=3)
    for a, b, other, scale in zip(
        spec.initial_weights(5), spec.initial_weights(5), spec.initial_weights(6), spec.layers, strict=True
    ):
        assert torch.equal(a, b)
        assert not torch.equal(a, other)
        assert a.numel() == scale.fan_in * scale.fan_out
        # 5 standard errors of the deviation of a normal sample
        assert abs(a.std().item() / scale.multiplier - 1) < 5 / np.sqrt(2 * a.numel())
    assert spec.parameter_count() == sum(w.numel() for w in spec.initial_weights(0))


def preactivations(network: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    """h_ℓ of every weight layer, and F."""
    out = []
    with torch.no_grad():
        for layer in network:
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                out.append(x.clone())
    return out


def root_mean_square(values: torch.Tensor) -> float:
    return values.square().mean().sqrt().item()


def first_step(spec: CNN, optimizer: str, eta: float, seed: int) -> list[float]:
    """Sizes of h_ℓ at the start, and by how much the first step of each layer alone moves its h_ℓ, the last being F."""
    x = torch.randn(16, spec.input_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    network, moves = plain(spec, seed), optimizer_of(1, eta, optimizer)
    stack = CNNStack(spec, placed([seed], [1], moves))
    targets = torch.eye(10, dtype=torch.float64)[torch.arange(16) % 10].T
    stack.update((stack.forward([x]) - targets) / 16 * moves.output_scale)
    before, moved = preactivations(network, x), []
    for layer, (p, weight) in enumerate(zip(network.parameters(), stack.displacements().values(), strict=True)):
        start = p.detach().clone()
        p.data.add_(weight[0])
        moved.append(root_mean_square(preactivations(network, x)[layer] - before[layer]))
        p.data.copy_(start)
    return [root_mean_square(h) for h in before[:-1]] + moved


@pytest.mark.parametrize(("optimizer", "eta"), [("gd", 0.3), ("sign", 0.05)])
def test_activations_and_first_updates_do_not_depend_on_the_width(optimizer, eta):
    # μP: preactivations start at order one at every width, and one step of a layer moves what it feeds by an amount
    # that has a limit. From 16 to 256 channels a power of N^{1/2} too many in a layer's rate would change its entry by
    # 4; a factor of 2 is allowed, for fluctuations of order 16^{−1/2} in the narrow network, averaged over four seeds
    sizes = np.array([
        np.mean([first_step(CNN((2, 2, 2), width, 8, 10), optimizer, eta, seed) for seed in range(4)], axis=0)
        for width in (16, 64, 256)
    ])
    started, moved = sizes[:, :3], sizes[:, 3:]
    assert ((started > 0.5) & (started < 2)).all()
    assert (moved.max(0) / moved.min(0) < 2).all(), moved
    assert moved.min() > 1e-3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"strides": (2,)}, "strides"),
        ({"strides": (2, 3)}, "strides"),
        ({"strides": (1,) * 7}, "strides"),
        ({"width": 0}, "width"),
        ({"image_size": 2.5}, "image_size"),
        ({"num_classes": -1}, "num_classes"),
    ],
)
def test_bad_sizes_are_named(change, field):
    with pytest.raises(InputError) as caught:
        CNN(**{"strides": (2, 2), "width": 4, "image_size": 7, "num_classes": 10} | change)
    assert caught.value.field == field
