"""The cross-entropy band. Oracles: separate weights at high precision, NumPy's polynomial roots, plain iteration."""

from __future__ import annotations

import dataclasses

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import Derivation, InputError
from theory.band import (
    LABEL,
    LABEL_EXACT,
    band_first_escape,
    band_interval,
    band_polynomial,
    band_threshold,
    band_zero_crossing,
    c,
    limit_map,
    sigma,
    steps,
    true_map,
)

STEPS = steps()
START_LOSS = np.log(2) - (np.log1p(np.e) - LABEL)  # excess of the cross-entropy over its minimum at f = 0


def explicit_step(weights, ratio, gamma):
    """One step of gradient descent on L separate weights, with the gradient of each by the product rule."""
    output = (mpmath.fprod(weights) - 1) / gamma
    residual = 1 / (1 + mpmath.exp(-output)) - 1 / (1 + mpmath.exp(-1))
    eta = ratio * gamma
    return [
        weight - eta * residual * mpmath.fprod(weights[:i] + weights[i + 1 :]) / gamma
        for i, weight in enumerate(weights)
    ]


def run(depth, ratios, gamma, count=1500, bound=30.0):
    """Runs of the true map from w = 1: the largest |w| (NaN once it has left the bound) and the last w."""
    places, largest = np.ones_like(ratios), np.zeros_like(ratios)
    for _ in range(count):
        places = true_map(places, ratios, depth, gamma)
        places = np.where(np.abs(places) > bound, np.nan, places)
        largest = np.maximum(largest, np.abs(places))
    return largest, places


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
def test_separate_weights_at_high_precision_stay_below_the_threshold(depth):
    with mpmath.workdps(150):  # the map multiplies errors by up to 1 + L a step: 150 digits outlast 150 steps
        gamma, ratio = mpmath.mpf("1e-7"), mpmath.mpf(band_threshold(depth)) * mpmath.mpf("0.999")
        weights, place = [mpmath.mpf(1)] * depth, 1.0
        for step in range(150):
            weights = explicit_step(weights, ratio, gamma)
            place = float(true_map(place, float(ratio), depth, 1e-7))
            assert max(weights) - min(weights) < mpmath.mpf("1e-30")  # the balanced line is kept
            assert abs(weights[0]) < 1.01 * (1 + ratio)
            if step < 6:  # float64 agrees as long as chaos has not blown its rounding up
                assert float(weights[0]) == pytest.approx(place, abs=1e-6)


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6, 7, 8])
def test_threshold_is_the_largest_real_root_by_numpy(depth):
    coefficients = [float(sp.N(one.subs(sigma, LABEL_EXACT))) for one in band_polynomial(depth).all_coeffs()]
    roots = np.roots(coefficients)
    real = roots[np.abs(roots.imag) < 1e-5].real  # degree up to 30: the roots have 6 digits or more
    assert real.max() == pytest.approx(band_threshold(depth), rel=1e-5)
    assert band_polynomial(depth).gens == (c,)


def test_closed_forms():
    assert band_threshold(2) == pytest.approx(2 * (1 + np.e), rel=1e-15)
    assert band_zero_crossing(2) == pytest.approx(1 + np.e, rel=1e-15)
    # L = 3: a quadratic, c(1-σ)(1+cσ) = 1 + e^{-1/2}
    quadratic = [LABEL * (1 - LABEL), 1 - LABEL, -(1 + np.exp(-0.5))]
    assert band_threshold(3) == pytest.approx(np.roots(quadratic).max(), rel=1e-14)


@pytest.mark.parametrize("gamma", [1e-6, 1e-8])
@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
def test_the_true_map_escapes_first_just_above(depth, gamma):
    ratios = band_threshold(depth) * np.concatenate([np.linspace(0.02, 0.999, 300), np.linspace(1.0005, 1.01, 200)])
    largest, _ = run(depth, ratios, gamma)
    left = np.isnan(largest)
    assert not left[:300].any()
    assert left[300:].any()


