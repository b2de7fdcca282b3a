"""Boundaries of the scalar model.

Oracles, none of which shares a formula with the package: NumPy's eigenvalues of the L×L Hessian assembled from the
network's derivatives, 50-digit quadrature of the flow equation dw/dt = -(1/gamma) w^(L-1) l'(f) in the weight,
and central differences.
"""

from __future__ import annotations

import time

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from theory import InputError, ToyModel, symbols
from theory.symbols import gamma, level, steps

L = symbols.depth

MODEL = ToyModel(loss="mse", optimizer="gd")
NAMES = ("eta_min", "eta_crit", "eta_max")
GAMMAS = np.array([1e-8, 1e-5, 0.01, 0.3, 1.0, 7.0, 1e3, 1e6, 1e8])

gammas = st.floats(-8, 8).map(lambda exponent: 10.0**exponent)
depths = st.integers(1, 64)
levels = st.floats(0.01, 0.99)


def numeric(name, **kwargs):
    if name != "eta_min":
        kwargs.pop("steps", None), kwargs.pop("level", None)
    return MODEL.boundary(name).numeric(**kwargs)


def hessian(weights, strength):
    """Hessian of (f - 1)²/2 at given weights: ∂f∂f + (f - 1) ∂∂f, from products that leave out one or two weights."""
    count = len(weights)
    without = [np.prod(np.delete(weights, i)) for i in range(count)]
    second = np.array([
        [0.0 if i == j else np.prod(np.delete(weights, [i, j])) for j in range(count)] for i in range(count)
    ])
    residual = (np.prod(weights) - 1) / strength - 1
    return np.outer(without, without) / strength**2 + residual * second / strength


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_eta_crit_is_two_over_the_largest_hessian_eigenvalue(depth, strength):
    minimum = np.full(depth, (1 + strength) ** (1 / depth))
    largest = np.linalg.eigvalsh(hessian(minimum, strength))[-1]
    # eigvalsh is accurate to a few ulp of the norm, the residual at the minimum to ulp/gamma
    assert numeric("eta_crit", gamma=strength, depth=depth) == pytest.approx(2 / largest, rel=1e-11)


def exact_flow_steps(strength, depth, part):
    """eta·T of the flow by 50-digit quadrature of dt = dw / ((1/gamma) w^(L-1) (1 - f)), in y = ln w."""
    with mpmath.workdps(50):
        strength, part = mpmath.mpf(strength), mpmath.mpf(part)
        end = mpmath.log(1 + strength * (1 - mpmath.sqrt(part))) / depth

        def waiting(y):
            residual = 1 - mpmath.expm1(depth * y) / strength
            return strength * mpmath.exp((2 - depth) * y) / residual

        return mpmath.quad(waiting, mpmath.linspace(0, end, 12))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7, 64])
@pytest.mark.parametrize("part", [0.9, 0.05])
def test_eta_min_matches_50_digit_quadrature(depth, part):
    ours = numeric("eta_min", gamma=GAMMAS, depth=depth, steps=1000, level=part)
    for strength, value in zip(GAMMAS, ours, strict=True):
        exact = exact_flow_steps(strength, depth, part) / 1000
        assert abs(float(value / exact - 1)) < 1e-13, (strength, value, exact)


@pytest.mark.parametrize("depth", [2, 3, 64])
@pytest.mark.parametrize("part", [1 - 1e-9, 1e-9])
def test_eta_min_keeps_its_digits_at_extreme_levels(depth, part):
    for strength in (1e-8, 1.0, 1e8):
        exact = exact_flow_steps(strength, depth, part) / 10
        value = numeric("eta_min", gamma=strength, depth=depth, steps=10, level=part)
        assert abs(float(value / exact - 1)) < 1e-13, (strength, value, exact)


