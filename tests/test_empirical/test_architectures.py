"""ResNets, ViTs, and MLPs and CNNs of other activations: forward functions, training, lazy precision, degrees.

Forward functions are held against PyTorch's own layers (``Conv2d``, ``LayerNorm``, ``scaled_dot_product_attention``)
put together from the equations; training against plain loops of one network at a time with ``torch.optim``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.nn import functional as fn

from empirical import Ensemble, data_stream
from empirical.law import degree_at_large_weights, law_depth
from empirical.models import ACTIVATIONS, CNN, MLP, Placement, ResNet, ViT
from empirical.models.activations import activation
from empirical.models.module import ModuleStack
from empirical.optimizers import make_optimizer
from empirical.shard import TrainingConfig
from theory import InputError

SIZE, BATCH, STEPS = 7, 6, 8
IMAGE = (1, SIZE, SIZE)
SPECS = {
    **{f"mlp-{name}": MLP(3, 6, SIZE * SIZE, 10, name) for name in ("linear", "tanh", "gelu")},
    "cnn-tanh": CNN((2, 2), 3, SIZE, 10, activation="tanh"),
    "resnet": ResNet(3, 3, IMAGE, 10),
    "resnet-norm": ResNet(1, 4, IMAGE, 10, activation="gelu", norm="layer", final_norm=True, norm_gain=True),
    "vit": ViT(1, 6, IMAGE, 10, patch=2),
    "vit-norm": ViT(1, 4, IMAGE, 10, heads=1, patch=4, final_norm=True, norm_gain=True, activation="relu"),
}


def stream(seed: int):
    return data_stream("fashion-mnist-deformed", BATCH, seed, size=SIZE, dtype=torch.float64)


class Shifted:
    """Targets none of which is zero: where one is, the first gradient of its class is a rounding error of F − F(θ₀),
    and sign descent takes its sign."""

    def __init__(self, seed: int) -> None:
        self.stream = stream(seed)

    def __call__(self, step):
        x, y = self.stream(step)
        return x, y + 0.05

    def test_set(self):
        return self.stream.test_set()


def images(count: int = 5, channels: int = 1, side: int = SIZE) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gains_keep_the_mean_square_at_one(name):
    phi = activation(name).apply
    weight = 2 / np.sqrt(2 * np.pi)  # both halves of the axis
    total = sum(
        quad(lambda z, s=sign: float(phi(torch.tensor(s * z, dtype=torch.float64))) ** 2 * np.exp(-z * z / 2), 0, 12)[0]
        for sign in (1, -1)
    )
    assert activation(name).gain ** 2 * total * weight / 2 == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_those_of_autograd(name):
    h = torch.linspace(-3, 3, 41, dtype=torch.float64).add(0.01).requires_grad_()
    active = activation(name).apply(h)
    (expected,) = torch.autograd.grad(active.sum(), h)
    torch.testing.assert_close(activation(name).slope(h, active).detach(), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", SPECS)
def test_scales_name_every_parameter_and_draws_follow_the_seed(name):
    spec = SPECS[name]
    module, again, other = spec.module(3), spec.module(3), spec.module(4)
    parameters = dict(module.named_parameters())
    assert list(spec.rates()) == list(spec.rates(True)) == list(parameters)
    assert spec.parameter_count() == sum(p.numel() for p in parameters.values())
    assert all(p.dtype == torch.float64 for p in parameters.values())
    drawn = [n for n in parameters if not n.endswith("gain")]
    assert all(torch.equal(p, dict(again.named_parameters())[n]) for n, p in parameters.items())
    assert not any(torch.equal(parameters[n], dict(other.named_parameters())[n]) for n in drawn)


@pytest.mark.parametrize("spec", [ResNet(5, 16, (3, 14, 14), 10, norm="layer"), ViT(1, 32, (3, 14, 14), 10)])
def test_deviations_are_those_of_the_table(spec):
    # 5 standard errors of the deviation of a normal sample
    for name, weight in spec.initial_weights(0).items():
        expected = spec.scales[name].multiplier
        assert abs(weight.std().item() / expected - 1) < 5 / np.sqrt(2 * weight.numel()), name


@pytest.mark.parametrize("norm", [False, True])
def test_a_resnet_is_what_its_equation_says(norm):
    options = {"norm": "layer", "final_norm": True, "norm_gain": True} if norm else {}
    spec = ResNet(3, 4, (2, 9, 9), 5, **options)
    weights = spec.initial_weights(0)
    weights |= {n: w + 0.1 * torch.randn_like(w) for n, w in weights.items() if n.endswith("gain")}
    module, x = spec.module(0), images(channels=2, side=9)
    module.load_state_dict(weights)

    def normed(h, name):
        if not norm:
            return h
        gain = weights[f"{name}.gain"]
        return fn.layer_norm(h.permute(0, 2, 3, 1), gain.shape, gain).permute(0, 3, 1, 2)

    h = fn.conv2d(x, weights["stem.weight"], stride=2, padding=1)
    for block, stride in enumerate((1, 1, 2)):
        at = f"blocks.{block}"
        branch = fn.conv2d(fn.relu(normed(h, f"{at}.norm")), weights[f"{at}.first.weight"], stride=stride, padding=1)
        branch = fn.conv2d(fn.relu(branch), weights[f"{at}.second.weight"], padding=1)
        h = (fn.conv2d(h, weights[f"{at}.shortcut.weight"], stride=2) if stride == 2 else h) + branch / 3**0.5
    expected = fn.linear(fn.relu(normed(h, "norm")).mean((2, 3)), weights["readout.weight"])
    assert h.shape[1:] == (8, 3, 3)
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_a_vit_is_what_its_equation_says(norm):
    spec = ViT(2, 6, (2, SIZE, SIZE), 5, heads=2, patch=2, norm=norm, final_norm=norm == "layer")
    w, x, n = spec.initial_weights(0), images(channels=2), 6

    def normed(h):
        return fn.layer_norm(h, (n,)) if norm == "layer" else h

    def heads(z):
        return z.view(len(x), 16, 2, 3).transpose(1, 2)

    # 7 pixels in 4 patches of 2: one row and column of zeros, after the image
    patches = fn.unfold(fn.pad(x, (0, 1, 0, 1)), 2, stride=2).mT
    h = patches @ w["embedding.weight"].T + w["position"]
    for block in range(2):
        at = f"blocks.{block}"
        q, k, v = (heads(normed(h) @ w[f"{at}.attention.{m}.weight"].T) for m in ("query", "key", "value"))
        mixed = fn.scaled_dot_product_attention(q, k, v, scale=1 / 3).transpose(1, 2).reshape(len(x), 16, n)
        h = h + mixed @ w[f"{at}.attention.project.weight"].T / 2
        h = h + fn.gelu(normed(h) @ w[f"{at}.mlp.up.weight"].T) @ w[f"{at}.mlp.down.weight"].T / 2
    expected = normed(h).mean(1) @ w["readout.weight"].T
    torch.testing.assert_close(spec.module(0)(x), expected, rtol=1e-12, atol=1e-14)


def plain_losses(spec, gamma: float, eta: float, seed: int, optimizer: str, beta: float) -> np.ndarray:
    """One network, PyTorch's optimizers; those that ignore the size of gradients see those by the raw output."""
    network, initial = spec.module(seed), spec.module(seed)
    normalized = optimizer in {"adam", "sign"}
    rates = spec.rates(normalized)
    groups = [{"params": [p], "lr": eta * rates[name]} for name, p in network.named_parameters()]
    moves = {
        "gd": lambda: torch.optim.SGD(groups),
        "momentum": lambda: torch.optim.SGD(groups, momentum=beta),
        "adam": lambda: torch.optim.Adam(groups, betas=(beta, 0.999), eps=1e-8),
        "sign": lambda: torch.optim.SGD(groups),
    }[optimizer]()
    losses = []
    for step in range(STEPS):
        x, y = Shifted(seed)(step)
        x = x.reshape(BATCH, *spec.example_shape)
        loss = (((network(x) - initial(x).detach()) / gamma - y) ** 2).sum(1).mean() / 2
        losses.append(loss.item())
        moves.zero_grad()
        (loss * gamma if normalized else loss).backward()
        if optimizer == "sign":
            for p in network.parameters():
                p.grad.sign_()
        moves.step()
    return np.array(losses)


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "sign"])
@pytest.mark.parametrize("name", SPECS)
def test_an_ensemble_equals_plain_loops(name, optimizer):
    # float64, 8 stable steps; γ = 1e-3 goes through the lazy path and costs three digits of F − F₀. Adam divides by
    # |g| + 1e-8, which lifts rounding of small gradients
    spec, gamma, seed = SPECS[name], np.array([1e-3, 1.0, 1.0, 30.0]), np.array([0, 0, 2, 2])
    eta = {"gd": 0.1, "momentum": 0.03, "adam": 0.02, "sign": 0.01}[optimizer] * gamma
    eta *= np.minimum(gamma, 1.0) if optimizer in {"gd", "momentum"} else np.minimum(1 / gamma, 1.0)
    options = {"optimizer": optimizer, "beta": 0.8, "dtype": "float64"}
    together = Ensemble(spec, gamma, eta, seed, stream=Shifted, **options).run(STEPS, np.arange(STEPS)).loss_curve
    cells = zip(gamma, eta, seed, strict=True)
    alone = np.stack([plain_losses(spec, g, e, int(s), optimizer, 0.8) for g, e, s in cells])
    np.testing.assert_allclose(together, alone, rtol=1e-10)
    assert (alone[:, 0] - alone[:, -1]).max() > 0.002  # something was learned


