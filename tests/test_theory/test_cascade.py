"""Above the stability edge. Oracles: separate weights at high precision, NumPy's roots, Feigenbaum's constant."""

from __future__ import annotations

import dataclasses

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from theory import Derivation, InputError, crisis_ratio, symbols
from theory.cascade import (
    amplitude_coefficient,
    cycle_amplitude,
    doubling_ratio,
    flip_coefficient,
    steps,
    zero_crossing_ratio,
    zero_polynomial,
)

L = symbols.depth
STEPS = steps()
DEPTHS = [2, 3, 4, 5, 6]


def g(place, ratio, depth):
    """The map, with C = (2/L) ratio."""
    return place - 2 * ratio / depth * place ** (depth - 1) * (place**depth - 1)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("gamma", ["1e-3", "1", "1e3"])
def test_separate_weights_follow_the_map(depth, gamma):
    """60 chaotic steps of L separate weights, gradient by the product rule, against the map: 80 digits outlast them."""
    with mpmath.workdps(80):
        strength = mpmath.mpf(gamma)
        minimiser = (1 + strength) ** (mpmath.mpf(1) / depth)
        ratio = mpmath.mpf("1.4")
        eta = 2 * ratio * strength**2 / (depth * minimiser ** (2 * depth - 2))
        weights, place, farthest = [mpmath.mpf(1)] * depth, 1 / minimiser, 0
        for _ in range(60):
            residual = (mpmath.fprod(weights) - 1) / strength - 1
            weights = [
                weight - eta * residual * mpmath.fprod(weights[:i] + weights[i + 1 :]) / strength
                for i, weight in enumerate(weights)
            ]
            place = g(place, ratio, depth)
            farthest = max(farthest, abs(place - 1))
        assert abs(weights[0] / minimiser - place) < mpmath.mpf("1e-15")
        assert farthest > 0.1  # it has left the minimum, or the comparison would say little


def test_supercritical_at_every_depth():
    assert sp.expand(flip_coefficient() - sp.Rational(8, 3) * (L - 1) * (5 * L - 4)) == 0
    assert all(flip_coefficient().subs(L, depth) > 0 for depth in range(2, 50))
    assert flip_coefficient().subs(L, 1) == 0  # the linear map


@pytest.mark.parametrize("depth", DEPTHS)
def test_amplitude_by_iteration(depth):
    excess = 1e-4
    place = 1 - 0.9 * float(cycle_amplitude(depth, 1 + excess))
    for _ in range(60_000):  # the orbit attracts at the rate 8·10⁻⁴ a step
        place = g(place, 1 + excess, depth)
    measured = abs(place - g(place, 1 + excess, depth)) / 2
    assert measured == pytest.approx(float(cycle_amplitude(depth, 1 + excess)), rel=5 * excess)
    assert measured == pytest.approx(float(amplitude_coefficient().subs(L, depth)) * excess**0.5, rel=5 * excess)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_iteration_confirms_the_doublings(depth, order):
    """0.1 % of the gap on either side the period is 2^{order−1} and 2^{order}."""
    edge = doubling_ratio(depth, order)
    gap = 0.1 * (doubling_ratio(depth, order + 1) - edge)
    for ratio, period in ((edge - gap, 2 ** (order - 1)), (edge + gap, 2**order)):
        place = 0.9
        for _ in range(20_000):
            place = g(place, ratio, depth)
        orbit = [place]
        for _ in range(period):
            orbit.append(g(orbit[-1], ratio, depth))
        assert orbit[-1] == pytest.approx(place, abs=1e-9)
        if period > 1:
            assert abs(orbit[period // 2] - place) > 1e-5


@pytest.mark.parametrize("depth", DEPTHS)
def test_gaps_shrink_by_feigenbaums_constant(depth):
    values = [doubling_ratio(depth, order) for order in range(1, 9)]
    gaps = np.diff(values)
    # universality for maps with a quadratic maximum: 4.669201609…, approached geometrically
    assert gaps[-2] / gaps[-1] == pytest.approx(4.669201609, abs=5e-4)
    assert values[-1] < zero_crossing_ratio(depth) < crisis_ratio(depth)


def test_two_layers_in_closed_form():
    assert doubling_ratio(2) == 1.0
    assert doubling_ratio(2, 2) == pytest.approx(np.sqrt(5) - 1, rel=1e-14)
    assert zero_crossing_ratio(2) == pytest.approx(1.5 * np.sqrt(3) - 1, rel=1e-15)


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6, 7])
def test_zero_crossing_is_the_only_root_of_its_polynomial(depth):
    polynomial = zero_polynomial(depth)
    lowest = sp.Rational(depth - 1, 2 * depth - 1)
    assert polynomial.degree() == 2 * depth - 1
    assert polynomial.count_roots(lowest, 1) == 1  # Sturm, exact
    # the roots crowd around D = 0: beyond L = 5 float64 no longer tells them apart
    roots = np.roots([float(one) for one in polynomial.all_coeffs()]) if depth < 6 else polynomial.nroots(30)
    roots = np.array(roots, dtype=complex)
    real = roots[np.abs(roots.imag) < 1e-7].real
    (u,) = real[(real > float(lowest)) & (real < 1)]
    ratio = depth / 2 * u ** (2 / depth - 1) / ((2 * depth - 1) * u - (depth - 1))
    assert ratio == pytest.approx(zero_crossing_ratio(depth), rel=1e-8)


