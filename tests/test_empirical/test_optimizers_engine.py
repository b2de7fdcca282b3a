"""Every optimizer and loss of the ensemble against plain PyTorch, one network at a time.

The oracle shares nothing with the engine but the data and the draws of θ₀: weights of unit variance with μP multipliers
in the forward pass, PyTorch's own losses and gradients, and `torch.optim.SGD` and `torch.optim.Adam`, whose learning
rate for each layer is the width multiplier of the docstring of `parametrization`, written out again here.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical import MLP, Ensemble, data_stream, rescale
from empirical import ensemble as engine
from empirical.losses import LOSSES
from empirical.optimizers import ADAM_EPSILON, OPTIMIZERS
from simulate import Outcome, Thresholds
from theory import ToyModel

SIZE, BATCH = 7, 16
FOREVER = Thresholds(divergence=1e300)
"""No cell is stopped for being large."""


def stream(seed):
    return data_stream("fashion-mnist-deformed", BATCH, seed, size=SIZE, dtype=torch.float64)


class PlainMLP(torch.nn.Module):
    def __init__(self, spec, seed):
        super().__init__()
        n, d = spec.width, spec.input_dim
        self.multipliers = [sqrt(2 / d)] + [sqrt(2 / n)] * (spec.depth - 2) + [1 / n]
        draws = zip(spec.initial_weights(seed), self.multipliers, strict=True)
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(v / a) for v, a in draws])

    def forward(self, x):
        for layer, (weight, a) in enumerate(zip(self.weights, self.multipliers, strict=True)):
            x = a * (torch.relu(x) if layer else x) @ weight.T
        return x


def plain_optimizer(name, module, spec, gamma, eta, beta):
    n = spec.width
    if name in {"gd", "momentum"}:
        return torch.optim.SGD(module.parameters(), lr=eta * n, momentum=beta if name == "momentum" else 0)
    multipliers = [1.0] + [n**-0.5] * (spec.depth - 2) + [1.0]
    rates = zip(module.weights, multipliers, module.multipliers, strict=True)
    # sign descent is Adam without memory: β₁ = β₂ = 0 and no ε (where no gradient is exactly zero)
    return torch.optim.Adam([
        {"params": [w], "lr": eta * s, "eps": ADAM_EPSILON * a / gamma, "betas": (beta, 0.999)} for w, s, a in rates
    ])


def plain_losses(spec, gamma, eta, beta, seed, steps, *, loss, optimizer):
    module = PlainMLP(spec, seed)
    network = rescale(module, gamma)
    mover = None if optimizer == "sign" else plain_optimizer(optimizer, module, spec, gamma, eta, beta)
    losses = []
    for step in range(steps):
        x, y = stream(seed)(step)
        if loss == "mse":
            value = torch.nn.functional.mse_loss(network(x), y, reduction="sum") / (2 * len(x))
        else:
            value = torch.nn.functional.cross_entropy(network(x), y.argmax(1))
        losses.append(value.item())
        module.zero_grad()
        value.backward()
        if mover is not None:
            mover.step()
            continue
        for layer, weight in enumerate(module.weights):
            multiplier = spec.width**-0.5 if 0 < layer < spec.depth - 1 else 1.0
            with torch.no_grad():
                weight -= eta * multiplier * weight.grad.sign()
    return np.array(losses)


def eta_edge(optimizer, gamma, beta):
    """A learning rate near which training becomes unstable, to within a factor of a few; depth 3."""
    gamma = np.asarray(gamma, dtype=float)
    if optimizer in {"gd", "momentum"}:
        crit = ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=3)
        # a step that is repeated 1/(1 − β) times over; stable up to 2(1 + β)/λ
        return crit * (1 - beta if optimizer == "momentum" else 1)
    return ToyModel(optimizer="sign").boundary("eta_max").numeric(gamma=gamma, depth=3, delta=0.5)


def relative(a, b):
    return np.max(np.abs(a - b) / np.abs(b))


def run(spec, gamma, eta, beta, seed, steps, *, loss, optimizer, dtype="float64", thresholds=FOREVER):
    return Ensemble(
        spec,
        gamma,
        eta,
        seed,
        stream=stream,
        loss=loss,
        optimizer=optimizer,
        beta=beta,
        dtype=dtype,
        thresholds=thresholds,
    ).run(steps, np.arange(steps))


CASES = [(loss, optimizer) for loss in LOSSES for optimizer in OPTIMIZERS]


@pytest.mark.parametrize(("loss", "optimizer"), CASES)
def test_cells_below_the_edge_equal_plain_runs(loss, optimizer):
    # rounding of 1e-16 grows through 40 stable steps by far less than the 1e6 that 1e-10 allows. The plain run loses
    # F's size over γ to cancellation, 1e-16/γ; sign descent can turn on one gradient whose sign is lost in rounding
    spec, steps = MLP(3, 16, SIZE**2, 10), 40
    gamma = np.geomspace(1e-4, 1e4, 9)
    beta = np.resize([0.5, 0.9], 9)
    eta = 0.1 * eta_edge(optimizer, gamma, beta) * np.resize([0.1, 1.0, 0.3], 9)
    seed = np.resize([0, 3], 9)
    together = run(spec, gamma, eta, beta, seed, steps, loss=loss, optimizer=optimizer).loss_curve
    cells = zip(gamma, eta, beta, seed, strict=True)
    alone = np.stack([plain_losses(spec, *cell, steps, loss=loss, optimizer=optimizer) for cell in cells])
    assert (together[:, 1:] != together[:, :-1]).all()  # every cell moves
    assert relative(together, alone) <= 1e-10


@pytest.mark.parametrize(("loss", "optimizer"), CASES)
def test_first_20_steps_above_the_edge_equal_plain_runs(loss, optimizer):
    # one ulp grows by up to η/η_crit a step, and faster once rich: 1e-8 allows for eight digits
    spec, gamma, seed = MLP(3, 16, SIZE**2, 10), np.array([1e-3, 1e-1, 10.0, 1e3]), np.array([1, 0, 1, 0])
    beta = np.array([0.9, 0.5, 0.5, 0.9])
    eta = 4.0 * eta_edge(optimizer, gamma, beta)
    together = run(spec, gamma, eta, beta, seed, 20, loss=loss, optimizer=optimizer).loss_curve
    cells = zip(gamma, eta, beta, seed, strict=True)
    alone = np.stack([plain_losses(spec, *cell, 20, loss=loss, optimizer=optimizer) for cell in cells])
    both = np.isfinite(together) & np.isfinite(alone) & (alone < 1e12)
    assert both[:, :4].all()
    assert relative(together[both], alone[both]) <= 1e-8


@settings(max_examples=20, deadline=None)
@given(
    data=st.data(), case=st.sampled_from(CASES), n=st.integers(1, 7), per_group=st.integers(1, 7), fused=st.booleans()
)
def test_a_cell_depends_on_nothing_but_itself(data, case, n, per_group, fused):
    """Not on its companions, some of which leave the stack, nor on how many cells a group has."""
    loss, optimizer = case
    spec = MLP(3, 8, SIZE**2, 10)
    gamma = 10.0 ** np.array(data.draw(st.lists(st.floats(-5, 5), min_size=n, max_size=n)))
    factor = 10.0 ** np.array(data.draw(st.lists(st.floats(-2, 4), min_size=n, max_size=n)))
    beta = np.array(data.draw(st.lists(st.floats(0, 0.95), min_size=n, max_size=n)))
    seed = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    factor[0] = 0.1
    eta = factor * eta_edge(optimizer, gamma, beta)
    arguments = {"loss": loss, "optimizer": optimizer, "thresholds": Thresholds()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "GROUP_BYTES", per_group * 8 * spec.parameter_count())
        if not fused:
            patch.setattr("empirical.models.fused.can_train", lambda device: False)
        beside = run(spec, gamma, eta, beta, seed, 25, **arguments).loss_curve[0]
    alone = run(spec, gamma[:1], eta[:1], beta[:1], seed[:1], 25, **arguments).loss_curve[0]
    assert relative(beside, alone) <= 1e-9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("lazy", [False, True])
def test_cells_that_leave_disturb_no_other_and_take_their_state_along(optimizer, lazy):
    spec, steps = MLP(3, 8, SIZE**2, 10), 60
    gamma = np.full(6, 1e-4 if lazy else 1.0)
    eta = 0.1 * eta_edge(optimizer, gamma, 0.9)
    eta[[0, 2, 3]] *= 1e12  # diverge or die at once
    beta = np.array([0.9, 0.5, 0.9, 0.1, 0.7, 0.9])
    seed = np.array([0, 1, 1, 0, 0, 1])
    full = run(spec, gamma, eta, beta, seed, steps, loss="mse", optimizer=optimizer, thresholds=Thresholds())
    assert (full.cells.steps_run[[0, 2, 3]] < steps).any()
    stay = [1, 4, 5]
    rest = run(
        spec,
        gamma[stay],
        eta[stay],
        beta[stay],
        seed[stay],
        steps,
        loss="mse",
        optimizer=optimizer,
        thresholds=Thresholds(),
    )
    assert relative(full.loss_curve[stay], rest.loss_curve) <= 1e-10
    assert (full.cells.steps_run[stay] == steps).all()


@settings(max_examples=30, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(LOSSES)))
def test_losses_are_zero_at_their_minimum_and_slopes_are_derivatives(data, name):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    soft = torch.softmax(torch.randn(3, 4, 5, generator=generator, dtype=torch.float64), 1)
    at_minimum = soft.clone() if name == "mse" else soft.log()
    loss, slope = LOSSES[name](at_minimum, soft)
    assert loss.abs().max() < 1e-15 * 5
    assert slope.abs().max() < 1e-15 * 5
    output = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    assert (LOSSES[name](output.clone(), soft)[0] > 0).all()
    # central differences: error of order h² = 1e-10
    direction, h = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64), 1e-5
    ends = [LOSSES[name](output + s * h * direction, soft)[0] for s in (1, -1)]
    slope = LOSSES[name](output.clone(), soft)[1]
    derivative = (slope * direction).sum((1, 2)) / 5
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * h), derivative, rtol=1e-6, atol=1e-8)


def test_hard_labels_have_no_entropy():
    output = torch.tensor([[[0.0], [0.0]], [[800.0], [0.0]]], dtype=torch.float64)
    hard = torch.tensor([[1.0], [0.0]], dtype=torch.float64).expand(2, 2, 1)
    loss, slope = LOSSES["cross-entropy"](output, hard)
    torch.testing.assert_close(loss, torch.tensor([np.log(2), 0.0], dtype=torch.float64))
    torch.testing.assert_close(slope[0, :, 0], torch.tensor([-0.5, 0.5], dtype=torch.float64))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_width_multipliers_move_the_function_alike_at_every_width(optimizer):
    # the μP promise: the fall of the loss in two steps has a limit. Four seeds averaged, it changes by less than 40 %
    # from width 64 to 1024; were the hidden layer of the sign-like optimizers left without its N^{−1/2}, by fourfold
    def fall(width):
        spec = MLP(3, width, SIZE**2, 10)
        eta = np.full(4, 0.05 if optimizer in {"gd", "momentum"} else 0.003)
        losses = run(spec, np.ones(4), eta, 0.9, np.arange(4), 3, loss="mse", optimizer=optimizer).loss_curve
        return float(np.mean(losses[:, 0] - losses[:, 2]))

    falls = [fall(width) for width in (64, 256, 1024)]
    assert min(falls) > 0
    assert max(falls) / min(falls) < 1.4


def test_momentum_may_revive_what_looks_dead():
    """A cell with memory is given up only after its velocity has faded; one without, after the tail."""
    spec, steps = MLP(3, 8, SIZE**2, 10), 400
    gamma = np.full(40, 1e-3)
    eta = np.geomspace(3, 3e4, 40) * eta_edge("gd", gamma, 0.0)
    for optimizer, patience in (("gd", 8), ("momentum", 8 + 153)):  # ln 1e-7 / ln 0.9 = 152.98
        cells = run(spec, gamma, eta, 0.9, 1, steps, loss="mse", optimizer=optimizer, thresholds=Thresholds()).cells
        dead = cells.outcome == Outcome.DEAD
        assert dead.any()
        assert cells.steps_run[dead].min() >= patience
        assert (cells.steps_run[dead] < steps).any()