@pytest.mark.parametrize("name", SPECS)
def test_lazy_cells_in_float32_follow_float64(name):
    gamma = np.array([1e-5])
    curves = [
        Ensemble(SPECS[name], gamma, 0.03 * gamma**2, 1, stream=stream, dtype=d).run(12, np.arange(12)).loss_curve
        for d in ("float32", "float64")
    ]
    np.testing.assert_allclose(*curves, rtol=1e-5)
    assert curves[1][0].min() < 0.99 * curves[1][0, 0]


def test_cells_of_a_stack_can_be_cut_at_any_size_of_what_is_kept(monkeypatch):
    # no graph kept, some, and all: the same numbers
    spec, curves = SPECS["resnet"], []
    for kept in (0.0, 1e5, 1e9):
        monkeypatch.setattr("empirical.models.module.KEPT_BYTES", kept)
        run = Ensemble(spec, np.ones(12), np.geomspace(1e-3, 1e-1, 12), 0, stream=stream, dtype="float64")
        curves.append(run.run(3, np.arange(3)).loss_curve)
    np.testing.assert_allclose(curves[0], curves[2], rtol=1e-12)
    np.testing.assert_allclose(curves[1], curves[2], rtol=1e-12)


@pytest.mark.parametrize("final_norm", [False, True])
def test_a_silent_resnet_is_inactive_and_does_not_move(final_norm):
    spec = ResNet(1, 3, IMAGE, 10)
    ones = torch.ones(2, dtype=torch.float64)
    place = Placement(
        [0], [2], make_optimizer("gd", ones, ones, ones, torch.float64), False, torch.float64, torch.device("cpu")
    )
    if final_norm:  # a smooth network has no such state
        spec = ResNet(1, 3, IMAGE, 10, activation="gelu")
    stack = ModuleStack(spec, place)
    start = {name: weight[0] for name, weight in stack.start.items()}
    # −(1 + |V|) on positive images, and no branch: the stream of the second cell is negative everywhere
    stack.displacement["stem.weight"][1] = -start["stem.weight"] - 1 - start["stem.weight"].abs()
    stack.displacement["blocks.0.second.weight"][1] = -start["blocks.0.second.weight"]
    before = {name: moved.clone() for name, moved in stack.displacement.items()}
    stack.forward([images(4).abs().flatten(1) + 0.1])
    assert stack.inactive().tolist() == [False, not final_norm]
    stack.update(torch.ones(2, 10, 4, dtype=torch.float64))
    moved = [not torch.equal(stack.displacement[name][1], b[1]) for name, b in before.items()]
    assert any(moved) == final_norm


