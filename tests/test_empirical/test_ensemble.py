"""The batched ensemble against separate runs.

Two oracles. The independent one is a plain PyTorch loop that shares nothing with the ensemble but the data and the
draws of θ₀: weights W of unit variance with μP multipliers in the forward pass, gradients by autograd, one network at a
time, the step θ ← θ − η N ∂ℓ/∂θ written as in the definition. The other is the ensemble itself with one cell.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical import MLP, Ensemble, data_stream, rescale
from empirical.ensemble import log_spaced_steps
from simulate import Outcome, Thresholds
from theory import InputError, ToyModel

BATCH, SIZE = 16, 7


def stream(seed: int):
    return data_stream("fashion-mnist-deformed", BATCH, seed, size=SIZE, dtype=torch.float64)


def eta_crit(gamma, depth):
    return ToyModel().boundary("eta_crit").numeric(gamma=np.asarray(gamma, dtype=float), depth=depth)


class PlainMLP(torch.nn.Module):
    """h₁ = √2 W₁x/√d, h = √2 Wφ(h)/√N, F = Wφ(h)/N, with unit-variance W."""

    def __init__(self, spec: MLP, seed: int) -> None:
        super().__init__()
        n, d = spec.width, spec.input_dim
        self.multipliers = [(2 / d) ** 0.5] + [(2 / n) ** 0.5] * (spec.depth - 2) + [1 / n]
        effective = spec.initial_weights(seed)
        self.weights = torch.nn.ParameterList([
            torch.nn.Parameter(v / a) for v, a in zip(effective, self.multipliers, strict=True)
        ])

    def forward(self, x):
        for layer, (weight, a) in enumerate(zip(self.weights, self.multipliers, strict=True)):
            x = a * (torch.relu(x) if layer else x) @ weight.T
        return x


def plain_losses(spec: MLP, gamma: float, eta: float, seed: int, steps: int) -> np.ndarray:
    network = rescale(PlainMLP(spec, seed), gamma)
    losses = []
    for step in range(steps):
        x, y = stream(seed)(step)
        loss = ((network(x) - y) ** 2).sum(1).mean() / 2
        losses.append(loss.item())
        parameters = [p for p in network.parameters() if p.requires_grad]
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            with torch.no_grad():
                p -= eta * spec.width * g
    return np.array(losses)


def ensemble_losses(spec, gamma, eta, seed, steps):
    run = Ensemble(spec, gamma, eta, seed, stream=stream, dtype="float64").run(steps, np.arange(steps))
    return run.loss_curve


def relative(a, b):
    return np.max(np.abs(a - b) / np.abs(b))


@pytest.fixture(scope="module", params=[2, 3, 4])
def below(request):
    """32 cells below eta_crit, γ over eight decades, two seeds; each with its plain run."""
    depth, steps = request.param, 60
    spec = MLP(depth, 16, SIZE**2, 10)
    gamma = np.geomspace(1e-4, 1e4, 32)
    eta = 0.3 * eta_crit(gamma, depth) * np.resize([0.1, 0.5, 1.0], 32)
    seed = np.resize([0, 3], 32)
    return spec, gamma, eta, seed, steps


def test_32_cells_below_eta_crit_equal_32_plain_runs(below):
    # float64 rounding, 1e-16, grows through 60 stable steps by far less than the 1e6 that 1e-10 allows;
    # at γ = 1e-4 the difference F − F₀ has lost four digits of the sixteen
    spec, gamma, eta, seed, steps = below
    together = ensemble_losses(spec, gamma, eta, seed, steps)
    alone = np.stack([plain_losses(spec, g, e, int(s), steps) for g, e, s in zip(gamma, eta, seed, strict=True)])
    assert relative(together, alone) <= 1e-10


def test_32_cells_below_eta_crit_equal_ensembles_of_one(below):
    spec, gamma, eta, seed, steps = below
    together = ensemble_losses(spec, gamma, eta, seed, steps)
    cells = zip(gamma, eta, seed, strict=True)
    alone = np.concatenate([ensemble_losses(spec, [g], [e], [int(s)], steps) for g, e, s in cells])
    assert relative(together, alone) <= 1e-10


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_first_20_steps_above_eta_crit_equal_plain_runs(depth):
    # above the boundary one ulp grows to order one, at a rate of up to ln(η/η_crit) per step and faster once rich;
    # cells that leave the finite numbers before step 20 are compared until they do
    spec = MLP(depth, 16, SIZE**2, 10)
    gamma = np.array([1e-3, 1e-1, 10.0, 1e3])
    eta = 4.0 * eta_crit(gamma, depth)
    together = ensemble_losses(spec, gamma, eta, 1, 20)
    alone = np.stack([plain_losses(spec, g, e, 1, 20) for g, e in zip(gamma, eta, strict=True)])
    both = np.isfinite(together) & np.isfinite(alone) & (alone < 1e12)
    assert both[:, :4].all()
    assert relative(together[both], alone[both]) <= 1e-8


def test_float32_keeps_lazy_training_accurate():
    # displacement held apart: without it η at the bottom of the band loses its updates below one ulp of the weights
    spec, gamma = MLP(3, 32, SIZE**2, 10), np.array([1e-4, 1e-3, 1e-2, 1.0])
    eta = 1e-3 * eta_crit(gamma, 3)
    curves = [
        Ensemble(spec, gamma, eta, 0, stream=stream, dtype=d).run(400, np.arange(400)).loss_curve
        for d in ("float32", "float64")
    ]
    assert relative(curves[0], curves[1]) <= 1e-3


@settings(max_examples=15, deadline=None)
@given(data=st.data(), n=st.integers(2, 9))
def test_a_cell_does_not_depend_on_its_companions(data, n):
    spec = MLP(3, 8, SIZE**2, 10)
    gamma = 10.0 ** np.array(data.draw(st.lists(st.floats(-3, 3), min_size=n, max_size=n)))
    # companions may diverge, which takes them out of the stack beside the cell that is watched
    factor = 10.0 ** np.array(data.draw(st.lists(st.floats(-2, 4), min_size=n, max_size=n)))
    factor[0] = 0.2
    seed = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    eta = factor * eta_crit(gamma, 3)
    beside = ensemble_losses(spec, gamma, eta, seed, 25)[0]
    alone = ensemble_losses(spec, gamma[:1], eta[:1], seed[:1], 25)[0]
    assert relative(beside, alone) <= 1e-10


def test_results_come_back_in_the_order_given():
    spec = MLP(2, 8, SIZE**2, 10)
    gamma, seed = np.array([1.0, 0.01, 100.0, 1.0, 0.01]), np.array([2, 0, 1, 0, 2])
    eta = 0.2 * eta_crit(gamma, 2)
    eta[2] *= 1e9  # diverges at once
    straight = Ensemble(spec, gamma, eta, seed, stream=stream, dtype="float64").run(30)
    order = np.array([3, 1, 4, 0, 2])
    shuffled = Ensemble(spec, gamma[order], eta[order], seed[order], stream=stream, dtype="float64").run(30)
    for name, values in straight.cells.fields().items():
        np.testing.assert_allclose(values[order], shuffled.cells.fields()[name], rtol=1e-10, err_msg=name)
    assert straight.cells.outcome[2] == Outcome.DIVERGED
    assert straight.cells.steps_run[2] < 30


def test_outcomes_follow_from_the_loss_curve():
    spec, steps = MLP(3, 16, SIZE**2, 10), 200
    gamma = np.repeat([0.01, 1.0, 100.0], 8)
    eta = np.tile(np.geomspace(1e-4, 30, 8), 3) * eta_crit(gamma, 3)
    run = Ensemble(spec, gamma, eta, 0, stream=stream, dtype="float64").run(steps, np.arange(steps))
    cells, tail = run.cells, Thresholds().tail_steps(steps)
    settled = cells.outcome <= Outcome.UNSTABLE
    assert {Outcome.UNTRAINED, Outcome.TRAINED} <= set(cells.outcome.tolist())
    assert not settled.all()
    np.testing.assert_allclose(cells.final_loss[settled], run.loss_curve[settled, -tail:].mean(1), rtol=1e-12)
    np.testing.assert_allclose(cells.peak_loss[settled], run.loss_curve[settled].max(1), rtol=1e-12)
    np.testing.assert_allclose(cells.initial_loss, 0.5, rtol=1e-12)  # f = 0 against one-hot targets
    learned, overshot = cells.final_loss <= 0.9 * 0.5, cells.peak_loss > 1.5 * 0.5
    for outcome, where in (
        (Outcome.TRAINED, learned & ~overshot),
        (Outcome.CATAPULT, learned & overshot),
        (Outcome.UNTRAINED, ~learned & ~overshot),
        (Outcome.UNSTABLE, ~learned & overshot),
    ):
        np.testing.assert_array_equal((cells.outcome == outcome)[settled], where[settled])


def test_a_network_without_active_units_is_dead():
    # one enormous step of a small network switches every unit off; F is then exactly zero and nothing moves again
    spec, gamma = MLP(3, 8, SIZE**2, 10), np.full(40, 1e-3)
    eta = np.geomspace(3, 3e4, 40) * eta_crit(gamma, 3)
    run = Ensemble(spec, gamma, eta, 1, stream=stream, dtype="float64").run(200, np.arange(200))
    dead = run.cells.outcome == Outcome.DEAD
    assert dead.any()
    assert np.isfinite(run.cells.final_loss[dead]).all()
    assert (run.cells.steps_run[dead] < 200).any()  # decided early


def test_initial_weights_are_a_pure_function_of_the_seed():
    spec = MLP(3, 8, 49, 10)
    again, other = spec.initial_weights(5), spec.initial_weights(6)
    assert all(torch.equal(a, b) for a, b in zip(spec.initial_weights(5), again, strict=True))
    assert not torch.equal(again[0], other[0])
    assert not torch.equal(again[1].ravel()[:8], again[0].ravel()[:8])
    # standard deviations are the multipliers: 5 standard errors of a normal sample's
    for layer, weight in zip(MLP(3, 64, 196, 10).layers, MLP(3, 64, 196, 10).initial_weights(0), strict=True):
        assert abs(weight.std().item() / layer.multiplier - 1) < 5 / np.sqrt(2 * weight.numel())


def test_accuracy_of_a_trained_network_is_that_of_a_plain_one():
    spec, steps = MLP(2, 16, SIZE**2, 10), 80
    eta = 0.5 * float(eta_crit([1.0], 2)[0])
    cells = Ensemble(spec, [1.0], [eta], 0, stream=stream, dtype="float64").run(steps).cells
    network = rescale(PlainMLP(spec, 0), 1.0)
    optimizer = torch.optim.SGD(network.module.parameters(), lr=eta * spec.width)
    for step in range(steps):
        x, y = stream(0)(step)
        optimizer.zero_grad()
        (((network(x) - y) ** 2).sum(1).mean() / 2).backward()
        optimizer.step()
    x, y = stream(0).test_set()
    assert cells.final_accuracy[0] == (network(x).argmax(1) == y.argmax(1)).double().mean().item()
    assert cells.final_accuracy[0] > 0.3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"gamma": [0.0]}, "gamma"),
        ({"gamma": [float("nan")]}, "gamma"),
        ({"eta": [-1.0]}, "eta"),
        ({"eta": [1.0, 2.0, 3.0], "gamma": [1.0, 2.0]}, "gamma, eta, seed, beta"),
        ({"beta": 1.0}, "beta"),
        ({"beta": [-0.1]}, "beta"),
        ({"beta": [0.1, 0.2, 0.3], "gamma": [1.0, 2.0]}, "gamma, eta, seed, beta"),
        ({"loss": "hinge"}, "loss"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"seed": [-1]}, "seed"),
        ({"seed": [0.5]}, "seed"),
        ({"schedule": "step"}, "schedule"),
        ({"warmup": 1.01}, "warmup"),
        ({"weight_decay": -1e-9}, "weight_decay"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"dtype": "float16"}, "dtype"),
        ({"device": "abacus"}, "device"),
        ({"device": "cuda:99"}, "device"),
    ],
)
def test_bad_input_names_the_field(change, field):
    arguments = {"gamma": [1.0], "eta": [1.0], "seed": 0, "stream": stream} | change
    with pytest.raises(InputError) as caught:
        Ensemble(MLP(2, 4, SIZE**2, 10), **arguments)
    assert caught.value.field == field


def test_an_ensemble_runs_once():
    ensemble = Ensemble(MLP(2, 4, SIZE**2, 10), [1.0], [0.1], 0, stream=stream)
    ensemble.run(3)
    with pytest.raises(InputError, match="already run"):
        ensemble.run(3)


@given(steps=st.integers(1, 10**7))
def test_curve_steps_are_ascending_and_inside(steps):
    kept = log_spaced_steps(steps)
    assert kept[0] == 0
    assert (np.diff(kept) > 0).all()
    assert kept[-1] == steps - 1
