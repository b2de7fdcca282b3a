"""Residual toys: every step holds and no other, closed forms agree with integrated flows, limits are limits."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from theory import InputError
from theory.degree_law import exponent_of_degree
from theory.residual import ResidualToy, steps

KINDS = [(1, True), (2, True), (4, True), (1, False), (2, False), (3, False)]


def test_every_step_holds_and_a_changed_one_does_not():
    for step in steps():
        assert step.check(step.expression) is True, step.name
        assert step.check(step.expression * sp.Rational(3, 2)) is not True, step.name


def output(theta, normalized):
    """F of separate weights: readout, stream, and two a block."""
    pairs = theta[2:].reshape(-1, 2).prod(1) / np.sqrt((len(theta) - 2) / 2)
    return theta[0] * theta[1] * np.prod(1 + pairs) if not normalized else theta[0] * (theta[1] + pairs.sum())


def gradient(theta, normalized):
    h = 1e-6 * theta
    return np.array([
        (output(theta + at, normalized) - output(theta - at, normalized)) / (2 * at.sum()) for at in np.diag(h)
    ])  # fmt: skip


@pytest.mark.parametrize(("blocks", "normalized"), KINDS)
def test_where_an_integrated_flow_of_the_loss_ends(blocks, normalized):
    """SciPy's flow of (f − 1)²/2 in time, from unequal scales of the layers, against the closed forms."""
    toy = ResidualToy(blocks, normalized, (0.5, 1.3, 0.6))
    for gamma in (0.3, 8.0, 500.0):
        start = np.array([0.5, 1.3, *[0.6] * (2 * blocks)])
        first = output(start, normalized)

        def slope(_, theta, first=first, gamma=gamma):
            return -((output(theta, normalized) - first) / gamma - 1) * gradient(theta, normalized) / gamma

        found = solve_ivp(slope, (0, 60 * gamma**2), start, method="LSODA", rtol=1e-9, atol=1e-11).y[:, -1]
        readout, stream, branch = toy.weights(gamma)
        np.testing.assert_allclose(found, [readout, stream, *[branch] * (2 * blocks)], rtol=1e-4)
        slopes = gradient(found, normalized)
        assert toy.sharpness(gamma) == pytest.approx(float(slopes @ slopes) / gamma**2, rel=1e-3)
        assert toy.degree(gamma) == pytest.approx(found @ slopes / output(found, normalized), rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS), start=st.tuples(*[st.floats(0.05, 3)] * 3), gamma=st.floats(-3, 8).map(lambda x: 10**x)
)
def test_the_exponent_is_the_slope_of_the_sharpness(kind, start, gamma):
    toy, h = ResidualToy(*kind, start), 1e-4
    low, high = toy.sharpness(gamma * np.exp([-h, h]))
    assert toy.exponent(gamma) == pytest.approx(-np.log(high / low) / (2 * h), abs=2e-5)


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), start=st.tuples(*[st.floats(0.05, 3)] * 3))
def test_limits(kind, start):
    toy = ResidualToy(*kind, start)
    assert toy.exponent(1e-9) == pytest.approx(2, abs=1e-6)
    settled = exponent_of_degree(toy.settled_degree)
    far = 1e12 ** (toy.settled_degree / 3)
    assert toy.degree(far) == pytest.approx(toy.settled_degree, abs=2e-3)
    assert toy.exponent(far) == pytest.approx(settled, abs=1e-3)
    assert toy.ray_exponent(far) == pytest.approx(settled, abs=1e-3)


@pytest.mark.parametrize(("blocks", "normalized"), KINDS)
def test_the_degree_is_on_the_wrong_side_of_the_limit(blocks, normalized):
    """Far out and with D within a tenth of its limit, 2/D is above 2/D∞ and the exponent below, whatever the start."""
    for start in [(1, 1, 1), (0.1, 1, 0.6), (0.03, 1, 0.3), (2, 0.5, 1)]:
        toy = ResidualToy(blocks, normalized, start)
        gamma = np.geomspace(1e4, 1e12, 400)
        degree, exponent = toy.degree(gamma), toy.exponent(gamma)
        near = (degree > 0.9 * toy.settled_degree) & (degree < 0.999 * toy.settled_degree)
        assert near.sum() > 10
        settled = exponent_of_degree(toy.settled_degree)
        assert (exponent_of_degree(degree[near]) > settled).all()
        assert (exponent[near] < settled).all()
        assert (exponent[near] > 0.87 * settled).all()


def test_bad_sizes_are_refused():
    with pytest.raises(InputError, match="blocks"):
        ResidualToy(0)
    with pytest.raises(InputError, match="start"):
        ResidualToy(1, start=(1.0, 0.0, 1.0))
    with pytest.raises(InputError, match="start"):
        ResidualToy(1, start=(1.0, 1.0))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="strength"):
        ResidualToy(1).weights(0.0)
