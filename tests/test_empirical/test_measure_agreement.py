"""Agreement of outputs against scikit-free formulas, SciPy and NumPy, and the identities that R² and ρ obey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import linregress, pearsonr

from empirical.measure.agreement import output_agreement
from theory.errors import InputError

SEEDS = st.integers(0, 2**32 - 1)


def outputs(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_correlation_is_that_of_scipy_and_r2_that_of_a_regression(seed):
    a, b = outputs(seed, 2, 6, 3)
    found = output_agreement(a, b)
    np.testing.assert_allclose(found.correlation, pearsonr(a.ravel(), b.ravel()).statistic, rtol=1e-10, atol=1e-12)
    # the best affine prediction of a by b has R² = ρ²; any other, b itself included, has less
    fit = linregress(b.ravel(), a.ravel())
    best = output_agreement(a, fit.intercept + fit.slope * b)
    np.testing.assert_allclose(best.r2, found.correlation**2, rtol=1e-8, atol=1e-12)
    assert found.r2 <= found.correlation**2 + 1e-12


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_what_each_number_forgives(seed, scale, shift):
    a, b = outputs(seed, 2, 6, 3)
    plain = output_agreement(a, b)
    np.testing.assert_allclose(
        output_agreement(a, scale * b + shift).correlation, plain.correlation, rtol=1e-6, atol=1e-8
    )
    both = output_agreement(scale * a + shift, scale * b + shift)
    np.testing.assert_allclose(both.r2, plain.r2, rtol=1e-6, atol=1e-8)
    # a scale away from 1 costs (1 − s)² of the second moment in R²
    expected = 1 - (1 - scale) ** 2 * np.square(a).mean() / a.var()
    np.testing.assert_allclose(output_agreement(a, scale * a).r2, expected, rtol=1e-9, atol=1e-9)


def test_known_values():
    a = outputs(0, 6, 3)
    same, mean, opposite = (output_agreement(a, b) for b in (a, np.full_like(a, a.mean()), 2 * a.mean() - a))
    assert (float(same.r2), float(opposite.r2)) == pytest.approx((1, -3))
    assert (float(same.correlation), float(opposite.correlation)) == pytest.approx((1, -1))
    assert float(mean.r2) == pytest.approx(0)
    assert np.isnan(mean.correlation)


def test_extreme_sizes_keep_their_digits():
    # γ from 1e-8 to 1e8, cubed: squares must not leave the range of doubles
    a, b = outputs(1, 2, 6, 3)
    plain = output_agreement(a, b)
    for scale in (1e-250, 1e250):
        found = output_agreement(scale * a, scale * b)
        np.testing.assert_allclose(found.r2, plain.r2, rtol=1e-12)
        np.testing.assert_allclose(output_agreement(a, scale * b).correlation, plain.correlation, rtol=1e-12)
    assert output_agreement(a, 1e250 * b).r2 == -np.inf


def test_all_pairs_of_cells_and_tensors():
    f = outputs(2, 4, 6, 3)
    pairs = output_agreement(torch.tensor(f)[:, None], f[None])
    assert pairs.r2.shape == pairs.correlation.shape == (4, 4)
    np.testing.assert_allclose(pairs.correlation, np.corrcoef(f.reshape(4, -1)), rtol=1e-12)
    np.testing.assert_allclose(np.diag(pairs.r2), 1)
    assert pairs.r2[1, 2] == pytest.approx(float(output_agreement(f[1], f[2]).r2))


def test_cells_without_an_answer_are_nan_and_leave_the_others_alone():
    f = outputs(3, 3, 6, 2)
    g = f + 0.1
    f[0], g[1, 0, 0] = 0.3, np.nan
    found = output_agreement(f, g)
    assert np.isnan(found.r2).tolist() == np.isnan(found.correlation).tolist() == [True, True, False]


def test_other_examples_are_refused():
    for a, b in ((outputs(0, 2, 5, 3), outputs(0, 2, 6, 3)), (outputs(0, 5), outputs(0, 5)), (np.ones((0, 3)),) * 2):
        with pytest.raises(InputError, match="f_b"):
            output_agreement(a, b)
