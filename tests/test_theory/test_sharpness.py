"""Hessians on the balanced line. Oracle: NumPy's eigenvalues of a finite-difference Hessian of the network's loss."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from theory import symbols
from theory.losses import MSE
from theory.sharpness import eigenvalues_at_start, hessian_eigenvalues, minimiser, sharpness_at_minimum
from theory.symbols import gamma, w

L = symbols.depth


def finite_difference_hessian(weights, strength, h=1e-4):
    """Central second differences; truncation ~ h² times fourth derivatives, rounding ~ 1e-16/h² = 1e-8."""

    def loss(place):
        return ((np.prod(place) - 1) / strength - 1) ** 2 / 2

    count = len(weights)
    unit = np.eye(count) * h
    rows = [
        [
            loss(weights + unit[i] + unit[j])
            - loss(weights + unit[i] - unit[j])
            - loss(weights - unit[i] + unit[j])
            + loss(weights - unit[i] - unit[j])
            for j in range(count)
        ]
        for i in range(count)
    ]
    return np.array(rows) / (4 * h * h)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("weight", [1.0, 1.2, 0.7])
def test_spectrum_on_the_balanced_line(depth, weight):
    strength = 2.5
    along, across = (
        float(value.subs(L, depth).subs({gamma: sp.Rational(5, 2), w: weight})) for value in hessian_eigenvalues(MSE)
    )
    measured = np.linalg.eigvalsh(finite_difference_hessian(np.full(depth, weight), strength))
    np.testing.assert_allclose(measured, sorted([along, *[across] * (depth - 1)]), atol=1e-5)


def test_start_and_minimum_in_closed_form():
    along, across = eigenvalues_at_start(MSE)
    assert sp.simplify(along - (L / gamma**2 - (L - 1) / gamma)) == 0
    assert across == 1 / gamma
    assert sp.solve(along, gamma) == [L / (L - 1)]  # the bowl turns into a saddle
    assert minimiser(MSE) == (1 + gamma) ** (1 / L)
    assert sp.simplify(sharpness_at_minimum(MSE) - L * (1 + gamma) ** (2 - 2 / L) / gamma**2) == 0
    sharpening = sp.simplify(sharpness_at_minimum(MSE) / across)
    assert sp.limit(sharpening.subs(L, 4) / gamma ** sp.Rational(1, 2), gamma, sp.oo) == 4  # L gamma^(1-2/L)
