"""Deep linear matrix networks. Oracles: an ODE solver on all matrix entries, finite differences of the loss."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory import Derivation, InputError, rescaled_time
from theory.deep_linear import (
    flow_velocity,
    layer_balance,
    plateau_correction,
    plateau_times,
    product_of,
    staircase_times,
    steps,
)


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.name)
def test_steps_pass_and_a_wrong_expression_falsifies_them(step):
    assert Derivation("right", (step,)).run()[0].passed
    for factor in (sp.Rational(19, 20), sp.Rational(21, 20)):
        wrong = dataclasses.replace(step, expression=step.expression * factor)
        assert not Derivation("wrong", (wrong,)).run(strict=False)[0].passed


def loss(weights, start, gamma, correlation, covariance):
    """½ E|fx − y|² up to a constant."""
    output = (product_of(weights, weights[0].shape[1]) - start) / gamma
    return np.trace(output @ covariance @ output.T) / 2 - np.trace(output @ correlation.T)


def orthogonal(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def test_velocity_is_minus_gamma_times_the_gradient_for_any_covariance_and_start():
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in ((4, 3), (5, 4), (2, 5))]
    start, correlation, root = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.normal(size=(3, 3))
    problem = {"start": start, "gamma": 2.5, "correlation": correlation, "covariance": root @ root.T}
    velocity = flow_velocity(weights, **problem)
    for at, matrix in enumerate(weights):
        for entry in np.ndindex(matrix.shape):
            ends = []
            for by in (1.0, -1.0):  # the loss is quadratic in one entry: the central difference is exact
                moved = [other.copy() for other in weights]
                moved[at][entry] += by
                ends.append(loss(moved, *problem.values()))
            assert velocity[at][entry] == pytest.approx(-2.5 * (ends[0] - ends[1]) / 2, rel=1e-9, abs=1e-9)


def simulate(weights, problem, end, events=None):
    shapes = [matrix.shape for matrix in weights]
    cuts = np.cumsum([matrix.size for matrix in weights])[:-1]

    def unpack(flat):
        return [part.reshape(shape) for part, shape in zip(np.split(flat, cuts), shapes, strict=True)]

    def velocity(_, flat):
        return np.concatenate([part.ravel() for part in flow_velocity(unpack(flat), **problem)])

    first = np.concatenate([matrix.ravel() for matrix in weights])
    watch = [lambda t, flat, event=event: event(unpack(flat)) for event in events or []]
    path = solve_ivp(velocity, (0, end), first, method="LSODA", rtol=1e-10, atol=1e-10, events=watch)
    return unpack(path.y[:, -1]), path


def aligned_problem(depth, gamma, targets, variances, seed=1):
    rng = np.random.default_rng(seed)
    frames = [orthogonal(rng, len(targets)) for _ in range(depth + 1)]
    weights = [frames[at + 1] @ frames[at].T for at in range(depth)]
    problem = {
        "start": product_of(weights, len(targets)),
        "gamma": gamma,
        "correlation": frames[-1] @ np.diag(targets) @ frames[0].T,
        "covariance": frames[0] @ np.diag(variances) @ frames[0].T,
    }
    return frames, weights, problem


@pytest.mark.parametrize(("depth", "gamma"), [(1, 0.7), (2, 0.05), (2, 300.0), (3, 1.0), (3, 3e3), (4, 200.0)])
def test_staircase_times_are_those_of_the_matrix_flow(depth, gamma):
    targets, variances, level = np.array([4.0, 2.0, 1.0]), np.array([1.0, 0.5, 2.0]), 0.4
    frames, weights, problem = aligned_problem(depth, gamma, targets, variances)
    expected = staircase_times(targets, gamma, depth, level=level, input_variances=variances)

    def crossing(mode):
        def event(matrices):
            output = (product_of(matrices, 3) - problem["start"]) / gamma
            return frames[-1][:, mode] @ output @ frames[0][:, mode] * variances[mode] / targets[mode] - level

        return event

    final, path = simulate(weights, problem, 1.2 * expected.max(), [crossing(mode) for mode in range(3)])
    assert [times[0] for times in path.t_events] == pytest.approx(expected, rel=1e-5)
    # the modes have not mixed, and balance has been kept
    rotated = frames[-1].T @ (product_of(final, 3) - problem["start"]) @ frames[0] / gamma
    assert np.abs(rotated - np.diag(np.diag(rotated))).max() < 1e-6
    scale = max(np.abs(matrix).max() for matrix in final) ** 2
    assert all(np.abs(balance).max() < 1e-6 * scale for balance in layer_balance(final))


def test_modes_mix_when_the_covariance_does_not_commute():
    frames, weights, problem = aligned_problem(2, 50.0, [3.0, 1.0], [1.0, 1.0])
    problem["covariance"] = frames[0] @ np.array([[1.0, 0.6], [0.6, 1.0]]) @ frames[0].T
    final, _ = simulate(weights, problem, 1.5)
    rotated = frames[-1].T @ (product_of(final, 2) - problem["start"]) @ frames[0] / 50.0
    assert np.abs(rotated[0, 1]) > 0.1


def test_balance_of_an_unbalanced_start_is_conserved_and_one_step_breaks_it_at_second_order():
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=shape) for shape in ((4, 3), (5, 4), (2, 5))]
    problem = {
        "start": product_of(weights, 3),
        "gamma": 1.7,
        "correlation": rng.normal(size=(2, 3)),
        "covariance": np.diag([1.0, 2.0, 0.3]) + 0.1,
    }
    before = layer_balance(weights)
    final, _ = simulate(weights, problem, 1.0)
    assert max(np.abs(a - b).max() for a, b in zip(final, weights, strict=True)) > 0.1
    for early, late in zip(before, layer_balance(final), strict=True):
        assert late == pytest.approx(early, abs=1e-6)
    velocity = flow_velocity(weights, **problem)
    step = 0.05  # eta/gamma
    moved = [matrix + step * part for matrix, part in zip(weights, velocity, strict=True)]
    for after, early, second in zip(layer_balance(moved), before, layer_balance(velocity), strict=True):
        assert after - early == pytest.approx(step**2 * second, abs=1e-12)


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.floats(-4, 8), st.integers(1, 8), st.floats(0.01, 0.99)
)
def test_times_follow_the_modes_through_permutations_and_changes_of_units(values, exponent, depth, level):
    gamma = 10.0**exponent
    times = staircase_times(values, gamma, depth, level=level)
    assert staircase_times(values[::-1], gamma, depth, level=level) == pytest.approx(times[::-1], rel=1e-12)
    # s → 3s at γ → γ/3 is a change of the unit of time
    assert staircase_times(3 * np.array(values), gamma / 3, depth, level=level) == pytest.approx(times / 3, rel=1e-9)
    # a unit mode with whitened inputs is the scalar model
    assert staircase_times(1.0, gamma, depth, level=level) == rescaled_time(output=level, gamma=gamma, depth=depth)


@given(st.floats(1.01, 50), st.floats(-3, 8), st.integers(2, 8))
def test_stronger_modes_are_learned_first(factor, exponent, depth):
    early, late = staircase_times([factor, 1.0], 10.0**exponent, depth)
    assert early < late


@pytest.mark.parametrize("depth", [2, 3, 4, 7])
@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_large_gamma_form_approaches_the_exact_times(depth, level):
    values, variances = np.array([4.0, 2.0, 1.0]), np.array([1.0, 0.5, 3.0])
    for gamma in (1e6, 1e8):
        exact = staircase_times(values, gamma, depth, level=level, input_variances=variances)
        leading = plateau_times(values, gamma, depth, level=level, input_variances=variances)
        # the next term is of relative order ln(γ_a)/γ_a at most; at level 0.05 its coefficient is near 1/level
        assert leading == pytest.approx(exact, rel=100 / gamma)


def test_regression_values_of_the_staircase():
    times = staircase_times([4, 2, 1], 1e8, 3)
    assert times / times[0] == pytest.approx([1, 1.99940, 3.99729], abs=5e-6)
    assert staircase_times([4, 2, 1], 1e8, 2) == pytest.approx(np.log(1e8 * np.array([4, 2, 1])) / [8, 4, 2], rel=1e-7)
    assert staircase_times([4, 2, 1], 3.0, 1) == pytest.approx([3 * np.log(2)] * 3)  # one layer: no staircase
    assert plateau_correction(0.5, 3) == pytest.approx(-0.85025, abs=5e-6)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: staircase_times([1.0, 0.0], 1.0, 3), "singular_values"),
        (lambda: staircase_times([1.0], -1.0, 3), "gamma"),
        (lambda: staircase_times([1.0], 1.0, 0), "depth"),
        (lambda: staircase_times([1.0], 1.0, 3, level=1.0), "level"),
        (lambda: staircase_times([1.0], 1.0, 3, input_variances=np.nan), "input_variances"),
        (lambda: staircase_times([1.0, 2.0], [1.0, 2.0, 3.0], 3), "singular_values"),
        (lambda: plateau_times([1.0], 1.0, 1), "depth"),
        (lambda: plateau_correction(0.5, 2), "depth"),
        (lambda: flow_velocity([], start=np.eye(2), gamma=1, correlation=np.eye(2), covariance=np.eye(2)), "weights"),
        (lambda: flow_velocity([np.eye(2), np.eye(3)], start=np.eye(2), gamma=1, correlation=np.eye(2),
                               covariance=np.eye(2)), "weights"),
        (lambda: flow_velocity([np.eye(2)], start=np.eye(2), gamma=0, correlation=np.eye(2), covariance=np.eye(2)),
         "gamma"),
        (lambda: layer_balance([np.eye(2), np.eye(3)]), "weights"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, field):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field
