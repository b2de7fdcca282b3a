"""Noise of labels and batches: what is applied, measured through the maps; boundaries against linear theory.

Everything is measured at γ = 1e-6 or less, where the model is linear regression, r ← (1 − ηλs)r + ηλσ√(s/B)ξ with
r = f − 1 and λ = L/γ², so that moments have closed forms. Seeds are fixed: a tolerance of four to five standard errors
is met or not once and for all.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import chi2

from simulate import Outcome, Thresholds, run_gradient_descent, trace_toy
from simulate.maps.noise import NO_NOISE, Noise
from theory import ToyModel
from theory.errors import InputError

GAMMA = 1e-6
LAST = 1e-9  # a tail fraction that leaves one step


def lazy(share, depth=2):
    """η at which ηλ = share, λ = L/γ²."""
    return share * GAMMA**2 / depth


def losses(share, steps, seeds, noise, *, depth=2, tail=LAST, **more):
    """Final losses of runs at one η that differ by their seed."""
    got = run_gradient_descent(
        np.full(len(seeds), GAMMA), np.full(len(seeds), lazy(share, depth)), depth=depth, steps=steps, noise=noise,
        seed=np.asarray(seeds), thresholds=Thresholds(tail_fraction=tail, divergence=1e300), **more,
    )  # fmt: skip
    return got.final_loss


# --- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_a_batch_multiplies_the_gradient_by_a_mean_of_squares(batch):
    # one step from r = −1: r = −(1 − κs), so that s = (1 + r)/κ. With κ = ½ and s < 2 the root has the known sign.
    share = 1e-3  # s is below 1000 in any case
    seeds = np.arange(800)
    s = (1 - np.sqrt(2 * losses(share, 1, seeds, Noise(batch=batch)))) / share
    variance = 2 / batch
    error = math.sqrt(variance / len(seeds))
    assert s.mean() == pytest.approx(1, abs=5 * error)
    # the variance of a sample variance of a χ²_B/B: (κ₄ + 2σ⁴)/n with κ₄ = 48/B³
    assert s.var() == pytest.approx(variance, abs=5 * math.sqrt((48 / batch**3 + 2 * variance**2) / len(seeds)))
    # the whole distribution, at its quartiles
    for level in (0.25, 0.5, 0.75):
        assert (s < chi2.ppf(level, batch) / batch).mean() == pytest.approx(level, abs=5 * math.sqrt(0.25 / len(seeds)))


@pytest.mark.parametrize("batch", [None, 4])
def test_label_noise_has_the_variance_of_a_batch_of_labels(batch):
    # one step at a tiny rate, seen at 1 + r = κ(s + σ√(s/B) ξ) with σ ≫ 1: mean 1, variance (2 + σ²)/B, or σ²
    share, sigma, seeds = 1e-6, 100.0, np.arange(800)
    moved = (1 - np.sqrt(2 * losses(share, 1, seeds, Noise(label=sigma, batch=batch)))) / share
    variance = sigma**2 if batch is None else (sigma**2 + 2) / batch
    assert moved.mean() == pytest.approx(1, abs=5 * math.sqrt(variance / len(seeds)))
    # E(√s ξ)⁴/(E s)² = 3 E s² = 3(1 + 2/B), so the variance of the sample variance is (3(1 + 2/B) − 1) σ⁴/n at most
    fourth = 3 * (1 if batch is None else 1 + 2 / batch)
    assert moved.var() == pytest.approx(variance, rel=5 * math.sqrt((fourth - 1) / len(seeds)))


@pytest.mark.parametrize("steps_apart", [1, 2])
def test_noise_of_different_steps_is_independent(steps_apart):
    # label noise alone: r_n = −(1−κ)ⁿ + κσ Σ (1−κ)^{n−k} ξ_k with κ = 1: r_n = σξ_n, the noise of the last step itself
    sigma, seeds = 1e-3, np.arange(1000)
    noise = Noise(label=sigma)

    # ℓ hides the sign of ξ. At κ = ½ (after long) r has variance σ²κ/(2−κ); at κ = 1 it is that of one step.
    last = 2 * losses(1.0, 5, seeds, noise) / sigma**2
    other = 2 * losses(1.0, 5 + steps_apart, seeds, noise) / sigma**2
    error = 1 / math.sqrt(len(seeds))
    assert last.mean() == pytest.approx(1, abs=5 * math.sqrt(2) * error)
    assert abs(np.corrcoef(last, other)[0, 1]) < 5 * error


@pytest.mark.parametrize(
    ("batch", "share"),
    # with batches, only where the fourth moment is finite too: E(1−κs)⁴ < 1
    [(None, 0.1), (None, 0.5), (None, 1.0), (None, 1.5), (8, 0.1), (8, 0.5), (8, 1.0)],
)
def test_stationary_loss_of_label_noise(batch, share):
    # E r² = κ²σ²/B / (1 − E(1−κs)²) = κσ²/B / (2 − κ(1 + 2/B)); without a batch κσ²/(2 − κ)
    sigma, seeds = 0.1, np.arange(200)
    spread = 1.0 if batch is None else 1 + 2 / batch
    exact = 0.5 * share * sigma**2 / (batch or 1) / (2 - share * spread)
    found = losses(share, 3000, seeds, Noise(label=sigma, batch=batch), tail=0.8)
    # the error is taken from the spread of the independent seeds
    assert found.mean() == pytest.approx(exact, abs=5 * found.std() / math.sqrt(len(seeds)))
    assert found.std() / math.sqrt(len(seeds)) < 0.03 * exact  # and is small enough to say something


def test_stationary_loss_of_the_heavy_ball():
    # r_{n+1} = (1 + β − κ) r_n − β r_{n−1} + κσξ_n: an AR(2), with variance (κσ)²(1+β)/((1−β)κ(2(1+β) − κ))
    beta, share, sigma, seeds = 0.8, 0.3, 0.1, np.arange(200)
    exact = 0.5 * share * sigma**2 * (1 + beta) / ((1 - beta) * (2 * (1 + beta) - share))
    found = losses(share, 3000, seeds, Noise(label=sigma), tail=0.8, optimizer="momentum", beta=beta)
    assert found.mean() == pytest.approx(exact, abs=5 * found.std() / math.sqrt(len(seeds)))
    assert found.std() / math.sqrt(len(seeds)) < 0.03 * exact


def test_sign_descent_follows_the_sign_of_the_noisy_gradient():
    # far from the minimum, with noise far above the gradient, signs are coins: after n steps the displacement is a
    # random walk with n steps of η, and the mean loss exceeds that of the start by Var(f)/2
    steps, seeds, eta = 100, np.arange(800), 1e-9
    got = run_gradient_descent(
        np.full(800, 1e-3), np.full(800, eta), depth=2, steps=steps, noise=Noise(label=1e6), seed=seeds,
        optimizer="sign", thresholds=Thresholds(tail_fraction=LAST),
    )  # fmt: skip
    output = 1 - np.sqrt(2 * got.final_loss)
    walked = output * 1e-3 / 2 / eta  # the displacement in units of η
    assert walked.mean() == pytest.approx(0, abs=5 * math.sqrt(steps / 800))
    assert walked.var() == pytest.approx(steps, rel=5 * math.sqrt(2 / 800))
    np.testing.assert_allclose(walked % 2, 0, atol=1.5)  # an even number of unit steps, to the rounding of the loss


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_noise_multiplies_the_residual_of_either_loss(loss):
    # batch of one sample repeated: one step from the start moves f by κ|ℓ′(0)|s; the same s for both losses
    seeds, share = np.arange(50), 1e-3
    got = run_gradient_descent(
        np.full(50, GAMMA), np.full(50, lazy(share)), depth=2, steps=1, loss=loss, noise=Noise(batch=3), seed=seeds
    )
    pull = 1.0 if loss == "mse" else math.tanh(0.5) / 2  # |ℓ′(0)|
    reference = (1 - np.sqrt(2 * losses(share, 1, seeds, Noise(batch=3)))) / share
    moved = share * reference * pull
    label, f = 1 / (1 + math.exp(-1)), moved
    wanted = 0.5 * (f - 1) ** 2
    if loss != "mse":
        wanted = np.log1p(np.exp(f)) - label * f - (np.log1p(math.e) - label)
    np.testing.assert_allclose(got.final_loss, wanted, rtol=1e-9)


# --- streams --------------------------------------------------------------------------------------------------------

NOISES = [Noise(label=0.3), Noise(batch=5), Noise(label=0.3, batch=5)]


def as_rows(results):
    return np.array([results.outcome, results.final_loss, results.peak_loss, results.steps_run]).T


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "sign"])
@pytest.mark.parametrize("noise", NOISES, ids=str)
@settings(max_examples=8, deadline=None)
@given(
    cells=st.lists(st.tuples(st.floats(-4, 4), st.floats(-8, 2), st.integers(0, 3)), min_size=1, max_size=25),
    data=st.data(),
)
def test_a_noisy_cell_does_not_depend_on_its_companions(noise, optimizer, cells, data):
    gamma, eta, seed = (np.array(column) for column in zip(*cells, strict=True))

    def run(chosen):
        return as_rows(
            run_gradient_descent(
                10 ** gamma[chosen], 10 ** eta[chosen], depth=3, steps=9000, noise=noise, seed=seed[chosen],
                optimizer=optimizer,
            )
        )  # fmt: skip

    together = run(np.arange(len(cells)))
    order = np.array(data.draw(st.permutations(range(len(cells)))))[: data.draw(st.integers(1, len(cells)))]
    np.testing.assert_array_equal(run(order), together[order])
    repeated = np.repeat(order[:1], 5)
    np.testing.assert_array_equal(run(repeated), together[repeated])


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_seeds_differ_and_a_seed_is_always_the_same(noise):
    seeds = np.arange(30)
    first, second = (losses(0.3, 20, seeds, noise) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == 30


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_noise_is_a_function_of_the_step_and_not_of_the_budget(noise):
    # the same run with a longer budget passes through the same states: the tail of steps 8190…8200 (a chunk ends
    # inside) is a mean that both budgets know
    seeds = np.arange(5)
    means = [losses(0.3, steps, seeds, noise) for steps in range(8190, 8201)]
    together = losses(0.3, 8200, seeds, noise, tail=11 / 8200)
    np.testing.assert_allclose(np.mean(means, axis=0), together, rtol=1e-12)


def test_labels_and_batches_are_independent_of_each_other_and_of_being_drawn():
    seeds, share, sigma = np.arange(800), 1e-4, 1.0
    s = (1 - np.sqrt(2 * losses(share, 1, seeds, Noise(batch=5)))) / share
    both = (1 - np.sqrt(2 * losses(share, 1, seeds, Noise(label=sigma, batch=5)))) / share
    alone = (1 - np.sqrt(2 * losses(share, 1, seeds, Noise(label=sigma)))) / share - 1  # ±ξ
    # the labels do not change the batches, nor the batches the labels: both = s + √(s/B)·(the same ξ)
    np.testing.assert_allclose(both, s + np.sqrt(s / 5) * alone, atol=1e-9)
    assert abs(np.corrcoef(s, alone)[0, 1]) < 5 / math.sqrt(800)


def test_no_noise_is_the_noise_free_map():
    rng = np.random.default_rng(1)
    gamma, eta = 10 ** rng.uniform(-4, 4, 300), 10 ** rng.uniform(-8, 3, 300)
    assert not Noise()
    assert Noise() == NO_NOISE
    plain = run_gradient_descent(gamma, eta, depth=3, steps=3000)
    none = run_gradient_descent(gamma, eta, depth=3, steps=3000, noise=Noise(label=0.0))
    np.testing.assert_array_equal(as_rows(plain), as_rows(none))
    # through the noisy loops: a noise too small to be seen, away from the boundaries
    faint = run_gradient_descent(gamma, eta, depth=3, steps=3000, noise=Noise(label=1e-300))
    edge = ToyModel().boundary("eta_crit").numeric(gamma=gamma, depth=3)
    calm = (eta < 0.98 * edge) | (eta > 20 * edge)
    assert calm.sum() > 200
    np.testing.assert_array_equal(faint.outcome[calm], plain.outcome[calm])
    np.testing.assert_allclose(faint.final_loss[calm], plain.final_loss[calm], rtol=1e-5, atol=1e-20)
    np.testing.assert_array_equal(faint.steps_run[calm], plain.steps_run[calm])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("noise.label", {"label": -1.0}),
        ("noise.label", {"label": math.nan}),
        ("noise.label", {"label": math.inf}),
        ("noise.batch", {"batch": 0}),
        ("noise.batch", {"batch": 2.0}),
    ],
)
def test_bad_noise_names_its_field(field, change):
    with pytest.raises(InputError) as caught:
        Noise(**change)
    assert caught.value.field == field


@pytest.mark.parametrize("seed", [-1, [0, 1], [0, -1, 2]])
def test_bad_seeds_are_bad_input(seed):
    with pytest.raises(InputError, match=r"^seed = "):
        run_gradient_descent(np.ones(3), np.ones(3), depth=2, steps=5, noise=Noise(batch=2), seed=seed)


# --- boundaries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 8, 32])
def test_the_mean_square_grows_or_decays_as_its_exact_multiplier_says(batch):
    # E r² is multiplied by m = (1 − κ)² + 2κ²/B at every step. It is a mean over rare large values, so few steps and
    # many seeds: κ on both sides of 2B/(B+2), where m = 1, and m far from it within a few steps.
    seeds, steps = np.arange(1200), 3
    edge = 2 * batch / (batch + 2)
    assert Noise(batch=batch).mean_square_multiplier == pytest.approx(2 / edge)
    for factor in (0.8, 1.0, 1.2):
        share = factor * edge
        multiplier = (1 - share) ** 2 + 2 * share**2 / batch
        square = 2 * losses(share, steps, seeds, Noise(batch=batch))
        assert square.mean() == pytest.approx(multiplier**steps, abs=5 * square.std() / math.sqrt(len(seeds)))
        assert (multiplier < 1 - 1e-9, multiplier > 1 + 1e-9) == (factor < 1, factor > 1)


def log_growth(share, batch):
    """E ln|1 − κs| for s = χ²_B/B."""
    pole = batch / share  # of the logarithm, in units of χ²

    def integrand(x):
        return math.log(abs(1 - share * x / batch)) * chi2.pdf(x, batch)

    # the logarithmic pole is an end of every piece beside it
    far = max(40 * math.sqrt(2 * batch) + batch, 3 * pole)
    pieces = [(0, pole / 2), (pole / 2, pole), (pole, 2 * pole), (2 * pole, far)]
    return sum(quad(integrand, a, b, limit=300)[0] for a, b in pieces)


def almost_sure_edge(batch):
    """ηλ above which almost every run grows."""
    return brentq(lambda share: log_growth(share, batch), 1.0, 12.0, xtol=1e-6)


@pytest.mark.parametrize("batch", [2, 8, 64])
def test_the_logarithm_drifts_to_the_almost_sure_edge(batch):
    # ln|r_n| is a sum of n independent ln|1 − κs|: its drift is E ln|1 − κs|, which vanishes at the edge
    edge, seeds, steps = almost_sure_edge(batch), np.arange(600), 8
    for factor in (0.8, 1.0, 1.1):
        # eight steps: few enough for |r| to stay below the 10⁵ or so at which γr bends the map
        drifts = 0.5 * np.log(2 * losses(factor * edge, steps, seeds, Noise(batch=batch))) / steps
        exact = log_growth(factor * edge, batch)
        assert drifts.mean() == pytest.approx(exact, abs=5 * drifts.std() / math.sqrt(len(seeds)))
        assert (exact > 1e-3) == (factor > 1)
    # the mean-square edge lies below: in between runs contract although their mean square grows
    assert 2 * batch / (batch + 2) < 0.99 * edge


@pytest.mark.parametrize("batch", [8, 64])
def test_the_traced_edge_of_noisy_runs_lies_between_the_two_theories(batch):
    # A run is no longer trained once its peak is above 1.5 L₀: surely so beyond the almost-sure edge, and above the
    # mean-square edge by a rare excursion. What becomes of large r is not linear any more: eta_max is bounded only by
    # the first of these edges from below and by the noise-free crisis of L = 2, ηλ = 4, from above.
    depth, gamma = 2, np.array([1e-6])
    seeds = (0, 1, 2, 3)
    found = trace_toy(
        depth=depth, gamma=gamma, names=("eta_crit", "eta_max"), steps=4000, noise=Noise(batch=batch), seeds=seeds
    )
    share = found["eta_crit"].eta * depth / GAMMA**2
    assert len(found["eta_crit"]) == len(seeds)
    assert (share < 1.02 * almost_sure_edge(batch)).all()
    # below that an early large s must do it alone: |1 − κs| > √1.5 needs s > (1 + √1.5)/κ, of probability p a step
    unlikely = (1 + math.sqrt(1.5)) / chi2.isf(1e-4 / 4000, batch) * batch
    assert (share > unlikely).all()
    beyond = found["eta_max"].eta * depth / GAMMA**2
    assert (beyond > 2 * batch / (batch + 2)).all()
    assert (beyond < 4).all()


def test_noisy_boundaries_are_read_as_trained_or_not():
    # Label noise keeps a run from settling at 10⁻³ L₀, but not from having trained: the excess κσ²/(2 − κ)/2 is 0.0012
    # at κ = 1, and reaches the level and the peak only next to the edge, at κ > 1.95.
    noise = Noise(label=0.05)
    points = trace_toy(depth=2, gamma=[1e-3], names=("eta_crit",), steps=3000, noise=noise)["eta_crit"]
    edge = float(ToyModel().boundary("eta_crit").numeric(gamma=np.array([1e-3]), depth=2)[0])
    assert points.eta[0] == pytest.approx(edge, rel=0.05)
    cells = run_gradient_descent([1e-3], [0.5 * edge], depth=2, steps=3000, noise=noise)
    assert cells.outcome[0] == Outcome.TRAINED
    assert cells.final_loss[0] > 1e-3 * cells.initial_loss[0]