@pytest.mark.parametrize("depth", [1, 2, 3, 17, 64])
def test_eta_crit_matches_50_digits(depth):
    with mpmath.workdps(50):
        for strength, value in zip(GAMMAS, numeric("eta_crit", gamma=GAMMAS, depth=depth), strict=True):
            exact_gamma = mpmath.mpf(strength)
            gradient_entry = (1 + exact_gamma) ** (mpmath.mpf(depth - 1) / depth) / exact_gamma
            assert abs(float(value * depth * gradient_entry**2 / 2 - 1)) < 1e-14


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_expression_and_numeric_form_are_the_same_function(name, depth):
    expression = MODEL.boundary(name).expr.subs(L, depth).subs({steps: 123, level: sp.Rational(3, 4)})
    for strength in (1e-6, 0.5, 2e5):
        exact = sp.N(expression.subs(gamma, sp.Rational(strength)), 30)
        ours = numeric(name, gamma=strength, depth=depth, steps=123, level=0.75)
        assert abs(float(ours / exact - 1)) < 1e-13


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [1, 2, 3, 64])
def test_local_exponent_is_the_central_difference(name, depth):
    h = 1e-4  # truncation ~ h² times a third derivative below 1; rounding ~ 1e-15/h
    low, high = (numeric(name, gamma=GAMMAS * np.exp(shift), depth=depth, steps=50, level=0.5) for shift in (-h, h))
    slope = MODEL.boundary(name).numeric_exponent(gamma=GAMMAS, depth=depth, steps=50, level=0.5)
    np.testing.assert_allclose(slope, np.log(high / low) / (2 * h), rtol=0, atol=2e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_symbolic_and_numeric_exponents_agree(name, depth):
    expression = MODEL.boundary(name).local_exponent.subs(L, depth).subs({steps: 123, level: sp.Rational(3, 4)})
    for strength in (1e-3, 4.0, 1e6):
        exact = float(sp.N(expression.subs(gamma, sp.Rational(strength)), 25))
        ours = MODEL.boundary(name).numeric_exponent(gamma=strength, depth=depth, steps=123, level=0.75)
        assert ours == pytest.approx(exact, rel=1e-12)


@given(strength=gammas, depth=depths, part=levels, budget=st.floats(0.1, 1e9))
def test_eta_min_is_inverse_in_steps_and_its_exponent_does_not_depend_on_them(strength, depth, part, budget):
    once = numeric("eta_min", gamma=strength, depth=depth, steps=budget, level=part)
    twice = numeric("eta_min", gamma=strength, depth=depth, steps=2 * budget, level=part)
    assert twice == pytest.approx(once / 2, rel=1e-14)


@given(strength=gammas, depth=depths, part=levels, factor=st.floats(1.001, 100))
def test_boundaries_grow_with_gamma_and_eta_min_falls_with_the_level(strength, depth, part, factor):
    for name in NAMES:
        low, high = numeric(name, gamma=np.array([strength, strength * factor]), depth=depth, steps=9, level=part)
        assert low < high
    easier = numeric("eta_min", gamma=strength, depth=depth, steps=9, level=part + (1 - part) / 2)
    assert easier < numeric("eta_min", gamma=strength, depth=depth, steps=9, level=part)


@given(strength=gammas, depth=depths, part=levels)
def test_exponents_stay_between_their_limits(strength, depth, part):
    crit = MODEL.boundary("eta_crit").numeric_exponent(gamma=strength, depth=depth)
    assert 2 / depth - 1e-12 <= crit <= 2 + 1e-12
    low = MODEL.boundary("eta_min").numeric_exponent(gamma=strength, depth=depth, steps=1, level=part)
    # tau grows from gamma/L·(-ln(1-f)) to a constant (L > 2): never faster than gamma², never falling
    assert 0 < low <= 2 + 1e-12


@given(strength=gammas, depth=st.integers(2, 64), part=levels)
def test_eta_min_lies_between_its_elementary_bounds(strength, depth, part):
    """(1+γs)^(2/L-2) lies between (1+γs)^-2 and 1 under the integral, and both of those integrate by hand."""
    output, one_plus = 1 - np.sqrt(part), 1 + strength
    integral = numeric("eta_min", gamma=strength, depth=depth, steps=1, level=part) * depth / strength**2
    upper = -np.log1p(-output)
    # partial fractions of 1/((1+γs)²(1-s))
    lower = upper / one_plus**2 + np.log1p(strength * output) / one_plus**2
    lower += strength / one_plus * output / (1 + strength * output)
    assert lower * (1 - 1e-12) <= integral <= upper * (1 + 1e-12)


def test_shapes_and_dtype():
    grid = np.array([[1, 2], [3, 4]])
    for name in NAMES:
        values = numeric(name, gamma=grid, depth=3, steps=10)
        assert values.shape == (2, 2)
        assert values.dtype == np.float64
        assert np.ndim(numeric(name, gamma=2.0, depth=3, steps=10)) == 0
        assert values[1, 0] == numeric(name, gamma=3.0, depth=3, steps=10)


def test_no_overflow_at_the_ends_of_float64():
    ends = np.array([1e-150, 1e150, 1e300])
    for name in NAMES:
        for depth in (2, 3, 64):
            values = numeric(name, gamma=ends, depth=depth, steps=1000)
            assert np.isfinite(values).all()
            assert (values > 0).all()


def test_limits_and_local_exponent_for_symbolic_depth():
    crit, low, high = (MODEL.boundary(name) for name in ("eta_crit", "eta_min", "eta_max"))
    assert sp.simplify(crit.local_exponent - 2 * (L + gamma) / (L * (1 + gamma))) == 0
    assert sp.simplify(high.local_exponent - crit.local_exponent) == 0
    assert (crit.limit("lazy").exponent, crit.limit("rich").exponent) == (2, 2 / L)
    assert (crit.limit("lazy").coefficient, crit.limit("rich").coefficient) == (2 / L, 2 / L)
    assert (low.limit("lazy").exponent, low.limit("rich").exponent) == (2, 1)
    assert sp.simplify(low.limit("lazy").coefficient + sp.log(level) / (2 * L * steps)) == 0
    assert sp.simplify(low.limit("rich").coefficient - 1 / ((L - 2) * steps)) == 0
    assert low.limit("rich").condition == (L > 2)
    assert low.limit("rich", depth=1).exponent == 2
    assert high.expr.subs(L, 2) == 2 * crit.expr.subs(L, 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_limits_hold_far_out(name, depth):
    for regime, strength, tolerance in (("lazy", 1e-9, 1e-8), ("rich", 1e300, 1e-12)):
        limit = MODEL.boundary(name).limit(regime, depth)
        value = (limit.coefficient * gamma**limit.exponent).subs({steps: 77, level: sp.Rational(9, 10)})
        predicted = float(sp.N(value.subs(gamma, sp.Rational(strength)), 20)) if depth > 1 or regime == "lazy" else None
        if predicted is not None:
            assert numeric(name, gamma=strength, depth=depth, steps=77) == pytest.approx(predicted, rel=tolerance)


def test_latex_names_the_boundary():
    assert MODEL.boundary("eta_crit").latex().startswith(r"\eta_{\mathrm{crit}} = ")
    assert r"\gamma" in MODEL.boundary("eta_min").latex()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"gamma": np.array([1.0, np.nan])}, "gamma"),
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": -1.0}, "gamma"),
        ({"gamma": np.inf}, "gamma"),
        ({"gamma": []}, "gamma"),
        ({"depth": 0}, "depth"),
        ({"depth": 2.5}, "depth"),
        ({"depth": 3.0}, "depth"),
        ({"steps": 0}, "steps"),
        ({"steps": float("nan")}, "steps"),
        ({"steps": None}, "steps"),
        ({"level": 0.0}, "level"),
        ({"level": 1.0}, "level"),
        ({"level": "0.9"}, "level"),
    ],
)
def test_bad_input_is_refused_by_name(wrong, named):
    arguments = {"gamma": 1.0, "depth": 3, "steps": 10} | wrong
    for method in (MODEL.boundary("eta_min").numeric, MODEL.boundary("eta_min").numeric_exponent):
        with pytest.raises(InputError, match=f"^{named} = "):
            method(**arguments)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"loss.*mse"):
        ToyModel(loss="hinge")
    with pytest.raises(InputError, match=r"optimizer.*gd"):
        ToyModel(optimizer="adam")
    with pytest.raises(InputError, match="boundary"):
        MODEL.boundary("eta_fail")
    with pytest.raises(InputError, match="regime"):
        MODEL.boundary("eta_crit").limit("ultra")


def test_a_million_points_are_a_matter_of_seconds():
    strengths = np.logspace(-8, 8, 10**6)
    start = time.perf_counter()
    numeric("eta_min", gamma=strengths, depth=3, steps=1000)
    assert time.perf_counter() - start < 10  # about 0.3 s on one slow core: only a loop over points would miss this


def test_regression_values():
    # successive rich decades of eta_min at L = 3 (exact slopes between decade ends)
    decades = numeric("eta_min", gamma=np.array([1e2, 1e3, 1e4, 1e5]), depth=3, steps=1000)
    np.testing.assert_allclose(np.diff(np.log10(decades)), [1.21, 1.08, 1.03], atol=0.01)
