"""The balanced flow against its exact time in 40 digits, both losses, both methods; and what every trajectory offers.

The oracle is independent of the solver: t(u) by mpmath's hypergeometric function (MSE) or by mpmath's quadrature in f
(cross-entropy), asked at given u; the solver is then asked for u at these t. An error of one ulp in t is one of up to
about γ^{1−2/L} ulps in u, so 1e-8 at L = 16 and γ = 1e8 asks for the time to 15 digits.
"""

from __future__ import annotations

from functools import cache

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate import gradient_flow
from theory import InputError, ToyModel, rescaled_time

METHODS = ("auto", "ode")


@mpmath.workdps(40)
def exact_tau(f, gamma, depth, loss):
    g = mpmath.mpf(gamma)
    if loss == "cross-entropy":
        label = 1 / (1 + mpmath.exp(-1))

        def slowness(y):  # in y = ln(1 + γs), where the integrand is smooth at every γ
            s = mpmath.expm1(y) / g
            return mpmath.exp(y * (mpmath.mpf(2) / depth - 1)) / (label - 1 / (1 + mpmath.exp(-s))) / depth

        top = mpmath.log1p(g * f)
        return mpmath.quad(slowness, mpmath.linspace(0, top, 4 + int(top * depth / 8)))
    if depth == 1:
        return -g * mpmath.log(1 - f)
    if depth == 2:
        return g / (2 * (1 + g)) * mpmath.log((1 + g * f) / (1 - f))
    power = mpmath.mpf(2) / depth - 1

    def primitive(v):
        return v**power / (power * (1 + g)) * mpmath.hyp2f1(1, power, power + 1, v / (1 + g))

    return g / depth * (primitive(1 + g * f) - primitive(1))


@cache
def positions(gamma, depth, loss):
    """Outputs on the plateau, through the drop and beside the minimum, and the exact τ of each."""
    with mpmath.workdps(40):
        g = mpmath.mpf(gamma)
        outputs = [mpmath.expm1(mpmath.mpf(k) / 9 * mpmath.log1p(g)) / g for k in range(1, 9)]
        outputs = sorted([*outputs, mpmath.mpf(1) / 2, mpmath.mpf("0.999")])
        return outputs, [exact_tau(f, gamma, depth, loss) for f in outputs]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("loss", "depth", "gamma"),
    [("mse", depth, gamma) for depth in (2, 3, 6, 16) for gamma in (1e-6, 1.0, 1e4, 1e8)]
    + [("cross-entropy", 2, 1e8), ("cross-entropy", 3, 1e-6), ("cross-entropy", 3, 1e8), ("cross-entropy", 16, 1e6)],
)
def test_the_flow_keeps_exact_time_through_plateau_and_drop(gamma, depth, loss, method):
    outputs, taus = positions(gamma, depth, loss)
    path = gradient_flow(loss=loss, depth=depth, gamma=gamma, times=[float(gamma * tau) for tau in taus], method=method)
    assert path.success
    with mpmath.workdps(40):
        product = max(abs(mpmath.mpf(float(w)) ** depth / (1 + gamma * f) - 1)
                      for w, f in zip(path.weights, outputs, strict=True))  # fmt: skip
        output = max(abs(mpmath.mpf(float(o)) / f - 1) for o, f in zip(path.output, outputs, strict=True))
    # γ^{1−2/L} roundings of the time are unavoidable; 1e-12 is the solver's own
    budget = min(1e-8, 1e-12 + 100 * 2**-53 * max(1.0, gamma) ** (1 - 2 / depth))
    assert product < budget
    assert output < budget


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 16])
@pytest.mark.parametrize("gamma", [1e-8, 1e-2, 1.0, 1e3, 1e8])
def test_outputs_are_reached_at_the_times_of_theory(depth, gamma):
    tau_end = float(rescaled_time(output=0.99, gamma=gamma, depth=depth))
    path = gradient_flow(depth=depth, gamma=gamma, tau_end=tau_end, points=200)
    assert path.method == "closed form"
    # theory's time is good to 1e-14 of itself; where f is at rounding level it cannot be asked
    np.testing.assert_allclose(
        rescaled_time(output=path.output[1:], gamma=gamma, depth=depth), path.tau[1:], rtol=1e-13
    )


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("gamma", [0.3, 2.0, 50.0])
def test_sharpness_and_kernel_are_those_of_the_explicit_hessian(depth, gamma, loss):
    path = gradient_flow(depth=depth, gamma=gamma, tau_end=1.0, points=20, loss=loss)
    sigma = 1 / (1 + np.exp(-path.output))
    slopes, bends = path.output - 1, np.ones(20)
    if loss == "cross-entropy":
        slopes, bends = sigma - 1 / (1 + np.exp(-1)), sigma * (1 - sigma)
    for k, w in enumerate(path.weights):
        gradient = w ** (depth - 1) / gamma * np.ones(depth)
        mixed = w ** (depth - 2) / gamma * (np.ones((depth, depth)) - np.eye(depth))
        hessian = bends[k] * np.outer(gradient, gradient) + slopes[k] * mixed
        # 1e-9 covers the cancellation in f − 1 here; the path itself does not cancel
        assert path.sharpness[k] == pytest.approx(np.linalg.eigvalsh(hessian).max(), rel=1e-9, abs=1e-12)
        assert path.kernel[k] == pytest.approx(gradient @ gradient, rel=1e-12)


