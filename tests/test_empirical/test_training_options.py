"""Schedules and weight decay in the ensemble, against plain PyTorch, one network at a time, in double precision.

For MLPs the oracle holds weights W of unit variance with the multipliers a of μP in its forward pass, so that what the
docstring of `optimizers` says about parametrisations is tested along: PyTorch's weight decay is then λ a² for
`torch.optim.SGD` and λ a for `torch.optim.AdamW`. CNNs and modules are trained as `Architecture.module` gives them,
with λ itself. Learning rates follow `LambdaLR`.
"""

from __future__ import annotations

from math import ceil, cos, pi, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from empirical import MLP, Ensemble, data_stream, rescale
from empirical.losses import LOSSES
from empirical.models.cnn import CNN
from empirical.models.module import ModuleArchitecture
from empirical.models.resnet import ResNet
from empirical.models.vit import ViT
from empirical.optimizers import ADAM_EPSILON, OPTIMIZERS
from empirical.schedules import SCHEDULES
from empirical.shard import TrainingConfig
from empirical.store import RunDirectory
from empirical.sweep import Sweep
from simulate import Outcome, Thresholds
from theory import ToyModel

SIZE, BATCH, STEPS = 7, 8, 24
FOREVER = Thresholds(divergence=1e300)
"""No cell is stopped for being large."""


def stream(seed):
    return data_stream("fashion-mnist-deformed", BATCH, seed, size=SIZE, dtype=torch.float64)


class PlainMLP(nn.Module):
    def __init__(self, spec, seed):
        super().__init__()
        n, d = spec.width, spec.input_dim
        self.multipliers = [sqrt(2 / d)] + [sqrt(2 / n)] * (spec.depth - 2) + [1 / n]
        draws = zip(spec.initial_weights(seed), self.multipliers, strict=True)
        self.weights = nn.ParameterList([nn.Parameter(v / a) for v, a in draws])

    def forward(self, x):
        for layer, (weight, a) in enumerate(zip(self.weights, self.multipliers, strict=True)):
            x = a * (torch.relu(x) if layer else x) @ weight.T
        return x


class Shaped(nn.Module):
    def __init__(self, module, shape):
        super().__init__()
        self.module, self.shape = module, shape

    def forward(self, x):
        return self.module(x.reshape(len(x), *self.shape))


def plain_network(spec, seed, optimizer, decay):
    """A network, and for each of its tensors the multiplier of η, PyTorch's weight decay, and 1/ε's scale."""
    normalized = optimizer in {"adam", "sign"}
    if getattr(spec, "activation", "") != "relu" or not isinstance(spec, MLP):
        module = Shaped(spec.module(seed).double(), spec.example_shape)
        rates = spec.rates(normalized)
        named = [(p, rates[name.removeprefix("module.")]) for name, p in module.named_parameters()]
        return module, [(p, rate, decay, 1.0) for p, rate in named]
    module, n = PlainMLP(spec, seed), spec.width
    rates = [1.0] + [n**-0.5] * (spec.depth - 2) + [1.0] if normalized else [n] * spec.depth
    layers = zip(module.weights, rates, module.multipliers, strict=True)
    return module, [(w, rate, decay * (a if normalized else a * a), a) for w, rate, a in layers]


def plain_optimizer(name, tensors, gamma, eta, beta):
    groups = [{"params": [p], "lr": eta * rate, "weight_decay": decay} for p, rate, decay, _ in tensors]
    if name in {"gd", "momentum"}:
        return torch.optim.SGD(groups, momentum=beta if name == "momentum" else 0, dampening=0, nesterov=False)
    for group, (_, _, _, a) in zip(groups, tensors, strict=True):
        group["eps"] = ADAM_EPSILON * a / gamma
    return torch.optim.AdamW(groups, betas=(beta, 0.999))


def share(name, warmup, step, steps=STEPS):
    """Multiplier of η, written out again."""
    rise = ceil(warmup * steps) if name.startswith("warmup") else 0
    if step < rise:
        return (step + 1) / rise
    return 0.5 + 0.5 * cos(pi * (step - rise) / (steps - rise)) if name.endswith("cosine") else 1.0


