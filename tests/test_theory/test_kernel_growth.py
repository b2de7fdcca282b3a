"""How the kernel grows from the start: every step holds and no other; flow times against the exact law and descent."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from theory import InputError, ToyModel
from theory.kernel_growth import STARTS, GrowingKernel, steps

TOYS = st.builds(GrowingKernel, st.integers(2, 8), st.sampled_from(STARTS), st.floats(0.4, 2.0))


def test_every_step_holds_and_a_changed_one_does_not():
    for step in steps():
        assert step.check(step.expression) is True, step.name
        assert step.check(step.expression * sp.Rational(3, 2)) is not True, step.name


@given(st.integers(2, 8), st.floats(-8, 6), st.sampled_from([0.99, 0.9, 0.3]))
def test_an_aligned_start_has_the_exact_law(layers, log_gamma, level):
    gamma = np.array([10**log_gamma])
    exact = ToyModel().boundary("eta_min").numeric(gamma=gamma, depth=layers, steps=500, level=level)
    np.testing.assert_allclose(GrowingKernel(layers).eta_min(gamma, steps=500, level=level), exact, rtol=1e-6)


@given(TOYS, st.floats(-3, 6))
def test_time_is_the_integral_of_one_over_the_kernel(toy, log_alignment):
    at = 10**log_alignment * np.exp(np.array([-1e-4, 0.0, 1e-4]))
    low, _, high = toy.time(at)
    assert (high - low) * toy.kernel(at)[1] == pytest.approx(at[2] - at[0], rel=1e-3)


@given(TOYS, st.floats(-4, 4))
def test_another_size_moves_gamma(toy, log_gamma):
    one, gamma = GrowingKernel(toy.layers, toy.start), np.array([10**log_gamma])
    moved = toy.size**2 * one.eta_min(gamma / toy.size**toy.layers, steps=100)
    np.testing.assert_allclose(toy.eta_min(gamma, steps=100), moved, rtol=1e-7)


@pytest.mark.parametrize("layers", [2, 3, 5])
@pytest.mark.parametrize("gamma", [0.01, 3.0, 300.0])
def test_descent_from_a_mirrored_start_takes_as_long(layers, gamma):
    """Separate weights in small steps: at η_min the loss is at the level when T steps are done."""
    count, level = 20_000, 0.9
    toy = GrowingKernel(layers, "mirrored", 0.8)
    eta = float(toy.eta_min(gamma, steps=count, level=level))
    paths, signs = np.full((2, layers), 0.8), np.array([[1.0], [-1.0]]) / np.sqrt(2)
    for _ in range(count):
        products = paths.prod(axis=1, keepdims=True)
        f = float((signs * products).sum()) / gamma
        paths = paths - eta * (f - 1) * signs * products / paths / gamma
    f = float((signs[:, 0] * paths.prod(axis=1)).sum()) / gamma
    assert (f - 1) ** 2 == pytest.approx(level, abs=2e-4)


def test_the_starts_differ_where_they_should():
    aligned, mirrored = GrowingKernel(3), GrowingKernel(3, "mirrored")
    assert aligned.kernel(1e-6) == pytest.approx(3 * (1 + 4e-6 / 3), rel=1e-10)
    assert mirrored.kernel(1e-6) == pytest.approx(3, rel=1e-10)
    assert mirrored.escape / aligned.escape == pytest.approx(np.sqrt(2))
    assert GrowingKernel(2).escape == np.inf
    assert aligned.kernel(np.ones((2, 3))).shape == (2, 3)


def test_bad_input():
    for wrong in ({"layers": 1}, {"layers": 2.5}, {"layers": 3, "start": "random"}, {"layers": 3, "size": 0.0}):
        with pytest.raises(InputError, match=list(wrong)[-1]):
            GrowingKernel(**wrong)
    for call in (lambda t: t.kernel(0.0), lambda t: t.time([-1.0]), lambda t: t.eta_min(-1.0, steps=3)):
        with pytest.raises(InputError):
            call(GrowingKernel(3))
    with pytest.raises(InputError, match="steps"):
        GrowingKernel(3).eta_min(1.0, steps=0)
