"""Catapults. Oracles: gradient descent on explicit vectors u and v, and runs of it for the thresholds and bounds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from theory import Derivation, InputError
from theory.catapult import catapult_map, catapult_range, catapult_run, predict_catapult, steps


def descend(u, v, *, eta, gamma, count):
    """f and λ along gradient descent on the weights themselves, step ηn."""
    n, start = u.size, u @ v
    outputs, kernels = [], []
    for _ in range(count + 1):
        outputs.append((u @ v - start) / (gamma * n))
        kernels.append((u @ u + v @ v) / (n * gamma**2))
        slope = outputs[-1] - 1.0
        u, v = u - eta * n * slope * v / (gamma * n), v - eta * n * slope * u / (gamma * n)
    return np.array(outputs), np.array(kernels)


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.name)
def test_steps_pass_and_a_wrong_expression_falsifies_them(step):
    assert Derivation("right", (step,)).run()[0].passed
    for factor in (sp.Rational(19, 20), sp.Rational(21, 20)):
        wrong = dataclasses.replace(step, expression=step.expression * factor)
        assert not Derivation("wrong", (wrong,)).run(strict=False)[0].passed


@given(st.integers(0, 10**6), st.integers(1, 40), st.floats(-3, 2), st.floats(0.05, 4.2))
def test_one_step_equals_the_explicit_weights(seed, n, exponent, k0):
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=(2, n))
    gamma = 10.0**exponent
    kernel = (u @ u + v @ v) / (n * gamma**2)
    eta = k0 / kernel
    overlap = u @ v / n
    outputs, kernels = descend(u, v, eta=eta, gamma=gamma, count=2)
    next_output, next_kernel = catapult_map(outputs[1], kernels[1], eta=eta, gamma=gamma, overlap=overlap)
    # f is a difference of numbers of size κ/γ
    scale = (abs(overlap) + np.abs(outputs).max() * gamma + kernel * gamma**2) / gamma
    assert next_output == pytest.approx(outputs[2], abs=1e-12 * max(scale, 1))
    assert next_kernel == pytest.approx(kernels[2], rel=1e-12, abs=1e-12 * kernel)


@pytest.mark.parametrize(
    ("gamma", "k0"),
    [(1e-3, 0.5), (1e-3, 1.5), (1e-3, 2.5), (1e-3, 3.0), (0.3, 1.0), (0.3, 2.2), (5.0, 0.1), (5.0, 0.3)],
)
def test_whole_runs_equal_the_explicit_weights(gamma, k0):
    rng = np.random.default_rng(3)
    u, v = rng.normal(size=(2, 200))
    kernel = (u @ u + v @ v) / (200 * gamma**2)
    outputs, kernels = catapult_run(eta=k0 / kernel, gamma=gamma, kernel=kernel, overlap=u @ v / 200, steps=100)
    expected, expected_kernels = descend(u, v, eta=k0 / kernel, gamma=gamma, count=100)
    assert outputs.shape == kernels.shape == (101,)
    # rounding grows with the residual in the growth phase, by the height of the catapult
    assert outputs == pytest.approx(expected, abs=1e-11 * max(1, np.abs(expected).max() / gamma))
    assert kernels == pytest.approx(expected_kernels, rel=1e-9)


def test_three_regimes_at_small_gamma():
    gamma, k0 = 1e-4, np.array([0.5, 1.5, 1.95, 2.1, 3.0, 3.9, 4.1, 5.0])
    kernel = 2 / gamma**2
    outputs, kernels = catapult_run(eta=k0 / kernel, gamma=gamma, kernel=kernel, steps=1200)
    with np.errstate(over="ignore", invalid="ignore"):
        losses = (outputs - 1) ** 2 / 2
        ends = k0 / kernel * kernels[-1]
    prediction = predict_catapult(eta=k0 / kernel, gamma=gamma, kernel=kernel)
    assert prediction.regime.tolist() == ["monotone"] * 3 + ["catapult"] * 3 + ["divergent"] * 2
    assert np.all(np.diff(losses[:, :3], axis=0) <= 0)
    assert np.any(np.diff(outputs[:, 1]) < 0)  # f itself alternates for 1 < k0 < 2
    peaks = losses[:, 3:6].max(axis=0)
    assert np.all(prediction.peak_loss_low[3:6] < peaks)
    assert np.all(peaks < prediction.peak_loss_high[3:6])
    assert np.all(losses[-1, :6] < 1e-9)
    assert np.all(ends[3:6] < 2)
    assert not np.isfinite(kernels[-1, 6:]).any()


@given(st.floats(2.02, 3.98), st.floats(-5, -3))
def test_catapult_is_bounded_lands_below_two_and_peaks_within_the_bounds(k0, exponent):
    gamma = 10.0**exponent
    kernel = 2 / gamma**2
    eta = k0 / kernel
    outputs, kernels = catapult_run(eta=eta, gamma=gamma, kernel=kernel, steps=2500)
    prediction = predict_catapult(eta=eta, gamma=gamma, kernel=kernel)
    peak = np.max((outputs - 1) ** 2 / 2)
    # corrections to the bounds are of order ε = η/γ ≤ 2e-3 beside δ
    slack = 1 + 20 * gamma / (k0 - 2)
    assert prediction.peak_loss_low / slack <= peak <= prediction.peak_loss_high * slack
    assert prediction.final_kernel_low * (1 - 1e-9) <= kernels[-1]
    assert eta * kernels.max() <= k0 * (1 + 20 * gamma)
    assert kernels[-1] <= prediction.final_kernel_high * (1 + 1e-3)  # slow approach near ηλ = 2


def test_height_grows_like_the_inverse_square_of_gamma():
    # one period in ln γ of the phase, k0 = 3: factor 2 in c0, so that γ and γ/4 share a phase
    gammas = 1e-3 / 4.0 ** np.arange(6)
    kernel = 2 / gammas**2
    outputs, _ = catapult_run(eta=3 / kernel, gamma=gammas, kernel=kernel, steps=300)
    heights = gammas**2 * np.max((outputs - 1) ** 2 / 2, axis=0)
    assert heights[2:] == pytest.approx(heights[-1], rel=2e-3)
    # and between powers of 2 it wiggles inside the measured range: λ₀γ² = 2, loss γ² = c²·4/(2·9)
    span = catapult_range(3.0)
    assert span.peak_low * 4 / 18 * 0.995 < heights[-1] < span.peak_high * 4 / 18 * 1.005


@pytest.mark.parametrize("k0", [2.05, 2.5, 3.0, 3.5, 3.9])
def test_range_lies_within_the_proven_bounds(k0):
    span, delta = catapult_range(k0), k0 - 2
    assert delta - np.log1p(delta) <= span.peak_low <= span.peak_high <= 4 * (k0 - 1) ** 3 / 27
    assert 0 < span.final_low <= span.final_high <= 2


def test_near_the_threshold_peak_and_fall_have_closed_forms():
    span = catapult_range(2.02)
    # corrections are of relative order δ
    assert span.peak_low == pytest.approx(0.02**2 / 2, rel=0.03)
    assert (span.final_low, span.final_high) == pytest.approx((1.98, 1.98), abs=0.02**2)


@pytest.mark.parametrize(("correlation", "k0", "settles"), [
    (0.6, 3.5, False), (0.6, 3.3, True), (0.0, 3.5, True), (-0.6, 3.5, False), (0.55, 3.5, True),
])  # fmt: skip
def test_correlated_starts_settle_while_the_flattest_minimum_is_stable(correlation, k0, settles):
    n, gamma = 400, 1e-3
    rng = np.random.default_rng(1)
    u, other = np.linalg.qr(rng.normal(size=(n, 2)))[0].T * np.sqrt(n)
    v = correlation * u + np.sqrt(1 - correlation**2) * other
    eta = k0 * gamma**2 / 2
    outputs, kernels = descend(u, v, eta=eta, gamma=gamma, count=4000)
    prediction = predict_catapult(eta=eta, gamma=gamma, kernel=2 / gamma**2, overlap=correlation * (1 - 1e-12))
    assert bool(prediction.can_settle) is settles
    assert np.isfinite(outputs).all()
    assert bool(abs(outputs[-1] - 1) < 1e-6) is settles
    if settles:
        assert prediction.final_kernel_low <= kernels[-1] * (1 + 1e-6)
        assert kernels[-1] <= prediction.final_kernel_high


@given(st.floats(-2, 2), st.floats(0.1, 5), st.floats(0.01, 1), st.floats(0.1, 10))
def test_the_kernel_never_leaves_the_cone(output, kernel, eta, gamma):
    # |γf + κ| ≤ γ²λ/2, the inequality of Cauchy and Schwarz, is kept by the map
    if abs(gamma * output) > gamma**2 * kernel / 2:
        output = gamma * kernel / 2 * np.sign(output)
    after, next_kernel = catapult_map(output, kernel, eta=eta, gamma=gamma)
    assert abs(gamma * after) <= gamma**2 * next_kernel / 2 * (1 + 1e-9) + 1e-9


def test_shapes_broadcast_and_overflow_stays():
    output, kernel = catapult_map(np.zeros((3, 1)), np.ones(2), eta=0.1, gamma=1.0)
    assert output.shape == kernel.shape == (3, 2)
    outputs, kernels = catapult_run(eta=[0.1, 5.0], gamma=1.0, kernel=2.0, steps=60)
    assert outputs.shape == (61, 2)
    assert np.isfinite(kernels[:, 0]).all()
    assert not np.isfinite(kernels[-1, 1])


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: catapult_map(0.0, 1.0, eta=0, gamma=1), "eta"),
        (lambda: catapult_map(0.0, 1.0, eta=1, gamma=np.inf), "gamma"),
        (lambda: catapult_map("a", 1.0, eta=1, gamma=1), "output"),
        (lambda: catapult_map(0.0, [1j], eta=1, gamma=1), "kernel"),
        (lambda: catapult_map([0.0, 1.0], [1.0, 1.0, 1.0], eta=1, gamma=1), "kernel"),
        (lambda: catapult_run(eta=1, gamma=1, kernel=-1.0, steps=3), "kernel"),
        (lambda: catapult_run(eta=1, gamma=1, kernel=1.0, steps=0), "steps"),
        (lambda: catapult_run(eta=1, gamma=1, kernel=1.0, steps=3, overlap=0.6), "overlap"),
        (lambda: predict_catapult(eta=[1, 2], gamma=[1, 2, 3], kernel=1.0), "kernel"),
        (lambda: predict_catapult(eta=1, gamma=1, kernel=1.0, overlap=np.nan), "overlap"),
        (lambda: catapult_range(4.0), "scaled_rate"),
        (lambda: catapult_range(3.0, phases=0), "phases"),
    ],
)
def test_bad_input_is_named(call, field):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field
