"""Boundaries of trained networks follow the law: the small version of ``tests/heavy/test_compare_quick.py``."""

from __future__ import annotations

import numpy as np
import pytest

from empirical.shard import TrainingConfig
from empirical.sweep import Sweep
from empirical.trace import asymptotic_exponent, exact_law, fit_boundary, trace_networks
from simulate import TraceSettings
from theory import ToyModel, fit_window

SETTINGS = TraceSettings(coarse=0.5, resolution=0.04, sections=4, guard_span=0.2, guard_spacing=0.1)


@pytest.mark.parametrize(("depth", "regime"), [(2, "lazy"), (2, "rich"), (3, "lazy"), (3, "rich")])
def test_slope_of_eta_crit_at_small_size(depth, regime):
    # width 24 on 7×7 images: coarser brackets and a smaller network than the quick preset's, so 0.15 and not 0.05
    steps = 400
    window = fit_window("eta_crit", depth, regime, steps, 0.05, 20.0, (1e-3, 3e3))
    gamma = np.geomspace(window.low, window.high, 5)
    sweep = Sweep(TrainingConfig(depth=depth, width=24, image_size=7, batch_size=32, steps=steps))
    points = trace_networks(sweep, gamma, ("eta_crit",), seeds=2, settings=SETTINGS)["eta_crit"]
    assert len(points) == 10
    assert (points.eta_low < points.eta_high).all()
    assert (np.log10(points.eta_high / points.eta_low) <= SETTINGS.resolution * (1 + 1e-6)).all()
    fit = fit_boundary(points, window, depth=depth, steps=steps, level=0.9, loss="mse")
    assert abs(fit.exponent - (2 if regime == "lazy" else 2 / depth)) < 0.15
    assert fit.n_gamma == 5


def test_laws_are_those_of_theory():
    gamma = np.geomspace(1e-4, 1e4, 7)
    model = ToyModel()
    for name, source in (("eta_crit", "eta_crit"), ("eta_fail", "eta_crit"), ("eta_max", "eta_max")):
        expected = model.boundary(source).numeric(gamma=gamma, depth=3)
        np.testing.assert_array_equal(exact_law(name, gamma, depth=3, steps=10), expected)
    expected = model.boundary("eta_min").numeric(gamma=gamma, depth=3, steps=50, level=0.5)
    np.testing.assert_array_equal(exact_law("eta_min", gamma, depth=3, steps=50, level=0.5), expected)


@pytest.mark.parametrize(("boundary", "regime", "exponent"), [("eta_crit", "lazy", 2), ("eta_min", "rich", 1)])
def test_asymptotic_exponents(boundary, regime, exponent):
    assert asymptotic_exponent(boundary, regime, 5) == exponent
    assert asymptotic_exponent("eta_fail", "rich", 5) == pytest.approx(0.4)