DEGREES = [
    ({"arch": "mlp", "depth": 4, "activation": "gelu"}, 4, "depth"),
    ({"arch": "mlp", "depth": 4, "activation": "linear"}, 4, "depth"),
    ({"arch": "mlp", "depth": 3, "activation": "tanh"}, 1, "euler_degree"),
    ({"arch": "cnn", "depth": 4}, 4, "depth"),
    ({"arch": "resnet", "blocks": 3}, 8, "euler_degree"),
    ({"arch": "resnet", "norm": "layer"}, 3, "euler_degree"),
    ({"arch": "resnet", "norm": "layer", "final_norm": True}, 1, "euler_degree"),
    ({"arch": "resnet", "norm": "layer", "norm_gain": True}, 4, "euler_degree"),
    ({"arch": "resnet", "norm": "layer", "final_norm": True, "norm_gain": True}, 2, "euler_degree"),
    ({"arch": "vit"}, 3, "euler_degree"),
    ({"arch": "vit", "final_norm": True}, 1, "euler_degree"),
    ({"arch": "vit", "final_norm": True, "norm_gain": True}, 2, "euler_degree"),
    ({"arch": "vit", "norm": "none", "blocks": 1}, 6, "euler_degree"),
]


@pytest.mark.parametrize(("options", "degree", "by"), DEGREES)
def test_degree_at_large_weights(options, degree, by):
    # counted by hand: a weight on the way adds 1, a norm takes away what is below, a gain adds 1. The degree is a ratio
    # of powers of s = 1e4: corrections are of relative order 1/s, times sizes of order 10
    config = TrainingConfig(image_size=7, **options)
    assert law_depth(config) == (degree, by)
    assert degree_at_large_weights(config.spec()) == pytest.approx(degree, abs=0.02)


