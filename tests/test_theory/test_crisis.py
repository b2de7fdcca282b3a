"""eta_max/eta_crit. Oracles: the cubic of two layers solved by NumPy, and plain iteration of gradient descent."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import Derivation, InputError, ToyModel, crisis_ratio, symbols
from theory.crisis import CrisisRatio, crisis_equation, first_escape, steps, trapping_interval

L = symbols.depth
STEPS = steps()


def escapes(depth, ratio, count=4000, iterations=400):
    """Whether any of a grid of starts on the balanced line leaves |z| < 10 under gradient descent at ratio·eta_crit."""
    strength = 1.0  # gamma enters through the start only, so a grid of starts stands for every gamma
    eta = ratio * float(ToyModel().boundary("eta_crit").numeric(gamma=strength, depth=depth))
    scale = (1 + strength) ** (1 / depth)
    weights = np.linspace(1e-3, 1, count) * scale
    for _ in range(iterations):
        residual = (weights**depth - 1) / strength - 1
        weights = weights - eta / strength * weights ** (depth - 1) * residual
        if (np.abs(weights) > 10 * scale).any():
            return True
    return False


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6, 9])
def test_iteration_confirms_the_crisis(depth):
    ratio = crisis_ratio(depth)
    assert not escapes(depth, 0.995 * ratio)
    # above, the escaping starts form a set whose width grows with the distance: 2 % is wide enough for this grid
    assert escapes(depth, 1.02 * ratio)


def test_two_layers_solve_the_cubic():
    # 4(1+C)³ = 27(2+C), and r = C for L = 2
    roots = np.roots([4, 12, 12 - 27, 4 - 54])
    positive = roots[(abs(roots.imag) < 1e-6) & (roots.real > 0)].real
    assert positive == pytest.approx([2.0])
    assert crisis_ratio(2) == 2.0


def test_one_layer_is_the_linear_map():
    assert crisis_ratio(1) == 1.0
    assert ToyModel().boundary("eta_max").numeric(gamma=3.0, depth=1) == ToyModel().boundary("eta_crit").numeric(
        gamma=3.0, depth=1
    )


@pytest.mark.parametrize("depth", [3, 4, 7])
def test_the_critical_value_lies_on_an_orbit_of_period_two(depth):
    """At the crisis, by NumPy's polynomial roots: z_c is a critical point and g³(z_c) = g(z_c) with g²(z_c) < 0."""
    strength = 2 * crisis_ratio(depth) / depth
    polynomial = np.poly1d([-strength, *[0] * (depth - 1), strength, *[0] * (depth - 1)])
    polynomial += np.poly1d([1, 0])  # z - C z^(2L-1) + C z^(L-1)
    roots = polynomial.deriv().roots
    (critical,) = roots[(abs(roots.imag) < 1e-9) & (roots.real > 0)].real
    top = polynomial(critical)
    assert polynomial(top) < 0
    # the orbit is unstable with a multiplier of order 10 to 100, which amplifies rounding
    assert polynomial(polynomial(top)) == pytest.approx(top, rel=1e-10)


def test_symbolic_ratio():
    ratio = CrisisRatio(L)
    assert ratio.subs(L, 1) == 1
    assert ratio.subs(L, 2) == 2
    assert float(ratio.subs(L, 5)) == crisis_ratio(5)
    assert sp.latex(ratio**2) == "r_{L}^{2}"
    assert abs(sp.N(CrisisRatio(3), 30) - sp.N(CrisisRatio(3), 20)) < sp.Float("1e-19")


def test_ratio_grows_with_depth():
    # regression: observed for every depth tried; not proved
    ratios = [crisis_ratio(depth) for depth in range(1, 20)]
    assert ratios == sorted(ratios)


def test_regression_values():
    assert [crisis_ratio(depth) for depth in (3, 4, 5, 6)] == pytest.approx([2.150, 2.409, 2.494, 2.647], abs=5e-4)


def test_bad_depth():
    with pytest.raises(InputError, match="depth"):
        crisis_ratio(0)


