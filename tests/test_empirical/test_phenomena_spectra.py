"""Outliers of random matrices whose number is known, and bumps that were put there.

Oracles: the phase transition of Baik, Ben Arous and Péché for spiked covariances and its analogue for symmetric
matrices; the exact law of the toy; a Gaussian bump on it.
"""

from __future__ import annotations

import numpy as np
import pytest

from empirical.phenomena import crossover_law, measure_bump, spectral_outliers
from theory import ToyModel

DRAWS = 60


def covariance_spectrum(rng, spikes, dimension=80, samples=160):
    """Eigenvalues of a sample covariance with population eigenvalues 1 + spikes and 1."""
    scale = np.sqrt(np.concatenate([1 + np.array(spikes), np.ones(dimension - len(spikes))]))
    x = rng.normal(size=(samples, dimension)) * scale
    return np.linalg.eigvalsh(x.T @ x / samples)


def symmetric_spectrum(rng, spikes, size=120):
    """Eigenvalues of a symmetric Gaussian matrix with bulk [−2, 2] and a diagonal perturbation."""
    a = rng.normal(size=(size, size))
    a = (a + a.T) / np.sqrt(2 * size)
    a[np.arange(len(spikes)), np.arange(len(spikes))] += np.array(spikes)
    return np.linalg.eigvalsh(a)


@pytest.mark.parametrize(
    ("draw", "spikes", "count"),
    [
        (covariance_spectrum, (), 0),
        (covariance_spectrum, (0.3,), 0),  # below √c = 0.71: swallowed by the bulk
        (covariance_spectrum, (4.0,), 1),
        (covariance_spectrum, (8.0, 6.0, 4.0), 3),
        (covariance_spectrum, (60.0, 4.0), 2),  # the largest gap is not the one to the bulk
        (symmetric_spectrum, (), 0),
        (symmetric_spectrum, (0.5,), 0),  # below 1
        (symmetric_spectrum, (5.0, 4.0, 3.0), 3),
    ],
)
@pytest.mark.parametrize("kept", [None, 20])
def test_number_of_outliers(draw, spikes, count, kept):
    """Each draw is wrong with a probability of about 0.01: four wrong ones in 60 have a probability of 0.003."""
    rng = np.random.default_rng(7)
    found = [spectral_outliers(np.sort(draw(rng, spikes))[slice(-kept if kept else None, None)]) for _ in range(DRAWS)]
    assert sum(one.count != count for one in found) <= 3


def test_place_of_an_outlier():
    c, spike = 0.5, 4.0
    found = [spectral_outliers(covariance_spectrum(np.random.default_rng(seed), (spike,))) for seed in range(40)]
    right = [one for one in found if one.count == 1]
    # fluctuations of the outlier: √(2(1+ℓ)²(1 − c/ℓ²)/n) = 0.55 a draw, 0.09 for the mean of 40; the edge has 1/n^{2/3}
    assert np.mean([one.smallest for one in right]) == pytest.approx((1 + spike) * (1 + c / spike), abs=0.3)
    assert np.mean([one.bulk_edge for one in right]) == pytest.approx((1 + np.sqrt(c)) ** 2, rel=0.06)


def test_degenerate_spectra():
    rank = spectral_outliers(np.concatenate([[3.0, 2.0, 1.0], np.full(12, 1e-14)]))
    assert rank.count == 3
    assert spectral_outliers(np.ones(20)).count == 0
    for power in (0.5, 1.0, 2.0):
        assert spectral_outliers(np.arange(1, 60.0) ** -power).count == 0
    assert not spectral_outliers([3.0, 2.0, 1.0]).determined
    assert not spectral_outliers([np.nan] * 20).determined
    spectrum = covariance_spectrum(np.random.default_rng(0), (4.0,))
    assert spectral_outliers(1e-6 * spectrum).count == spectral_outliers(spectrum[::-1]).count


# --- the bump -------------------------------------------------------------------------------------------------------

