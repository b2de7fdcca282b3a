"""Catapults in the plane of γ and ηλ₀.

Oracles: a 60-digit mpmath descent on u and v, for the NumPy descent; the NumPy descent on u and v, for the closed map;
the eigenvalues of the whole Hessian; the closed map without early exits, in NumPy; regimes and bounds of ``theory``.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate import Thresholds
from simulate.catapult import (
    FATE_NAMES,
    CatapultPortrait,
    Fate,
    catapult_portrait,
    compare_catapults,
)
from simulate.two_layer_descent import two_layer_descent
from theory.catapult import catapult_run, predict_catapult
from theory.errors import InputError

EPS = np.finfo(float).eps


def start_of(u, v):
    """Variance and correlation of a start, as the portrait wants them."""
    squares = u @ u + v @ v
    return {"variance": squares / (2 * u.size), "correlation": float(np.clip(2 * (u @ v) / squares, -1, 1))}


def one_cell(k0, gamma, **arguments):
    """The portrait of one cell, as a dictionary of scalars."""
    data = catapult_portrait(scaled_rate=[k0], gamma=[gamma], **arguments).data
    return {name: values.item() for name, values in data.data_vars.items()}


# --- the vectors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1e-8, 1e-3, 1.0, 30.0])
@pytest.mark.parametrize("k0", [0.3, 1.7, 3.1])
def test_vectors_are_descent_at_60_digits(gamma, k0):
    n, steps = 3, 25
    u, v = np.random.default_rng(5).normal(size=(2, n))
    kernel = (u @ u + v @ v) / (n * gamma**2)
    eta = k0 / kernel / (1 + 2 * gamma)  # the minimum of a rich run has a kernel γ times as large as the start
    run = two_layer_descent(u, v, gamma=gamma, eta=eta, steps=steps)
    with mpmath.workdps(60):
        first, second = ([mpmath.mpf(float(w)) for w in ws] for ws in (u, v))
        strength, rate = mpmath.mpf(gamma), mpmath.mpf(float(eta))
        at_start = mpmath.fdot(first, second)
        for step in range(steps + 1):
            f = (mpmath.fdot(first, second) - at_start) / (strength * n)
            squares = mpmath.fdot(first, first) + mpmath.fdot(second, second)
            # at γ = 1e-8 the output is a displacement of 1e-8 over γ: a loop that holds the weights has 8 digits of it
            assert run.output[step] == pytest.approx(float(f), rel=1e-11, abs=1e-11)
            assert run.loss[step] == pytest.approx(float((f - 1) ** 2 / 2), rel=1e-10, abs=1e-20)
            assert run.kernel[step] == pytest.approx(float(squares / (n * strength**2)), rel=1e-11)
            pull = rate * n * (f - 1) / (strength * n)  # step ηn times ∂ℓ/∂u = (f − 1) v/(γn)
            first, second = (
                [a - pull * b for a, b in zip(first, second, strict=True)],
                [b - pull * a for a, b in zip(first, second, strict=True)],
            )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), log_gamma=st.floats(-6, 3), k0=st.floats(0.05, 3))
def test_sharpness_is_the_top_eigenvalue_of_the_hessian(seed, n, log_gamma, k0):
    gamma = 10.0**log_gamma
    u, v = np.random.default_rng(seed).normal(size=(2, n))
    eta = k0 * n * gamma**2 / (u @ u + v @ v)
    run = two_layer_descent(u, v, gamma=gamma, eta=eta, steps=2)
    # second derivatives of (f − 1)²/2 in the 2n weights, at the start: f = 0
    gradient = np.concatenate([v, u]) / (gamma * n)
    bend = np.block([[np.zeros((n, n)), np.eye(n)], [np.eye(n), np.zeros((n, n))]]) / (gamma * n)
    hessian = np.outer(gradient, gradient) + (0.0 - 1.0) * bend
    assert run.sharpness[0] == pytest.approx(n * np.linalg.eigvalsh(hessian)[-1], rel=1e-11)
    # and after a step, with weights and residual of that time
    pull = -eta / gamma
    u, v = u - pull * v, v - pull * u
    gradient = np.concatenate([v, u]) / (gamma * n)
    hessian = np.outer(gradient, gradient) + (run.output[1] - 1.0) * bend
    assert run.sharpness[1] == pytest.approx(n * np.linalg.eigvalsh(hessian)[-1], rel=1e-9)


def test_sharpness_meets_the_kernel_at_the_minimum():
    u, v = np.random.default_rng(0).normal(size=(2, 50))
    run = two_layer_descent(u, v, gamma=0.5, eta=0.05, steps=400)
    assert run.loss[-1] < 1e-25
    assert run.sharpness[-1] == pytest.approx(run.kernel[-1], rel=1e-10)


# --- the closed map is descent on the vectors -----------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([1, 2, 3, 10, 100]),
    log_gamma=st.floats(-8, 1),
    k0=st.floats(0.05, 4.3),
    mix=st.sampled_from([0.0, 0.6, -0.6, 1.0]),
    steps=st.integers(1, 60),
)
def test_closed_map_equals_descent_on_the_vectors(seed, n, log_gamma, k0, mix, steps):
    gamma = 10.0**log_gamma
    u, v = np.random.default_rng(seed).normal(size=(2, n))
    v = mix * u + np.sqrt(1 - mix**2) * v
    start = start_of(u, v)
    eta = k0 * gamma**2 / (2 * start["variance"])
    run = two_layer_descent(u, v, gamma=gamma, eta=eta, steps=steps)
    got = one_cell(k0, gamma, steps=steps, thresholds=Thresholds(tail_fraction=1 / steps), **start)
    gone = ~(gamma * abs(run.output) <= 1e6 * max(1.0, gamma))
    if gone.any():
        assert got["fate"] == Fate.DIVERGENT
        assert got["steps_run"] == np.argmax(gone)
        return
    assert got["fate"] != Fate.DIVERGENT
    # Chaos amplifies roundings. By how much is seen on the vectors, with η changed by 1e-13 of itself.
    other = two_layer_descent(u, v, gamma=gamma, eta=eta * (1 + 1e-13), steps=steps)
    residual, kernels = np.sqrt(run.loss), k0 * run.kernel / run.kernel[0]
    error = 100 * abs(np.sqrt(other.loss) - residual).max() + 1e-12 * residual.max()
    kernel_error = 100 * abs(k0 * other.kernel / run.kernel[0] - kernels).max() + 1e-12 * kernels.max()
    assert np.sqrt(got["peak_loss"]) == pytest.approx(residual.max(), abs=error)
    assert np.sqrt(got["final_loss"]) == pytest.approx(residual[-1], abs=error)
    assert got["final_scaled_kernel"] == pytest.approx(kernels[-1], abs=kernel_error)
    assert residual[got["peak_step"]] >= residual.max() - error
    if k0 < 1.9 and gamma < 0.01 * start["variance"]:  # lazy and below the edge there is none
        assert error < 1e-8 * residual.max()


def test_closed_map_equals_the_theory_in_other_variables():
    # (f, λ) of theory/catapult.py in place of (c, k); its f is 1 + 1e-8 times the residual, so γ stays moderate
    gamma, k0 = np.array([0.01, 0.1, 1.0]), np.array([0.5, 1.5, 2.5])
    portrait = catapult_portrait(scaled_rate=k0, gamma=gamma, correlation=0.2, variance=0.7, steps=30)
    kernel = 2 * 0.7 / gamma**2
    f, lam = catapult_run(
        eta=portrait.learning_rate, gamma=gamma[:, None], kernel=kernel[:, None], overlap=0.2 * 0.7, steps=30
    )
    peak = ((f - 1) ** 2 / 2).max(axis=0)
    np.testing.assert_allclose(portrait.learning_rate * kernel[:, None], np.tile(k0, (3, 1)), rtol=4 * EPS)
    stays = portrait.data["fate"].values != Fate.DIVERGENT
    assert stays.sum() >= 8
    np.testing.assert_allclose(portrait.data["peak_loss"].values[stays], peak[stays], rtol=1e-9)
    np.testing.assert_allclose(
        portrait.data["final_scaled_kernel"].values[stays], (portrait.learning_rate * lam[-1])[stays], rtol=1e-9
    )


# --- early exits, and the fates by their definition -----------------------------------------------------------------


def plain_orbits(k0, gamma, correlation, variance, steps):
    """c/c₀ and k at steps 0 … T, shapes (T + 1, gamma, scaled_rate): the reduced map and nothing else."""
    k = np.tile(k0, (gamma.size, 1))
    rate = k * gamma[:, None] / (2 * variance)
    drift = k * (gamma[:, None] + correlation * variance) / (2 * variance)
    c = -rate
    residuals, kernels = [c / -rate], [k]
    with np.errstate(all="ignore"):
        for _ in range(steps):
            c, k = c * (1 - k + c * (c + drift)), k + c * (c * (k - 4) - 4 * drift)
            residuals.append(c / -rate)
            kernels.append(k)
    return np.array(residuals), np.array(kernels)


@pytest.mark.parametrize("steps", [37, 500, 2501])
@pytest.mark.parametrize(("correlation", "variance"), [(0.0, 1.0), (0.6, 1.0), (-0.3, 2.5), (1.0, 0.4)])
def test_exits_change_nothing_and_fates_are_what_they_are_defined_to_be(steps, correlation, variance):
    k0, gamma = np.linspace(0.05, 5, 34), np.geomspace(1e-8, 30, 24)
    got = catapult_portrait(scaled_rate=k0, gamma=gamma, correlation=correlation, variance=variance, steps=steps).data
    residuals, kernels = plain_orbits(k0, gamma, correlation, variance, steps)
    with np.errstate(all="ignore"):
        losses = residuals**2 / 2
        raw = gamma[:, None] * (1 - residuals)
        gone = ~(abs(raw) <= 1e6 * np.maximum(1.0, gamma[:, None]))
    tail = losses[-max(1, round(0.02 * steps)) :]
    seen, arrays = set(), {name: values.values for name, values in got.data_vars.items()}
    for i, j in np.ndindex(gamma.size, k0.size):
        cell = {name: values[i, j] for name, values in arrays.items()}
        loss = losses[:, i, j]
        if gone[:, i, j].any():
            expected = Fate.DIVERGENT
            assert cell["steps_run"] == cell["peak_step"] == np.argmax(gone[:, i, j])
            assert np.isnan([cell["final_loss"], cell["final_scaled_kernel"]]).all()
            assert cell["peak_loss"] == np.inf
        else:
            if tail[:, i, j].mean() > 1e-3 * 0.5:
                expected = Fate.NOT_SETTLED
            elif loss.max() > 1.5 * 0.5:
                expected = Fate.CATAPULT
            else:
                expected = Fate.WAVERING if (np.diff(loss) > 0).any() else Fate.MONOTONE
            assert cell["steps_run"] == steps
            # one orbit, to the last bit, until an exit; the certificate lets k move by half a rounding after it
            assert cell["peak_loss"] == pytest.approx(loss.max(), rel=4 * EPS, abs=0)
            assert loss[cell["peak_step"]] == pytest.approx(loss.max(), rel=4 * EPS, abs=0)
            assert cell["final_scaled_kernel"] == pytest.approx(kernels[-1, i, j], rel=4 * EPS, abs=0)
            # and each of T factors of the loss by a rounding
            assert cell["final_loss"] == pytest.approx(tail[:, i, j].mean(), rel=8 * steps * EPS, abs=1e-17)
        assert cell["fate"] == expected
        seen.add(expected)
    if steps > 37:
        assert len(seen) >= 4


@settings(max_examples=200, deadline=None)
@given(
    k=st.floats(0.01, 1.99),
    log_push=st.floats(-8, 0),
    drift=st.floats(-1, 1),
    sign=st.sampled_from([-1.0, 1.0]),
)
def test_the_certificate_holds(k, log_push, drift, sign):
    h = (1 - abs(1 - k)) / 2
    push = 10.0**log_push * h**2 / 5  # c² + |εc|, up to the very limit of the inequality
    c = sign * (np.sqrt(drift**2 + 4 * push) - abs(drift)) / 2
    first = k
    for _ in range(400):
        before = c
        c, k = c * (1 - k + c * (c + drift)), k + c * (c * (k - 4) - 4 * drift)
        assert abs(c) <= (1 - h) * abs(before) * (1 + 4 * EPS)
        assert abs(k - first) <= 4 * push / h * (1 + 1e-9) + 400 * EPS


@pytest.mark.parametrize("k0", [1e-12, 1e-6, 0.999999, 1.0, 1.000001, 1.999999])
def test_the_geometric_tail_keeps_its_digits(k0):
    # at γ = 1e-12 the run is certain from the first step on: the loss is ½ (1 − k₀)^{2t}
    steps = 10**6
    got = one_cell(k0, 1e-12, steps=steps, thresholds=Thresholds(tail_fraction=0.5))
    with mpmath.workdps(50):
        ratio = (1 - mpmath.mpf(k0)) ** 2
        exact = sum_of_powers(ratio, steps // 2 + 1, steps) / 2 / (steps // 2)
    assert got["final_loss"] == pytest.approx(float(exact), rel=1e-9, abs=1e-300)


def sum_of_powers(ratio, first, last):
    return ratio**first * (1 - ratio ** (last - first + 1)) / (1 - ratio)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("k0", "fate"), [(1.5, Fate.MONOTONE), (3.0, Fate.CATAPULT), (4.5, Fate.DIVERGENT)])
def test_exits_are_taken(k0, fate):
    # without them 10^13 steps would run for days
    assert one_cell(k0, 1e-4, steps=10**13)["fate"] == fate


def test_a_cell_does_not_depend_on_its_companions():
    k0, gamma = np.linspace(0.1, 5, 13), np.geomspace(1e-6, 10, 11)
    together = catapult_portrait(scaled_rate=k0, gamma=gamma, correlation=0.6, steps=500).data
    for i, j in ((0, 0), (3, 9), (10, 12), (8, 5)):
        alone = one_cell(k0[j], gamma[i], correlation=0.6, steps=500)
        for name, value in alone.items():
            np.testing.assert_array_equal(value, together[name].values[i, j], err_msg=name)


# --- regimes --------------------------------------------------------------------------------------------------------


def test_boundaries_lie_at_2_and_4():
    # 0.6 % on both sides of the edges; phases of the start differ with γ
    gamma = np.geomspace(1e-8, 1e-4, 60)
    k0 = np.array([0.1, 1.0, 1.9, 1.99, 2.01, 2.1, 2.5, 3.0, 3.5, 3.9, 3.975, 4.025, 4.1, 5.0, 50.0])
    data = catapult_portrait(scaled_rate=k0, gamma=gamma).data
    fate = data["fate"].values
    assert (fate[:, k0 < 2] == Fate.MONOTONE).all()
    assert (fate[:, k0 > 4] == Fate.DIVERGENT).all()
    between = fate[:, (k0 > 2) & (k0 < 4)]
    # some come down to ηλ of 1e-3 and less, from where 10⁴ steps do not take them to the minimum
    assert np.isin(between, [Fate.CATAPULT, Fate.NOT_SETTLED]).all()
    assert (between == Fate.CATAPULT).mean() > 0.98
    slow = (fate == Fate.NOT_SETTLED) & (k0 < 4)
    assert (data["final_scaled_kernel"].values[slow] < 2e-3).all()


def test_catapults_peak_at_order_gamma_to_the_minus_two_and_land_below_two():
    gamma, k0 = np.geomspace(1e-8, 1e-3, 81), np.array([2.2, 2.6, 3.0, 3.4, 3.8])
    data = catapult_portrait(scaled_rate=k0, gamma=gamma).data
    settled = data["fate"].values == Fate.CATAPULT
    assert settled.mean() > 0.98
    height = data["peak_loss"].values * gamma[:, None] ** 2
    # c²γ²/(2η²)·γ² with η = k₀γ²/2 is 2c²/k₀², with c² between the bounds of the theory
    delta = k0 - 2
    assert (height > (delta - np.log1p(delta)) * 2 / k0**2 * (1 - 1e-2)).all()
    assert (height < 4 * (1 + delta) ** 3 / 27 * 2 / k0**2 * (1 + 1e-2)).all()
    slopes = np.polyfit(np.log(gamma), np.log(data["peak_loss"].values), 1)[0]
    # what is left of γ is periodic in ln γ, within the bounds
    np.testing.assert_allclose(slopes, -2.0, atol=0.02)
    assert (data["final_scaled_kernel"].values[settled] < 2.0).all()
    # growth by k₀ − 1 a step, from c = γk₀/2 to order 1
    growth = np.log(2 / (k0 * gamma[:, None])) / np.log(k0 - 1)
    assert (abs(data["peak_step"].values - growth) < 0.2 * growth + 12).all()


@pytest.mark.parametrize(
    ("correlation", "k0", "settles"),
    [(0.6, 3.5, False), (-0.6, 3.5, False), (0.6, 3.3, True), (0.55, 3.5, True), (0.0, 3.5, True)],
)
def test_correlated_starts_still_oscillate_where_no_minimum_is_stable(correlation, k0, settles):
    gamma = np.geomspace(1e-6, 1e-3, 12)
    data = catapult_portrait(scaled_rate=[k0], gamma=gamma, correlation=correlation).data
    assert ((data["fate"].values != Fate.NOT_SETTLED) == settles).all()
    if not settles:
        assert (data["final_loss"] > 1.0).all()
        # and the same on vectors with that very correlation
        u, other = np.linalg.qr(np.random.default_rng(1).normal(size=(100, 2)))[0].T * 10.0
        v = correlation * u + np.sqrt(1 - correlation**2) * other
        run = two_layer_descent(u, v, gamma=1e-3, eta=k0 * 1e-6 / 2, steps=3000)
        assert np.isfinite(run.loss).all()
        assert run.loss[-100:].mean() > 1.0


def test_theory_and_portrait_agree_outside_the_edges():
    portrait = catapult_portrait(scaled_rate=np.linspace(0.05, 5, 100), gamma=np.geomspace(1e-8, 1.0, 60))
    found = compare_catapults(portrait)
    assert found.compared.shape == found.agrees.shape == (60, 100)
    gamma, k0 = portrait.data["gamma"].values[:, None], portrait.data["scaled_rate"].values
    assert not found.compared[(gamma > 1e-3) | (abs(k0 - 2) < 0.05) | (abs(k0 - 4) < 0.05)].any()
    assert found.compared.sum() > 3000
    assert found.share > 0.997  # what is missing is on its way at ηλ far below 1, see above
    assert found.peak_share == 1.0
    assert found.peak_compared.sum() > 1000


def test_disagreement_is_seen():
    portrait = catapult_portrait(scaled_rate=np.linspace(0.05, 5, 40), gamma=np.geomspace(1e-6, 1e-4, 10))
    right = compare_catapults(portrait)
    wrong = portrait.data.copy(deep=True)
    wrong["fate"].values[...] = Fate.MONOTONE
    below = portrait.data["scaled_rate"].values < 2
    expected = right.compared[:, below].sum() / right.compared.sum()
    assert compare_catapults(CatapultPortrait(wrong)).share == pytest.approx(expected)
    for factor in (1e-3, 1e3):
        wrong = portrait.data.copy(deep=True)
        wrong["peak_loss"] = wrong["peak_loss"] * factor
        assert compare_catapults(CatapultPortrait(wrong)).peak_share < 0.5
    nothing = compare_catapults(portrait, gamma_below=1e-9)
    assert np.isnan([nothing.share, nothing.peak_share]).all()


def test_no_stable_minimum_is_predicted_as_not_settled():
    portrait = catapult_portrait(
        scaled_rate=np.linspace(2.1, 3.9, 60), gamma=np.geomspace(1e-6, 1e-4, 8), correlation=0.6
    )
    found = compare_catapults(portrait)
    theory = predict_catapult(eta=portrait.learning_rate[0], gamma=1e-6, kernel=2 / 1e-6**2 * (1 + 1e-12), overlap=0.6)
    assert (found.predicted[0] == np.where(theory.can_settle, Fate.CATAPULT, Fate.NOT_SETTLED)).all()
    assert set(np.unique(found.predicted)) == {Fate.CATAPULT, Fate.NOT_SETTLED}
    assert found.share > 0.99


# --- files and bad input --------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    portrait = catapult_portrait(
        scaled_rate=[1.0, 3.0, 5.0], gamma=[1e-8, 0.5], correlation=-0.25, variance=2.0, steps=99
    )
    portrait.save(tmp_path / "catapult.nc")
    loaded = CatapultPortrait.load(tmp_path / "catapult.nc")
    xr.testing.assert_identical(loaded.data.drop_attrs(), portrait.data.drop_attrs())
    assert loaded.data.attrs == portrait.data.attrs
    assert loaded.data["fate"].attrs["flag_meanings"].split() == list(FATE_NAMES)
    assert loaded.data["fate"].attrs["flag_values"].tolist() == [int(fate) for fate in Fate]
    assert loaded.data["fate"].dtype == np.int8
    np.testing.assert_array_equal(loaded.learning_rate, portrait.learning_rate)


def test_what_is_no_portrait_is_refused(tmp_path):
    (tmp_path / "text.nc").write_text("no NetCDF")
    xr.Dataset({"fate": ("gamma", [1])}).to_netcdf(tmp_path / "other.nc", engine="netcdf4")
    for name in ("missing.nc", "text.nc", "other.nc"):
        with pytest.raises(InputError, match=r"^portrait = "):
            CatapultPortrait.load(tmp_path / name)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("scaled_rate", {"scaled_rate": [1.0, -1.0]}),
        ("scaled_rate", {"scaled_rate": [2.0, 1.0]}),
        ("scaled_rate", {"scaled_rate": 1.0}),
        ("gamma", {"gamma": [0.0, 1.0]}),
        ("gamma", {"gamma": [1.0, 1.0]}),
        ("correlation", {"correlation": 1.1}),
        ("correlation", {"correlation": np.nan}),
        ("variance", {"variance": 0.0}),
        ("steps", {"steps": 0}),
        ("steps", {"steps": 1e4}),
    ],
)
def test_bad_input_names_its_field(field, change):
    with pytest.raises(InputError, match=rf"^{field} = ") as caught:
        catapult_portrait(**({"scaled_rate": [1.0, 2.0], "gamma": [0.1, 1.0], "steps": 10} | change))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("u", {"u": [1.0, np.inf]}),
        ("u", {"u": [[1.0, 2.0]]}),
        ("v", {"v": [1.0]}),
        ("v", {"v": "text"}),
        ("gamma", {"gamma": 0.0}),
        ("eta", {"eta": -1.0}),
        ("steps", {"steps": 0}),
    ],
)
def test_bad_input_to_the_vectors_names_its_field(field, change):
    with pytest.raises(InputError, match=rf"^{field} = ") as caught:
        two_layer_descent(**({"u": [1.0, 2.0], "v": [0.0, 1.0], "gamma": 1.0, "eta": 0.1, "steps": 3} | change))
    assert caught.value.field == field


@pytest.mark.parametrize("change", [{"edge": 0.0}, {"gamma_below": -1.0}])
def test_bad_input_to_the_comparison_names_its_field(change):
    portrait = catapult_portrait(scaled_rate=[1.0], gamma=[1.0], steps=10)
    with pytest.raises(InputError, match=rf"^{next(iter(change))} = "):
        compare_catapults(portrait, **change)