def test_degree_is_the_slope_of_the_output_in_the_scale_of_the_weights():
    # finite difference of ln ‖F(sθ₀)‖ at s = 3, where a residual network is far from its limit
    spec, x = SPECS["resnet"], torch.randn(16, *IMAGE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def log_norm(scale):
        module = spec.module(0)
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(scale)
            return module(x).norm().log().item()

    h = 1e-4
    slope = (log_norm(3 * np.exp(h)) - log_norm(3 * np.exp(-h))) / (2 * h)
    assert degree_at_large_weights(spec, scale=3.0) == pytest.approx(slope, rel=1e-6)
    assert 4 < slope < 7.9


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"arch": "mlp", "heads": 2}, "heads"),
        ({"arch": "mlp", "final_norm": False}, "final_norm"),
        ({"arch": "mlp", "activation": "sine"}, "activation"),
        ({"arch": "cnn", "blocks": 2}, "blocks"),
        ({"arch": "cnn", "depth": 2}, "depth"),
        ({"arch": "cnn", "strides": (2, 2), "depth": 4}, "depth"),
        ({"arch": "cnn", "strides": (2, 3)}, "strides"),
        ({"arch": "resnet", "depth": 3}, "depth"),
        ({"arch": "resnet", "norm": "batch"}, "norm"),
        ({"arch": "resnet", "norm_gain": True}, "norm_gain"),
        ({"arch": "resnet", "blocks": 0}, "blocks"),
        ({"arch": "resnet", "patch": 2}, "patch"),
        ({"arch": "vit", "heads": 3}, "heads"),
        ({"arch": "vit", "patch": 99}, "patch"),
        ({"arch": "vit", "strides": (2, 2)}, "strides"),
        ({"arch": "rnn"}, "arch"),
    ],
)
def test_options_that_do_not_fit_are_named(options, field):
    with pytest.raises(InputError) as caught:
        TrainingConfig(**options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("options", "depth", "variant"),
    [
        ({}, 3, "relu, width 64"),
        ({"activation": "tanh", "width": 8, "depth": 2}, 2, "tanh, width 8"),
        ({"arch": "cnn", "depth": 5}, 5, "relu, strides 2-2-1-1, width 16"),
        ({"arch": "resnet"}, 6, "relu, no norm, 2 blocks, width 8"),
        (
            {"arch": "resnet", "blocks": 1, "norm": "layer", "final_norm": True},
            4,
            "relu, layer norm, final norm, 1 block, width 8",
        ),
        ({"arch": "vit"}, 10, "gelu, layer norm, 2 blocks, 2 heads, patch 4, width 32"),
    ],
)
def test_tables_say_what_was_trained(options, depth, variant):
    config = TrainingConfig(**options)
    assert (config.weight_layers(), config.variant()) == (depth, variant)
    assert TrainingConfig(**options | {"width": config.width}) == config  # a default given is the default


@pytest.mark.parametrize("blocks", [1, 3, 9])
def test_stages_of_a_resnet(blocks):
    spec = ResNet(blocks, 2, (1, 28, 28), 10)
    expected = {1: (2,), 3: (2, 2, 4), 9: (2, 2, 4, 4, 8, 8, 16, 16, 16)}[blocks]
    assert spec.channels == expected
    assert spec.module(0)(images(1, 1, 28)).shape == (1, 10)
