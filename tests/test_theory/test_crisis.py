"""eta_max/eta_crit. Oracles: the cubic of two layers solved by NumPy, and plain iteration of gradient descent."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from theory import InputError, ToyModel, crisis_ratio, symbols
from theory.crisis import CrisisRatio

L = symbols.depth


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
