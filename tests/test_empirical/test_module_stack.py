"""Copies of any module, trained side by side, against plain autograd runs of one module at a time.

The oracle builds the module itself, calls ``torch.autograd.grad`` and writes θ ← θ − η (1/γ) ∂ℓ/∂f · ∂F/∂θ out; it
shares with the stack the function that builds the module and nothing else.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as fn

from empirical import Ensemble, data_stream
from empirical.models.module import ModuleArchitecture, ModuleStack
from empirical.models.stack import Placement
from empirical.optimizers import make_optimizer
from theory import InputError

SIZE, CLASSES, BATCH, STEPS = 7, 10, 8, 12
DIM = SIZE * SIZE


class Block(nn.Module):
    """A transformer block over rows of the image: attention, MLP, LayerNorm over the features of each token."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(SIZE), nn.LayerNorm(SIZE)
        self.qkv, self.project = nn.Linear(SIZE, 3 * SIZE, bias=False), nn.Linear(SIZE, SIZE)
        self.up, self.down = nn.Linear(SIZE, 12), nn.Linear(12, SIZE)
        self.read = nn.Linear(SIZE, CLASSES)

    def forward(self, x):
        q, k, v = self.qkv(self.before(x)).chunk(3, dim=-1)
        x = x + self.project(fn.scaled_dot_product_attention(q, k, v))
        x = x + self.down(fn.gelu(self.up(self.between(x))))
        return self.read(x.mean(1))


def mlp():
    return nn.Sequential(nn.Linear(DIM, 12), nn.Tanh(), nn.Linear(12, CLASSES, bias=False)).double()


def cnn():
    first, second = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 5, 3, padding=1)
    pool = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES)]
    return nn.Sequential(first, nn.GroupNorm(2, 4), nn.ReLU(), second, *pool).double()


def transformer():
    return Block().double()


ARCHITECTURES = {
    "mlp": ModuleArchitecture(mlp, DIM, CLASSES, learning_rates={"0.weight": 3.0, "2.weight": 0.25}),
    "cnn": ModuleArchitecture(cnn, DIM, CLASSES, (1, SIZE, SIZE)),
    "transformer": ModuleArchitecture(transformer, DIM, CLASSES, (SIZE, SIZE)),
}


def stream(seed: int):
    return data_stream("fashion-mnist-deformed", BATCH, seed, size=SIZE, dtype=torch.float64)


def plain_losses(spec: ModuleArchitecture, gamma: float, eta: float, seed: int, steps: int) -> np.ndarray:
    torch.manual_seed(seed)
    network = spec.build()
    torch.manual_seed(seed)
    initial = spec.build()
    losses = []
    for step in range(steps):
        x, y = stream(seed)(step)
        x = x.reshape(BATCH, *spec.example_shape)
        loss = (((network(x) - initial(x).detach()) / gamma - y) ** 2).sum(1).mean() / 2
        losses.append(loss.item())
        parameters = dict(network.named_parameters())
        for (name, p), g in zip(parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True):
            with torch.no_grad():
                p -= eta * spec.learning_rates.get(name, 1.0) * g
    return np.array(losses)


def stack_of(spec: ModuleArchitecture, cells: int, sections: list[int], **options) -> ModuleStack:
    ones = torch.ones(cells, dtype=torch.float64)
    optimizer = make_optimizer("gd", 0.05 * ones, ones, 0 * ones, torch.float64)
    place = Placement(range(len(sections)), sections, optimizer, False, torch.float64, torch.device("cpu"))
    return ModuleStack(spec, place, **options)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_cells_equal_plain_autograd_runs(name):
    # float64: rounding of 1e-16 grows through 12 stable steps by far less than the 1e6 that 1e-10 allows;
    # γ = 1e-3 goes through the lazy path and costs three digits of F − F₀
    spec = ARCHITECTURES[name]
    gamma = np.array([1e-3, 0.1, 1.0, 1.0, 30.0])
    eta = 0.02 * gamma * np.minimum(gamma, 1.0)
    seed = np.array([0, 2, 0, 2, 2])
    together = Ensemble(spec, gamma, eta, seed, stream=stream, dtype="float64").run(STEPS, np.arange(STEPS))
    alone = np.stack([plain_losses(spec, g, e, int(s), STEPS) for g, e, s in zip(gamma, eta, seed, strict=True)])
    np.testing.assert_allclose(together.loss_curve, alone, rtol=1e-10)
    assert (alone[:, 0] - alone[:, -1]).max() > 0.01  # something was learned


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_chunks_change_nothing(name):
    spec = ARCHITECTURES[name]
    whole, pieces = stack_of(spec, 5, [2, 3]), stack_of(spec, 5, [2, 3], chunk=1)
    for step in range(3):
        inputs = [stream(0)(step)[0], stream(1)(step)[0]]
        outputs = [stack.forward(inputs) for stack in (whole, pieces)]
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-14)
        for stack, output in zip((whole, pieces), outputs, strict=True):
            stack.update(output - 1)
    assert outputs[0].abs().max() > 1e-3


