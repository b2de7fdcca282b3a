"""Fit windows. Oracle: the numeric exponent and boundaries themselves, evaluated at and beyond the window's ends."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from theory import InputError, ToyModel, fit_window

MODEL = ToyModel()


def distance(depth, strength, regime):
    limit = 2 if regime == "lazy" else 2 / depth
    return abs(float(MODEL.boundary("eta_crit").numeric_exponent(gamma=strength, depth=depth)) - limit)


@given(
    st.sampled_from(["eta_min", "eta_crit", "eta_max"]),
    st.integers(2, 6),
    st.sampled_from(["lazy", "rich"]),
    st.floats(0.01, 0.3),
    st.floats(100, 1e6),
)
def test_the_conditions_hold_at_both_ends(boundary, depth, regime, tolerance, budget):
    try:
        window = fit_window(boundary, depth, regime, budget, tolerance=tolerance)
    except InputError:
        assume(False)
    assert 1e-8 <= window.low < window.high <= 1e8
    for strength in (window.low, window.high):
        assert distance(depth, strength, regime) <= tolerance * (1 + 1e-9)
        ratio = MODEL.boundary("eta_crit").numeric(gamma=strength, depth=depth) / MODEL.boundary("eta_min").numeric(
            gamma=strength, depth=depth, steps=budget
        )
        if regime == "rich":
            assert ratio >= 30 * (1 - 1e-9)


def test_the_window_is_as_wide_as_the_conditions_allow():
    lazy = fit_window("eta_crit", 3, "lazy", 1000)
    assert distance(3, lazy.high * 1.001, "lazy") > 0.05
    rich = fit_window("eta_crit", 4, "rich", 1000, gamma_range=(1e-3, 1e12))
    assert distance(4, rich.low * 0.999, "rich") > 0.05
    beyond = rich.high * 1.001
    edge = MODEL.boundary("eta_crit").numeric(gamma=beyond, depth=4)
    assert edge / MODEL.boundary("eta_min").numeric(gamma=beyond, depth=4, steps=1000) < 30


def test_clipping_and_reason():
    window = fit_window("eta_min", 3, "rich", 1000, gamma_range=(1.0, 500.0))
    assert window.high == 500.0
    assert "clipped" in window.reason
    assert "eta_crit/eta_min >= 30" in window.reason
    assert "2/L" in window.reason
    assert "clipped" not in fit_window("eta_min", 6, "rich", 1000).reason
    one = fit_window("eta_crit", 1, "rich", 10)  # one layer: a single power law on the whole axis
    assert (one.low, one.high) == (1e-8, 1e8)


def test_empty_windows_are_refused_with_the_reason():
    with pytest.raises(InputError, match=r"steps.*must be larger, or margin smaller"):
        fit_window("eta_crit", 8, "rich", 50)
    with pytest.raises(InputError, match="gamma_range"):
        fit_window("eta_crit", 3, "rich", 1000, gamma_range=(1e-3, 1.0))
    with pytest.raises(InputError, match="gamma_range"):
        fit_window("eta_crit", 3, "lazy", 1000, gamma_range=(1.0, 1e-3))


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("boundary", ("eta_fail", 3, "lazy", 10)),
        ("depth", ("eta_crit", 0, "lazy", 10)),
        ("regime", ("eta_crit", 3, "ultra", 10)),
        ("steps", ("eta_crit", 3, "lazy", -1)),
    ],
)
def test_bad_input(named, arguments):
    with pytest.raises(InputError, match=named):
        fit_window(*arguments)
    with pytest.raises(InputError, match="tolerance"):
        fit_window("eta_crit", 3, "lazy", 10, tolerance=0)
