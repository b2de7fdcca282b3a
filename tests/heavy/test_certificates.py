"""Certificates and early exits against plain loops, on more cells and longer budgets than the suite has time for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba import njit, prange

from simulate import Outcome, Thresholds, run_gradient_descent
from simulate.maps.balanced import powers
from simulate.maps.losses import LOSS_CODES, excess, slope

pytestmark = pytest.mark.heavy
EPS = np.finfo(float).eps


@njit(parallel=True)
def plain_loops(gamma, eta, beta, depth, code, steps, tail_steps):
    """The package's step, operation by operation, with none of its exits, for many cells."""
    tail, peak = np.empty(gamma.size), np.empty(gamma.size)
    last, diverged = np.full(gamma.size, steps), np.zeros(gamma.size, dtype=np.bool_)
    for i in prange(gamma.size):
        d, v, total, low, high = 0.0, 0.0, 0.0, 0.0, 0.0
        bound, rate, scale = 1e6 * max(1.0, gamma[i]), eta[i] / gamma[i], 1.0 / gamma[i]
        raw, power = powers(d, depth)
        for n in range(1, steps + 1):
            v = beta * v + rate * power * slope(raw * scale, code)
            d -= v
            raw, power = powers(d, depth)
            if not abs(raw) <= bound:
                last[i], diverged[i] = n, True
                break
            low, high = min(low, raw * scale), max(high, raw * scale)
            if n > steps - tail_steps:
                total += excess(raw * scale, code)
        tail[i] = math.nan if diverged[i] else total / tail_steps
        peak[i] = math.inf if diverged[i] else max(excess(low, code), excess(high, code))
    return tail, peak, last, diverged


@pytest.mark.parametrize(
    ("steps", "count", "optimizer", "beta"),
    [
        (10_000, 6000, "gd", 0.0),
        (10_000, 3000, "momentum", 0.9),
        (10_000, 3000, "momentum", 0.99),
        (1_000_000, 150, "gd", 0.0),
        (1_000_000, 100, "momentum", 0.9),
    ],
)
@pytest.mark.parametrize("loss", tuple(LOSS_CODES))
def test_no_cell_of_the_plane_differs_from_a_plain_loop(loss, steps, count, optimizer, beta):
    rng = np.random.default_rng(steps + count)
    thresholds = Thresholds()
    for depth in range(1, 9):
        gamma, eta = 10 ** rng.uniform(-5, 5, count // 8), 10 ** rng.uniform(-12, 6, count // 8)
        got = run_gradient_descent(gamma, eta, depth=depth, steps=steps, loss=loss, optimizer=optimizer, beta=beta)
        tail, peak, last, diverged = plain_loops(
            gamma, eta, beta, depth, LOSS_CODES[loss], steps, thresholds.tail_steps(steps)
        )
        start = got.initial_loss
        learned, overshot = tail <= thresholds.level * start, peak > thresholds.peak * start
        expected = np.where(learned, np.where(overshot, 3, 2), np.where(overshot, 4, 1))
        expected[diverged] = Outcome.DIVERGED
        np.testing.assert_array_equal(got.outcome, expected)
        np.testing.assert_array_equal(got.steps_run, last)
        np.testing.assert_allclose(got.peak_loss, peak, rtol=1e-12)
        # below this loss a loop stands still, or flickers by the ulps of w^L: half an ulp of w against a step
        w = (1 + gamma) ** (1 / depth)
        stands = (1 - beta) * gamma * np.expm1(np.log1p(gamma) / depth) / (eta * w ** (depth - 1))
        floor = 0.5 * (4 * EPS * (stands + depth * (1 + gamma) / gamma)) ** 2
        open_run = ~diverged
        # 1e-5 is what a certified value promises; what a million roundings on a plateau add is below it
        error = np.abs(got.final_loss - tail)[open_run]
        assert (error <= 1e-5 * tail[open_run] + 10 * floor[open_run]).all()
