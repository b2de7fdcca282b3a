"""Collapse in τ. Oracles: 30-digit quadrature and root finding, SciPy's ODE solver, theory's own quadrature of eta_min.

None of them shares code with ``simulate.collapse``: mpmath integrates dτ in y = ln(1 + γs), the solver goes forwards in
time, and the module itself integrates over logit f.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from simulate.collapse import balanced_output, drop_time, tau_collapse
from theory import InputError, ToyModel, rescaled_time
from theory.flow_forms import collapse_curve, output_at_time
from theory.symbols import tau as tau_symbol

PULLS = {
    "mse": lambda s: 1 - s,
    "cross-entropy": lambda s: 1 / (1 + mpmath.exp(-1)) - 1 / (1 + mpmath.exp(-s)),
}
SETTINGS = [("mse", 2), ("mse", 3), ("mse", 5), ("cross-entropy", 2), ("cross-entropy", 3), ("cross-entropy", 4)]


def exact_tau(output, gamma, loss, depth):
    def slowness(y):
        return mpmath.exp((mpmath.mpf(2) / depth - 1) * y) / PULLS[loss](mpmath.expm1(y) / gamma) / depth

    return mpmath.quad(slowness, mpmath.linspace(0, mpmath.log1p(gamma * output), 6))


@pytest.mark.parametrize(("loss", "depth"), [("mse", 3), ("cross-entropy", 2), ("cross-entropy", 4)])
def test_distance_is_that_of_a_30_digit_evaluation(loss, depth):
    small, large = mpmath.mpf(10) ** 3, mpmath.mpf(10) ** 4
    with mpmath.workdps(30):
        end = exact_tau(mpmath.mpf("0.01"), small, loss, depth)
        other = mpmath.findroot(lambda f: exact_tau(f, large, loss, depth) - end, ("0.00099", "0.00103"), tol=1e-22)
        distance = (large * other - small / 100) / (small / 100)
    found = tau_collapse(gamma=[1e4, 1e3], depth=depth, loss=loss)
    assert found.distance == pytest.approx(float(distance), rel=1e-9)  # distance is 1 %: eleven digits of the outputs
    assert found.tau[-1] == pytest.approx(float(end), rel=1e-12)
    assert found.pairs["tau"][0] == found.tau[-1]  # outputs part for good: the distance is largest at the end


@pytest.mark.parametrize(("loss", "depth"), SETTINGS)
def test_prediction_is_within_two_percent_at_large_gamma(loss, depth):
    found = tau_collapse(gamma=[1e5, 1e6, 1e7], depth=depth, loss=loss)
    assert len(found.pairs) == 3
    assert (found.pairs["departure"].abs() < 0.02).all()
    assert found.predicted_distance == pytest.approx(found.distance, rel=0.02)
    # of order f: the correction is between f/2 and Lf/2 times ℓ″(0)/|ℓ′(0)|, and nearly all of it between 1e5 and 1e7
    slowing = {"mse": 1.0, "cross-entropy": 0.25 / 0.2310586}[loss]
    assert 0.95 * slowing * 0.005 < found.distance < 1.1 * slowing * 0.005 * depth


def test_the_constant_of_cross_entropy_is_its_own():
    """c = ℓ″(0)/|ℓ′(0)| = 1.0820: a correction with that of MSE would be 8 % off, and the test above would fail."""
    ratio = [tau_collapse(gamma=[1e5, 1e7], loss=loss).distance for loss in ("cross-entropy", "mse")]
    slope = 0.5 - 1 / (1 + np.exp(-1))
    assert ratio[0] / ratio[1] == pytest.approx(0.25 / -slope, rel=2e-3)


@pytest.mark.parametrize(("loss", "depth"), SETTINGS)
def test_what_the_first_correction_leaves_is_of_second_order(loss, depth):
    found = tau_collapse(gamma=[1e3, 1e4, 1e5], depth=depth, loss=loss, output=1e-3)
    left = found.raw_output - found.limit - found.correction / found.gamma[:, None]
    ratio = left[0, -100:] / left[1, -100:]
    np.testing.assert_allclose(ratio, 100, rtol=0.05)


@pytest.mark.parametrize(("loss", "depth"), SETTINGS)
def test_drop_times(loss, depth):
    gamma = np.array([1e4, 1e5, 1e6])
    drops = tau_collapse(gamma=gamma, depth=depth, loss=loss).drops
    # eta_min at level ½ is by definition the rate whose flow halves the loss in T steps: τ = η T/γ
    law = ToyModel(loss=loss).boundary("eta_min").numeric(gamma=gamma, depth=depth, steps=1, level=0.5) / gamma
    np.testing.assert_allclose(drops["measured"], law, rtol=1e-11)
    departure = drops["departure"].to_numpy()
    assert (departure > 0).all()
    assert departure[-1] < 4e-6
    # relative order 1/γ, and at L = 2 ln γ in numerator and denominator
    np.testing.assert_allclose(departure[:-1] / departure[1:], 10, rtol=0.15)
    pull = {"mse": 1.0, "cross-entropy": 0.2310585786}[loss]
    leading = np.log(gamma) / (2 * pull) if depth == 2 else 1 / ((depth - 2) * pull)
    np.testing.assert_allclose(drops["plateau_exit"], leading + 0 * gamma, rtol=1e-9)
    assert (np.diff(drops["before_exit"]) < 0).all()  # the drop approaches τ* from below


def test_drop_times_of_two_layers_in_closed_form():
    gamma, half = np.array([1e2, 1e4]), 1 - np.sqrt(0.5)
    drops = tau_collapse(gamma=gamma, depth=2).drops
    closed = gamma / (2 * (1 + gamma)) * np.log((1 + gamma * half) / (1 - half))
    np.testing.assert_allclose(drops["measured"], closed, rtol=1e-13)
    np.testing.assert_allclose(drop_time(gamma=gamma, depth=2), np.log(gamma * half / (1 - half)) / 2, rtol=1e-13)


def test_cross_entropy_against_an_ode_solver():
    gamma, depth = 1e3, 3
    label = 1 / (1 + np.exp(-1))

    def velocity(_, y):
        output = np.expm1(y) / gamma
        return depth * np.exp((1 - 2 / depth) * y) * (label - 1 / (1 + np.exp(-output)))

    times = np.linspace(0.1, 6.0, 40)  # the drop is at 3.8
    path = solve_ivp(velocity, (0, 6), [0.0], method="DOP853", t_eval=times, rtol=1e-12, atol=1e-14)
    found = balanced_output(tau=times, gamma=gamma, depth=depth, loss="cross-entropy")
    np.testing.assert_allclose(found, np.expm1(path.y[0]) / gamma, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    depth=st.integers(1, 6), power=st.floats(-4, 8), logit=st.lists(st.floats(-12, 8), min_size=1, max_size=5)
)  # fmt: skip
def test_mse_outputs_are_those_of_theory(depth, power, logit):
    output, gamma = 1 / (1 + np.exp(-np.array(logit))), 10.0**power
    tau = rescaled_time(output=output, gamma=gamma, depth=depth)
    np.testing.assert_allclose(balanced_output(tau=tau, gamma=gamma, depth=depth), output, rtol=1e-8)
    np.testing.assert_allclose(
        balanced_output(tau=1e-25 * tau, gamma=gamma, depth=depth), depth * 1e-25 * tau / gamma, rtol=1e-9
    )


def test_curves_are_the_runs_and_their_limit():
    found = tau_collapse(gamma=[1e2, 1e6], depth=3, points=101)
    assert found.curve_tau.shape == found.curve_raw_output.shape == (2, 101)
    assert (np.diff(found.curve_tau, axis=1) >= 0).all()
    for gamma, tau, raw in zip(found.gamma, found.curve_tau, found.curve_raw_output, strict=True):
        np.testing.assert_allclose(gamma * output_at_time(tau=tau, gamma=gamma, depth=3), raw, rtol=1e-7)
    tau, limit = found.limit_curve
    w = 1 / (1 - tau)
    np.testing.assert_allclose(limit, w**3 - 1, rtol=1e-9)
    assert float(collapse_curve(layers=3).subs(tau_symbol, tau[50])) == pytest.approx(limit[50], rel=1e-9)


@pytest.mark.parametrize(
    ("bad", "field"),
    [({"gamma": [1e4]}, "gamma"), ({"gamma": [1e4, 1e4]}, "gamma"), ({"gamma": [2.0, 1e4]}, "gamma"),
     ({"gamma": [1e4, np.nan]}, "gamma"), ({"depth": 1}, "depth"), ({"loss": "hinge"}, "loss"),
     ({"output": 0.5}, "output"), ({"output": 0}, "output"), ({"eta": -1}, "eta"), ({"points": 1}, "points")],
)  # fmt: skip
def test_bad_input(bad, field):
    with pytest.raises(InputError) as caught:
        tau_collapse(**{"gamma": [1e4, 1e5], **bad})
    assert caught.value.field == field


def test_bad_input_of_one_run():
    with pytest.raises(InputError, match="tau"):
        balanced_output(tau=[-1.0], gamma=1.0, depth=2)
    with pytest.raises(InputError, match="depth"):
        drop_time(gamma=1e4, depth=1)
