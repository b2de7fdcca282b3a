"""Closed forms of the flow. Oracles: the hypergeometric time, differentiation, exact times at large and small γ."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import InputError, rescaled_time
from theory.derivation import Derivation
from theory.flow import mse_antiderivative
from theory.flow_forms import (
    collapse_correction,
    collapse_curve,
    elementary_time,
    lazy_output,
    output_at_time,
    plateau_exit,
    scaled_antiderivative,
    steps,
)
from theory.symbols import depth, f, gamma, tau, v

layer_counts, strengths = st.integers(1, 8), st.floats(-6, 6).map(lambda power: 10.0**power)
logits = st.floats(-13.8, 13.8)  # outputs in (1e-6, 1 − 1e-6)


def test_every_step_survives_and_is_quick():
    results = Derivation("Closed forms of the flow", steps()).run()
    assert sum(result.seconds for result in results) < 2


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.name)
def test_a_wrong_expression_is_falsified(step):
    expression = step.expression
    if isinstance(expression, sp.Tuple):
        wrong = sp.Tuple(*expression[:-1], expression[-1] * sp.Rational(101, 100))
    else:
        wrong = sp.piecewise_fold(expression * sp.Rational(101, 100))
    assert step.check(wrong) is not True


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_elementary_time_by_differentiation(layers):
    (y,) = scaled_antiderivative(layers).free_symbols
    assert sp.simplify(sp.diff(scaled_antiderivative(layers), y) - 1 / (y ** (layers - 1) * (1 - y**layers))) == 0
    slope = gamma / layers * (1 + gamma * f) ** (sp.Rational(2, layers) - 2) / (1 - f)
    values = {gamma: sp.Rational(17, 5), f: sp.Rational(2, 7)}
    difference = (sp.diff(elementary_time(layers), f) / slope - 1).subs(values)
    assert abs(difference.evalf(30, chop=True)) < 1e-28
    assert elementary_time(layers).subs(f, 0) == 0


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("strength", ["1/1000", "3", "5000"])
def test_elementary_time_is_the_hypergeometric_one(layers, strength):
    rate, goal = sp.Rational(strength), sp.Rational(4, 9)
    primitive = mse_antiderivative(v).subs(depth, layers).subs(gamma, rate)
    expected = rate / layers * (primitive.subs(v, 1 + rate * goal) - primitive.subs(v, 1))
    found = elementary_time(layers).subs({gamma: rate, f: goal})
    assert abs(sp.N(found, 40) / sp.N(expected, 40) - 1) < 1e-30


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7])
def test_raw_outputs_collapse_with_an_error_of_second_order(layers):
    time = 0.6 / max(1, layers - 2)
    leading, first = (float(form(tau, layers).subs(tau, time)) for form in (collapse_curve, collapse_correction))
    large = np.array([1e4, 1e5]) * leading
    raw = large * output_at_time(tau=time, gamma=large, depth=layers)
    left = np.abs(raw - leading - first / large) / leading
    assert left[0] < 100 * 1e-8 * layers**2
    assert 80 < left[0] / left[1] < 125
    relative = -first / leading / leading
    assert 0.5 <= relative <= max(layers / 2, 0.5) + 1e-12


@pytest.mark.parametrize("layers", [1, 2, 3, 8])
def test_lazy_limit_with_an_error_of_second_order(layers):
    small = np.array([1e-2, 1e-3])
    times = 0.8 * small / layers
    stated = [float(lazy_output().subs({depth: layers, gamma: g, tau: t})) for g, t in zip(small, times, strict=True)]
    left = np.abs(output_at_time(tau=times, gamma=small, depth=layers) - stated)
    assert left[1] < 1e-5
    assert layers == 1 or 80 < left[0] / left[1] < 125


def test_plateau_exit():
    slope = sp.Symbol("g", positive=True)
    assert plateau_exit().subs(depth, 5) == 1 / (3 * slope)
    assert plateau_exit().subs(depth, 1) is sp.nan
    at_two = sp.log(gamma) / 2 + sp.log(f / (1 - f)) / 2
    values = {gamma: sp.Integer(10) ** 12, f: sp.Rational(513, 10000)}
    assert abs(float((elementary_time(2) - at_two).subs(values))) < 1e-10
    assert float(sp.log(f / (1 - f)).subs(values) / 2) == pytest.approx(-1.46, abs=0.005)


@settings(max_examples=150, deadline=None)
@given(layers=layer_counts, strength=strengths, logit=logits)
def test_round_trips(layers, strength, logit):
    output = 1 / (1 + np.exp(-logit))
    time = rescaled_time(output=output, gamma=strength, depth=layers)
    found = output_at_time(tau=time, gamma=strength, depth=layers)
    assert found == pytest.approx(output, rel=1e-9)
    assert rescaled_time(output=found, gamma=strength, depth=layers) == pytest.approx(time, rel=1e-9)


def test_vectorised_and_far_ends():
    times = np.geomspace(1e-12, 1e5, 60)
    found = output_at_time(tau=times[:, None], gamma=np.array([1e-3, 1.0, 1e4]), depth=3)
    assert found.shape == (60, 3)
    assert (np.diff(found, axis=0) >= 0).all()
    assert (found[-1, :2] == 1).all()
    assert output_at_time(tau=1e-12, gamma=1.0, depth=3) == pytest.approx(3e-12, rel=1e-9)
    assert isinstance(output_at_time(tau=0.1, gamma=1.0, depth=2), float)


@pytest.mark.parametrize("bad", [{"tau": 0}, {"tau": np.nan}, {"gamma": -1}, {"depth": 2.5}, {"depth": 0},
                                 {"tau": [1.0, 2.0], "gamma": [1.0, 2.0, 3.0]}])  # fmt: skip
def test_bad_input(bad):
    with pytest.raises(InputError):
        output_at_time(**{"tau": 0.1, "gamma": 1.0, "depth": 3, **bad})
    with pytest.raises(InputError):
        elementary_time(5)