def g(place, ratio, depth):
    """The map, with C = (2/L) ratio."""
    return place - 2 / depth * ratio * place ** (depth - 1) * (place**depth - 1)


@pytest.mark.parametrize("depth", [2, 4, 6])
def test_even_depths_by_numpy_roots_of_the_polynomial(depth):
    left, right = crisis_equation(depth)
    roots = np.roots([float(one) for one in sp.Poly(left - right, symbols.u).all_coeffs()])
    real = roots[np.abs(roots.imag) < 1e-7].real
    (u,) = real[(real > (depth - 1) / (2 * depth - 1)) & (real < 1)]
    ratio = depth / 2 * u ** (2 / depth - 1) / ((2 * depth - 1) * u - (depth - 1))
    assert ratio == pytest.approx(crisis_ratio(depth), rel=1e-6)  # at L = 6 the roots crowd around D = 0


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 9), st.floats(0.05, 1.0), st.floats(0.0, 1.0), st.floats(0.001, 1.0))
def test_the_trapping_interval(depth, fraction, part, beyond):
    ratio = fraction * crisis_ratio(depth)
    low, high = trapping_interval(depth, ratio)
    assert low < 0 < 1 < high
    tolerance = 1e-8 * high ** (2 * depth)  # small C put the ends far out, where the powers cancel
    assert g(high, ratio, depth) == pytest.approx(low, abs=tolerance)
    assert g(low, ratio, depth) == pytest.approx(high, abs=tolerance)
    image = g(low + part * (high - low), ratio, depth)
    assert low - tolerance <= image <= high + tolerance
    outside = high * (1 + beyond)  # a point outside has moved further out two steps later
    assert g(g(outside, ratio, depth), ratio, depth) > outside


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("gamma", [1e-3, 30.0])
def test_no_run_escapes_before_the_crisis_and_the_first_escape_comes_after(depth, gamma):
    found = float(first_escape(gamma, depth))
    assert found >= crisis_ratio(depth)
    ratios = np.concatenate([np.linspace(0.5, 1.0, 400) * crisis_ratio(depth), [found]])
    places = np.full(ratios.shape, (1 + gamma) ** (-1 / depth))
    for _ in range(3500):
        places = g(places, ratios, depth)
        places[np.abs(places) > 30] = np.nan
    assert not np.isnan(places[:-1]).any()
    # rounding of C = (2/L) ratio may move a chaotic orbit, so the last column is looked at in a neighbourhood
    near = found * (1 + 1e-9 * np.arange(-50, 51))
    places = np.full(near.shape, (1 + gamma) ** (-1 / depth))
    for _ in range(3500):
        places = g(places, near, depth)
        places[np.abs(places) > 30] = np.nan
    assert np.isnan(places).any()


def test_first_escape_takes_arrays():
    values = first_escape([[0.1], [10.0]], 4)
    assert values.shape == (2, 1)
    assert values.ravel() == pytest.approx(crisis_ratio(4), rel=1e-3)  # regression: very near the crisis at L = 4


def test_the_derivation_passes():
    assert sum(result.seconds for result in Derivation("crisis", STEPS).run()) < 10  # 0.02 s on one core


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("factor", [sp.Rational(19, 20), sp.Rational(21, 20)])
def test_a_wrong_expression_is_falsified(step, factor):
    wrong = dataclasses.replace(step, expression=step.expression * factor)
    assert not Derivation("wrong", (wrong,)).run(strict=False)[0].passed


def test_bad_values():
    with pytest.raises(InputError, match="depth"):
        first_escape(1.0, 1)
    with pytest.raises(InputError, match="gamma"):
        first_escape([1.0, 1e-12], 3)
    with pytest.raises(InputError, match="plateau"):
        first_escape(1e20, 5)
    with pytest.raises(InputError, match="ratio"):
        trapping_interval(3, 0)
    with pytest.raises(InputError, match="depth"):
        crisis_equation(1)
