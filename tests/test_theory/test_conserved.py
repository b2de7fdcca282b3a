"""Conserved quantities. Oracles: an ODE solver, explicit gradient steps, a ReLU network differentiated by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import solve_ivp

from theory import Derivation, InputError
from theory.conserved import layer_invariants, step_drift, steps, weight_invariants

WEIGHTS = arrays(np.float64, st.integers(2, 6), elements=st.floats(-2, 2).filter(lambda value: abs(value) > 0.05))


def gradient(weights, strength, slope):
    """∂ℓ/∂w of each weight, with the product of the others formed explicitly."""
    return np.array([slope * np.prod(np.delete(weights, at)) / strength for at in range(len(weights))])


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.name)
def test_steps_pass_and_a_wrong_expression_falsifies_them(step):
    assert Derivation("right", (step,)).run()[0].passed
    for factor in (sp.Rational(19, 20), sp.Rational(21, 20)):
        wrong = dataclasses.replace(step, expression=step.expression * factor)
        assert not Derivation("wrong", (wrong,)).run(strict=False)[0].passed


@pytest.mark.parametrize("slope", [lambda f: f - 1, lambda f: 1 / (1 + np.exp(-f)) - 1, lambda f: np.sin(f) - 1])
def test_flow_conserves_differences_of_squares_for_any_loss(slope):
    first = np.array([1.3, 0.4, -0.9, 0.7])

    def velocity(_, weights):
        return -gradient(weights, 0.8, slope((np.prod(weights) - np.prod(first)) / 0.8))

    path = solve_ivp(velocity, (0, 5), first, rtol=1e-11, atol=1e-13).y.T
    assert np.abs(path[-1] - first).max() > 0.1  # something moved
    # the solver's own error is about 1e-10 here
    assert weight_invariants(path) == pytest.approx(
        np.broadcast_to(weight_invariants(first), (len(path), 4, 4)), abs=1e-8
    )


@given(WEIGHTS, st.floats(1e-3, 1), st.floats(0.1, 10), st.floats(-2, 2))
def test_drift_of_one_step_is_exact(weights, rate, strength, slope):
    moved = weights - rate * gradient(weights, strength, slope)
    expected = weight_invariants(moved) - weight_invariants(weights)
    drift = step_drift(weights, eta=rate, gamma=strength, slope=slope)
    # the left side subtracts squares of this size: rounding of either side
    scale = np.max(np.abs(np.concatenate([moved, weights]))) ** 2
    assert drift == pytest.approx(expected, rel=1e-9, abs=1e-14 * scale)
    product = np.prod(weights)
    closed = (rate * slope * product / strength) ** 2 * (weights[:, None] ** -2.0 - weights[None, :] ** -2.0)
    # 1e-300: subnormal numbers have no relative precision left
    assert drift == pytest.approx(closed, rel=1e-9, abs=1e-12 * np.abs(closed).max() + 1e-300)


@given(WEIGHTS, st.permutations(range(6)), st.floats(0.01, 1))
def test_drift_permutes_with_the_weights(weights, order, rate):
    kept = [at for at in order if at < len(weights)]
    drift = step_drift(weights, eta=rate, gamma=1.0, slope=1.0)
    permuted = step_drift(weights[kept], eta=rate, gamma=1.0, slope=1.0)
    assert permuted == pytest.approx(drift[np.ix_(kept, kept)], rel=1e-12, abs=1e-13 * (1 + np.abs(drift).max()))
    assert np.array_equal(drift, -drift.T)


def test_drift_is_of_second_order_and_vectorised():
    weights = np.array([[1.0, 2.0, 0.5], [0.3, 1.0, 1.0]])
    small, large = (step_drift(weights, eta=rate, gamma=np.array([1.0, 4.0]), slope=[0.5, -1.0]) for rate in (0.1, 0.3))
    assert large == pytest.approx(9 * small)
    assert small[1] == pytest.approx(step_drift(weights[1], eta=0.1, gamma=4.0, slope=-1.0))
    assert np.all(step_drift([2.0, 2.0], eta=1.0, gamma=1.0, slope=3.0) == 0)  # balanced weights stay balanced
    assert step_drift([0.0, 2.0], eta=1.0, gamma=1.0, slope=1.0)[0, 1] == 4.0  # no division by a zero weight


def relu_net(params, inputs):
    """Three layers without biases; layer gradients of Σ_x slope_x F(x) by back-propagation."""
    first, second, third = params
    hidden = np.maximum(first @ inputs, 0)
    deeper = np.maximum(second @ hidden, 0)
    return third @ deeper, hidden, deeper


def relu_gradients(params, inputs, slopes):
    _, second, third = params
    _, hidden, deeper = relu_net(params, inputs)
    back_deep = (third.T @ slopes[None]) * (deeper > 0)
    back_hidden = (second.T @ back_deep) * (hidden > 0)
    return [back_hidden @ inputs.T, back_deep @ hidden.T, slopes[None] @ deeper.T]


def test_layer_norms_of_a_relu_network_drift_by_the_gradients_norms():
    rng = np.random.default_rng(0)
    params = [rng.normal(size=shape) for shape in ((5, 3), (4, 5), (1, 4))]
    inputs, slopes, rate = rng.normal(size=(3, 7)), rng.normal(size=7), 0.03
    gradients = relu_gradients(params, inputs, slopes)
    before = layer_invariants([np.sum(p**2) for p in params])
    after = layer_invariants([np.sum((p - rate * g) ** 2) for p, g in zip(params, gradients, strict=True)])
    drift = rate**2 * layer_invariants([np.sum(g**2) for g in gradients])
    assert after - before == pytest.approx(drift, rel=1e-9, abs=1e-12)
    assert np.abs(drift[0, 1]) > 1e-3
    # first order: θ_a·g_a is one number, Euler's identity
    inner = [np.sum(p * g) for p, g in zip(params, gradients, strict=True)]
    assert inner == pytest.approx([inner[0]] * 3, rel=1e-12)


def test_degrees_enter_crosswise():
    assert layer_invariants([3.0, 10.0], [1, 2])[0, 1] == 2 * 3.0 - 1 * 10.0
    assert layer_invariants([3.0, 10.0], [0, 1])[0, 1] == 3.0


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: weight_invariants(1.0), "weights"),
        (lambda: weight_invariants([1.0, np.nan]), "weights"),
        (lambda: weight_invariants(["a"]), "weights"),
        (lambda: step_drift([1.0, 2.0], eta=0, gamma=1, slope=1), "eta"),
        (lambda: step_drift([1.0, 2.0], eta=1, gamma=-1, slope=1), "gamma"),
        (lambda: step_drift([1.0, 2.0], eta=1, gamma=1, slope=np.inf), "slope"),
        (lambda: step_drift(np.ones((3, 2)), eta=[1, 2], gamma=1, slope=1), "weights"),
        (lambda: layer_invariants([1.0, -1.0]), "squared_norms"),
        (lambda: layer_invariants([1.0, 1.0], [1.0]), "degrees"),
    ],
)
def test_bad_input_is_named(call, field):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field
