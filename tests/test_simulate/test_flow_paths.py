"""Unbalanced weights and two layers: against mpmath's Taylor integrator in 30 digits, closed forms, and symmetries."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simulate.gradient_flow import gradient_flow, two_layer_flow
from theory import InputError, rescaled_time
from theory.conserved import weight_invariants

METHODS = ("auto", "ode")
LABEL = 1 / (1 + mpmath.exp(-1))


def taylor(weights, gamma, taus, loss):
    """All L weights at once, dw_i/dτ = −ℓ′ ∏_{j≠i} w_j, in 30 digits: nothing of the reduction to one coordinate."""
    with mpmath.workdps(30):
        start = [mpmath.mpf(w) for w in weights]

        def velocity(_tau, w):
            f = (mpmath.fprod(w) - mpmath.fprod(start)) / gamma
            slope = f - 1 if loss == "mse" else 1 / (1 + mpmath.exp(-f)) - LABEL
            return [-slope * mpmath.fprod(w[:i] + w[i + 1 :]) for i in range(len(w))]

        solution = mpmath.odefun(velocity, 0, start)
        states = [solution(mpmath.mpf(tau)) for tau in taus]
        outputs = [(mpmath.fprod(w) - mpmath.fprod(start)) / gamma for w in states]
        return np.array(states, dtype=np.float64), np.array(outputs, dtype=np.float64)


CASES = {
    "all signs": ([0.5, -1.5, -2.0], 3.0, 0.5, "mse"),
    "the least weight passes through zero": ([-0.4, 1.0, 2.0], 2.0, 0.5, "mse"),
    "the same": ([-0.4, 1.0, 2.0], 2.0, 0.8, "cross-entropy"),
    "negative product that falls short of zero": ([-2.0, 1.5, 1.0], 0.5, 0.15, "cross-entropy"),
    "one zero": ([0.0, 1.0, -1.2], 1.5, 1.0, "mse"),
    "two of least magnitude, towards a saddle": ([0.5, -0.5, 1.0], 10.0, 2.0, "cross-entropy"),
    "two of least magnitude, away from zero": ([0.5, 0.5, -1.0, -1.5], 1.0, 0.5, "mse"),
    "lazy": ([0.7, 1.0, 2.0, -1.0], 1e-8, 5e-10, "mse"),
    "one weight": ([-2.0], 3.0, 2.0, "cross-entropy"),
}


@pytest.mark.parametrize("case", CASES)
def test_unbalanced_weights_follow_the_taylor_series(case):
    weights, gamma, end, loss = CASES[case]
    taus = [end / 4, end]
    states, outputs = taylor(weights, gamma, taus, loss)
    for method in METHODS:
        path = gradient_flow(weights=weights, gamma=gamma, times=gamma * np.array(taus), loss=loss, method=method)
        np.testing.assert_allclose(path.weights, states, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(path.output, outputs, rtol=1e-11)
        assert path.balance.max() < 1e-15


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_equal_weights_are_the_balanced_flow(loss, method):
    for depth, gamma in ((2, 1e-8), (3, 1.0), (16, 1e6), (4, 1e8)):
        end = 1.3 * float(rescaled_time(output=0.5, gamma=gamma, depth=depth))
        balanced = gradient_flow(depth=depth, gamma=gamma, tau_end=end, points=50, loss=loss, method=method)
        path = gradient_flow(weights=np.ones(depth), gamma=gamma, tau_end=end, points=50, loss=loss, method=method)
        # both within 1e-9 of the truth, which is what the conditioning at L = 16 leaves
        for name in ("output", "loss", "kernel"):
            np.testing.assert_allclose(getattr(path, name), getattr(balanced, name), rtol=1e-8, err_msg=name)
        size = np.abs(balanced.sharpness).max()  # which changes sign when rich
        np.testing.assert_allclose(path.sharpness, balanced.sharpness, rtol=1e-8, atol=1e-12 * size)
        np.testing.assert_allclose(path.weights, np.repeat(balanced.weights[:, None], depth, axis=1), rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_order_and_pairs_of_signs_do_not_matter(data):
    depth = data.draw(st.integers(2, 6))
    weights = np.array(data.draw(st.lists(st.floats(-3, 3), min_size=depth, max_size=depth)))
    assume(np.sort(np.abs(weights))[1] > 0.05)  # two at zero stay there
    order = np.array(data.draw(st.permutations(range(depth))))
    i, j = data.draw(st.lists(st.integers(0, depth - 1), min_size=2, max_size=2, unique=True))
    signs = np.ones(depth)
    signs[[i, j]] = -1
    gamma, loss = 10.0 ** data.draw(st.floats(-8, 6)), data.draw(st.sampled_from(["mse", "cross-entropy"]))
    end = min(gamma, 1.0) * data.draw(st.floats(0.01, 2.0))
    path = gradient_flow(weights=weights, gamma=gamma, tau_end=end, points=9, loss=loss)
    other = gradient_flow(weights=(weights * signs)[order], gamma=gamma, tau_end=end, points=9, loss=loss)
    assert path.success
    np.testing.assert_allclose(other.weights, (path.weights * signs)[:, order], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(other.output, path.output, rtol=1e-8, atol=1e-300)
    start = weight_invariants(weights)
    drift = np.abs(weight_invariants(path.weights) - start).max(axis=(1, 2)) / (path.weights**2).max(axis=1)
    np.testing.assert_allclose(drift, 0, atol=1e-14)
    assert (np.diff(path.loss) <= 0).all()


def by_differences(energy, at):
    """Hessian by central differences of a function in 40 digits: no rounding, an error of order h² = 1e-16."""
    with mpmath.workdps(40):
        h, at = mpmath.mpf(10) ** -8, [mpmath.mpf(float(x)) for x in at]
        hessian = np.empty((len(at), len(at)))
        for i in range(len(at)):
            for j in range(len(at)):
                total = mpmath.mpf(0)
                for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                    moved = list(at)
                    moved[i] += a * h
                    moved[j] += b * h
                    total += a * b * energy(moved)
                hessian[i, j] = total / (4 * h**2)
        return hessian


def scalar_energy(f, loss):
    return (f - 1) ** 2 / 2 if loss == "mse" else mpmath.log(1 + mpmath.exp(f)) - LABEL * f


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("weights", [[0.5, -1.5, 2.0, 1.0], [0.0, 1.0, 2.0], [0.0, 0.0, 3.0], [2.0]])
def test_unbalanced_sharpness_is_that_of_finite_differences(weights, loss):
    gamma, path = 2.0, gradient_flow(weights=weights, gamma=2.0, tau_end=0.4, points=3, loss=loss)
    start = float(np.prod(weights))
    for k in range(3):
        hessian = by_differences(lambda w: scalar_energy((mpmath.fprod(w) - start) / gamma, loss), path.weights[k])
        assert path.sharpness[k] == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-10, abs=1e-12)


def test_ends_at_saddles_are_reported_as_they_are():
    # two tied weights shrink to zero and the product stops at 0: f → −P₀/γ, an exponential approach in τ
    path = gradient_flow(weights=[0.5, -0.5, 1.0], gamma=10.0, tau_end=200.0)
    assert path.success
    assert path.output[-1] == pytest.approx(0.025, rel=1e-12)
    assert np.isnan(path.events["convergence"])
    # three: algebraic, w ~ 1/(g τ) with g = 1 − f the pull at the saddle
    path = gradient_flow(weights=[-0.5, -0.5, -0.5], gamma=10.0, tau_end=1e6)
    assert -path.weights[-1, 0] * (1 - 0.0125) * 1e6 == pytest.approx(1.0, rel=1e-4)
    # two zeros: at rest
    path = gradient_flow(weights=[0.0, 0.0, 1.0], gamma=1.0, tau_end=5.0)
    np.testing.assert_array_equal(path.weights, np.tile([0.0, 0.0, 1.0], (500, 1)))
    assert path.success


def test_weights_too_large_for_float64_are_a_status():
    path = gradient_flow(weights=[1e200, 1e200], gamma=1.0, t_end=1.0)
    assert not path.success
    assert path.status == "overflow"
    assert len(path.t) == 1
    assert path.t_end == 0


def sigmoid_flow(u, v, gamma, tau):
    """f of the two-layer MSE flow: X = e^{2s} obeys the logistic equation dX/dτ = (a X + b_)(X* − X)/(2γn)."""
    n, a, b = len(u), np.sum((u + v) ** 2), np.sum((u - v) ** 2)
    constant = 4 * gamma * n + a - b
    root = np.sqrt(constant**2 + 4 * a * b)
    top, bottom = (constant + root) / (2 * a), (root - constant) / (2 * a)  # X* and minus the other root
    rise = np.expm1(a * (top + bottom) / (2 * gamma * n) * tau)
    moved = (top - 1) * (1 + bottom) * rise / ((1 + bottom) * (rise + 1) + top - 1)  # X − 1
    return (a * moved + b * moved / (1 + moved)) / (4 * gamma * n)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("gamma", [1e-2, 1.0, 1e2])
def test_two_layer_mse_is_a_logistic_curve(gamma, method):
    u, v = np.random.default_rng(0).standard_normal((2, 50))
    tau = np.linspace(0, 4 * gamma / (1 + gamma) + 2 * np.log1p(gamma), 40)
    path = two_layer_flow(u, v, gamma=gamma, times=tau * gamma, method=method)
    # the closed form itself loses what X* − 1 loses at small γ
    np.testing.assert_allclose(path.output, sigmoid_flow(u, v, gamma, tau), rtol=1e-10)
    assert path.balance.max() < 1e-14


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_two_layers_of_width_one_are_two_unbalanced_weights(loss):
    # n = 1: the same step and the same output
    for pair, gamma in (((0.7, -1.1), 1e-8), ((0.7, -1.1), 5.0), ((1.0, 1.0), 1e8), ((0.5, -0.5), 3.0)):
        tau_end = min(gamma, 1.0) * 3 + np.log1p(gamma)
        path = two_layer_flow([pair[0]], [pair[1]], gamma=gamma, tau_end=tau_end, points=20, loss=loss)
        other = gradient_flow(weights=pair, gamma=gamma, tau_end=tau_end, points=20, loss=loss)
        for name in ("output", "loss", "kernel", "sharpness"):
            np.testing.assert_allclose(getattr(path, name), getattr(other, name), rtol=1e-9, atol=1e-14, err_msg=name)
        assert path.events == pytest.approx(other.events, rel=1e-10, nan_ok=True)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("aligned", [False, True])
def test_two_layer_sharpness_is_n_times_that_of_finite_differences(loss, aligned):
    u, v = np.random.default_rng(2).standard_normal((2, 3))
    v = u if aligned else v
    gamma, start = 1.5, float(u @ v)
    path = two_layer_flow(u, v, gamma=gamma, tau_end=1.0, points=3, loss=loss)

    def energy(w):
        product = mpmath.fsum(w[i] * w[i + 3] for i in range(3))
        return scalar_energy((product - start) / (gamma * 3), loss)

    for k in range(3):
        hessian = by_differences(energy, np.concatenate([path.weights[0][k], path.weights[1][k]]))
        assert path.sharpness[k] == pytest.approx(3 * np.linalg.eigvalsh(hessian)[-1], rel=1e-10)


def test_two_layers_that_oppose_each_other_can_end_at_a_saddle():
    u = np.array([1.0, -2.0])
    path = two_layer_flow(u, -u, gamma=5.0, tau_end=40.0)
    assert path.output[-1] == pytest.approx(5 / 10, rel=1e-12)  # all of −u·v is undone: |u|²/(γn)
    np.testing.assert_allclose(path.weights[0][-1], 0, atol=1e-8)


@pytest.mark.parametrize(
    ("u", "v", "field"),
    [([1.0], [1.0, 2.0], "v"), ([], [], "u"), ([np.nan], [1.0], "u"), ([1.0], "one", "v")],
)
def test_bad_two_layer_input_names_the_field(u, v, field):
    with pytest.raises(InputError) as caught:
        two_layer_flow(u, v, gamma=1.0, t_end=1.0)
    assert caught.value.field == field
