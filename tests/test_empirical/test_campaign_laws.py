"""Laws between boundaries, and eta_star, where the answer is known: the toy and functions with a given minimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empirical.campaign.laws import closing, compare_boundaries
from empirical.star import SPACING, Recording, trace_star, vertex
from empirical.trace import exact_law
from simulate import BoundaryPoints, CellResults, Outcome, Thresholds, TraceSettings, fit_power_law, trace_toy
from simulate.boundary import collect
from theory import ToyModel

LAZY = np.geomspace(1e-5, 1e-3, 6)
FINE = TraceSettings(resolution=0.002)


def exactly(name, gamma, eta, seeds=1, width=0.01):
    """Points whose brackets have one width, in decades, around η."""
    half = 10 ** (width / 2)
    return collect(name, [(g, s, e, e / half, e * half) for s in range(seeds) for g, e in zip(gamma, eta, strict=True)])


def test_eta_min_of_the_toy_falls_like_one_over_t():
    """Traced at two budgets; the exact law says T₁/T₂ when lazy, and near it when rich."""
    for gamma in (LAZY, np.geomspace(1e2, 1e4, 6)):
        traced = {T: trace_toy(loss="mse", depth=3, gamma=gamma, names=("eta_min",), steps=T, settings=FINE)
                  for T in (1000, 4000)}  # fmt: skip
        law = exact_law("eta_min", gamma, depth=3, steps=4000) / exact_law("eta_min", gamma, depth=3, steps=1000)
        ratio = compare_boundaries(traced[4000]["eta_min"], traced[1000]["eta_min"], law)
        # brackets of 0.002 decades are 0.5 %; T in steps against T in flow differs by 1/T
        assert ratio.ratio == pytest.approx(0.25, rel=0.01)
        assert ratio.predicted == pytest.approx(0.25, rel=1e-9)
        assert abs(ratio.slope.exponent) < 0.002


@pytest.mark.parametrize("beta", [0.3, 0.5])
def test_momentum_of_the_toy_gains_one_plus_beta(beta):
    """Once the overshoot of the first steps is allowed for (docs/simulation.md)."""
    gamma = np.geomspace(1e-4, 1e-3, 5)
    shared = {"loss": "mse", "depth": 2, "gamma": gamma, "names": ("eta_crit",), "steps": 3000, "settings": FINE}
    shared["thresholds"] = Thresholds(peak=1e3)
    plain = trace_toy(**shared)["eta_crit"]
    ball = trace_toy(**shared, optimizer="momentum", beta=beta)["eta_crit"]
    law = exact_law("eta_crit", gamma, depth=2, steps=3000, optimizer="momentum", beta=beta)
    law = law / exact_law("eta_crit", gamma, depth=2, steps=3000)
    ratio = compare_boundaries(ball, plain, law)
    assert ratio.predicted == pytest.approx(1 + beta, rel=1e-12)
    assert ratio.ratio == pytest.approx(1 + beta, rel=0.02)
    assert ratio.slope.verdict == "consistent"


def test_sign_descent_of_the_toy_has_exponents_1_and_1_over_l():
    for gamma, exponent in ((LAZY, 1), (np.geomspace(1e5, 1e8, 6), 1 / 3)):
        for name in ("eta_min", "eta_max"):
            law = exact_law(name, gamma, depth=3, steps=1000, optimizer="sign")
            assert fit_power_law(gamma, law).exponent == pytest.approx(exponent, abs=0.01)


def test_a_ratio_needs_no_more_than_common_points():
    gamma = np.geomspace(1, 100, 6)
    a, b = exactly("eta_crit", gamma, 3 * gamma, seeds=2), exactly("eta_crit", gamma[::-1], 2 * gamma[::-1], seeds=2)
    ratio = compare_boundaries(a, b, np.full(len(a), 1.5))
    assert ratio.n_points == 12
    assert ratio.ratio == pytest.approx(1.5, rel=1e-12)
    assert ratio.verdict == "consistent"
    assert compare_boundaries(a, exactly("eta_crit", gamma * 1.1, gamma)) is None
    off = compare_boundaries(a, b, np.full(len(a), 1.6))
    assert off.verdict == "inconsistent"


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 10), st.floats(-1, 1), st.integers(0, 99))
def test_ratio_of_power_laws(factor, power, seed):
    """a/b of two noisy power laws: the intervals hold factor and power in all but a few draws; the mean always near."""
    rng = np.random.default_rng(seed)
    gamma = np.geomspace(0.1, 10, 7)  # centred at 1, so that the mean ratio is the factor
    noise = np.exp(0.01 * rng.normal(size=7))
    ratio = compare_boundaries(
        exactly("eta_crit", gamma, factor * gamma ** (1 + power) * noise), exactly("eta_crit", gamma, gamma)
    )
    assert ratio.ratio == pytest.approx(factor, rel=0.03)  # 0.01/√7 is 0.004
    assert ratio.slope.exponent == pytest.approx(power, abs=0.03)
    assert ratio.verdict == "undetermined"  # nothing was predicted


@pytest.mark.parametrize(("depth", "steps"), [(3, 1000), (4, 1000), (4, 300)])
def test_the_apex_is_where_the_exact_lines_meet(depth, steps):
    apex = ToyModel().apex(steps=steps, depth=depth)
    names = ("eta_min", "eta_crit")
    for top, extrapolated in ((1.2, False), (0.9, True)):
        gamma = np.geomspace(apex * 0.6, apex * top, 5)
        lines = [exactly(n, gamma, exact_law(n, gamma, depth=depth, steps=steps)) for n in names]
        found = closing(*lines)
        assert found.extrapolated is extrapolated
        assert found.gamma == pytest.approx(apex, rel=0.01)  # the lines are curved


def test_nothing_closes_where_the_window_widens():
    gamma = np.geomspace(1, 10, 4)
    assert closing(exactly("eta_min", gamma, gamma), exactly("eta_crit", gamma, 2 * gamma**2)) is None
    for power, there in ((0.5, True), (0.99, False)):  # closed at γ = 2^(1/(1 − power)): 4, and 10^30
        found = closing(exactly("eta_min", gamma, gamma / 20), exactly("eta_crit", gamma, 2 * gamma**power / 20))
        assert (found is not None) is there


def parabola(best, curvature, noise=0.0, edge=np.inf):
    """Cells whose loss has its minimum at ``best``·γ and which diverge from ``edge``·γ on."""

    def run(gamma, eta, seed):
        x = np.log(eta / (best * gamma))
        wobble = np.array([np.random.default_rng(int(1e6 * abs(e)) % 2**32).normal() for e in x]) if noise else 0.0
        loss = 0.1 * np.exp(curvature * x**2 / 2 + noise * wobble)
        lost = eta >= edge * gamma
        outcome = np.where(lost, Outcome.DIVERGED, np.where(loss < 0.9, Outcome.TRAINED, Outcome.UNTRAINED))
        one = np.ones_like(loss)
        final = np.where(lost, np.nan, loss)
        return CellResults(outcome.astype(np.int8), final, one, one, one, np.full(len(loss), 10))

    return run


GAMMAS = np.geomspace(0.1, 10, 4)


def scanned(run):
    recording = Recording(run)
    for seed in (0, 1):
        for g in GAMMAS:
            eta = g * np.geomspace(1e-2, 1e3, 11)
            recording(np.full(11, g), eta, np.full(11, seed))
    return recording


def test_eta_star_of_a_parabola_is_its_vertex():
    recording = scanned(parabola(1.7, 0.3))
    points = trace_star(recording, GAMMAS, (0, 1))
    assert len(points) == 8
    np.testing.assert_allclose(points.eta / points.gamma, 1.7, rtol=1e-6)
    assert (points.eta_low <= points.eta).all()
    assert (points.eta <= points.eta_high).all()
    table = recording.table()
    line = table["eta"][(table["gamma"] == GAMMAS[0]) & (table["seed"] == 0)]
    best = np.argmin(np.abs(np.log(line / (1.7 * GAMMAS[0]))))
    assert np.diff(np.log10(line))[best - 1 : best + 1].max() <= SPACING * (1 + 1e-9)


def test_eta_star_at_the_edge_is_bracketed_by_its_neighbours():
    points = trace_star(scanned(parabola(100.0, 0.3, edge=2.0)), GAMMAS, (0, 1))
    assert (points.eta < 2 * points.gamma).all()
    assert (points.eta_low < points.eta).all()
    np.testing.assert_allclose(points.eta_high, points.eta)


def test_the_interval_of_a_vertex_holds_it():
    """95 % of 400 noisy parabolas; a binomial standard deviation is 1.1 %."""
    eta, rng, held = np.geomspace(0.3, 3, 9), np.random.default_rng(0), 0
    for _ in range(400):
        loss = np.exp(0.5 * np.log(eta / 1.2) ** 2 + 0.02 * rng.normal(size=9))
        _, low, high = vertex(eta, loss)
        held += low <= 1.2 <= high
    assert 0.91 <= held / 400 <= 0.985


def test_no_vertex_where_there_is_none():
    eta = np.geomspace(0.1, 1, 6)
    assert vertex(eta, eta) is None  # a straight line, or its vertex far outside
    assert vertex(eta, np.exp(-(np.log(eta) ** 2))) is None  # opens downwards
    assert vertex(eta[:4], eta[:4]) is None  # too few
    assert isinstance(trace_star(scanned(parabola(1.0, 1.0)), GAMMAS, (0,)), BoundaryPoints)