def test_the_loss_keeps_its_accuracy_at_the_minimum():
    # f rounds to 1 long before: the rate of the last decades is that of the linearised flow, −2 λ* η
    for loss, curvature in (("mse", 1.0), ("cross-entropy", 0.19661193324148185)):
        path = gradient_flow(loss=loss, depth=3, gamma=2.0, times=np.array([30.0, 31.0]) / curvature)
        rate = 2 * curvature * 3 * 3.0 ** (2 - 2 / 3) / 4
        assert path.loss[0] < 1e-60
        assert np.log(path.loss[0] / path.loss[1]) == pytest.approx(rate / curvature, rel=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(1, 8),
    log_gamma=st.floats(-7, 7),
    log_eta=st.floats(-6, 6),
    loss=st.sampled_from(["mse", "cross-entropy"]),
    method=st.sampled_from(METHODS),
)
def test_loss_falls_and_eta_only_rescales_time(depth, log_gamma, log_eta, loss, method):
    gamma, eta = 10.0**log_gamma, 10.0**log_eta
    end = float(rescaled_time(output=0.9, gamma=gamma, depth=depth)) * gamma
    path = gradient_flow(depth=depth, gamma=gamma, t_end=end, points=50, loss=loss, method=method)
    faster = gradient_flow(depth=depth, gamma=gamma, eta=eta, t_end=end / eta, points=50, loss=loss, method=method)
    assert (np.diff(path.loss) < 0).all()
    np.testing.assert_allclose(faster.tau, path.tau, rtol=1e-15)
    np.testing.assert_allclose(faster.output, path.output, rtol=1e-7)


