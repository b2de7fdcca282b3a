"""Flow times. Oracles: quadrature of 1/(du/dt), an ODE solver on L separate weights, and the plateau's limit."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from theory import InputError, ToyModel, rescaled_time, symbols
from theory.flow import mse_time
from theory.symbols import eta, gamma, u

L = symbols.depth


def slowness(product, strength, depth):
    """dt/du at learning rate 1, from the flow equation."""
    return strength**2 / (depth * product ** (2 - 2 / depth) * (1 + strength - product))


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("strength", [0.1, 4.0, 200.0])
def test_closed_form_time_is_the_integral_of_the_flow(depth, strength):
    for output in (0.05, 0.5, 0.95):
        end = 1 + strength * output
        expected, error = quad(slowness, 1, end, args=(strength, depth), epsabs=0, epsrel=1e-11, limit=200)
        symbolic = mse_time().subs(L, depth).subs({gamma: sp.Rational(strength), eta: 1, u: sp.Rational(end)})
        assert float(symbolic.evalf(20)) == pytest.approx(expected, rel=1e-10 + error / expected)
        tau = rescaled_time(output=output, gamma=strength, depth=depth)
        assert float(tau) * strength == pytest.approx(expected, rel=1e-10 + error / expected)


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
@pytest.mark.parametrize("strength", [0.05, 50.0])
def test_eta_min_trains_in_time_under_an_ode_solver_on_separate_weights(depth, strength):
    budget, part = 40.0, 0.6
    rate = float(ToyModel().boundary("eta_min").numeric(gamma=strength, depth=depth, steps=budget, level=part))

    def velocity(_, weights):
        product = np.prod(weights)
        return -rate * ((product - 1) / strength - 1) * product / weights / strength

    end = solve_ivp(velocity, (0, budget), np.ones(depth), rtol=1e-10, atol=1e-12).y[:, -1]
    assert ((np.prod(end) - 1) / strength - 1) ** 2 == pytest.approx(part, rel=1e-7)


@given(st.floats(-6, 6), st.integers(1, 32), st.floats(1e-6, 0.9), st.floats(1.001, 1.1))
def test_time_grows_with_the_output(exponent, depth, output, factor):
    early, late = rescaled_time(output=np.array([output, output * factor]), gamma=10.0**exponent, depth=depth)
    assert 0 < early < late


@pytest.mark.parametrize("depth", [3, 5])
def test_plateau_time_of_large_gamma_does_not_contain_gamma(depth):
    taus = rescaled_time(output=0.5, gamma=np.array([1e12, 1e15, 1e18]), depth=depth)
    # corrections are of order gamma^-(1-2/L): 1e-4 at 1e12 and L = 3
    assert taus == pytest.approx([1 / (depth - 2)] * 3, rel=1e-3)


def test_broadcasting_and_errors():
    assert rescaled_time(output=np.full((2, 1), 0.5), gamma=np.ones(3), depth=3).shape == (2, 3)
    with pytest.raises(InputError, match="output"):
        rescaled_time(output=1.0, gamma=1.0, depth=3)
    with pytest.raises(InputError, match="gamma"):
        rescaled_time(output=0.5, gamma=0.0, depth=3)
    with pytest.raises(InputError, match="depth"):
        rescaled_time(output=0.5, gamma=1.0, depth=-1)
