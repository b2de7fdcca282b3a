"""The cross-entropy map, and the compiled losses below it.

Oracles: a 50-digit mpmath loop on L separate weights with central differences of the textbook loss; mpmath for the
losses; the exact stability limit and the band threshold of ``theory``.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulate import Outcome, Thresholds, TraceSettings, fit_power_law, run_gradient_descent, trace_toy
from simulate.maps.losses import CROSS_ENTROPY, MSE, curvature, excess, slope
from theory import ToyModel
from theory.band import band_first_escape, band_threshold

EPS = np.finfo(float).eps
MODEL = ToyModel(loss="cross-entropy")


# --- the losses -----------------------------------------------------------------------------------------------------


def exact(f):
    """ℓ, ℓ′, ℓ″ at the float f, to 60 digits and then rounded."""
    with mpmath.workdps(400):  # e^{-|f|} is 1e-304 at the ends
        f = mpmath.mpf(f)
        label = 1 / (1 + mpmath.exp(-1))
        s = 1 / (1 + mpmath.exp(-f))
        value = mpmath.log(1 + mpmath.exp(f)) - label * f - (mpmath.log(1 + mpmath.e) - label)
        return value, s - label, s * (1 - s)


def assert_close(got, wanted, ulps):
    if wanted == 0:
        assert got == 0
    else:
        assert abs(float((mpmath.mpf(got) - wanted) / wanted)) < ulps * EPS


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.floats(-700, 700),
        st.floats(-5, 5),
        st.builds(lambda e, s: 1 + s * 10.0**e, st.floats(-15, 0), st.sampled_from([1, -1])),
    )
)
@example(1.0)
@example(0.0)
@example(0.5)
@example(1.5)
@example(0.5 + 1e-12)
@example(1.5 - 1e-12)
@example(-39.0)
@example(41.0)
@example(np.nextafter(1, 2))
@example(1 - math.log(2))
def test_compiled_cross_entropy_has_full_relative_accuracy(f):
    value, first, second = exact(f)
    assert_close(slope(f, CROSS_ENTROPY), first, 8)
    assert_close(curvature(f, CROSS_ENTROPY), second, 8)
    # 1e-14, as promised: at |f − 1| = 1/2 the logarithm and the linear term cancel to a sixteenth
    assert_close(excess(f, CROSS_ENTROPY), value, 50)


def test_losses_at_the_ends_of_the_floats():
    label = 1 / (1 + math.exp(-1))
    for loss, low, high in ((CROSS_ENTROPY, -label, 1 - label), (MSE, -math.inf, math.inf)):
        assert slope(-math.inf, loss) == pytest.approx(low, rel=2 * EPS)
        assert slope(math.inf, loss) == pytest.approx(high, rel=2 * EPS)
        assert math.isnan(slope(math.nan, loss))
        assert math.isnan(excess(math.nan, loss))
        assert excess(math.inf, loss) == excess(-math.inf, loss) == math.inf
    assert excess(1e308, CROSS_ENTROPY) == pytest.approx((1 - label) * 1e308, rel=1e-14)


# --- the map --------------------------------------------------------------------------------------------------------


def separate_weight_losses(gamma, eta, depth, steps):
    """Losses after steps 0, 1, …: descent on L weights, each by its numerical partial derivative."""
    with mpmath.workdps(50):
        strength, rate, h = mpmath.mpf(gamma), mpmath.mpf(eta), mpmath.mpf(10) ** -25 * mpmath.mpf(min(gamma, 1.0))
        label = 1 / (1 + mpmath.exp(-1))
        least = mpmath.log(1 + mpmath.e) - label

        def value(weights):
            f = (mpmath.fprod(weights) - 1) / strength
            softplus = mpmath.log1p(mpmath.exp(-abs(f))) + max(f, mpmath.mpf(0))
            return softplus - label * f - least

        def moved(weights, i, by):
            return [w + by if j == i else w for j, w in enumerate(weights)]

        weights = [mpmath.mpf(1)] * depth
        losses = [value(weights)]
        for _ in range(steps):
            slopes = [(value(moved(weights, i, h)) - value(moved(weights, i, -h))) / (2 * h) for i in range(depth)]
            weights = [w - rate * s for w, s in zip(weights, slopes, strict=True)]
            losses.append(abs(value(weights)))  # at the minimum the excess is a rounding error of either sign
    return losses


@settings(max_examples=40, deadline=None)
@given(log_gamma=st.floats(-8, 8), share=st.floats(1e-3, 1.0), depth=st.integers(1, 6), steps=st.integers(1, 30))
def test_the_map_below_eta_crit_is_descent_on_separate_weights(log_gamma, share, depth, steps):
    gamma = 10.0**log_gamma
    eta = share * float(MODEL.boundary("eta_crit").numeric(gamma=gamma, depth=depth))
    losses = separate_weight_losses(gamma, eta, depth, steps)
    got = run_gradient_descent(
        [gamma], [eta], depth=depth, steps=steps, loss="cross-entropy", thresholds=Thresholds(tail_fraction=1 / steps)
    )
    # the plateau amplifies a rounding by at most L (1+γ)^(1−2/L) in f, one rounding a step; ℓ″ varies by a factor 1.3
    error = 16 * steps * EPS * depth * (1 + gamma) ** max(0.0, 1 - 2 / depth)
    assert got.initial_loss[0] == pytest.approx(float(losses[0]), rel=1e-14)
    assert math.sqrt(got.final_loss[0]) == pytest.approx(float(mpmath.sqrt(losses[-1])), rel=error, abs=error)
    assert math.sqrt(got.peak_loss[0]) == pytest.approx(float(mpmath.sqrt(max(losses))), rel=error, abs=error)


@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("gamma", [1e-8, 1e-3, 1.0])
@pytest.mark.parametrize("ratio", [0.1, 0.8])
def test_the_map_in_the_band_is_descent_on_separate_weights(gamma, depth, ratio):
    # f jumps by order 1/γ a step, and the residual is saturated: few steps, before rounding is amplified
    eta = ratio * band_threshold(depth) * gamma
    losses = separate_weight_losses(gamma, eta, depth, 3)
    got = run_gradient_descent(
        [gamma], [eta], depth=depth, steps=3, loss="cross-entropy", thresholds=Thresholds(tail_fraction=1 / 3)
    )
    assert got.final_loss[0] == pytest.approx(float(losses[-1]), rel=1e-12)
    assert got.peak_loss[0] == pytest.approx(float(max(losses)), rel=1e-12)


def test_huge_outputs_do_not_overflow():
    # γ = 1e-8 and a step of half of γ: |f| is 1e7, and e^f would be infinite
    got = run_gradient_descent([1e-8] * 2, [5e-9, 1e-8], depth=3, steps=2000, loss="cross-entropy")
    assert (got.outcome == Outcome.UNSTABLE).all()
    assert (got.peak_loss > 1e6).all()
    assert np.isfinite(got.final_loss).all()


FINE = TraceSettings(coarse=0.02, resolution=1e-3, sections=8, guard_span=0.4, guard_spacing=1e-3)
"""For odd L most runs above c_L are trapped at zero, and the escaping windows are narrow: a guard every 2.3 % as in
``TOY_TRACE`` meets the first one that it happens to hit, up to 80 % too high."""

# --- boundaries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_eta_crit_is_the_exact_stability_limit(depth):
    gamma = np.logspace(-5, 5, 11)
    points = trace_toy(loss="cross-entropy", depth=depth, gamma=gamma, names=("eta_crit",), steps=100_000)["eta_crit"]
    np.testing.assert_array_equal(points.gamma, gamma)
    # as for MSE: a 2-cycle a little above counts as settled (up to 10⁻³ L₀), and brackets are 0.23 % wide
    np.testing.assert_allclose(points.eta, MODEL.boundary("eta_crit").numeric(gamma=gamma, depth=depth), rtol=5e-3)


@pytest.mark.parametrize("depth", [3, 4, 5, 6])
def test_divergence_at_small_gamma_begins_just_above_the_band_threshold(depth):
    gamma = np.array([1e-6, 1e-5, 1e-4])
    points = trace_toy(loss="cross-entropy", depth=depth, gamma=gamma, names=("eta_max",), steps=10_000, settings=FINE)[
        "eta_max"
    ]
    ratio = points.eta / points.gamma
    np.testing.assert_array_equal(points.gamma, gamma)
    # The theorem: no run below c_L escapes (γ bends the limit map by O(γ ln γ)). Where the run from w = 1 first escapes
    # was scanned 0.2 % apart from below, at another γ; the trace's guard, as fine, can meet a later window.
    assert (points.eta_high / points.gamma > band_threshold(depth) * (1 - 1e-3)).all()
    assert (ratio > 0.998 * band_first_escape(depth)).all()
    assert (ratio < 1.1 * band_threshold(depth)).all()


def test_divergence_of_two_layers_begins_at_twice_one_plus_e():
    # c = 2(1 + e) = 7.4366: above it a straight outside expands by c/(c_2/2) − 1 a step, slowly at first; 10⁵ steps and
    # a bound of 10⁶ from |w| ~ 1 need an excess of about ln(10³)/10⁵ only
    gamma = np.array([1e-6, 1e-4])
    points = trace_toy(loss="cross-entropy", depth=2, gamma=gamma, names=("eta_max",), steps=100_000)["eta_max"]
    np.testing.assert_allclose(points.eta / gamma, 2 * (1 + math.e), rtol=5e-3)
    assert 2 * (1 + math.e) == pytest.approx(7.4366, abs=5e-5)


@pytest.mark.parametrize("depth", [2, 3])
def test_the_lazy_slopes_of_stability_and_divergence_are_two_and_one(depth):
    gamma = np.geomspace(1e-6, 1e-3, 9)
    found = trace_toy(
        loss="cross-entropy", depth=depth, gamma=gamma, names=("eta_crit", "eta_max"), steps=20_000, settings=FINE
    )
    for name, slope_expected in (("eta_crit", 2.0), ("eta_max", 1.0)):
        points = found[name]
        fit = fit_power_law(
            points.gamma, points.eta, eta_low=points.eta_low, eta_high=points.eta_high, window=(9e-7, 1.1e-3)
        )
        # corrections of order γ: 1e-3 over 6.9 in ln γ. The fractal edge of L = 3 scatters by 4 %, over nine points
        # with a deviation of 2.2 in ln γ: 0.04/(2.2 · 3) = 0.006
        assert fit.exponent == pytest.approx(slope_expected, abs=0.015)


def test_between_stability_and_divergence_runs_overshoot_but_stay_finite():
    gamma, depth = 1e-4, 3
    low = float(MODEL.boundary("eta_crit").numeric(gamma=gamma, depth=depth))
    eta = np.geomspace(1.5 * low, 0.99 * band_threshold(depth) * gamma, 60)
    got = run_gradient_descent(np.full(60, gamma), eta, depth=depth, steps=5000, loss="cross-entropy")
    assert not (got.outcome == Outcome.DIVERGED).any()
    assert not (got.outcome == Outcome.TRAINED)[eta > 5 * low].any()