def plain_losses(spec, gamma, eta, beta, seed, *, loss, optimizer, schedule="constant", warmup=0.25, weight_decay=0.0):
    module, tensors = plain_network(spec, seed, optimizer, weight_decay)
    network = rescale(module, gamma)
    mover = None if optimizer == "sign" else plain_optimizer(optimizer, tensors, gamma, eta, beta)
    if mover is not None:
        follow = torch.optim.lr_scheduler.LambdaLR(mover, lambda step: share(schedule, warmup, min(step, STEPS - 1)))
    losses = []
    for step in range(STEPS):
        x, y = stream(seed)(step)
        if loss == "mse":
            value = nn.functional.mse_loss(network(x), y, reduction="sum") / (2 * len(x))
        else:
            value = nn.functional.cross_entropy(network(x), y.argmax(1))
        losses.append(value.item())
        module.zero_grad()
        value.backward()
        if mover is not None:
            mover.step()
            follow.step()
            continue
        for weight, rate, decay, _ in tensors:
            size = eta * rate * share(schedule, warmup, step)
            with torch.no_grad():
                weight -= size * decay * weight + size * weight.grad.sign()
    return np.array(losses)


def eta_edge(optimizer, gamma, beta=0.9):
    """A learning rate near which training of depth 3 becomes unstable, to within a factor of a few."""
    gamma = np.asarray(gamma, dtype=float)
    if optimizer in {"gd", "momentum"}:
        edge = ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=3)
        return edge * (1 - beta if optimizer == "momentum" else 1)
    return ToyModel(optimizer="sign").boundary("eta_max").numeric(gamma=gamma, depth=3, delta=0.5)


def decay_of(optimizer, gamma, eta, steps=STEPS):
    """A weight decay that can be seen in F/γ of the lazy cells and does not bring the rich ones to zero."""
    return float(0.3 / (steps * np.max(eta))) if optimizer in {"gd", "momentum"} else float(3 / (steps * np.max(eta)))


def run(spec, gamma, eta, beta, seed, *, steps=STEPS, **options):
    options = {"dtype": "float64", "thresholds": FOREVER} | options
    return Ensemble(spec, gamma, eta, seed, stream=stream, beta=beta, **options).run(steps, np.arange(steps))


def relative(a, b):
    return np.max(np.abs(a - b) / np.abs(b))


CASES = [(loss, optimizer, schedule) for loss in LOSSES for optimizer in OPTIMIZERS for schedule in SCHEDULES]


@pytest.mark.parametrize(("loss", "optimizer", "schedule"), CASES)
def test_cells_equal_plain_runs_of_pytorch(loss, optimizer, schedule):
    # 1e-10: rounding of 1e-16, which F/γ of the plain run multiplies by 1/γ = 1e3, grows little in 24 stable steps
    spec = MLP(3, 8, SIZE**2, 10)
    gamma, beta, seed = np.array([1e-3, 1e-3, 0.3, 1e3]), np.array([0.5, 0.9, 0.9, 0.5]), np.array([0, 3, 3, 0])
    eta = 0.1 * eta_edge(optimizer, gamma) * np.array([1.0, 0.3, 1.0, 0.5])
    for decay in (0.0, decay_of(optimizer, gamma, eta)):
        options = {"loss": loss, "optimizer": optimizer, "schedule": schedule, "warmup": 0.25, "weight_decay": decay}
        together = run(spec, gamma, eta, beta, seed, **options).loss_curve
        cells = zip(gamma, eta, beta, seed, strict=True)
        alone = np.stack([plain_losses(spec, *cell, **options) for cell in cells])
        assert (together[:, 1:] != together[:, :-1]).all()  # every cell moves
        assert relative(together, alone) <= 1e-10


ANY_MODULE = ModuleArchitecture(
    lambda: nn.Sequential(nn.Linear(SIZE**2, 6), nn.Tanh(), nn.Linear(6, 10)), SIZE**2, 10, None, {"0.weight": 0.3}
)


OTHERS = {
    "cnn": CNN((2, 1), 3, SIZE, 10),
    "module": ANY_MODULE,
    "tanh": MLP(3, 6, SIZE**2, 10, "tanh"),
    "resnet": ResNet(1, 3, (1, SIZE, SIZE), 10, norm="layer", norm_gain=True),
    "vit": ViT(1, 4, (1, SIZE, SIZE), 10, patch=7),
}


