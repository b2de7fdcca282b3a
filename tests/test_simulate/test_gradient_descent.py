"""The discrete map of the scalar model.

Oracles, none of which uses the displacement or Horner's rule of the package: a 60-digit mpmath loop on L separate
weights whose gradients are central differences of the loss; a float64 loop on the weight without early exits; the
exact stability limit and flow time of ``theory``, which are tested on their own against quadrature and eigenvalues.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate import Outcome, Thresholds, fit_power_law, run_gradient_descent, trace_toy
from theory import ToyModel
from theory.errors import InputError

EPS = np.finfo(float).eps
MODEL = ToyModel(loss="mse", optimizer="gd")


def eta_crit(gamma, depth):
    return MODEL.boundary("eta_crit").numeric(gamma=gamma, depth=depth)


def run_one(gamma, eta, depth, steps, thresholds=None):
    """The package's result of one cell, as a dictionary of scalars."""
    cells = run_gradient_descent(
        np.array([gamma]), np.array([eta]), depth=depth, steps=steps, thresholds=thresholds or Thresholds()
    )
    return {name: values[0] for name, values in cells.fields().items()}


# --- 60 digits, separate weights, finite differences ----------------------------------------------------------------


def separate_weight_losses(gamma, eta, depth, steps, bound=1e6):
    """Losses after steps 0, 1, …: descent on L weights, each moved by its own numerical partial derivative.

    Returns the losses and whether the run stopped because |F − F₀| passed bound · max(1, γ). At 60 digits and a
    difference of 1e-20, truncation (1e-40) and cancellation (1e-40 of the loss) are both far below float64.
    """
    with mpmath.workdps(60):
        strength, rate, h = mpmath.mpf(gamma), mpmath.mpf(eta), mpmath.mpf(10) ** -20

        def raw(weights):
            return mpmath.fprod(weights) - 1

        def loss(weights):
            return (raw(weights) / strength - 1) ** 2 / 2

        def moved(weights, i, by):
            return [w + by if j == i else w for j, w in enumerate(weights)]

        weights = [mpmath.mpf(1)] * depth
        losses = [loss(weights)]
        for _ in range(steps):
            slopes = [(loss(moved(weights, i, h)) - loss(moved(weights, i, -h))) / (2 * h) for i in range(depth)]
            weights = [w - rate * slope for w, slope in zip(weights, slopes, strict=True)]
            losses.append(loss(weights))
            if abs(raw(weights)) > bound * max(1.0, gamma):
                return losses, True
    return losses, False


def assert_same_run(gamma, eta, depth, steps):
    expected, diverged = separate_weight_losses(gamma, eta, depth, steps)
    got = run_one(gamma, eta, depth, steps, Thresholds(tail_fraction=1 / steps))  # a tail of one step: the last loss
    assert got["initial_loss"] == 0.5
    assert got["steps_run"] == len(expected) - 1
    assert (got["outcome"] == Outcome.DIVERGED) == diverged
    if diverged:
        assert np.isnan(got["final_loss"])
        return
    # The plateau amplifies a rounding error of the weight by at most w^(L-1) ~ (1+γ)^(1-1/L), and df = L w^(L-1)/γ dw:
    # together L (1+γ)^(1-2/L) in f, one rounding a step. Below η_crit nothing else amplifies.
    error = 8 * steps * EPS * depth * (1 + gamma) ** max(0.0, 1 - 2 / depth)
    assert np.sqrt(got["final_loss"]) == pytest.approx(float(mpmath.sqrt(expected[-1])), rel=error, abs=error)
    assert np.sqrt(got["peak_loss"]) == pytest.approx(float(mpmath.sqrt(max(expected))), rel=error, abs=error)


log_gammas = st.floats(-8, 8)


@settings(max_examples=60, deadline=None)
@given(log_gamma=log_gammas, share=st.floats(1e-3, 1.0), depth=st.integers(1, 6), steps=st.integers(1, 40))
def test_map_below_eta_crit_is_descent_on_separate_weights(log_gamma, share, depth, steps):
    gamma = 10.0**log_gamma
    assert_same_run(gamma, share * float(eta_crit(gamma, depth)), depth, steps)


