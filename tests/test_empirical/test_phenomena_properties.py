"""Properties that every detector has: units of loss and of time do not matter, nor does what follows a finished run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.phenomena import (
    DETECTORS,
    curve_collapse,
    detect_catapult,
    find_staircase,
    loss_power_law,
    plateau_exit,
    progressive_sharpening,
    silent_alignment,
    smooth_in_log_time,
    spectral_outliers,
    tabulate,
)
from empirical.phenomena.curves import cut_crossing, first_crossing, noise_level
from theory.errors import InputError

TIME_FIELDS = {
    "step", "low", "high", "half_step", "peak_step", "peak_low", "peak_high", "recovery_step", "edge_step", "times",
    "loss_drop_time", "loss_half_time", "alignment_half_time", "monotone_until", "edge_low", "window",
}  # fmt: skip
LOSS_FIELDS = {"level", "levels", "coefficient"}
curves = st.integers(0, 10**6)
powers_of_two = st.integers(-20, 20).map(lambda n: 2.0**n)  # scaling by them rounds nothing


def learning_curve(seed, points=60, steps=5000, noise=0.05):
    """A falling loss with a drop, some noise, and an alignment that rises."""
    rng = np.random.default_rng(seed)
    t = np.unique(np.round(np.geomspace(1, steps, points))) - 1
    at, power, ahead = steps * 10 ** rng.uniform(-2, -0.5), rng.uniform(1, 6), rng.uniform(0.1, 1)
    loss = np.exp(noise * rng.normal(size=t.size)) / (1 + (t / at) ** power)
    return t, loss, 0.1 + 0.7 * (1 - 1 / (1 + (t / (ahead * at)) ** power))


def findings(t, loss, alignment, eta):
    return {
        "catapult": detect_catapult(t, loss, eta=eta, kernel=1 / loss),
        "silent": silent_alignment(t, loss, alignment, smooth=0.1),
        "plateau": plateau_exit(t, loss, smooth=0.1),
        "staircase": find_staircase(t, loss),
        "sharpening": progressive_sharpening(t, 1 / loss, eta=eta),
        "power": loss_power_law(t, loss),
    }


def assert_same(one, other, loss_scale=1.0, time_scale=1.0):
    for field in dataclasses.fields(one):
        before, after = getattr(one, field.name), getattr(other, field.name)
        if isinstance(before, str | bool | int):
            assert before == after or field.name == "status"  # a status quotes times
            continue
        scale = time_scale if field.name in TIME_FIELDS else loss_scale if field.name in LOSS_FIELDS else 1.0
        if field.name == "coefficient":
            continue  # A = ℓ t^α has both units; checked with the exponent elsewhere
        # logarithms of scaled values round differently, and sums of 60 of them amplify it a little
        np.testing.assert_allclose(np.asarray(after, float), scale * np.asarray(before, float), rtol=1e-6, atol=1e-9)


@settings(max_examples=12, deadline=None)
@given(seed=curves, scale=powers_of_two)
def test_units_of_the_loss_do_not_matter(seed, scale):
    t, loss, alignment = learning_curve(seed)
    one, other = findings(t, loss, alignment, 1.0), findings(t, loss * scale, alignment, scale)  # η·sharpness as before
    for name, finding in one.items():
        assert_same(finding, other[name], loss_scale=scale)


@settings(max_examples=12, deadline=None)
@given(seed=curves, scale=powers_of_two)
def test_units_of_time_do_not_matter(seed, scale):
    t, loss, alignment = learning_curve(seed)
    one, other = findings(t, loss, alignment, 1.0), findings(t * scale, loss, alignment, 1.0)
    for name, finding in one.items():
        assert_same(finding, other[name], time_scale=scale)


@settings(max_examples=50, deadline=None)
@given(falls=st.lists(st.floats(0, 3), min_size=3, max_size=60), start=st.floats(1e-3, 1e3))
def test_monotone_curves_have_no_catapult(falls, start):
    loss = start * np.exp(-np.cumsum(falls))
    found = detect_catapult(np.arange(loss.size), loss)
    assert not found.present
    assert found.height == 1.0
    assert found.outcome in {"trained", "untrained"}


@settings(max_examples=30, deadline=None)
@given(seed=curves, more=st.integers(1, 50))
def test_what_follows_on_the_plateau_at_the_end_moves_no_exit(seed, more):
    t, loss, _ = learning_curve(seed, noise=0.0)
    longer = np.concatenate([t, t[-1] + 1 + np.arange(more)])
    after = np.concatenate([loss, np.full(more, loss[-1])])
    assert_same(plateau_exit(t, loss), plateau_exit(longer, after))


@settings(max_examples=12, deadline=None)
@given(seed=curves, more=st.integers(1, 20))
def test_nan_after_the_end_of_a_run_is_not_looked_at(seed, more):
    t, loss, alignment = learning_curve(seed)
    longer, nan = np.concatenate([t, t[-1] + 1 + np.arange(more)]), np.full(more, np.nan)
    one = findings(t, loss, alignment, 1.0)
    other = findings(longer, np.concatenate([loss, nan]), np.concatenate([alignment, nan]), 1.0)
    assert other.pop("catapult").outcome == "diverged"  # the one for which the end itself is a finding
    for name, finding in other.items():
        assert_same(one[name], finding)


@settings(max_examples=30, deadline=None)
@given(exponent=st.floats(-3, 3), seed=curves, decades=st.floats(0.02, 1.0))
def test_smoothing_leaves_power_laws_alone(exponent, seed, decades):
    t = np.sort(np.random.default_rng(seed).uniform(0.5, 1e4, size=50))
    smooth = smooth_in_log_time(t, 3 * t**exponent, decades=decades)
    np.testing.assert_allclose(smooth.values, 3 * t**exponent, rtol=1e-8)
    assert (smooth.effective_points >= 1 - 1e-9).all()


def test_smoothing_averages_noise_as_it_says():
    rng = np.random.default_rng(0)
    t, at = np.arange(1, 20_001), np.array([100.0, 1000.0, 10_000.0])
    runs = np.array([np.log(smooth_in_log_time(t, np.exp(0.3 * rng.normal(size=t.size)), at=at).values)
                     for _ in range(400)])  # fmt: skip
    expected = 0.3 / np.sqrt(smooth_in_log_time(t, np.ones(t.size), at=at).effective_points)
    np.testing.assert_allclose(runs.std(axis=0), expected, rtol=0.15)  # 400 runs know a deviation to 3.5 %
    assert noise_level(np.log(t), 0.3 * rng.normal(size=t.size)) == pytest.approx(0.3, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(seed=curves, level=st.floats(0.05, 0.95))
def test_crossings(seed, level):
    t = np.sort(np.random.default_rng(seed).uniform(1, 100, size=30))
    clean = np.linspace(1, 0, 30)
    one, two = (
        first_crossing(t, clean, level, falling=True),
        cut_crossing(t, clean, level, falling=True, logarithm=True),
    )
    assert one == two  # one passage: nothing to choose
    assert one.low <= one.time <= one.high
    assert np.interp(one.time, t, clean) == pytest.approx(level, abs=1e-9)
    mirrored = first_crossing(t, -clean, -level, falling=False)
    assert mirrored.time == pytest.approx(one.time, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=curves, scale=powers_of_two)
def test_collapse_is_symmetric_and_without_units(seed, scale):
    rng = np.random.default_rng(seed)
    t = np.linspace(1, 10, 50)
    outputs = [t ** rng.uniform(0.5, 2) for _ in range(3)]
    gamma = 10 ** rng.uniform(0, 0.3, size=3)
    one = curve_collapse(t, outputs, eta=1.0, gamma=gamma)
    two = curve_collapse([t * 4] * 3, [scale * y for y in outputs[::-1]], eta=0.25, gamma=gamma[::-1])
    assert two.distance == pytest.approx(one.distance, rel=1e-9)
    assert two.distance_before == pytest.approx(one.distance_before, rel=1e-9)
    same = curve_collapse(t, [outputs[0]] * 2, eta=1.0, gamma=[2.0, 2.0])
    assert same.distance == 0


@settings(max_examples=30, deadline=None)
@given(seed=curves, scale=powers_of_two)
def test_outliers_do_not_depend_on_scale_or_order(seed, scale):
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.uniform(0.5, 1.5, 30), rng.uniform(5, 50, int(rng.integers(0, 4)))])
    one, other = spectral_outliers(values), spectral_outliers(scale * rng.permutation(values))
    assert one.count == other.count
    assert one.bulk_edge * scale == pytest.approx(other.bulk_edge)


def test_short_and_empty_curves_are_undetermined():
    nan = np.full(5, np.nan)
    for name, detector in DETECTORS.items():
        extra = [nan] if name == "silent-alignment" else []
        options = {"eta": 1.0} if name == "progressive-sharpening" else {}
        finding = detector(np.arange(5), nan, *extra, **options)
        assert finding.status.startswith("undetermined: "), name
        assert not finding.determined
    t = np.arange(100)
    flat = np.ones(100)
    assert plateau_exit(t, flat).low == 99
    assert "does not fall" in silent_alignment(t, flat, t / 100).status
    assert "rises by" in silent_alignment(t, np.exp(-t / 10), flat).status


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: plateau_exit([2, 1], [1, 1]), "times"),
        (lambda: plateau_exit([0, 1], [1, 1, 1]), "loss"),
        (lambda: plateau_exit([0, 1], [1, 1], eta=1.0), "eta, gamma"),
        (lambda: plateau_exit([0, 1], [1, 1], drop=1.0), "drop"),
        (lambda: detect_catapult([0, 1, 2], [1, 1, 1], kernel=[1, 1, 1]), "eta"),
        (lambda: find_staircase(np.arange(9), np.ones(9), clock="sundial"), "clock"),
        (lambda: find_staircase(np.arange(9), np.ones(9), contrast=2.0), "contrast"),
        (lambda: loss_power_law(np.arange(9), np.ones(9), window="all"), "window"),
        (lambda: loss_power_law(np.arange(9), np.ones(9), window=(5, 2)), "window"),
        (lambda: progressive_sharpening([0, 1, 2], [1, 1, 1], eta=-1.0), "eta"),
        (lambda: curve_collapse([0, 1, 2], [[1, 1, 1]], eta=1.0, gamma=[1.0]), "curves"),
        (lambda: spectral_outliers(np.ones((2, 2))), "eigenvalues"),
        (lambda: smooth_in_log_time([0, 1, 2], [1, 1, 1]), "times"),
        (lambda: tabulate("miracles", [0, 1], [[1, 1]]), "detector"),
        (lambda: tabulate("plateau-exit", [0, 1], [[1, 1]], per_cell={"eta": [1, 2]}), "curves"),
    ],
)
def test_bad_input_names_the_field(call, field):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field


def test_a_table_has_one_row_a_cell():
    t = np.arange(200)
    losses = np.exp(-t / np.array([[20.0], [40.0], [1e9]]))
    table = tabulate("plateau-exit", t, losses, per_cell={"eta": [1.0, 2.0, 1.0]}, gamma=10.0)
    np.testing.assert_allclose(table["step"][:2], -np.array([20, 40]) * np.log(0.9), rtol=5e-3)
    np.testing.assert_allclose(table["tau"][:2], table["step"][:2] * [0.1, 0.2])
    assert table["status"][2].startswith("undetermined")
    fits = tabulate("power-law", t[1:], t[1:] ** -np.array([[0.5], [1.0]]))
    assert {"interval_low", "interval_high", "window_low"} <= set(fits.columns)
    assert "times" not in tabulate("staircase", t, losses).columns