@pytest.mark.parametrize("spec", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_other_architectures_equal_plain_runs_of_pytorch(spec, optimizer):
    # as above; γ = 1e-3 goes through the lazy path
    gamma, beta, seed = np.array([1e-3, 1.0, 1.0]), np.array([0.5, 0.9, 0.8]), np.array([1, 0, 1])
    eta = 0.02 * eta_edge(optimizer, gamma)
    decay = decay_of(optimizer, gamma, eta)
    options = {"loss": "mse", "optimizer": optimizer, "schedule": "warmup-cosine", "warmup": 0.25}
    together = run(spec, gamma, eta, beta, seed, **options, weight_decay=decay).loss_curve
    cells = zip(gamma, eta, beta, seed, strict=True)
    alone = np.stack([plain_losses(spec, *cell, **options, weight_decay=decay) for cell in cells])
    assert np.isfinite(together).all()
    assert relative(together, alone) <= 1e-10
    without = run(spec, gamma, eta, beta, seed, **options).loss_curve
    assert relative(without[:, -1], together[:, -1]) > 1e-6  # what was compared does depend on the decay


@settings(max_examples=20, deadline=None)
@given(
    case=st.sampled_from(CASES),
    gamma=st.floats(-3, 3),
    factor=st.floats(-2, -0.7),
    beta=st.floats(0, 0.95),
    warmup=st.floats(0, 1),
    decay=st.floats(0, 2),
)
def test_any_cell_equals_a_plain_run(case, gamma, factor, beta, warmup, decay):
    # one digit less than above: an Adam gradient near its ε turns a rounding error of g into one of the step
    loss, optimizer, schedule = case
    spec, strength = MLP(3, 6, SIZE**2, 10), 10.0**gamma
    eta = float(10.0**factor * eta_edge(optimizer, strength, beta))
    options = {"loss": loss, "optimizer": optimizer, "schedule": schedule, "warmup": round(warmup, 3)}
    options["weight_decay"] = decay * decay_of(optimizer, strength, eta)
    together = run(spec, [strength], [eta], beta, 2, **options).loss_curve[0]
    assert relative(together, plain_losses(spec, strength, eta, beta, 2, **options)) <= 1e-9


@settings(max_examples=20, deadline=None)
@given(data=st.data(), case=st.sampled_from(CASES), n=st.integers(2, 6))
def test_a_cell_depends_on_nothing_but_itself(data, case, n):
    """Nor on companions that diverge or die under the same options."""
    loss, optimizer, schedule = case
    spec = MLP(3, 6, SIZE**2, 10)
    gamma = 10.0 ** np.array(data.draw(st.lists(st.floats(-5, 5), min_size=n, max_size=n)))
    factor = 10.0 ** np.array(data.draw(st.lists(st.floats(-2, 4), min_size=n, max_size=n)))
    factor[0] = 0.1
    beta = np.array(data.draw(st.lists(st.floats(0, 0.95), min_size=n, max_size=n)))
    seed = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    eta = factor * eta_edge(optimizer, gamma)
    options = {"loss": loss, "optimizer": optimizer, "schedule": schedule, "thresholds": Thresholds()}
    options |= {"warmup": data.draw(st.floats(0, 1)), "weight_decay": decay_of(optimizer, gamma[:1], eta[:1])}
    beside = run(spec, gamma, eta, beta, seed, **options).loss_curve[0]
    alone = run(spec, gamma[:1], eta[:1], beta[:1], seed[:1], **options).loss_curve[0]
    assert relative(beside, alone) <= 1e-9


class Blank:
    """A stream of black images: no weight of a bias-free network has a gradient."""

    def __call__(self, step):
        return torch.zeros(BATCH, SIZE**2), torch.eye(10)[:BATCH]

    def test_set(self):
        return self(0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 3e-6)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_without_gradients_weights_shrink_as_the_recurrence_says(optimizer, dtype, tolerance, schedule):
    # a few roundings a step, relative to the weights; lazy and direct cells alike
    spec, gamma, beta = MLP(3, 6, SIZE**2, 10), np.array([1e-4, 1.0]), np.array([0.5, 0.9])
    eta, decay, shown = np.array([0.02, 0.05]), 0.7, []
    ensemble = Ensemble(
        spec,
        gamma,
        eta,
        4,
        stream=lambda _: Blank(),
        optimizer=optimizer,
        beta=beta,
        schedule=schedule,
        warmup=0.25,
        weight_decay=decay,
        dtype=dtype,
    )
    ensemble.run(STEPS, probe=lambda _, networks: shown.append(networks), probe_steps=[STEPS - 1])
    rates = spec.rates(optimizer in {"adam", "sign"})
    assert sum(len(networks) for networks in shown) == 2
    for networks in shown:
        cell = int(networks.cells[0])
        for name, start in networks.start.items():
            size, velocity = 1.0, 0.0
            for step in range(STEPS - 1):  # at the end they would be counted as dead, and not be shown
                velocity = (beta[cell] * velocity if optimizer == "momentum" else 0.0) + decay * size
                size -= eta[cell] * rates[name] * share(schedule, 0.25, step) * velocity
            moved = networks.displacement[name][0]
            torch.testing.assert_close(start + moved, size * start, rtol=0, atol=tolerance * float(start.abs().max()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_options_that_are_off_change_no_bit(optimizer):
    spec, gamma = MLP(3, 8, SIZE**2, 10), np.geomspace(1e-4, 1e4, 5)
    eta = 0.1 * eta_edge(optimizer, gamma)
    plain = run(spec, gamma, eta, 0.9, 0, optimizer=optimizer, dtype="float32").loss_curve
    for off in ({"warmup": 0.7, "weight_decay": 0.0}, {"schedule": "warmup", "warmup": 0.0}):
        again = run(spec, gamma, eta, 0.9, 0, optimizer=optimizer, dtype="float32", **off).loss_curve
        np.testing.assert_array_equal(plain, again)


def test_under_weight_decay_no_cell_is_given_up_before_the_end():
    # dead weights still move, and a heavy ball with κ > (1 − √β)² carries all weights of a layer through zero
    spec, gamma = MLP(3, 8, SIZE**2, 10), np.full(40, 1e-3)
    eta = np.geomspace(3, 3e4, 40) * eta_edge("gd", gamma)
    options = {"optimizer": "momentum", "thresholds": Thresholds(), "steps": 200}
    without = run(spec, gamma, eta, 0.5, 1, **options).cells
    cells = run(spec, gamma, eta, 0.5, 1, weight_decay=0.1, **options).cells
    assert (without.steps_run[without.outcome == Outcome.DEAD] < 200).any()
    dead = cells.outcome == Outcome.DEAD
    assert dead.any()
    assert (cells.steps_run[dead] == 200).all()


class InterruptedRunError(Exception):
    pass


@settings(max_examples=5, deadline=None)
@given(case=st.sampled_from(CASES), noise=st.floats(0, 0.5), decay=st.floats(0, 0.5), blocks=st.integers(0, 2))
def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path_factory, case, noise, decay, blocks):
    loss, optimizer, schedule = case
    config = TrainingConfig(
        depth=2,
        width=4,
        image_size=SIZE,
        batch_size=4,
        steps=12,
        loss=loss,
        optimizer=optimizer,
        schedule=schedule,
        weight_decay=decay,
        label_noise=noise,
    )
    gamma = np.geomspace(1e-5, 1e2, 70)
    cells = gamma, 0.1 * eta_edge(optimizer, gamma), np.resize([0, 1], 70)
    straight = Sweep(config).run(*cells)
    store, told = RunDirectory(tmp_path_factory.mktemp("run") / "run", {"test": 1}), []

    def stop(*news):
        told.append(news)
        if len(told) > blocks:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        Sweep(config, store, stop).run(*cells)
    news: list[bool] = []
    resumed = Sweep(config, store, lambda _cells, _steps, held: news.append(held)).run(*cells)
    assert news.count(True) == blocks + 1
    np.testing.assert_array_equal(straight.loss_curve, resumed.loss_curve)
    for name, values in straight.cells.fields().items():
        np.testing.assert_array_equal(values, resumed.cells.fields()[name], err_msg=name)


def test_label_noise_reaches_the_training_and_not_the_test():
    base = {"depth": 2, "width": 16, "image_size": SIZE, "steps": 300, "batch_size": 64}
    cell = np.array([1.0]), np.array([0.3]), np.array([0])
    clean, noisy = (Sweep(TrainingConfig(**base, label_noise=p)).run(*cell) for p in (0.0, 0.6))
    # with a share 0.54 of wrong labels no batch accuracy can exceed 0.46 but by chance: 5 standard errors of one batch
    assert noisy.accuracy_curve[0, -1] < 0.46 + 5 * 0.5 / 8 * 0.46
    assert clean.cells.final_accuracy[0] > 0.6
    assert noisy.cells.final_accuracy[0] > 0.5
    assert noisy.cells.final_loss[0] > clean.cells.final_loss[0] + 0.1


def test_a_variant_names_what_is_unusual():
    assert TrainingConfig(depth=2).options() == ""
    unusual = TrainingConfig(depth=2, schedule="warmup-cosine", warmup=0.1, weight_decay=1e-3, label_noise=0.2)
    assert unusual.options() == ", warmup-cosine 0.1, weight decay 0.001, label noise 0.2"
    assert TrainingConfig(depth=2, schedule="cosine").options() == ", cosine"
