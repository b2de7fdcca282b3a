"""The solved flow against the closed-form time of ``theory``, and its sharpness against explicit Hessians."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate import gradient_flow
from theory import InputError, ToyModel, rescaled_time


def time_to(output, gamma, depth):
    """Step time at η = 1: τ = ηt/γ."""
    return gamma * rescaled_time(output=np.asarray(output), gamma=gamma, depth=depth)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 16])
@pytest.mark.parametrize("gamma", [1e-6, 1e-2, 1.0, 1e3, 1e8])
def test_outputs_are_reached_at_the_closed_form_times(depth, gamma):
    # the closed form is good to 1e-14; the solver's rtol of 1e-10 is amplified by the steepness of the drop
    end = float(time_to(0.99, gamma, depth))
    path = gradient_flow(depth=depth, gamma=gamma, t_end=end, points=200)
    assert path.success, path.message
    moved = path.output * max(1.0, gamma) > 1e-3  # also on the plateau, where w has moved and f has not
    assert moved.sum() > 100
    np.testing.assert_allclose(time_to(path.output[moved], gamma, depth), path.t[moved], rtol=1e-7)
    np.testing.assert_allclose(path.output[-1], 0.99, rtol=1e-3)  # the same error in time, seen across the drop


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("gamma", [0.3, 2.0, 50.0])
def test_sharpness_is_the_largest_eigenvalue_of_the_explicit_hessian(depth, gamma):
    path = gradient_flow(depth=depth, gamma=gamma, t_end=float(time_to(0.9, gamma, depth)), points=20)
    for w, f, sharpness in zip(path.weights, path.output, path.sharpness, strict=True):
        slope = w ** (depth - 1) / gamma * np.ones(depth)
        curvature = w ** (depth - 2) / gamma * (np.ones((depth, depth)) - np.eye(depth)) if depth > 1 else 0.0
        hessian = np.outer(slope, slope) + (f - 1) * curvature
        assert np.linalg.eigvalsh(hessian).max() == pytest.approx(sharpness, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(depth=st.integers(1, 8), log_gamma=st.floats(-5, 5), log_eta=st.floats(-6, 6))
def test_loss_falls_and_eta_only_rescales_time(depth, log_gamma, log_eta):
    gamma, eta = 10.0**log_gamma, 10.0**log_eta
    end = float(time_to(0.9, gamma, depth))
    path = gradient_flow(depth=depth, gamma=gamma, t_end=end)
    faster = gradient_flow(depth=depth, gamma=gamma, eta=eta, t_end=end / eta)
    assert (np.diff(path.loss) < 0).all()
    np.testing.assert_allclose(faster.output, path.output, rtol=1e-6, atol=1e-12)


def test_time_to_eta_min_is_the_budget():
    # the flow at η = eta_min(γ, T) brings the loss to 0.9 L₀ exactly at T
    for depth, gamma in ((2, 1e-3), (3, 10.0), (4, 1e4)):
        eta = float(ToyModel().boundary("eta_min").numeric(gamma=gamma, depth=depth, steps=500))
        path = gradient_flow(depth=depth, gamma=gamma, eta=eta, t_end=500)
        assert path.loss[-1] / path.loss[0] == pytest.approx(0.9, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"gamma": 0.0}, "gamma"),
        ({"eta": -1.0}, "eta"),
        ({"t_end": float("nan")}, "t_end"),
        ({"depth": 0}, "depth"),
        ({"points": 1}, "points"),
        ({"loss": "hinge"}, "loss"),
        ({"rtol": 0.0}, "rtol"),
    ],
)
def test_bad_input_names_the_field(change, field):
    with pytest.raises(InputError) as caught:
        gradient_flow(**({"depth": 3, "gamma": 1.0, "t_end": 1.0} | change))
    assert caught.value.field == field
