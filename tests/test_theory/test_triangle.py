"""Apex of the triangle of optimizability. Oracles: SciPy's root finder, and 50-digit arithmetic at L = 2."""

from __future__ import annotations

import math

import mpmath
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from theory import InputError, ToyModel, apex, apex_log10, symbols
from theory.symbols import level, steps
from theory.triangle import apex_equation, leading_form, two_layer_form

L = symbols.depth

MODEL = ToyModel()


@pytest.mark.parametrize("depth", [2, 3, 4, 8, 64])
@pytest.mark.parametrize("budget", [0.5, 8.0])
def test_boundaries_cross_at_the_apex(depth, budget):
    def gap(log_gamma):
        low = MODEL.boundary("eta_min").numeric(gamma=math.exp(log_gamma), depth=depth, steps=budget)
        return math.log(low / MODEL.boundary("eta_crit").numeric(gamma=math.exp(log_gamma), depth=depth))

    expected = brentq(gap, -30, 60, xtol=1e-13)
    assert math.log(apex(steps=budget, depth=depth)) == pytest.approx(expected, abs=1e-11)


@given(st.integers(3, 64), st.floats(0.5, 1e4), st.floats(0.5, 0.95))
def test_the_window_is_open_below_and_closed_above(depth, budget, part):
    place = apex(steps=budget, depth=depth, level=part)
    for factor, is_open in ((0.999, True), (1.001, False)):
        low = MODEL.boundary("eta_min").numeric(gamma=place * factor, depth=depth, steps=budget, level=part)
        assert (low < MODEL.boundary("eta_crit").numeric(gamma=place * factor, depth=depth)) == is_open


@pytest.mark.parametrize("budget", [0.03, 1.0, 20.0, 5000.0])
def test_two_layers_in_closed_form(budget):
    with mpmath.workdps(50):
        output = 1 - mpmath.sqrt(mpmath.mpf(0.9))
        expected = mpmath.log10(((1 - output) * mpmath.exp(2 * mpmath.mpf(budget)) - 1) / output)
    assert apex_log10(steps=budget, depth=2) == pytest.approx(float(expected), rel=1e-12)


def test_overflow_is_infinite_and_its_logarithm_is_not():
    assert apex(steps=1000, depth=2) == math.inf
    assert 869 < apex_log10(steps=1000, depth=2) < 870
    assert apex(steps=1e200, depth=3) == math.inf
    assert apex_log10(steps=1e200, depth=3) == pytest.approx(3 * (200 + math.log10(2 / 3)), rel=1e-12)


def test_both_formulas_meet_where_one_takes_over():
    # just below and just above the T at which the leading form is used
    switch = math.exp(650.0 / 3) * 3 / 2
    below, above = (apex_log10(steps=switch * (1 + shift), depth=3) for shift in (-1e-9, 1e-9))
    assert above - below == pytest.approx(3 * 2e-9 / math.log(10), rel=1e-3)


def test_degenerate_triangles():
    assert apex(steps=1, depth=1) == math.inf  # one layer: both boundaries are proportional to gamma²
    assert apex(steps=0.01, depth=3) == 0.0  # 2T below -ln(level)/2: nothing trains in so few steps
    assert apex_log10(steps=0.01, depth=1) == -math.inf


def test_symbolic_forms():
    assert sp.simplify(leading_form() - (2 * (L - 2) * steps / L) ** (L / (L - 2))) == 0
    output = 1 - sp.sqrt(level)
    assert sp.simplify(two_layer_form() - ((1 - output) * sp.exp(2 * steps) - 1) / output) == 0
    equation = apex_equation()
    values = {L: 3, level: sp.Rational(9, 10)}
    (strength,) = equation.rhs.free_symbols - {L, level}
    place = sp.Float(apex(steps=10, depth=3), 17)
    assert float(equation.rhs.subs(values).subs(strength, place).evalf()) == pytest.approx(10, rel=1e-9)


def test_regression_values():
    assert apex(steps=1000, depth=3) == pytest.approx(2.998e8, rel=1e-4)
    assert apex(steps=1000, depth=4) == pytest.approx(1.0084e6, rel=1e-4)
    assert MODEL.apex(steps=1000, depth=4) == apex(steps=1000, depth=4)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"depth": 0}, {"level": 1.0}])
def test_bad_input(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        apex(**({"steps": 10, "depth": 3} | wrong))
