"""Boundaries of trained networks follow the law: the small version of ``tests/heavy/test_compare_quick.py``.

And what a trace costs, against a dense grid of its resolution over six decades of η.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from empirical.shard import TrainingConfig
from empirical.sweep import Sweep
from empirical.trace import (
    NETWORK_TRACE,
    asymptotic_exponent,
    default_window,
    exact_law,
    expected_cells,
    fit_boundary,
    trace_networks,
)
from simulate import TraceSettings, find_bracket, trace_boundaries
from simulate.gradient_descent import run_gradient_descent
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


def test_seeds_may_begin_anywhere():
    """A seed's boundary does not depend on the others: to a bracket, which all seeds of a trace divide together."""
    sweep = Sweep(TrainingConfig(depth=2, width=8, image_size=7, batch_size=8, steps=60))
    gamma = np.array([1e-2, 1.0])
    both = trace_networks(sweep, gamma, ("eta_crit",), seeds=2, first_seed=3, settings=SETTINGS)["eta_crit"]
    later = trace_networks(sweep, gamma, ("eta_crit",), seeds=1, first_seed=4, settings=SETTINGS)["eta_crit"]
    assert set(both.seed) == {3, 4}
    assert set(later.seed) == {4}
    apart = np.log10(both.eta[both.seed == 4] / later.eta)
    assert (np.abs(apart) <= SETTINGS.resolution).all()
    assert (both.eta[both.seed == 3] != later.eta).any()


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


@pytest.mark.parametrize(
    ("boundary", "loss", "optimizer", "lazy", "rich"),
    [
        ("eta_max", "cross-entropy", "gd", 1, 2 / 3),  # THEORY: the residual is bounded, so that eta ~ gamma
        ("eta_crit", "cross-entropy", "gd", 2, 2 / 3),
        ("eta_crit", "mse", "momentum", 2, 2 / 3),
        ("eta_max", "mse", "momentum", 2, 2 / 3),  # held against eta_crit
        ("eta_min", "mse", "adam", 1, 1 / 3),
        ("eta_fail", "cross-entropy", "adam", 1, 1 / 3),
        ("eta_crit", "mse", "sign", 1, 1 / 3),
    ],
)
def test_laws_of_other_losses_and_optimizers(boundary, loss, optimizer, lazy, rich):
    law = {"depth": 3, "steps": 1000, "loss": loss, "optimizer": optimizer, "beta": 0.5}
    for regime, exponent, gamma in (("lazy", lazy, [1e-8, 1e-7]), ("rich", rich, [1e13, 1e14])):
        assert asymptotic_exponent(boundary, regime, 3, loss, optimizer) == pytest.approx(exponent)
        low, high = np.log10(exact_law(boundary, gamma, **law))
        assert high - low == pytest.approx(exponent, abs=1e-3)
    window = default_window(regime="lazy", gamma_range=(1e-6, 1.0), boundary=boundary, **law)
    assert 1e-6 <= window.low < window.high <= 1.0


STEPS, DECADES, RESOLUTION = 2000, 6, 0.02
AT_RESOLUTION = replace(NETWORK_TRACE, resolution=RESOLUTION)


class Meter:
    """Runs toy cells, and adds up the steps that they took."""

    def __init__(self):
        self.steps = self.cells = 0

    def __call__(self, gamma, eta, seed):
        ran = run_gradient_descent(gamma, eta, depth=3, steps=STEPS)
        self.steps += int(ran.steps_run.sum())
        self.cells += len(gamma)
        return ran


def from_four_decades_below(gamma):
    edge = exact_law("eta_crit", gamma, depth=3, steps=STEPS)
    return float(edge / 1e4), float(edge * 10 ** (DECADES - 4))


def from_the_laws(gamma):
    edge = float(exact_law("eta_crit", gamma, depth=3, steps=STEPS))
    return min(float(exact_law("eta_min", gamma, depth=3, steps=STEPS)), edge), 10 * edge


@pytest.mark.parametrize("span", [from_four_decades_below, from_the_laws])
def test_a_trace_costs_a_twelfth_of_the_dense_grid(span):
    """At most 8 % of the cell-steps, counting for both what cells ran before they diverged; the same boundary."""
    gammas, grid, trace = np.geomspace(1e-4, 30, 23), Meter(), Meter()
    points = trace_boundaries(trace, gammas, ("eta_crit",), span, settings=AT_RESOLUTION)["eta_crit"]
    assert len(points) == len(gammas)
    for gamma, eta in zip(points.gamma, points.eta, strict=True):
        line = from_four_decades_below(gamma)[0] * 10 ** np.arange(0, DECADES + 1e-9, RESOLUTION)
        cells = grid(np.full(len(line), gamma), line, np.zeros(len(line), dtype=np.int64))
        losses = (cells.final_loss, cells.peak_loss, cells.initial_loss)
        below, above = find_bracket("eta_crit", cells.outcome, *losses, noise_free=False)
        assert abs(np.log10(eta / np.sqrt(line[below] * line[above]))) <= RESOLUTION
    assert trace.steps <= 0.08 * grid.steps
    assert trace.cells <= 0.08 * grid.cells


def test_the_expected_size_of_a_trace_is_about_right():
    """It only serves the time left: within a factor of 1.5."""
    config, gammas, meter = TrainingConfig(depth=3, steps=STEPS), np.geomspace(1e-3, 10, 5), Meter()
    trace_boundaries(meter, gammas, ("eta_min", "eta_crit", "eta_fail"), from_the_laws, settings=AT_RESOLUTION)
    expected = expected_cells(config, gammas, 3, 1, AT_RESOLUTION)
    assert 1 / 1.5 < expected / meter.cells < 1.5


def test_the_best_learning_rate_lies_in_the_trained_band_and_no_cell_of_a_grid_beats_it_by_much():
    config = TrainingConfig(depth=2, width=16, image_size=7, batch_size=16, steps=120)
    sweep, gamma = Sweep(config), np.array([1e-3, 30.0])
    points = trace_networks(sweep, gamma, ("eta_star", "eta_crit"), seeds=1, settings=SETTINGS)
    assert list(points) == ["eta_star", "eta_crit"]
    star, crit = points["eta_star"], points["eta_crit"]
    assert len(star) == 2
    for i in range(2):
        assert star.eta_low[i] <= star.eta[i] <= star.eta_high[i]
        assert star.eta[i] <= crit.eta_high[i] * 1.01  # a trained cell, by definition below the first that is not
        grid = np.geomspace(0.05 * crit.eta[i], 2 * crit.eta[i], 25)
        losses = sweep.run_cells(np.full(25, gamma[i]), grid, np.zeros(25, dtype=np.int64)).final_loss
        here = sweep.run_cells(gamma[i : i + 1], star.eta[i : i + 1], np.zeros(1, dtype=np.int64)).final_loss[0]
        # the minimum is flat, and cells 0.12 decades apart are all that is asked for
        assert here <= 1.05 * np.nanmin(losses[np.isfinite(losses)])
