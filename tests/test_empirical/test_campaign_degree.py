"""Predictions from measured degrees: what a settled degree predicts, and how a changing one bends the law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.campaign.degree import SETTLED, DegreeCells, Prediction, fit_against, fit_sharpness, power_of, predict
from simulate import Outcome
from simulate.boundary import collect

GAMMA = np.geomspace(100, 1e4, 5)


def cells(degree, outcome=Outcome.TRAINED, seeds=1, sharpness=1.0):
    """Cells whose degree is constant along training, one row a γ."""
    gamma = np.tile(GAMMA, seeds)
    path = np.repeat(np.broadcast_to(degree, gamma.shape)[:, None], 3, axis=1).astype(float)
    return DegreeCells(
        gamma,
        gamma.copy(),
        np.repeat(np.arange(seeds), len(GAMMA)),
        np.full(len(gamma), outcome, dtype=np.int8),
        np.array([0, 5, 10]),
        path,
        np.broadcast_to(sharpness, gamma.shape).astype(float),
    )


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 8), st.floats(1, 2))
def test_a_constant_degree_predicts_a_power(degree, power):
    made = predict(cells(degree, seeds=2), power)
    assert made.slope == pytest.approx(power / degree)
    assert (made.low, made.high) == pytest.approx((made.slope, made.slope))
    assert made.settled_from == GAMMA[0]
    law = made.law(GAMMA * 3)
    np.testing.assert_allclose(np.diff(np.log(law)) / np.diff(np.log(GAMMA)), power / degree, rtol=1e-6)


def test_a_changing_degree_gives_the_integral_of_its_slope():
    """D = 2 + ln γ/ln 10: ∫ 2/D d ln γ = 2 ln 10 ln D, in closed form, up to linear interpolation of 2/D."""
    degree = 2 + np.log10(GAMMA)
    made = predict(cells(degree))
    exact = 2 * np.log(10) * np.log(degree / degree[0])
    np.testing.assert_allclose(np.log(made.law(GAMMA)), exact, atol=0.01)
    assert made.settled_from == GAMMA[np.argmax(degree >= (1 - SETTLED) * degree[-1])]
    assert Prediction.from_record(made.record()) == made


def test_what_did_not_learn_predicts_nothing():
    assert predict(None) is None
    assert predict(cells(3.0, Outcome.UNTRAINED)) is None
    assert predict(cells(np.nan)) is None
    one = cells(np.where(GAMMA[2] == GAMMA, 3.0, np.nan))
    assert predict(one) is None  # one γ says nothing about how D changes


def test_verdicts_against_the_prediction():
    made = predict(cells(3.0))
    for slope, verdict in ((2 / 3, "consistent"), (0.8, "inconsistent")):
        eta = GAMMA**slope
        points = collect(
            "eta_crit", [(g, s, e, e * 0.99, e * 1.01) for s in (0, 1) for g, e in zip(GAMMA, eta, strict=True)]
        )
        fit = fit_against(made, points, (GAMMA[0], GAMMA[-1]))
        assert fit.exponent == pytest.approx(slope)
        assert fit.predicted == pytest.approx(2 / 3)
        assert fit.verdict == verdict


def test_sharpness_is_fitted_on_trained_cells_only():
    sharp = np.where(GAMMA < 200, np.nan, GAMMA ** (-2 / 3))
    fit = fit_sharpness(cells(3.0, sharpness=sharp), (GAMMA[0], GAMMA[-1]), GAMMA ** (-2 / 3))
    assert fit.exponent == pytest.approx(-2 / 3)
    assert fit.n_points == 4
    assert fit_sharpness(cells(3.0, Outcome.DIVERGED), (1, 2), None) is None


def test_paths_settle_where_they_stay():
    made = cells(3.0)
    path = np.array([[1.0, 2.9, 3.0], [3.0, 1.0, 3.0], [3.0, 3.0, 3.0], [2.0, 2.0, 3.0], [1.0, 1.0, np.nan]])
    moved = DegreeCells(made.gamma, made.eta, made.seed, made.outcome, made.step, path, made.sharpness)
    np.testing.assert_array_equal(moved.settled_at(), [0.5, 1.0, 0.0, 1.0, np.nan])


def test_normalized_optimizers_have_half_the_slope():
    assert [power_of(name) for name in ("gd", "momentum", "adam", "sign")] == [2, 2, 1, 1]