@pytest.mark.parametrize("depth", [3, 5, 7])
def test_trapping_begins_at_the_zero_crossing(depth):
    starts = np.concatenate([np.linspace(0.05, 0.999, 500), [1 - 1e-9]])
    for factor, expected in ((0.999, False), (1.001, True)):
        places = starts
        for _ in range(400):
            places = limit_map(places, factor * band_zero_crossing(depth), depth)
        assert bool((places < 0).any()) is expected
        assert (np.abs(places) < 3).all()


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 9), st.floats(0.001, 1.0), st.floats(0.0, 1.0))
def test_the_interval_is_mapped_into_itself(depth, fraction, part):
    ratio = fraction * band_threshold(depth)
    lower, upper = (float(end) for end in band_interval(depth, ratio))
    start = lower + part * (upper - lower)
    for place in (start, 1 - 1e-12, 1 + 1e-12, upper):
        if abs(place) == 1.0:  # the jump itself belongs to neither side
            continue
        image = float(limit_map(place, ratio, depth))
        assert lower - 1e-9 <= image <= upper + 1e-9  # 1e-12 beside the jump, times the slope


def test_small_steps_fill_an_interval_of_width_c():
    ratios = np.array([0.003, 0.03, 0.1])
    for depth in (2, 3, 4, 5, 6):
        lower, upper = band_interval(depth, ratios)
        np.testing.assert_allclose(upper - lower, ratios, rtol=1e-12)
        for ratio, low, high in zip(ratios, lower, upper, strict=True):
            orbit = [1.0]
            for _ in range(4000):
                orbit.append(float(true_map(orbit[-1], ratio, depth, 1e-8)))
            assert min(orbit) > low - 1e-4 * ratio
            assert max(orbit) < high + 1e-4 * ratio
            assert max(orbit) - min(orbit) > 0.99 * ratio


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("ratio", [1e-4, 1e-3, 1e-2])
def test_the_band_is_unstable_and_its_mean_loss_is_eta_over_eta_crit(depth, ratio):
    """By the outcomes' definitions: peak above 1.5 L₀, tail above 0.9 L₀, and an output far below divergence."""
    gamma, place, orbit = 1e-7, 1.0, []
    for _ in range(8000):
        place = float(true_map(place, ratio, depth, gamma))
        orbit.append(place)
    raw_output = np.array(orbit) ** depth - 1
    output = raw_output / gamma
    excess = np.logaddexp(0, output) - LABEL * output - (np.log1p(np.e) - LABEL)
    assert excess.max() > 1.5 * START_LOSS
    assert excess[-160:].mean() > 0.9 * START_LOSS
    assert np.abs(raw_output).max() < 1
    eta_crit = 2 * gamma**2 / (depth * LABEL * (1 - LABEL))  # lazy: 2/λ* with ℓ″(1) = σ(1−σ)
    # corrections: order c from the curvature of w^L, order γ/c from the width of the jump, and the finite average
    assert excess.mean() == pytest.approx(ratio * gamma / eta_crit, rel=0.01 + 3 * ratio)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_first_escape_is_above_the_threshold_and_near(depth):
    found = band_first_escape(depth)
    assert band_threshold(depth) <= found < 1.005 * band_threshold(depth)
    # one bracket below nothing escapes, at it something does: the definition
    largest, _ = run(depth, np.array([band_threshold(depth), found]), 1e-7, count=3000)
    assert np.isnan(largest).tolist() == [False, True]


def test_regression_values():
    values = [band_threshold(depth) for depth in range(2, 7)]
    assert values == pytest.approx([7.43656366, 2.25525193, 1.59019388, 1.11114491, 0.93144938], abs=1e-8)
    crossings = [band_zero_crossing(depth) for depth in range(2, 7)]
    assert crossings == pytest.approx([3.71828183, 1.67273905, 1.12212020, 0.86028656, 0.70503322], abs=1e-8)


def test_the_derivation_passes():
    assert sum(result.seconds for result in Derivation("band", STEPS).run()) < 10  # 0.6 s on one core


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("factor", [sp.Rational(19, 20), sp.Rational(21, 20)])
def test_a_wrong_expression_is_falsified(step, factor):
    wrong = dataclasses.replace(step, expression=step.expression * factor)
    (result,) = Derivation("wrong", (wrong,)).run(strict=False)
    assert result.problem == "the check returned False"


@pytest.mark.parametrize("depth", [1, 0, -3, 2.0, True, "3", None])
@pytest.mark.parametrize("function", [band_threshold, band_zero_crossing, band_polynomial, band_first_escape])
def test_bad_depth(function, depth):
    with pytest.raises(InputError, match="depth"):
        function(depth)


def test_bad_values():
    with pytest.raises(InputError, match="band_threshold"):
        band_interval(3, [0.5, 2.3])
    with pytest.raises(InputError, match="ratio"):
        band_interval(3, -0.5)
    with pytest.raises(InputError, match="gamma"):
        band_first_escape(3, 0.1)
    with pytest.raises(InputError, match="at most 12"):
        band_first_escape(13)