@settings(max_examples=60, deadline=None)
@given(log_gamma=log_gammas, log_rate=st.floats(-3, 1), depth=st.integers(1, 6), steps=st.integers(1, 6))
def test_map_at_any_rate_is_descent_on_separate_weights(log_gamma, log_rate, depth, steps):
    # η/γ of order 1 leaves the plateau within a few steps at any γ; six steps are too few for chaos to amplify rounding
    # beyond what the tolerance grants, except where the plateau does
    gamma = 10.0**log_gamma
    expected, _ = separate_weight_losses(gamma, gamma * 10.0**log_rate, depth, steps)
    got = run_one(gamma, gamma * 10.0**log_rate, depth, steps, Thresholds(tail_fraction=1 / steps))
    assert got["steps_run"] == len(expected) - 1
    if got["outcome"] != Outcome.DIVERGED:
        # a step multiplies w by at most 1 + rate·w^(L-2)(...), so the condition number of six steps stays below 1e6
        assert np.sqrt(got["final_loss"]) == pytest.approx(float(mpmath.sqrt(expected[-1])), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("gamma", [1e-8, 1e-5, 1.0, 1e8])
def test_small_gamma_loses_no_digits(gamma, depth):
    # one step by hand: δ = η/γ, and for γ -> 0, f = Lδ/γ. A loop that holds w loses δ = 1e-16 altogether.
    eta = 0.5 * gamma**2 / depth if gamma <= 1 else 0.01 * gamma
    with mpmath.workdps(60):
        f = ((1 + mpmath.mpf(eta) / gamma) ** depth - 1) / gamma
        exact = float((f - 1) ** 2 / 2)
    # one step has no plateau: a few roundings of f, at most 1 here, and of the loss
    assert run_one(gamma, eta, depth, 1)["final_loss"] == pytest.approx(exact, rel=32 * EPS)


# --- early exits ----------------------------------------------------------------------------------------------------


def loop_without_exits(gamma, eta, depth, steps, tail_steps, bound=1e6):
    """Tail, peak, steps and the orbit of w, computed to the last step; stops only where the output diverges."""
    w, orbit, losses = 1.0, [1.0], [0.5]
    for step in range(1, steps + 1):
        w -= eta / gamma * w ** (depth - 1) * ((w**depth - 1) / gamma - 1)
        raw = w**depth - 1
        losses.append(0.5 * (raw / gamma - 1) ** 2)
        orbit.append(w)
        if not abs(raw) <= bound * max(1.0, gamma):
            return np.nan, np.inf, step, orbit
    return float(np.mean(losses[-tail_steps:])), max(losses), steps, orbit


def assert_exits_change_nothing(gamma, share, depth, steps, tail_steps):
    eta = share * float(eta_crit(gamma, depth))
    tail, peak, last, orbit = loop_without_exits(gamma, eta, depth, steps, tail_steps)
    thresholds = Thresholds(tail_fraction=tail_steps / steps)
    assert thresholds.tail_steps(steps) == tail_steps
    got = run_one(gamma, eta, depth, steps, thresholds)
    # Fixed points and 2-cycles attract, so that rounding is not amplified: both loops stay within rounding of an orbit.
    # This loop knows the residual √(2 loss) to L eps (1+γ)/γ, 1e-14 at γ = 0.1; slow contraction sums a hundred such.
    assert np.sqrt(got["final_loss"]) == pytest.approx(np.sqrt(tail), rel=1e-10, abs=1e-12, nan_ok=True)
    assert np.sqrt(got["peak_loss"]) == pytest.approx(np.sqrt(peak), rel=1e-10)
    assert got["steps_run"] == last
    return orbit


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_fixed_point_exit(gamma, share, depth):
    orbit = assert_exits_change_nothing(gamma, share, depth, 2000, 40)
    assert np.ptp(orbit[-40:]) < 32 * EPS * orbit[-1]  # the case is what it says, but for a flicker of the last bits


@pytest.mark.parametrize("steps", [3000, 3001])
@pytest.mark.parametrize("tail_steps", [1, 2, 3, 4, 59, 60])
@pytest.mark.parametrize(("gamma", "depth"), [(1.0, 2), (0.3, 3), (10.0, 4)])
def test_two_cycle_exit_has_the_right_parity(gamma, depth, tail_steps, steps):
    orbit = assert_exits_change_nothing(gamma, 1.1, depth, steps, tail_steps)
    one, other = (0.5 * ((w**depth - 1) / gamma - 1) ** 2 for w in orbit[-2:])
    assert orbit[-1] == pytest.approx(orbit[-3], rel=1e-12)
    assert abs(one - other) > 1e-3 * (one + other)  # otherwise a wrong parity could not be seen


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("share", [3.5, 10.0, 1e3])
@pytest.mark.parametrize("gamma", [1e-3, 1.0, 50.0])
def test_divergence_is_reported_at_its_step(gamma, share, depth):
    assert_exits_change_nothing(gamma, share, depth, 400, 8)


@settings(max_examples=80, deadline=None)
@given(
    log_gamma=st.floats(-1, 1.5),
    share=st.floats(0.02, 1.15).filter(lambda s: abs(s - 1) > 0.05),  # at 1 the approach is slower than any tolerance
    depth=st.integers(1, 5),
    steps=st.integers(3, 700),
    data=st.data(),
)
def test_exits_change_nothing_at_any_length_of_run_and_tail(log_gamma, share, depth, steps, data):
    share = min(share, 0.95) if depth == 1 else share  # at depth 1 there is no 2-cycle: the map is linear
    assert_exits_change_nothing(10.0**log_gamma, share, depth, steps, data.draw(st.integers(1, steps)))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("share", "outcome"), [(0.5, Outcome.TRAINED), (1.1, Outcome.TRAINED), (5.0, Outcome.DIVERGED)]
)
def test_exits_are_taken(share, outcome):
    # without the exits 10^13 steps would run for days
    assert run_one(1.0, share * float(eta_crit(1.0, 2)), 2, 10**13)["outcome"] == outcome


