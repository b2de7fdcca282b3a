"""The residual toy of two stages: every step holds and no other, and its flows agree with integrated ones."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory import InputError
from theory.residual_stages import SETTLED_DEGREE, StagedToy, steps

STARTS = st.tuples(*[st.floats(0.05, 3)] * 5)


def test_every_step_holds_and_a_changed_one_does_not():
    for step in steps():
        assert step.check(step.expression) is True, step.name
        assert step.check(step.expression * sp.Rational(3, 2)) is not True, step.name


def output(theta, blocks):
    """F of separate weights: readout, shortcut, stream, and two a block."""
    pairs = theta[3:].reshape(-1, 2).prod(1) / np.sqrt(sum(blocks))
    return theta[0] * (theta[1] * (theta[2] + pairs[: blocks[0]].sum()) + pairs[blocks[0] :].sum())


@pytest.mark.parametrize("blocks", [(2, 2), (1, 3)])
def test_where_an_integrated_flow_of_the_loss_ends(blocks):
    """SciPy's flow of (f − 1)²/2 in time, by differences, against the flow in ln F."""
    toy = StagedToy(blocks, (0.5, 0.8, 1.3, 0.6, 0.9))
    start = np.array([0.5, 0.8, 1.3, *[0.6] * (2 * blocks[0]), *[0.9] * (2 * blocks[1])])
    first = output(start, blocks)

    def gradient(theta):
        h = np.diag(1e-6 * theta)
        return np.array([(output(theta + at, blocks) - output(theta - at, blocks)) / (2 * at.sum()) for at in h])

    for gamma in (0.3, 8.0, 300.0):

        def slope(_, theta, gamma=gamma):
            return -((output(theta, blocks) - first) / gamma - 1) * gradient(theta) / gamma

        found = solve_ivp(slope, (0, 60 * gamma**2), start, method="LSODA", rtol=1e-9, atol=1e-11).y[:, -1]
        a, w, c, early, late = toy.weights(gamma)
        expected = [a, w, c, *[early] * (2 * blocks[0]), *[late] * (2 * blocks[1])]
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        slopes = gradient(found)
        assert toy.sharpness(gamma) == pytest.approx(float(slopes @ slopes) / gamma**2, rel=1e-3)
        assert toy.degree(gamma) == pytest.approx(found @ slopes / output(found, blocks), rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)), start=STARTS, gamma=st.floats(-2, 7).map(lambda x: 10**x)
)
def test_the_exponent_is_the_slope_of_the_sharpness(blocks, start, gamma):
    toy, h = StagedToy(blocks, start), 1e-3
    low, high = toy.sharpness(gamma * np.exp([-h, h]))
    assert toy.exponent(gamma) == pytest.approx(-np.log(high / low) / (2 * h), abs=2e-5)


@settings(max_examples=25, deadline=None)
@given(start=STARTS)
def test_limits_and_the_side_that_they_are_met_from(start):
    toy = StagedToy((2, 2), start)
    assert toy.exponent(1e-11) == pytest.approx(2, abs=1e-6)
    far = np.array([1e14, 1e16])
    degree, exponent = toy.degree(far), toy.exponent(far)
    assert (degree < SETTLED_DEGREE).all()
    np.testing.assert_allclose(degree, SETTLED_DEGREE, atol=1e-2)
    assert (exponent < 2 / SETTLED_DEGREE).all()
    np.testing.assert_allclose(exponent, 2 / SETTLED_DEGREE, atol=5e-3)


def test_any_shape_and_order_of_strengths():
    toy, gamma = StagedToy((1, 2)), np.array([[100.0, 1.0], [3.0, 100.0]])
    degree = toy.degree(gamma)
    assert degree.shape == (2, 2)
    assert degree[0, 0] == degree[1, 1]
    assert float(degree[0, 1]) == pytest.approx(float(toy.degree(1.0)), rel=1e-8)


def test_bad_sizes_are_refused():
    with pytest.raises(InputError, match="blocks"):
        StagedToy((0, 2))
    with pytest.raises(InputError, match="blocks"):
        StagedToy((1, 2, 3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="start"):
        StagedToy((1, 2), (1.0, 1.0, 0.0, 1.0, 1.0))
    with pytest.raises(InputError, match="start"):
        StagedToy((1, 2), (1.0, 1.0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="strength"):
        StagedToy().weights(-1.0)