GAMMA = np.geomspace(1e-4, 1e4, 33)
WINDOWS = {"lazy_window": (1e-4, 1e-2), "rich_window": (1e2, 1e4)}


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_toy_has_no_bump(depth):
    eta = ToyModel().boundary("eta_crit").numeric(gamma=GAMMA, depth=depth)
    found = measure_bump(GAMMA, eta, depth=depth, **WINDOWS)
    # the law is exact: what is left is the solver's tolerance of 1e-8
    assert found.coefficient == pytest.approx(2 / depth, rel=1e-6)
    assert found.crossover == pytest.approx(1.0, rel=1e-6)
    np.testing.assert_allclose(found.excess, 0, atol=1e-6)
    np.testing.assert_allclose(
        crossover_law(GAMMA, coefficient=2 / depth, crossover=1.0, rich=2 / depth), eta, rtol=1e-12
    )


def bumped(seeds, height, noise, rng):
    """Boundary points with a Gaussian bump of 0.5 decades (standard deviation) at γ = 1."""
    gamma, seed = np.tile(GAMMA, seeds), np.repeat(np.arange(seeds), GAMMA.size)
    excess = height * np.exp(-((np.log10(gamma) / 0.5) ** 2) / 2) + noise * rng.normal(size=gamma.size)
    return gamma, crossover_law(gamma, coefficient=0.4, crossover=2.0, rich=2 / 3) * 10**excess, seed


def test_a_bump_is_measured():
    gamma, eta, seed = bumped(6, 0.8, 0.01, np.random.default_rng(2))
    found = measure_bump(gamma, eta, seed=seed, depth=3, **WINDOWS)
    # at the windows' inner ends the bump has 0.8 e^{−8} = 3e-4; the noise of a mean of 6 is 0.004
    assert found.height == pytest.approx(0.8, abs=0.02)
    assert found.height_interval[0] < 0.8 < found.height_interval[1]
    assert found.peak_gamma == pytest.approx(1.0, rel=1e-9)
    assert found.width == pytest.approx(2 * np.sqrt(2 * np.log(2)) * 0.5, rel=0.05)  # chords between points 0.25 apart
    assert found.scatter == pytest.approx(0.01, rel=0.2)
    assert found.crossover == pytest.approx(2.0, rel=0.05)
    assert found.present
    assert ((found.excess_low <= found.excess) & (found.excess <= found.excess_high)).all()


def test_noise_is_no_bump_and_few_seeds_have_no_interval():
    wrong = 0
    for draw in range(20):
        gamma, eta, seed = bumped(5, 0.0, 0.02, np.random.default_rng(draw))
        wrong += measure_bump(gamma, eta, seed=seed, depth=3, resamples=100, **WINDOWS).present
    assert wrong == 0
    gamma, eta, seed = bumped(2, 0.8, 0.01, np.random.default_rng(0))
    two = measure_bump(gamma, eta, seed=seed, depth=3, **WINDOWS)
    assert two.determined
    assert two.present
    assert np.isnan(two.height_interval).all()


def test_the_bump_does_not_depend_on_units_of_eta_and_missing_points():
    gamma, eta, seed = bumped(4, 0.5, 0.01, np.random.default_rng(4))
    one, other = (measure_bump(gamma, factor * eta, seed=seed, rich_exponent=2 / 3, **WINDOWS) for factor in (1, 1e3))
    np.testing.assert_allclose(one.excess, other.excess, atol=1e-6)
    assert other.coefficient == pytest.approx(1e3 * one.coefficient, rel=1e-6)
    kept = ~((seed == 1) & (gamma > 0.5) & (gamma < 2))  # the peak is unknown for one seed
    part = measure_bump(gamma[kept], eta[kept], seed=seed[kept], depth=3, **WINDOWS)
    assert part.height == pytest.approx(one.height, abs=0.02)
    hole = gamma < 1e-2 * 1.001
    assert measure_bump(gamma[hole], eta[hole], seed=seed[hole], depth=3, **WINDOWS).status.startswith("undetermined")