# --- cells and their companions -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    cells=st.lists(st.tuples(st.floats(-8, 8), st.floats(-12, 4)), min_size=1, max_size=40),
    depth=st.integers(1, 6),
    data=st.data(),
)
def test_a_cell_does_not_depend_on_its_companions(cells, depth, data):
    gamma, eta = (10.0 ** np.array(column) for column in zip(*cells, strict=True))
    together = run_gradient_descent(gamma, eta, depth=depth, steps=100)
    order = np.array(data.draw(st.permutations(range(len(cells)))))[: data.draw(st.integers(1, len(cells)))]
    chosen = run_gradient_descent(gamma[order], eta[order], depth=depth, steps=100)
    for name, values in together.fields().items():
        np.testing.assert_array_equal(chosen.fields()[name], values[order], err_msg=name)  # bit for bit, NaN included


@settings(max_examples=40, deadline=None)
@given(log_gamma=log_gammas, log_eta=st.floats(-16, 6), depth=st.integers(1, 6), steps=st.integers(1, 200))
def test_results_are_consistent_with_each_other(log_gamma, log_eta, depth, steps):
    got = run_one(10.0**log_gamma, 10.0**log_eta, depth, steps)
    diverged = got["outcome"] == Outcome.DIVERGED
    assert 1 <= got["steps_run"] <= steps
    assert got["peak_loss"] >= got["initial_loss"] == 0.5
    assert np.isnan(got["final_accuracy"])
    assert np.isnan(got["final_loss"]) == diverged
    if not diverged:
        assert got["steps_run"] == steps
        # a mean can exceed the maximum by the rounding of its sum
        assert 0 <= got["final_loss"] <= got["peak_loss"] * (1 + steps * EPS)