def test_plateau_exit_at_eta_min_is_the_budget():
    # the flow at η = eta_min(γ, T) brings the loss to 0.9 L₀ exactly at T
    for loss in ("mse", "cross-entropy"):
        for depth, gamma in ((2, 1e-3), (3, 10.0), (4, 1e4)):
            eta = float(ToyModel(loss=loss).boundary("eta_min").numeric(gamma=gamma, depth=depth, steps=500))
            path = gradient_flow(depth=depth, gamma=gamma, eta=eta, t_end=501, loss=loss)
            assert path.events["plateau_exit"] == pytest.approx(500, rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_events_are_levels_of_the_loss(method):
    path = gradient_flow(depth=3, gamma=100.0, t_end=200.0, method=method, level=0.8, settle=1e-5)
    at = path.at([path.events[name] for name in ("plateau_exit", "drop", "convergence")])
    np.testing.assert_allclose(at.loss / path.loss[0], [0.8, 0.5, 1e-5], rtol=1e-9)
    drop = path.events["drop"]
    for end, met in ((0.9999 * drop, False), (1.0001 * drop, True)):
        assert np.isfinite(gradient_flow(depth=3, gamma=100.0, t_end=end, method=method).events["drop"]) == met


@pytest.mark.parametrize("method", METHODS)
def test_a_trajectory_answers_at_other_times_in_either_unit(method):
    path = gradient_flow(depth=3, gamma=20.0, eta=0.5, t_end=50.0, points=3, method=method)
    wanted = np.array([40.0, 0.0, 3.0])
    by_t, by_tau = path.at(wanted), path.at(tau=wanted * 0.5 / 20.0)
    fresh = gradient_flow(depth=3, gamma=20.0, eta=0.5, times=np.sort(wanted), method=method)
    np.testing.assert_allclose(by_t.output[[1, 2, 0]], fresh.output, rtol=1e-12)
    np.testing.assert_allclose(by_tau.weights, by_t.weights, rtol=1e-13)
    np.testing.assert_array_equal(by_t.t, wanted)
    assert by_t.output[1] == 0
    with pytest.raises(InputError, match="at most 50"):
        path.at(50.1)
    with pytest.raises(InputError, match="not both"):
        path.at([1.0], tau=[1.0])


def test_grids_of_times():
    path = gradient_flow(depth=2, gamma=1.0, t_end=3.0, points=7, spacing="log")
    assert path.t[0] == 0
    assert path.t[-1] == 3.0
    np.testing.assert_allclose(np.diff(np.log(path.t[1:])), np.log(1e6) / 5)
    np.testing.assert_allclose(gradient_flow(depth=2, gamma=4.0, eta=2.0, tau_end=3.0, points=2).t, [0, 6.0])


def test_a_solver_that_gives_up_returns_what_it_solved():
    whole = gradient_flow(depth=4, gamma=1e3, tau_end=0.6, method="ode", points=20_000)
    path = gradient_flow(depth=4, gamma=1e3, tau_end=0.6, method="ode", points=20_000, max_evaluations=60)
    assert not path.success
    assert path.status == "too many evaluations"
    assert "60" in path.message
    assert 1 < len(path.t) < len(whole.t)
    assert 0 < path.t_end < 600
    np.testing.assert_allclose(path.output[1:], whole.output[1 : len(path.t)], rtol=1e-9)
    assert all(np.isnan(value) for value in path.events.values())


def test_gradient_descent_approaches_the_flow_at_first_order():
    # Euler's method on the flow: the error at a fixed τ is proportional to η
    def error(eta):
        w = np.ones(3)
        for _ in range(round(2.0 / eta)):
            w = w - eta / 2.0 * ((w.prod() - 1) / 2.0 - 1) * w.prod() / w
        return abs((w.prod() - 1) / 2.0 - gradient_flow(depth=3, gamma=2.0, eta=eta, t_end=2.0 / eta).output[-1])

    errors = [error(eta) for eta in (0.02, 0.01, 0.005)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 1.0, atol=0.06)  # the next order is about η itself


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1e-200}, "gamma"),
        ({"eta": -1.0}, "eta"),
        ({"t_end": float("nan")}, "t_end"),
        ({"t_end": None}, "t_end"),
        ({"tau_end": 1.0}, "t_end"),
        ({"t_end": None, "times": [1.0, 0.5]}, "times"),
        ({"t_end": None, "times": [-1.0, 0.5]}, "times"),
        ({"t_end": None, "times": "soon"}, "times"),
        ({"depth": 0}, "depth"),
        ({"depth": None}, "depth"),
        ({"depth": 2, "weights": [1.0, 1.0, 1.0]}, "depth"),
        ({"depth": None, "weights": [1.0, np.inf]}, "weights"),
        ({"depth": None, "weights": [[1.0]]}, "weights"),
        ({"points": 1}, "points"),
        ({"spacing": "square"}, "spacing"),
        ({"loss": "hinge"}, "loss"),
        ({"method": "euler"}, "method"),
        ({"level": 1.0}, "level"),
        ({"settle": 0.0}, "settle"),
        ({"max_evaluations": 0}, "max_evaluations"),
    ],
)
def test_bad_input_names_the_field(change, field):
    with pytest.raises(InputError) as caught:
        gradient_flow(**({"depth": 3, "gamma": 1.0, "t_end": 1.0} | change))
    assert caught.value.field == field
