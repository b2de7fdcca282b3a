"""Power laws with intervals, against NumPy and SciPy, by simulated coverage, and by symmetry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from simulate import fit_power_law
from simulate.scaling import LEAST_GAMMAS, WIDEST_HALF_WIDTH
from theory import ToyModel
from theory.errors import InputError

SLOPE = 2 / 3


def noisy_line(rng, count=8, sigma=0.05, slope=SLOPE):
    gamma = np.geomspace(1.0, 1e3, count)
    return gamma, gamma**slope * np.exp(sigma * rng.normal(size=count))


# --- the slope ------------------------------------------------------------------------------------------------------


@given(slope=st.floats(-3, 3), log_scale=st.floats(-8, 8), count=st.integers(3, 30))
def test_an_exact_power_law_is_recovered(slope, log_scale, count):
    gamma = np.geomspace(1e-3, 1e2, count)
    fit = fit_power_law(gamma, 10.0**log_scale * gamma**slope)
    # rounding of ln η (up to 30 · eps) against a spread of 11.5 in ln γ
    assert fit.exponent == pytest.approx(slope, abs=1e-13)
    assert fit.coefficient == pytest.approx(10.0**log_scale, rel=1e-12)
    np.testing.assert_allclose(fit(gamma), 10.0**log_scale * gamma**slope, rtol=1e-12)
    assert fit.scatter < 1e-12
    # three points leave one degree of freedom, t = 12.7
    assert fit.half_width < 1e-11
    assert (fit.n_points, fit.n_gamma) == (count, count)
    assert fit.window == (gamma[0], gamma[-1])


arrays = st.integers(3, 25).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-4, 4), min_size=n, max_size=n, unique_by=lambda v: round(v, 2)),
        st.lists(st.floats(-4, 4), min_size=n, max_size=n),
    )
)


@given(arrays)
def test_one_seed_is_ordinary_least_squares_and_never_more_certain(logs):
    x, y = (np.array(values) for values in logs)
    assume(np.ptp(y) > 1e-3)  # for a constant SciPy has no error at all
    fit = fit_power_law(np.exp(x), np.exp(y), eta_low=np.exp(y), eta_high=np.exp(y))
    expected = stats.linregress(x, y)
    # conditioning: x differs by 0.01 at least, y by 8 at most
    assert fit.exponent == pytest.approx(expected.slope, rel=1e-9, abs=1e-9)
    assert fit.exponent == pytest.approx(np.polyfit(x, y, 1)[0], rel=1e-7, abs=1e-7)
    assert math.log(fit.coefficient) == pytest.approx(expected.intercept, rel=1e-8, abs=1e-8)
    classical = stats.t.ppf(0.975, len(x) - 2) * expected.stderr
    # SciPy takes its error from 1 - r², and so to √eps of the slope only
    assert fit.half_width >= classical * (1 - 1e-7) - 1e-6 * (1 + abs(fit.exponent))
    assert sum(fit.interval) / 2 == pytest.approx(fit.exponent, abs=1e-9 * (1 + fit.half_width))


def test_seeds_have_one_slope_and_an_intercept_each():
    rng = np.random.default_rng(1)
    gamma, seed = np.tile(np.geomspace(1, 100, 6), 3), np.repeat([4, 7, 9], 6)
    eta = np.array([1.0, 10.0, 0.1])[np.repeat(range(3), 6)] * gamma**SLOPE * np.exp(0.1 * rng.normal(size=18))
    kept = np.delete(np.arange(18), [2, 9, 10])  # missing points: not every seed shows the boundary at every γ
    gamma, seed, eta = gamma[kept], seed[kept], eta[kept]
    design = np.column_stack([np.log(gamma), *(seed == s for s in (4, 7, 9))])
    slope, *intercepts = np.linalg.lstsq(design, np.log(eta), rcond=None)[0]
    fit = fit_power_law(gamma, eta, seed=seed)
    assert fit.exponent == pytest.approx(slope, rel=1e-12)
    assert list(fit.coefficients) == [4, 7, 9]
    np.testing.assert_allclose(list(fit.coefficients.values()), np.exp(intercepts), rtol=1e-12)
    assert fit.coefficient == pytest.approx(math.exp(np.mean(intercepts)), rel=1e-12)
    residual = np.log(eta) - design @ [slope, *intercepts]
    assert fit.scatter == pytest.approx(math.sqrt(np.mean(residual**2)), rel=1e-10)
    assert (fit.n_points, fit.n_gamma) == (15, 6)


def test_two_intercepts_do_not_pass_for_scatter():
    gamma = np.tile(np.geomspace(1, 100, 6), 2)
    eta = np.where(np.arange(12) < 6, 1.0, 50.0) * gamma**SLOPE
    fit = fit_power_law(gamma, eta, seed=np.repeat([0, 1], 6))
    assert fit.exponent == pytest.approx(SLOPE, abs=1e-13)
    assert fit.half_width < 1e-12
    assert fit.scatter < 1e-12
    assert fit_power_law(gamma, eta).scatter > 1.9  # as one seed they would: half of ln 50


def test_copies_of_a_seed_add_no_certainty():
    gamma, eta = noisy_line(np.random.default_rng(3))
    one = fit_power_law(gamma, eta)
    many = fit_power_law(np.tile(gamma, 10), np.tile(eta, 10), seed=np.repeat(np.arange(10), len(gamma)))
    assert many.exponent == pytest.approx(one.exponent, rel=1e-12)
    assert many.half_width == pytest.approx(one.half_width, rel=1e-10)


def test_seeds_that_disagree_leave_doubt():
    # the mean of slopes 0.5 and 0.9 is not known to be 0.7: another seed could bring anything around that
    gamma = np.geomspace(1, 100, 8)
    fit = fit_power_law(np.tile(gamma, 2), np.concatenate([gamma**0.5, gamma**0.9]), seed=np.repeat([0, 1], 8))
    assert fit.exponent == pytest.approx(0.7, rel=1e-12)
    assert fit.half_width > 0.1


# --- the interval ---------------------------------------------------------------------------------------------------


def independent(rng):
    gamma, eta = noisy_line(rng)
    return fit_power_law(gamma, eta)


def three_gammas(rng):
    gamma, eta = noisy_line(rng, count=3)
    return fit_power_law(gamma, eta)


def independent_seeds(rng):
    gamma = np.tile(np.geomspace(1, 1e3, 8), 2)
    eta = np.repeat([1.0, 3.0], 8) * gamma**SLOPE * np.exp(0.05 * rng.normal(size=16))
    return fit_power_law(gamma, eta, seed=np.repeat([0, 1], 8))


def shared_noise(rng):
    gamma, eta = noisy_line(rng)
    each = np.tile(eta, 4) * np.exp(0.005 * rng.normal(size=32))
    return fit_power_law(np.tile(gamma, 4), each, seed=np.repeat(np.arange(4), 8))


def brackets_alone(rng):
    """Exact laws read off grids of 0.2 in ln η, laid at random; the only error is the position in the bracket."""
    gamma, step = np.tile(np.geomspace(1, 1e3, 8), 2), 0.2
    exact = SLOPE * np.log(gamma) + np.repeat([0.0, 1.3], 8)
    offset = step * rng.random(16)
    low = np.floor((exact - offset) / step) * step + offset
    seed = np.repeat([0, 1], 8)
    return fit_power_law(gamma, np.exp(low + step / 2), eta_low=np.exp(low), eta_high=np.exp(low + step), seed=seed)


def some_missing(rng):
    """A third of the points of three seeds never met their boundary."""
    kept = rng.random(24) > 1 / 3
    gamma, seed = np.tile(np.geomspace(1, 1e3, 8), 3)[kept], np.repeat(np.arange(3), 8)[kept]
    return fit_power_law(gamma, (1.0 + seed) * gamma**SLOPE * np.exp(0.05 * rng.normal(size=len(gamma))), seed=seed)


def disjoint_seeds(rng):
    """Three seeds of two γ each, none shared: 6 points, 4 parameters, 2 degrees of freedom."""
    gamma, eta = noisy_line(rng, count=6)
    return fit_power_law(gamma, eta, seed=np.tile(np.arange(3), 2))


def lone_points(rng):
    """Three γ of one seed, and four seeds of one point each, which say nothing about a slope."""
    gamma, eta = noisy_line(rng, count=7)
    return fit_power_law(gamma, eta, seed=[0, 0, 0, 1, 2, 3, 4])


COVERED = [independent, three_gammas, independent_seeds, shared_noise, brackets_alone, some_missing]


@pytest.mark.parametrize("experiment", [*COVERED, disjoint_seeds, lone_points], ids=lambda e: e.__name__)
def test_the_interval_covers_the_truth(experiment):
    rng = np.random.default_rng(20250101)
    intervals = np.array([experiment(rng).interval for _ in range(1000)])
    covered = np.mean((intervals[:, 0] <= SLOPE) & (intervals[:, 1] >= SLOPE))
    # 95 % of 1000 has a standard deviation of 0.7 %: below 93 % is three of them
    assert covered >= 0.93


@pytest.mark.parametrize("experiment", [independent, three_gammas, shared_noise], ids=lambda e: e.__name__)
def test_the_interval_is_not_wider_than_it_must_be(experiment):
    rng = np.random.default_rng(7)
    intervals = np.array([experiment(rng).interval for _ in range(1000)])
    assert np.mean((intervals[:, 0] <= SLOPE) & (intervals[:, 1] >= SLOPE)) <= 0.975


def test_bracket_width_adds_the_variance_of_a_uniform_law():
    gamma = np.geomspace(1, 100, 6)
    eta, widths = gamma**SLOPE, np.array([0.1, 0.2, 0.05, 0.1, 0.3, 0.1])
    fit = fit_power_law(gamma, eta, eta_low=eta * np.exp(-widths / 2), eta_high=eta * np.exp(widths / 2))
    c = np.log(gamma) - np.log(gamma).mean()
    c /= c @ c
    # the points lie on the law, so that the brackets are all there is; four degrees of freedom
    assert fit.half_width == pytest.approx(stats.t.ppf(0.975, 4) * math.sqrt(np.sum((c * widths) ** 2) / 12), rel=1e-9)


def test_confidence_sets_the_quantile():
    gamma, eta = noisy_line(np.random.default_rng(5))
    ratio = fit_power_law(gamma, eta, confidence=0.5).half_width / fit_power_law(gamma, eta).half_width
    assert ratio == pytest.approx(stats.t.ppf(0.75, 6) / stats.t.ppf(0.975, 6), rel=1e-12)


# --- windows and verdicts -------------------------------------------------------------------------------------------


def test_window_edges_are_inside():
    gamma = np.logspace(-2, 3, 11)
    eta = np.where((gamma > 0.9) & (gamma < 101), gamma**SLOPE, 1e6)
    for window in ((1.0, 100.0), (1.0 * (1 + 1e-12), 100.0 * (1 - 1e-12))):  # whatever the last bits say
        fit = fit_power_law(gamma, eta, window=window)
        assert (fit.n_points, fit.n_gamma) == (5, 5)
        assert fit.exponent == pytest.approx(SLOPE, abs=1e-12)
        assert fit.window == window
    assert fit_power_law(gamma, eta, window=(1.0 + 1e-6, 100.0)).n_points == 4


@pytest.mark.parametrize("seeds", [1, 3])
def test_predicted_window_is_the_slope_of_the_law_over_the_very_points(seeds):
    gamma, seed = np.tile(np.geomspace(0.01, 100, 17), seeds), np.repeat(np.arange(seeds), 17)
    law = ToyModel(loss="mse", optimizer="gd").boundary("eta_crit").numeric(gamma=gamma, depth=3)
    fit = fit_power_law(gamma, 3 * law, seed=seed, window=(0.5, 40.0), predicted=SLOPE, law=law)
    inside = (gamma >= 0.5) & (gamma <= 40)
    assert fit.predicted_window == pytest.approx(
        np.polyfit(np.log(gamma[inside]), np.log(law[inside]), 1)[0], rel=1e-10
    )
    assert fit.exponent == pytest.approx(fit.predicted_window, rel=1e-10)
    assert fit.predicted == SLOPE
    assert (
        abs(fit.predicted_window - SLOPE) > 0.05
    )  # the limit and the window differ here: the test can tell them apart
    assert fit.verdict == "consistent"


ZIGZAG = np.array([1.0, -2.0, 2.0, -2.0, 1.0])  # orthogonal to a constant and to a slope: it widens and does not tilt


def zigzag_fit(half_width, **kwargs):
    """A fit of slope ``SLOPE`` with a given half-width: residuals scale it exactly."""
    gamma = np.geomspace(1, 1e4, 5)
    unit = fit_power_law(gamma, gamma**SLOPE * np.exp(ZIGZAG)).half_width
    return fit_power_law(gamma, gamma**SLOPE * np.exp(half_width / unit * ZIGZAG), **kwargs)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("factor", "verdict"), [(1 - 1e-9, "consistent"), (1 + 1e-9, "inconsistent")])
def test_the_verdict_turns_at_the_end_of_the_interval(sign, factor, verdict):
    fit = zigzag_fit(0.1, predicted=SLOPE + sign * 0.1 * factor)
    assert fit.half_width == pytest.approx(0.1, rel=1e-11)
    assert fit.verdict == verdict
    assert not fit.explanation


@pytest.mark.parametrize(("factor", "verdict"), [(1 - 1e-9, "consistent"), (1 + 1e-9, "undetermined")])
def test_a_wide_interval_decides_nothing(factor, verdict):
    fit = zigzag_fit(WIDEST_HALF_WIDTH * factor, predicted=SLOPE)
    assert fit.verdict == verdict
    assert ("half-width" in fit.explanation) == (verdict == "undetermined")
    assert WIDEST_HALF_WIDTH == 0.15


@pytest.mark.parametrize("predicted", [SLOPE, 2.0])
def test_the_law_outranks_the_limit(predicted):
    gamma = np.geomspace(1, 1e4, 5)
    assert zigzag_fit(0.05, predicted=predicted, law=gamma**SLOPE).verdict == "consistent"
    assert zigzag_fit(0.05, predicted=predicted, law=gamma**2).verdict == "inconsistent"


@pytest.mark.parametrize("seeds", [1, 4])
def test_fewer_than_five_gammas_decide_nothing(seeds):
    assert LEAST_GAMMAS == 5
    for count in (3, 4, 5):
        gamma, seed = np.tile(np.geomspace(1, 100, count), seeds), np.repeat(np.arange(seeds), count)
        fit = fit_power_law(gamma, gamma**SLOPE, seed=seed, predicted=SLOPE)
        assert fit.verdict == ("consistent" if count == 5 else "undetermined")
        assert fit.exponent == pytest.approx(SLOPE, abs=1e-12)  # the slope is still told
        assert np.isfinite(fit.interval).all()


@pytest.mark.parametrize("window", [(10.0, 20.0), (1.0, 1.5), (1.0, 2.5)])
def test_fewer_than_three_gammas_give_no_interval(window):
    gamma = np.array([1.0, 2.0, 4.0, 8.0, 1.0, 2.0])
    fit = fit_power_law(gamma, gamma, seed=[0, 0, 0, 0, 1, 1], window=window, predicted=1.0)
    assert fit.verdict == "undetermined"
    assert fit.interval == (-math.inf, math.inf)
    assert fit.n_gamma == len(np.unique(gamma[(gamma >= window[0]) & (gamma <= window[1])])) < 3
    assert str(fit.n_gamma) in fit.explanation


def test_without_a_prediction_there_is_nothing_to_decide():
    fit = zigzag_fit(0.05)
    assert fit.verdict == "undetermined"
    assert "no prediction" in fit.explanation
    assert math.isnan(fit.predicted)
    assert math.isnan(fit.predicted_window)


def test_seeds_of_one_point_each_decide_nothing():
    # with an intercept each they leave nothing for a slope
    fit = fit_power_law(np.geomspace(1, 100, 5), np.ones(5), seed=np.arange(5), predicted=1.0)
    assert fit.verdict == "undetermined"
    assert fit.explanation


def test_lone_points_do_not_make_up_for_too_few_gammas():
    gamma = np.geomspace(1, 100, 5)
    fit = fit_power_law(gamma, gamma**SLOPE, seed=[0, 0, 0, 1, 2], predicted=SLOPE)
    assert fit.verdict == "undetermined"  # three γ say something about the slope, and five are needed


@pytest.mark.parametrize("count", [0, 1])
def test_a_boundary_hardly_ever_met_is_a_finding_and_not_an_error(count):
    fit = fit_power_law(np.ones(count), np.ones(count), predicted=1.0)
    assert fit.verdict == "undetermined"
    assert (fit.n_points, fit.n_gamma) == (count, count)


# --- symmetry -------------------------------------------------------------------------------------------------------

POINTS = noisy_line(np.random.default_rng(11), count=9, sigma=0.1)
scales = st.floats(-6, 6).map(lambda exponent: 10.0**exponent)


def transformed(eta_scale=1.0, gamma_scale=1.0, power=1.0):
    gamma, eta = POINTS
    bounds = {"eta_low": (eta * 0.97), "eta_high": (eta * 1.02)}
    moved = {name: eta_scale * values**power for name, values in bounds.items()}
    window = (gamma_scale * 2.0, gamma_scale * 500.0)
    return fit_power_law(gamma_scale * gamma, eta_scale * eta**power, window=window, **moved)


@settings(max_examples=60)
@given(eta_scale=scales, gamma_scale=scales, power=st.floats(0.1, 4))
def test_units_do_not_matter(eta_scale, gamma_scale, power):
    base, other = transformed(), transformed(eta_scale, gamma_scale, power)
    assert other.exponent == pytest.approx(power * base.exponent, rel=1e-9)
    assert other.half_width == pytest.approx(power * base.half_width, rel=1e-8)
    expected = eta_scale * base.coefficient**power * gamma_scale ** (-power * base.exponent)
    assert other.coefficient == pytest.approx(expected, rel=1e-8)
    assert other.n_points == base.n_points


@given(order=st.permutations(range(9)))
def test_the_order_of_the_points_does_not_matter(order):
    gamma, eta = POINTS
    base, other = fit_power_law(gamma, eta), fit_power_law(gamma[list(order)], eta[list(order)])
    assert other.exponent == pytest.approx(base.exponent, rel=1e-12)
    assert other.half_width == pytest.approx(base.half_width, rel=1e-10)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("gamma", {"gamma": [0.0, 1.0, 2.0]}),
        ("gamma", {"gamma": [1.0, math.nan, 2.0]}),
        ("gamma", {"gamma": ["a", "b", "c"]}),
        ("eta", {"eta": [1.0, -1.0, 2.0]}),
        ("eta", {"eta": [1.0, 2.0]}),
        ("eta_low", {"eta_low": [0.0, 1.0, 1.0]}),
        ("eta_high", {"eta_high": [1.0, 1.0]}),
        ("law", {"law": [1.0, math.inf, 1.0]}),
        ("law", {"law": [1.0]}),
        ("seed", {"seed": [0]}),
        ("window", {"window": (2.0, 1.0)}),
        ("window", {"window": (0.0, 1.0)}),
        ("window", {"window": (1.0, math.nan)}),
        ("confidence", {"confidence": 95}),
        ("confidence", {"confidence": 0.0}),
    ],
)
def test_bad_input_names_its_field(field, change):
    arguments = {"gamma": [1.0, 2.0, 4.0], "eta": [1.0, 2.0, 4.0]} | change
    with pytest.raises(InputError) as caught:
        fit_power_law(arguments.pop("gamma"), arguments.pop("eta"), **arguments)
    assert caught.value.field == field