# --- against the theory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
def test_simulated_eta_crit_is_the_linear_stability_limit(depth):
    gamma = np.logspace(-6, 6, 13)
    points = trace_toy(depth=depth, gamma=gamma, names=("eta_crit",), steps=100_000)["eta_crit"]
    np.testing.assert_array_equal(points.gamma, gamma)
    # Above η_crit the 2-cycle grows as the root of the excess, and counts as settled up to a tail of 1e-3 L₀: a bias
    # of a few 1e-3 upwards; the bracket adds 1e-3 decades = 0.23 %.
    np.testing.assert_allclose(points.eta, eta_crit(gamma, depth), rtol=5e-3)


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
def test_simulated_eta_min_is_the_flow_time(depth):
    gamma, steps = np.array([1e-6, 1e-4, 1e-2, 0.3, 1.0, 10.0, 1e2, 1e3]), 10_000
    exact = MODEL.boundary("eta_min").numeric(gamma=gamma, depth=depth, steps=steps)
    # Here, γ ≤ 10³ and T = 10⁴, the map is flow: η_min · sharpness at the minimum, the largest met, is below 3 %.
    assert (2 * exact / eta_crit(gamma, depth) < 0.03).all()
    points = trace_toy(depth=depth, gamma=gamma, names=("eta_min",), steps=steps)["eta_min"]
    np.testing.assert_array_equal(points.gamma, gamma)
    # the mean over the last 2 % of the steps is the loss at 0.99 T: 1 % upwards, before the 0.23 % of the bracket
    np.testing.assert_allclose(points.eta, exact, rtol=0.02)
    assert (points.eta > exact).all()


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("window", [(1e-4, 0.05), (20.0, 1e4)], ids=["lazy", "rich"])
def test_fitted_slope_of_eta_crit_is_that_of_the_law(depth, window):
    gamma = np.geomspace(*window, 9)
    points = trace_toy(depth=depth, gamma=gamma, names=("eta_crit",), steps=100_000)["eta_crit"]
    fit = fit_power_law(points.gamma, points.eta, eta_low=points.eta_low, eta_high=points.eta_high, window=window)
    expected = np.polyfit(np.log(gamma), np.log(eta_crit(gamma, depth)), 1)[0]
    # errors of 0.25 % at the ends of a window of 6 in ln γ move the slope by less than 1e-3
    assert fit.exponent == pytest.approx(expected, abs=5e-3)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("gamma", {"gamma": np.array([1.0, 0.0])}),
        ("gamma", {"gamma": np.array([1.0, np.nan])}),
        ("eta", {"eta": np.array([-1.0, 1.0])}),
        ("eta", {"eta": np.array([np.inf, 1.0])}),
        ("depth", {"depth": 0}),
        ("depth", {"depth": 2.0}),
        ("depth", {"depth": True}),
        ("steps", {"steps": 0}),
        ("steps", {"steps": 1e3}),
        ("loss", {"loss": "hinge"}),
    ],
)
def test_bad_input_names_its_field(field, change):
    arguments = {"gamma": np.ones(2), "eta": np.ones(2), "depth": 2, "steps": 10} | change
    with pytest.raises(InputError, match=rf"^{field} = ") as caught:
        run_gradient_descent(arguments.pop("gamma"), arguments.pop("eta"), **arguments)
    assert caught.value.field == field


def test_lengths_that_differ_are_bad_input():
    with pytest.raises(InputError, match=r"^(gamma|eta) = "):
        run_gradient_descent(np.ones(3), np.ones(2), depth=2, steps=10)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("gamma", {"gamma": [1.0, -1.0]}),
        ("gamma", {"gamma": [2.0, 1.0]}),
        ("depth", {"depth": 0}),
        ("steps", {"steps": 0}),
        ("loss", {"loss": "hinge"}),
        ("boundary", {"names": ("eta_mid",)}),
    ],
)
def test_bad_input_to_a_trace_names_its_field(field, change):
    with pytest.raises(InputError) as caught:
        trace_toy(**({"depth": 2, "gamma": [1.0, 2.0], "steps": 10} | change))
    assert caught.value.field == field
