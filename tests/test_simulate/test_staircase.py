"""Staircases of the matrix flow. Oracles: decoupled modes in closed form, and statements that need no time at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate.staircase import aligned_start, mode_staircase
from theory import InputError
from theory.deep_linear import layer_balance, product_of


@pytest.fixture(scope="module")
def three_layers():
    return mode_staircase()  # s = 4, 2, 1, L = 3, γ = 1e8


def test_step_ratios_of_three_layers(three_layers):
    """The ratios of THEORY section 6, 1 : 1.9994 : 3.9973, to the digits stated there."""
    np.testing.assert_allclose(three_layers.step_ratios, [1, 1.9994, 3.9973], atol=5e-5)
    # plain inverse singular values, 1 : 2 : 4, are told apart
    assert abs(three_layers.step_ratios[2] - 4) > 2e-3


def test_predicted_step_times(three_layers):
    """Exact for decoupled modes: the rest is the solver's error. The asymptotic form is good to 1/γ_a, 1e-8 here."""
    steps = three_layers.steps
    assert three_layers.success
    np.testing.assert_allclose(steps["predicted"], steps["measured"], rtol=1e-10)
    np.testing.assert_allclose(steps["asymptotic"], steps["measured"], rtol=2e-8)
    np.testing.assert_allclose(steps["departure"], steps["predicted"] / steps["measured"] - 1, rtol=1e-12)
    np.testing.assert_allclose(steps["ratio"], steps["predicted_ratio"], rtol=1e-10)


def test_two_layers_step_at_a_logarithm():
    """At L = 2 half height is at ln(γ_a + 2)γ_a/(2s_a(1 + γ_a)) with γ_a = γs_a: ln(γ s_a)/(2 s_a) to order 1/γ."""
    values, gamma = np.array([3.0, 1.0]), 1e7
    found = mode_staircase(singular_values=values, depth=2, gamma=gamma)
    np.testing.assert_allclose(found.steps["measured"], np.log(gamma * values) / (2 * values), rtol=3e-7)
    # 1/s, the law of deeper networks, is told apart
    assert found.step_ratios[1] == pytest.approx(3 * np.log(1e7) / np.log(3e7), rel=1e-6)


def test_loss_and_strengths_are_a_staircase(three_layers):
    """Between the steps the loss is what the modes not yet learned leave of it."""
    squares = three_layers.singular_values**2
    for learned, tau in enumerate([0.1, 0.37, 0.75, 1.19]):
        at = int(np.searchsorted(three_layers.tau, tau))
        # on the plateaus of the other modes f is of order 1/γ^{1−…}: below 1e-4 of s at these times
        assert three_layers.loss[at] == pytest.approx(squares[learned:].sum() / squares.sum(), abs=1e-4)
        expected = np.where(np.arange(3) < learned, three_layers.singular_values, 0)
        np.testing.assert_allclose(three_layers.strengths[at], expected, atol=1e-4)
    assert three_layers.loss[0] == 1.0
    np.testing.assert_allclose(three_layers.strengths, three_layers.predicted_strengths, atol=1e-4)
    # steps are resolved: each has points on its slope
    for mode, value in enumerate(three_layers.singular_values):
        share = three_layers.strengths[:, mode] / value
        assert ((share > 0.1) & (share < 0.9)).sum() > 10


def test_widths_and_frames_do_not_matter():
    narrow = mode_staircase(singular_values=[2, 1], depth=3, gamma=1e4)
    wide = mode_staircase(singular_values=[2, 1], depth=3, gamma=1e4, widths=(3, 5, 4, 3), seed=7)
    assert wide.widths == (3, 5, 4, 3)
    np.testing.assert_allclose(wide.steps["measured"], narrow.steps["measured"], rtol=1e-7)


def test_a_perturbed_start_moves_the_steps_by_about_its_size():
    runs = [
        mode_staircase(singular_values=[2, 1], depth=3, gamma=1e4, perturbation=size, seed=3) for size in (1e-4, 1e-2)
    ]
    for run in runs:
        times = run.steps["measured"].to_numpy()
        np.testing.assert_array_equal(run.step_ratios, times / times[0])  # measured ratios, not the predicted
    small, large = (run.steps["departure"].abs() for run in runs)
    assert (small > 1e-7).any()  # it does move: alignment is not restored by the solver
    assert (small < 2e-3).all()
    assert (large < 0.2).all()
    np.testing.assert_allclose(large.max() / small.max(), 100, rtol=0.3)  # first order


def test_a_step_beyond_the_end_is_not_a_number():
    found = mode_staircase(singular_values=[2, 1], depth=3, gamma=1e4, tau_end=0.7)
    assert np.isfinite(found.steps["measured"][0])
    assert np.isnan(found.steps["measured"][1])
    assert found.tau[-1] == pytest.approx(0.7)


@settings(max_examples=30, deadline=None)
@given(widths=st.lists(st.integers(1, 6), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_the_start_is_balanced_and_aligned(widths, seed):
    start, left, right = aligned_start(widths, seed=seed)
    assert [matrix.shape for matrix in start] == list(zip(widths[1:], widths[:-1], strict=True))
    for difference in layer_balance(start):
        np.testing.assert_allclose(difference, 0, atol=1e-14)
    np.testing.assert_allclose(product_of(start, widths[0]), left @ right.T, atol=1e-14)
    np.testing.assert_allclose(left.T @ left, np.eye(min(widths)), atol=1e-14)


@pytest.mark.parametrize(
    ("bad", "field"),
    [({"singular_values": [1, -1]}, "singular_values"), ({"depth": 1}, "depth"), ({"gamma": 0}, "gamma"),
     ({"widths": (3, 3)}, "widths"), ({"widths": (3, 2, 3, 3)}, "widths"), ({"widths": (3, 3.5, 3, 3)}, "widths"),
     ({"level": 1}, "level"), ({"perturbation": -1e-3}, "perturbation"), ({"tau_end": 0}, "tau_end")],
)  # fmt: skip
def test_bad_input(bad, field):
    with pytest.raises(InputError) as caught:
        mode_staircase(**bad)
    assert caught.value.field == field
