"""Descent on separate weights, and the compiled losses.

Oracles, none of which uses displacements, telescoped products or closed gradients: an 80-digit mpmath loop whose
gradients are central differences of the loss; the textbook forms of the losses at 80 digits; the stability limits of
``theory``. Early exits are compared with the same orbit run to its end.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate import Outcome, Thresholds, run_gradient_descent
from simulate.maps.losses import CROSS_ENTROPY, LOSS_CODES, MSE, curvature, excess, slope
from simulate.maps.unbalanced import descend_unbalanced, run_unbalanced
from theory.errors import InputError

EPS = np.finfo(float).eps
LOSSES = ("mse", "cross-entropy")
OPTIMIZERS = ("gd", "momentum", "sign")
BETA = 0.9

DIGITS = 80
DIFFERENCE = mpmath.mpf(10) ** -25  # truncation 1e-50 and cancellation 1e-55: both far below float64


def exact_loss(name, f):
    """The excess loss as it is defined, in mpmath."""
    if name == "mse":
        return (f - 1) ** 2 / 2
    label = 1 / (1 + mpmath.exp(-1))
    return mpmath.log(1 + mpmath.exp(f)) - label * f - (mpmath.log(1 + mpmath.e) - label)


# --- the compiled losses --------------------------------------------------------------------------------------------

near_the_minimum = st.builds(lambda e, s: 1.0 + s * 10.0**e, st.floats(-15, 1), st.sampled_from([-1, 1]))
anywhere = st.one_of(near_the_minimum, st.floats(-5, 5), st.floats(-1000, 1000))


def relative(got, exact):
    return 0.0 if got == exact == 0 else float(abs((mpmath.mpf(got) - exact) / exact))


@settings(max_examples=300, deadline=None)
@given(f=anywhere)
def test_cross_entropy_keeps_its_relative_accuracy(f):
    with mpmath.workdps(DIGITS):
        x, label = mpmath.mpf(f), 1 / (1 + mpmath.exp(-1))
        sigma = 1 / (1 + mpmath.exp(-x))
        assert relative(slope(f, CROSS_ENTROPY), sigma - label) < 8 * EPS
        assert relative(excess(f, CROSS_ENTROPY), exact_loss("cross-entropy", x)) < 1e-14
        if abs(f) < 700:  # below that σ(1 − σ) leaves the normal floats
            # 1 − σ would cancel at the 80th digit for f > 180
            assert relative(curvature(f, CROSS_ENTROPY), sigma / (1 + mpmath.exp(x))) < 8 * EPS


def test_the_forms_of_cross_entropy_meet_and_cover_the_axis():
    edges = np.array([1.5, 0.5, 41.0, -39.0, 1 + np.log(2), 1 - np.log(2)])
    dense = np.concatenate([np.linspace(-1, 3, 400), np.linspace(-60, 60, 400)])
    for f in (*np.nextafter(edges, -np.inf), *edges, *np.nextafter(edges, np.inf), *dense):
        with mpmath.workdps(DIGITS):
            x = mpmath.mpf(float(f))
            exact = 1 / (1 + mpmath.exp(-x)) - 1 / (1 + mpmath.exp(-1))
            assert relative(slope(f, CROSS_ENTROPY), exact) < 4 * EPS
            assert relative(excess(f, CROSS_ENTROPY), exact_loss("cross-entropy", x)) < 4e-15


def test_losses_at_their_minimum_and_beyond_all_numbers():
    for code in (MSE, CROSS_ENTROPY):
        assert slope(1.0, code) == excess(1.0, code) == 0.0
        assert np.isnan([slope(np.nan, code), excess(np.nan, code)]).all()
        assert excess(np.inf, code) == excess(-np.inf, code) == np.inf
    label = 1 / (1 + np.exp(-1))
    assert slope(np.inf, CROSS_ENTROPY) == pytest.approx(1 - label, rel=4 * EPS, abs=0)
    assert slope(-np.inf, CROSS_ENTROPY) == pytest.approx(-label, rel=4 * EPS, abs=0)
    assert curvature(1e308, CROSS_ENTROPY) == 0.0
    assert curvature(-3.0, MSE) == 1.0
    assert slope(-3.0, MSE) == -4.0
    assert excess(-3.0, MSE) == 8.0


# --- 80 digits, finite differences ----------------------------------------------------------------------------------


def exact_descent(gamma, eta, start, steps, loss, optimizer):
    """Displacements and losses after steps 0, 1, …, with nothing but the definition of the loss."""
    with mpmath.workdps(DIGITS):
        first = [mpmath.mpf(float(w)) for w in start]
        product, strength, rate, beta = mpmath.fprod(first), mpmath.mpf(gamma), mpmath.mpf(eta), mpmath.mpf(BETA)

        def loss_at(weights):
            return exact_loss(loss, (mpmath.fprod(weights) - product) / strength)

        def derivative(weights, i):
            up, down = list(weights), list(weights)
            up[i] += DIFFERENCE
            down[i] -= DIFFERENCE
            return (loss_at(up) - loss_at(down)) / (2 * DIFFERENCE)

        weights, velocity = list(first), [mpmath.mpf(0)] * len(first)
        displacements, losses = [[0.0] * len(first)], [float(loss_at(weights))]
        for _ in range(steps):
            moves = [derivative(weights, i) for i in range(len(first))]
            if optimizer == "momentum":
                moves = velocity = [beta * v + g for v, g in zip(velocity, moves, strict=True)]
            elif optimizer == "sign":
                moves = [mpmath.sign(g) for g in moves]
            weights = [w - rate * m for w, m in zip(weights, moves, strict=True)]
            displacements.append([float(w - w0) for w, w0 in zip(weights, first, strict=True)])
            losses.append(float(loss_at(weights)))
    return np.array(displacements), np.array(losses)


def other_products(weights):
    """∏_{ℓ≠i} w_ℓ on the last axis."""
    weights = np.asarray(weights, dtype=float)
    return np.stack([np.prod(np.delete(weights, i, axis=-1), axis=-1) for i in range(weights.shape[-1])], axis=-1)


def sensible_eta(gamma, start, optimizer):
    """A rate at which a few dozen steps go somewhere, and rounding is not amplified beyond the tolerances here."""
    others = other_products(start)
    if optimizer == "sign":
        return 0.13 * min(1.0, gamma) / (abs(others).sum() + 0.1)
    # rich descent leaves the plateau at ηt/γ of order 1, ten times earlier with momentum: stay on it
    return min(0.7 * gamma**2 / ((others**2).sum() + 0.1), gamma * (0.002 if optimizer == "momentum" else 0.01))


STARTS = ([1.0, 1.0, 1.0], [0.3, -1.7], [-0.6, 1.1, 0.9, -1.3], [0.0, 1.5, -0.8], [1.4], [0.0, 0.0, 1.0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gamma", [1e-8, 1.0, 1e6])
def test_map_is_descent_along_numerical_derivatives(gamma, loss, optimizer):
    for start in STARTS:
        eta, steps = sensible_eta(gamma, start, optimizer), 24
        expected, losses = exact_descent(gamma, eta, start, steps, loss, optimizer)
        path = descend_unbalanced(gamma, eta, weights=start, steps=steps, loss=loss, optimizer=optimizer, beta=BETA)
        # Relative to the displacement, which is 1e-8 at γ = 1e-8: a loop that holds w would be off by 1e-8 of it.
        np.testing.assert_allclose(path.displacement[0], expected, rtol=0, atol=1e-12 * abs(expected).max())
        # √loss is |f − 1| but for a factor of order 1: known to rounding of f, not of the loss
        np.testing.assert_allclose(np.sqrt(path.loss[0]), np.sqrt(losses), rtol=1e-11, atol=1e-12)
        cells = run_unbalanced(
            gamma, eta, weights=start, steps=steps, loss=loss, optimizer=optimizer, beta=BETA,
            thresholds=Thresholds(tail_fraction=1 / steps),
        )  # fmt: skip
        assert np.sqrt(cells.final_loss[0]) == pytest.approx(np.sqrt(losses[-1]), rel=1e-11, abs=1e-12)
        assert cells.peak_loss[0] == pytest.approx(losses.max(), rel=1e-11, abs=0)
        assert cells.initial_loss[0] == pytest.approx(losses[0], rel=4 * EPS, abs=0)


def test_a_vanishing_gradient_moves_nothing():
    # two zeros: every partial product but none of the moves could be non-zero
    for optimizer in OPTIMIZERS:
        path = descend_unbalanced(1.0, 0.1, weights=[0.0, 0.0, 2.0], steps=50, optimizer=optimizer)
        assert not path.displacement.any()
        cells = run_unbalanced(1.0, 0.1, weights=[0.0, 0.0, 2.0], steps=10**13, optimizer=optimizer)
        assert (cells.outcome[0], cells.final_loss[0]) == (Outcome.UNTRAINED, 0.5)
    # one zero: it alone moves in the first step
    first = descend_unbalanced(1.0, 0.1, weights=[0.0, 3.0, 2.0], steps=1).displacement[0, 1]
    np.testing.assert_allclose(first, [0.6, 0.0, 0.0], rtol=4 * EPS)


# --- symmetries -----------------------------------------------------------------------------------------------------

signed = st.builds(lambda size, sign: size * sign, st.floats(0.05, 2.0), st.sampled_from([-1.0, 1.0]))
starts = st.lists(signed, min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    log_gamma=st.floats(-8, 8),
    depth=st.integers(1, 6),
    share=st.floats(0.01, 0.9),
    loss=st.sampled_from(LOSSES),
    optimizer=st.sampled_from(["gd", "momentum"]),
    steps=st.integers(1, 300),
)
def test_equal_weights_reproduce_the_balanced_map(log_gamma, depth, share, loss, optimizer, steps):
    gamma = 10.0**log_gamma
    eta = share * 2 * gamma**2 / (depth * (1 + gamma) ** (2 - 2 / depth))  # a share of eta_crit for MSE
    if optimizer == "momentum":
        eta *= 0.05  # an overshoot out of the plateau ends in chaos
    common = {"steps": steps, "loss": loss, "optimizer": optimizer, "thresholds": Thresholds(tail_fraction=1 / steps)}
    one = run_unbalanced(gamma, eta, weights=np.ones(depth), **common)
    other = run_gradient_descent(np.array([gamma]), np.array([eta]), depth=depth, **common)
    assert one.outcome[0] == other.outcome[0]
    assert one.steps_run[0] == other.steps_run[0]
    for name in ("final_loss", "peak_loss", "initial_loss"):
        pair = [np.sqrt(getattr(cells, name)[0]) for cells in (one, other)]
        # the rich descent passes a plateau, which amplifies roundings by up to γ^{(L−1)/L}·L: a few digits
        assert pair[0] == pytest.approx(pair[1], rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("gamma", "eta"), [(1e-8, 3e-10), (0.3, 0.0123), (1e4, 0.37), (1e4, 31.0)])
def test_equal_weights_reproduce_balanced_sign_descent(gamma, eta, loss):
    one = run_unbalanced(gamma, eta, weights=np.ones(3), steps=200, loss=loss, optimizer="sign")
    other = run_gradient_descent(np.array([gamma]), np.array([eta]), depth=3, steps=200, loss=loss, optimizer="sign")
    assert one.outcome[0] == other.outcome[0]
    # the positions are multiples of η but for roundings, 200 of them
    assert one.final_loss[0] == pytest.approx(other.final_loss[0], rel=1e-10)
    assert one.peak_loss[0] == pytest.approx(other.peak_loss[0], rel=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    start=st.lists(signed, min_size=2, max_size=6),
    log_gamma=st.floats(-8, 6),
    log_rate=st.floats(-8, 1),
    loss=st.sampled_from(LOSSES),
    optimizer=st.sampled_from(OPTIMIZERS),
    data=st.data(),
)
def test_flipping_two_signs_flips_the_weights_and_nothing_else(start, log_gamma, log_rate, loss, optimizer, data):
    gamma = 10.0**log_gamma
    arguments = {"steps": 40, "loss": loss, "optimizer": optimizer}
    flip = np.ones(len(start))
    flip[data.draw(st.permutations(range(len(start))))[:2]] = -1.0
    path = descend_unbalanced(gamma, gamma * 10.0**log_rate, weights=start, **arguments)
    mirrored = descend_unbalanced(gamma, gamma * 10.0**log_rate, weights=start * flip, **arguments)
    # bit for bit: a sign goes through sums and products of floats unchanged, at any rate, escaping runs included
    np.testing.assert_array_equal(mirrored.displacement, path.displacement * flip)
    np.testing.assert_array_equal(mirrored.loss, path.loss)


@settings(max_examples=60, deadline=None)
@given(
    start=starts,
    log_gamma=st.floats(-8, 6),
    share=st.floats(0.01, 1.0),
    loss=st.sampled_from(LOSSES),
    optimizer=st.sampled_from(["gd", "momentum"]),
    data=st.data(),
)
def test_permuting_the_weights_permutes_the_run(start, log_gamma, share, loss, optimizer, data):
    gamma = 10.0**log_gamma
    eta = share * sensible_eta(gamma, start, optimizer)
    order = list(data.draw(st.permutations(range(len(start)))))
    arguments = {"steps": 12, "loss": loss, "optimizer": optimizer}
    path = descend_unbalanced(gamma, eta, weights=start, **arguments)
    permuted = descend_unbalanced(gamma, eta, weights=np.array(start)[order], **arguments)
    # products in another order round differently; a dozen steps at rates below the edge amplify that little
    scale = abs(path.displacement).max()
    np.testing.assert_allclose(permuted.displacement, path.displacement[..., order], rtol=0, atol=1e-11 * scale)
    np.testing.assert_allclose(permuted.output, path.output, rtol=0, atol=1e-11 * abs(path.output).max())


@settings(max_examples=60, deadline=None)
@given(
    eighths=st.lists(st.integers(-16, 16), min_size=1, max_size=4),
    gamma=st.sampled_from([0.25, 1.0, 8.0]),
    loss=st.sampled_from(LOSSES),
    data=st.data(),
)
def test_permuting_the_weights_of_sign_descent_is_exact_on_dyadic_numbers(eighths, gamma, loss, data):
    # multiples of 1/8 below 4: four of them multiply exactly, so that not even a vanishing gradient is in doubt
    start, order = np.array(eighths) / 8, list(data.draw(st.permutations(range(len(eighths)))))
    arguments = {"steps": 12, "loss": loss, "optimizer": "sign"}
    path = descend_unbalanced(gamma, 0.125, weights=start, **arguments)
    permuted = descend_unbalanced(gamma, 0.125, weights=start[order], **arguments)
    np.testing.assert_array_equal(permuted.displacement, path.displacement[..., order])


@settings(max_examples=60, deadline=None)
@given(start=starts, log_gamma=st.floats(-8, 6), rate=st.floats(1e-3, 0.3), loss=st.sampled_from(LOSSES))
def test_a_step_changes_the_imbalance_by_the_formula(start, log_gamma, rate, loss):
    gamma = 10.0**log_gamma
    path = descend_unbalanced(gamma, rate * gamma, weights=start, steps=2, loss=loss)
    squares = (rate * other_products(path.weights[0])) ** 2
    f = path.output[0]
    with np.errstate(over="ignore"):
        slopes = f - 1 if loss == "mse" else 1 / (1 + np.exp(-f)) - 1 / (1 + np.exp(-1))
    expected = slopes[:, None, None] ** 2 * (squares[:, :, None] - squares[:, None, :])
    got = np.diff(path.imbalance_change[0], axis=0)
    for step in range(2):  # (ηℓ′P/γ)² (w_i⁻² − w_j⁻²), with P/w_i = ∏_{ℓ≠i} w_ℓ
        # terms of first order in η cancel: what is left is known to the rounding of the squares
        largest = (path.weights[0, : step + 2] ** 2).max()
        np.testing.assert_allclose(got[step], expected[step], rtol=1e-11, atol=64 * EPS * largest)
    np.testing.assert_allclose(
        path.imbalance[0] - path.imbalance[0, 0], path.imbalance_change[0], atol=16 * EPS * (path.weights**2).max()
    )


def test_imbalance_change_sees_what_the_weights_cannot_show():
    # at γ = 1e-8 one step changes w² by 1e-16 at second order: beside w² = 1 that is lost
    gamma, eta, start = 1e-8, 5e-17, np.array([2.0, 1.0])
    path = descend_unbalanced(gamma, eta, weights=start, steps=1)
    displacement = eta / gamma * start[::-1]
    np.testing.assert_allclose(path.displacement[0, 1], displacement, rtol=4 * EPS)
    alone = displacement * (2 * start + displacement)
    np.testing.assert_allclose(path.imbalance_change[0, 1, 0, 1], alone[0] - alone[1], atol=8 * EPS * abs(alone).max())
    assert abs(alone).max() < 4e-8


# --- early exits ----------------------------------------------------------------------------------------------------


def assert_exits_change_nothing(gamma, eta, start, steps, tail_steps, loss, optimizer):
    """Compare with the tail and the peak of the whole orbit; returns the orbit."""
    path = descend_unbalanced(gamma, eta, weights=start, steps=steps, loss=loss, optimizer=optimizer)
    thresholds = Thresholds(tail_fraction=tail_steps / steps)
    assert thresholds.tail_steps(steps) == tail_steps
    cells = run_unbalanced(
        gamma, eta, weights=start, steps=steps, loss=loss, optimizer=optimizer, thresholds=thresholds
    )
    with np.errstate(invalid="ignore"):
        gone = ~(
            abs(path.output * np.atleast_1d(gamma)[:, None]) <= 1e6 * np.maximum(1.0, np.atleast_1d(gamma))[:, None]
        )
    for i in range(len(cells)):
        if gone[i].any():
            assert cells.outcome[i] == Outcome.DIVERGED
            assert cells.steps_run[i] == np.argmax(gone[i])
            assert np.isnan(cells.final_loss[i])
            assert cells.peak_loss[i] == np.inf
        else:
            assert cells.steps_run[i] == steps
            # the two runs are one and the same orbit, to the last bit: only the sums are rounded in another order
            assert cells.final_loss[i] == pytest.approx(path.loss[i, -tail_steps:].mean(), rel=1e-12, abs=1e-300)
            # f from the raw output and the largest loss from the extreme outputs: a rounding or two
            assert cells.peak_loss[i] == pytest.approx(path.loss[i].max(), rel=8 * EPS, abs=0)
    return path, cells


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("steps", "tail_steps"), [(3000, 60), (3001, 61), (3001, 1), (50, 50), (700, 350)])
def test_exits_change_nothing_on_a_line_through_all_regimes(loss, optimizer, steps, tail_steps):
    # from far below the edge, through cycles and chaos, to divergence
    for gamma, start in ((1.0, [1.0, 0.8, -1.2]), (1e-3, [1.0, 1.0]), (30.0, [1.0, 1.0, 1.0, 1.0])):
        edge = 2 * gamma**2 / (len(start) * (1 + gamma) ** (2 - 2 / len(start)))
        etas = edge * np.geomspace(0.05, 30, 24)
        assert_exits_change_nothing(gamma, etas, start, steps, tail_steps, loss, optimizer)


@settings(max_examples=60, deadline=None)
@given(
    start=starts,
    log_gamma=st.floats(-4, 3),
    log_share=st.floats(-2, 2),
    loss=st.sampled_from(LOSSES),
    optimizer=st.sampled_from(OPTIMIZERS),
    steps=st.integers(2, 900),
    data=st.data(),
)
def test_exits_change_nothing(start, log_gamma, log_share, loss, optimizer, steps, data):
    gamma = 10.0**log_gamma
    eta = 10.0**log_share * sensible_eta(gamma, start, optimizer)
    assert_exits_change_nothing(gamma, eta, start, steps, data.draw(st.integers(1, steps)), loss, optimizer)


@pytest.mark.parametrize("tail_steps", [1, 2, 3, 4, 5, 59, 60])
@pytest.mark.parametrize("steps", [3000, 3001, 3002])
def test_cycles_of_all_lengths_end_in_phase(steps, tail_steps):
    start, edge = np.ones(2), 0.5  # γ = 1, L = 2: eta_crit = 2/λ* = 2/(2·2)
    shares = (1.1, 1.3, 1.55)
    path, _ = assert_exits_change_nothing(1.0, edge * np.array(shares), start, steps, tail_steps, "mse", "gd")
    periods = []
    for losses in path.loss:
        same = np.flatnonzero(losses[-2::-1] == losses[-1])
        periods.append(int(same[0]) + 1 if same.size else 0)
    assert periods[0] == 2  # the case is what it says
    assert abs(path.loss[0, -1] - path.loss[0, -2]) > 1e-3  # otherwise a wrong phase could not be seen
    assert len(set(periods)) > 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("share", [0.5, 1.1, 1000.0])
def test_exits_are_taken(share, optimizer):
    # without them 10^13 steps would run for days
    eta = share * (0.5 if optimizer != "sign" else 0.05)
    cells = run_unbalanced(1.0, eta, weights=[1.0, 1.0], steps=10**13, optimizer=optimizer)
    assert (cells.outcome[0] == Outcome.DIVERGED) == (share == 1000.0 and optimizer != "sign")


def test_a_cell_does_not_depend_on_its_companions():
    gamma = np.repeat(np.geomspace(1e-6, 1e3, 9), 9)
    eta = np.tile(np.geomspace(1e-8, 10, 9), 9)
    together = run_unbalanced(gamma, eta, weights=[1.0, -0.5, 2.0], steps=500)
    for i in range(0, 81, 7):
        alone = run_unbalanced(gamma[i], eta[i], weights=[1.0, -0.5, 2.0], steps=500)
        for name, values in together.fields().items():
            np.testing.assert_array_equal(getattr(alone, name)[0], values[i], err_msg=name)


# --- against the theory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [[1.0, 1.0], [2.0, 0.4, -1.0], [1.0, 1.3, 0.7, 0.9]])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("gamma", "reached"), [(2.0, 0.4), (1e-3, 0.84)])
def test_runs_settle_only_into_stable_minima(start, loss, beta, gamma, reached):
    # At a minimum the sharpness is ℓ″(1) Σ_i ∏_{ℓ≠i} w_ℓ²/γ². Heavy ball is stable below η·sharpness = 2(1+β). Lazy
    # weights start beside the minimum and settle nearly up to that (with momentum on cross-entropy a wide cycle lives
    # beside the stable minimum, and catches runs from 0.85 on); others miss it on their way.
    bend = {"mse": 1.0, "cross-entropy": float(np.exp(-1) / (1 + np.exp(-1)) ** 2)}[loss]
    edge = 2 * (1 + beta) * gamma**2 / (bend * (other_products(start) ** 2).sum())
    path = descend_unbalanced(
        gamma, edge * np.geomspace(0.05, 5, 300), weights=start, steps=4000, loss=loss,
        optimizer="momentum" if beta else "gd", beta=beta,
    )  # fmt: skip
    settled = np.nan_to_num(path.loss[:, -1], nan=np.inf) < 1e-20
    sharpness = bend * (other_products(path.weights[settled, -1]) ** 2).sum(axis=-1) / gamma**2
    stable = path.eta[settled] * sharpness / (2 * (1 + beta))
    assert stable.max() <= 1 + 1e-6
    assert stable.max() > (0.98 if gamma < 1 and loss == "mse" else reached)


def test_fine_steps_conserve_the_imbalance():
    # second order in η: half the step, half the drift over one and the same time ηt
    drifts = []
    for refine in (1, 2, 4):
        path = descend_unbalanced(1.0, 1e-3 / refine, weights=[1.5, 1.0, -0.7], steps=1000 * refine)
        drifts.append(abs(path.imbalance_change[0, -1]).max())
    assert drifts[0] < 1e-2
    np.testing.assert_allclose(np.array(drifts[:-1]) / drifts[1:], 2.0, rtol=0.01)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [run_unbalanced, descend_unbalanced])
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("gamma", {"gamma": [1.0, 0.0]}),
        ("eta", {"eta": [-1.0, 1.0]}),
        ("eta", {"eta": np.ones(3)}),
        ("weights", {"weights": []}),
        ("weights", {"weights": [1.0, np.nan]}),
        ("weights", {"weights": [[1.0, 2.0]]}),
        ("weights", {"weights": "one"}),
        ("steps", {"steps": 0}),
        ("steps", {"steps": 1e3}),
        ("loss", {"loss": "hinge"}),
        ("optimizer", {"optimizer": "adam"}),
        ("beta", {"beta": 1.0}),
        ("beta", {"beta": np.nan}),
        ("beta", {"beta": True}),
    ],
)
def test_bad_input_names_its_field(run, field, change):
    arguments = {"gamma": np.ones(2), "eta": np.ones(2), "weights": [1.0, 1.0], "steps": 10} | change
    with pytest.raises(InputError, match=rf"^{field} = ") as caught:
        run(arguments.pop("gamma"), arguments.pop("eta"), **arguments)
    assert caught.value.field == field


def test_loss_codes_name_the_losses():
    assert LOSS_CODES == {"mse": MSE, "cross-entropy": CROSS_ENTROPY} == {"mse": 0, "cross-entropy": 1}