@pytest.mark.parametrize("depth", DEPTHS)
def test_what_happens_at_zero(depth):
    """Above the crossing nothing escapes; for every L ≥ 3 runs gather at zero, for odd L some never to come back."""
    ratio = 1.05 * zero_crossing_ratio(depth)
    places = np.linspace(0.3, 0.99, 500)  # from nearer to zero they leave it slowly
    for _ in range(2000):
        places = g(places, ratio, depth)
    assert (np.abs(places) < 2).all()
    below = places < 0
    assert 0 < below.mean() < 1 or depth == 3
    near = (np.abs(places) < 0.3).mean()
    assert near > 0.9 if depth > 2 else near < 0.5  # seen: 0.26, 1.00, 0.97, 1.00, 0.98
    if depth % 2:
        assert below.mean() > 0.8  # seen: 1.00 and 0.89 for L = 3 and 5
        creeping = places[below]
        assert (g(creeping, ratio, depth) > creeping).all()
        assert (g(creeping, ratio, depth) < 0).all()


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 9), st.floats(0.01, 1.0), st.floats(0.0, 1.0))
def test_below_the_crossing_the_positive_half_line_traps(depth, fraction, part):
    ratio = fraction * zero_crossing_ratio(depth)
    places = np.linspace(0, 2, 4001)
    images = g(places, ratio, depth)
    top = max(images.max(), 1.0)  # the start and the minimum lie inside
    if ratio * 2 < 1:  # monotone up to the minimum: the greatest value inside is at z = 1
        top = 1.0
    image = g(part * top, ratio, depth)
    assert -1e-6 <= image <= top + 1e-6  # the grid misses the maximum by 10⁻⁷


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([3, 5, 7, 9]), st.floats(0.1, 2.0), st.floats(0.001, 0.999))
def test_left_of_zero_odd_depths_creep_and_never_arrive(depth, ratio, part):
    strength = 2 / depth * ratio
    # the immediate basin ends where C a^{L−2}(1 + a^L) = 1
    grid = np.linspace(0, 3, 30_001)
    edge = grid[strength * grid ** (depth - 2) * (1 + grid**depth) < 1].max()
    place = -part * edge
    for _ in range(50):
        image = g(place, ratio, depth)
        assert place <= image < 0
        place = image


def test_regression_values():
    values = [zero_crossing_ratio(depth) for depth in DEPTHS]
    assert values == pytest.approx([1.5980762114, 1.8304981381, 1.9892890770, 2.1122477073, 2.2134753843], abs=1e-10)
    second = [doubling_ratio(depth, 2) for depth in DEPTHS]
    assert second == pytest.approx([1.2360679775, 1.2446073928, 1.2471692724, 1.2483771059, 1.2490755084], abs=1e-10)


def test_the_derivation_passes():
    assert sum(result.seconds for result in Derivation("cascade", STEPS).run()) < 10  # 0.2 s on one core


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("factor", [sp.Rational(19, 20), sp.Rational(21, 20)])
def test_a_wrong_expression_is_falsified(step, factor):
    wrong = dataclasses.replace(step, expression=step.expression * factor)
    assert not Derivation("wrong", (wrong,)).run(strict=False)[0].passed


@pytest.mark.parametrize("depth", [1, 0, 2.0, True, "3"])
def test_bad_depth(depth):
    for function in (doubling_ratio, zero_crossing_ratio, zero_polynomial):
        with pytest.raises(InputError, match="depth"):
            function(depth)


def test_bad_values():
    with pytest.raises(InputError, match="above 1"):
        cycle_amplitude(3, [1.1, 0.9])
    with pytest.raises(InputError, match="order"):
        doubling_ratio(3, 9)
    with pytest.raises(InputError, match="order"):
        doubling_ratio(3, 0)
    with pytest.raises(InputError, match="at most 12"):
        doubling_ratio(13)