def test_dropping_cells_leaves_the_others_as_they_were():
    spec = ARCHITECTURES["cnn"]
    full, cut = stack_of(spec, 4, [2, 2]), stack_of(spec, 4, [2, 2])
    inputs = [stream(0)(0)[0], stream(1)(0)[0]]
    staying = torch.tensor([1, 2])
    for step in range(4):
        if step == 2:
            cut.keep(staying, [1, 1])
        output, short = full.forward(inputs), cut.forward(inputs)
        if step >= 2:
            torch.testing.assert_close(output[staying], short, rtol=1e-12, atol=1e-14)
        push = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
        full.update(push.clone())
        cut.update(push[staying].clone() if step >= 2 else push.clone())
    assert cut.inactive().shape == (2,)


def test_a_seed_decides_the_weights_and_global_random_numbers_are_left_alone():
    spec = ARCHITECTURES["mlp"]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a, b, c = (spec.module(seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["0.weight"], c["0.weight"])


def test_float32_lazy_cells_follow_float64():
    # F is of order one and moves by γ = 1e-4: float32 alone would leave three digits of it, and none of the gradient's
    def build():
        return mlp().float()

    spec = ModuleArchitecture(build, DIM, CLASSES)
    curves = [
        Ensemble(spec, [1e-4], [2e-10], 0, stream=stream, dtype=d).run(20, np.arange(20)).loss_curve
        for d in ("float32", "float64")
    ]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
    assert curves[1][0, -1] < 0.99 * curves[1][0, 0]


def test_frozen_parameters_stay_and_may_differ_by_seed():
    def build():
        network = mlp()
        network[0].weight.requires_grad_(False)
        return network

    stack = stack_of(ModuleArchitecture(build, DIM, CLASSES), 2, [1, 1])
    assert stack.names == ["0.bias", "2.weight"]
    x = stream(0)(0)[0]
    output = stack.forward([x, x])
    stack.update(output - 1)
    moved = stack.forward([x, x])
    assert not torch.allclose(moved[0], moved[1])


class Centred(nn.Module):
    """Batch normalisation by another name."""

    def forward(self, x):
        return (x - x.mean(0))[:, :CLASSES]


class Noisy(nn.Module):
    def forward(self, x):
        return x[:, :CLASSES] + torch.rand(len(x), CLASSES)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x[:, :CLASSES]


@pytest.mark.parametrize(
    ("build", "field", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(DIM, CLASSES), nn.BatchNorm1d(CLASSES)), "module", "batch normalisation"),
        (lambda: nn.Sequential(nn.InstanceNorm1d(DIM, track_running_stats=True)), "module", "running statistics"),
        (lambda: nn.Sequential(nn.Linear(DIM, CLASSES), nn.Dropout(0.1)), "module", "dropout"),
        (Centred, "module", "between examples"),
        (Noisy, "module", "random numbers"),
        (Counting, "module", "buffers that change"),
        (lambda: nn.Linear(DIM, 3), "module's output for 2 examples", "shape"),
        (lambda: torch.relu, "build", "nn.Module"),
    ],
)
def test_modules_that_cannot_be_stacked_are_refused(build, field, words):
    with pytest.raises(InputError, match=words) as caught:
        ModuleArchitecture(build, DIM, CLASSES)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("rates", "field"), [({"bias": 1.0}, "learning_rates"), ({"0.weight": -1.0}, "learning_rates[0.weight]")]
)
def test_learning_rates_name_parameters(rates, field):
    with pytest.raises(InputError) as caught:
        ModuleArchitecture(mlp, DIM, CLASSES, learning_rates=rates)
    assert caught.value.field == field
