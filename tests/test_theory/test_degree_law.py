"""The Euler-degree law: every step holds, none holds when its expression is another, and gradient descent obeys it."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from theory import InputError, ToyModel
from theory.degree_law import exponent_of_degree, sharpness_at_end, steps
from theory.euler_degree import degree_of_residual


def test_every_step_holds_and_a_changed_one_does_not():
    for step in steps():
        assert step.check(step.expression) is True, step.name
        # a bound is falsified only where it claims too much: 50 % more
        assert step.check(step.expression * sp.Rational(3, 2)) is not True, step.name


def test_the_exponent_is_that_of_the_toy_where_the_degree_is_its_depth():
    for layers in (2, 3, 6):
        limit = ToyModel().boundary("eta_crit").limit("rich", layers)
        assert exponent_of_degree(layers) == pytest.approx(float(limit.exponent))
        # all weights equal: F̂ = L^{−L/2}, Ĝ = L^{1−L/2}; the coefficient of η is 2/λ
        sharp = sharpness_at_end(1e6, degree=layers, unit_output=layers ** (-layers / 2),
                                 unit_gradient=layers ** (1 - layers / 2))  # fmt: skip
        assert 2 / sharp == pytest.approx(float(limit.coefficient) * 1e6 ** (2 / layers), rel=1e-12)


@pytest.mark.parametrize("powers", [(1.5, 0.7), (0.4, 0.5), (1.0, 2.0, 0.5)])
def test_gradient_descent_of_a_toy_of_any_degree_is_stable_up_to_the_law(powers):
    """Independent of differences: iterate GD around the minimum, and find the η at which it stops converging."""
    p, degree = np.array(powers), sum(powers)

    def stays(rate, weights, strength):
        at = weights * (1 + 1e-7 * p / weights**2 * np.min(weights) ** 2)
        for _ in range(400):
            output = np.prod(at**p)
            at = at - rate * (output / strength - 1) * output / strength * p / at
            if not np.isfinite(at).all() or (at <= 0).any():
                return False
        return abs(np.prod(at**p) / strength - 1) < 1e-7

    edges = []
    for strength in (1e4, 1e6):
        weights = np.sqrt(p) * (strength / np.prod(np.sqrt(p) ** p)) ** (1 / degree)  # the balanced minimum
        unit = weights / np.linalg.norm(weights)
        gradient = np.linalg.norm(np.prod(unit**p) * p / unit)
        law = 2 / sharpness_at_end(strength, degree=degree, unit_output=np.prod(unit**p), unit_gradient=gradient)
        assert stays(0.97 * law, weights, strength)
        assert not stays(1.03 * law, weights, strength)
        edges.append(law)
    assert np.log(edges[1] / edges[0]) / np.log(100) == pytest.approx(exponent_of_degree(degree), rel=1e-9)


def test_an_unsettled_degree_bends_the_slope():
    """F = r^d(1 + a r^k): the slope of (dF/dr)^−2 F², that is of the radial edge, by differences in 50 digits."""
    r = sp.Symbol("r", positive=True)
    output = r * (1 + sp.Rational(3, 10) * r**2)
    edge = (output / sp.diff(output, r)) ** 2
    slope = (sp.diff(sp.log(edge), r) / sp.diff(sp.log(output), r)).evalf
    for at in (0.1, 1.0, 3.0, 100.0):
        degree = degree_of_residual(at, ratio=0.3, branch_degree=2, stream_degree=1)
        low, high = (degree_of_residual(at * np.exp(s), ratio=0.3, branch_degree=2, stream_degree=1)
                     for s in (-1e-5, 1e-5))  # fmt: skip
        found = exponent_of_degree(degree, (high - low) / 2e-5)
        assert found == pytest.approx(float(slope(50, subs={r: at})), abs=1e-6)


def test_scale_invariant_weights_grow_until_large_steps_are_stable():
    """GD on a head and a direction: at η ∝ γ² the direction's norm ends ∝ γ, and training succeeds."""
    x, norms = np.array([0.6, -0.3, 0.9]), []
    for strength in (1e2, 1e3, 1e4):
        head, b, rate = 1.0, np.array([1.0, 0.5, 0.2]), 0.4 * strength**2
        for _ in range(3000):
            size = np.linalg.norm(b)
            cosine = x @ b / size
            pull = (head * cosine / strength - 1) / strength
            across = head * (x - (x @ b) * b / size**2) / size
            head, b = head - rate * pull * cosine, b - rate * pull * across
        assert head * (x @ b) / np.linalg.norm(b) / strength == pytest.approx(1, abs=1e-6)
        norms.append(np.linalg.norm(b))
    slopes = np.diff(np.log(norms)) / np.log(10)
    assert np.abs(slopes - 1).max() < 0.1


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: exponent_of_degree(0.0), "degree"),
        (lambda: exponent_of_degree(1.0, np.nan), "degree_slope"),
        (lambda: exponent_of_degree([1.0, 2.0], [1.0, 2.0, 3.0]), "degree_slope"),
        (lambda: sharpness_at_end(-1.0, degree=1, unit_output=1, unit_gradient=1), "strength"),
        (lambda: sharpness_at_end(1.0, degree=1, unit_output=0, unit_gradient=1), "unit_output"),
    ],
)
def test_bad_input(call, field):
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field
