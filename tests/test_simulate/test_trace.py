"""Traced boundaries, on synthetic networks whose boundaries are known in advance.

A synthetic network is a function (γ, η, seed) -> letter: ``u`` untrained, ``t`` trained, ``x`` unstable, ``D``
diverged. The trace must bracket the edges of such a function, whatever its scans happen to hit.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulate import (
    BOUNDARIES,
    CellResults,
    Outcome,
    TraceSettings,
    find_bracket,
    trace_boundaries,
)
from simulate.toy import TOY_TRACE
from theory.errors import InputError

CODES = {
    ".": (Outcome.NOT_RUN, math.nan, math.nan),
    "u": (Outcome.UNTRAINED, 1.0, 1.0),
    "t": (Outcome.TRAINED, 1e-6, 1.0),
    "x": (Outcome.UNSTABLE, 2.0, 3.0),
    "D": (Outcome.DIVERGED, math.nan, math.inf),
}


class Network:
    """Runs cells by a rule, and keeps count of what was asked of it."""

    def __init__(self, rule):
        self.rule, self.asked, self.calls = rule, Counter(), 0

    def __call__(self, gamma, eta, seed):
        assert gamma.shape == eta.shape == seed.shape
        assert gamma.ndim == 1
        self.calls += 1
        self.asked.update(zip(gamma.tolist(), eta.tolist(), seed.tolist(), strict=True))
        letters = [self.rule(*cell) for cell in zip(gamma, eta, seed, strict=True)]
        outcome, tail, peak = (np.array(column) for column in zip(*(CODES[x] for x in letters), strict=True))
        n = len(letters)
        return CellResults(outcome.astype(np.int8), tail, np.ones(n), peak, np.full(n, math.nan), np.full(n, 10))

    def reach(self):
        etas = [eta for _, eta, _ in self.asked]
        return min(etas), max(etas)


def steps_at(minimum, crit, divergence=math.inf):
    """Untrained below ``minimum``, trained to ``crit``, unstable to ``divergence``; edges belong to the upper side."""

    def rule(_gamma, eta, _seed):
        return "u" if eta < minimum else "t" if eta < crit else "x" if eta < divergence else "D"

    return rule


def width(points):
    return np.log10(points.eta_high / points.eta_low)


def assert_brackets(points, truth, resolution):
    assert (points.eta_low < truth).all()
    assert (truth <= points.eta_high).all()
    np.testing.assert_allclose(points.eta, np.sqrt(points.eta_low * points.eta_high), rtol=1e-12)
    assert (width(points) <= resolution * (1 + 1e-6)).all()  # rounding of the logarithms


GAMMA = np.geomspace(1e-3, 1e3, 7)


@pytest.mark.parametrize("noise_free", [False, True])
@pytest.mark.parametrize("trace", [TraceSettings(), TOY_TRACE], ids=["network", "toy"])
def test_steps_are_bracketed_to_the_resolution(trace, noise_free):
    def rule(gamma, eta, seed):
        return steps_at(0.013 * gamma, 0.7 * gamma, 6.1 * gamma)(gamma, eta, seed)

    network = Network(rule)
    found = trace_boundaries(
        network, GAMMA, BOUNDARIES, lambda g: (1e-3 * g, 100 * g), settings=trace, noise_free=noise_free
    )
    assert tuple(found) == BOUNDARIES
    for name, share in (("eta_min", 0.013), ("eta_crit", 0.7), ("eta_fail", 0.7), ("eta_max", 6.1)):
        np.testing.assert_array_equal(found[name].gamma, GAMMA)
        assert_brackets(found[name], share * GAMMA, trace.resolution)
    star = found["eta_star"]
    assert ((star.eta >= 0.013 * GAMMA) & (star.eta < 0.7 * GAMMA)).all()
    assert set(network.asked.values()) == {1}  # no cell is paid for twice


def test_lines_go_on_together():
    network = Network(steps_at(0.01, 1.0))
    few = trace_boundaries(network, GAMMA[:1], ("eta_crit",), lambda _: (1e-3, 10.0))
    alone, network.calls = network.calls, 0
    many = trace_boundaries(network, GAMMA, ("eta_crit",), lambda _: (1e-3, 10.0), seeds=(0, 1))
    assert network.calls <= alone + 2  # one call a round: the number of lines costs no rounds
    assert few["eta_crit"].eta[0] == many["eta_crit"].eta[0]  # nor does a line notice the others


def test_each_seed_has_its_boundary():
    seeds = (3, 5, 8)

    def rule(gamma, eta, seed):
        return steps_at(0.01 * gamma, gamma * 1.5**seed)(gamma, eta, seed)

    points = trace_boundaries(Network(rule), GAMMA, ("eta_crit",), lambda g: (0.1 * g, 10 * g), seeds=seeds)["eta_crit"]
    np.testing.assert_array_equal(points.seed, np.repeat(seeds, len(GAMMA)))
    np.testing.assert_array_equal(points.gamma, np.tile(GAMMA, 3))
    assert_brackets(points, points.gamma * 1.5**points.seed, 0.02)


# --- guard scan -----------------------------------------------------------------------------------------------------


def notched(_gamma, eta, _seed):
    """Trained up to 1, but for a notch of 0.07 decades that a scan at 0.25 decades mostly steps over."""
    return "x" if 10**-0.2 <= eta < 10**-0.13 else steps_at(1e-3, 1.0)(_gamma, eta, _seed)


def test_the_guard_scan_finds_an_isolated_failure_below_the_bracket():
    many = np.geomspace(1.0, 10.0, 20)  # the lines' scans start at different places: some hit the notch, most do not
    span = (1e-2, 10.0)
    points = trace_boundaries(Network(notched), many, ("eta_crit", "eta_fail"), lambda _: span)
    for name in ("eta_crit", "eta_fail"):
        assert_brackets(points[name], np.full(20, 10**-0.2), 0.02)
    unguarded = TraceSettings(guard_span=1e-9)
    missed = trace_boundaries(Network(notched), many, ("eta_crit",), lambda _: span, settings=unguarded)["eta_crit"]
    assert (missed.eta_high >= 1.0).any()  # it is the guard that finds it


def test_the_guard_leaves_no_gap_wider_than_its_spacing():
    trace = TraceSettings(guard_span=0.5, guard_spacing=0.03)
    network = Network(steps_at(1e-3, 1.0))
    points = trace_boundaries(network, np.ones(1), ("eta_crit",), lambda _: (1e-2, 10.0), settings=trace)["eta_crit"]
    etas = np.array(sorted(eta for _, eta, _ in network.asked))
    guarded = etas[(etas <= points.eta_low[0]) & (etas >= points.eta_low[0] / 10**0.5 * (1 - 1e-9))]
    assert np.log10(guarded[-1] / guarded[0]) >= 0.5 - 0.03  # the span itself is not run, only filled
    assert np.diff(np.log10(guarded)).max() <= 0.03 * (1 + 1e-6)


# --- extending the scan ---------------------------------------------------------------------------------------------


OUTSIDE = pytest.mark.parametrize("decades", [-2.5, -1.0, 1.0, 2.5])
TRACES = pytest.mark.parametrize("trace", [TraceSettings(), TOY_TRACE], ids=["network", "toy"])


@TRACES
@OUTSIDE
@pytest.mark.parametrize("noise_free", [False, True])
@pytest.mark.parametrize("name", ["eta_crit", "eta_fail"])
def test_a_boundary_outside_the_first_span_is_reached(name, decades, trace, noise_free):
    truth = 10.0**decades
    rule = steps_at(truth / 1e5, truth, 3 * truth)
    found = trace_boundaries(Network(rule), GAMMA, (name,), lambda _: (0.5, 2.0), settings=trace, noise_free=noise_free)
    assert len(found[name]) == len(GAMMA)
    assert_brackets(found[name], np.full(7, truth), trace.resolution)


@TRACES
@OUTSIDE
def test_eta_max_outside_the_first_span_is_reached(decades, trace):
    # between eta_fail and eta_max runs are unstable but bounded: a scan that ends there has to go on upwards
    truth = 10.0**decades
    rule = steps_at(truth / 1e5, truth / 8, truth)
    points = trace_boundaries(Network(rule), GAMMA, ("eta_max",), lambda _: (0.5, 2.0), settings=trace)["eta_max"]
    assert len(points) == len(GAMMA)
    assert_brackets(points, np.full(7, truth), trace.resolution)


@TRACES
@OUTSIDE
def test_eta_min_outside_the_first_span_is_reached(decades, trace):
    truth = 10.0**decades
    rule = steps_at(truth, 1e5 * truth)
    points = trace_boundaries(Network(rule), GAMMA, ("eta_min",), lambda _: (0.5, 2.0), settings=trace)["eta_min"]
    assert len(points) == len(GAMMA)
    assert_brackets(points, np.full(7, truth), trace.resolution)


@pytest.mark.parametrize("letter", ["u", "t", "x", "D", "."])
def test_a_boundary_that_is_never_met_has_no_point_and_costs_a_bounded_scan(letter):
    network = Network(lambda *_: letter)
    names = ("eta_min", "eta_crit", "eta_fail", "eta_max")
    found = trace_boundaries(network, GAMMA, names, lambda _: (0.1, 1.0))
    assert [len(found[name]) for name in names] == [0, 0, 0, 0]
    low, high = network.reach()
    # three decades to either side, and at most one batch of four cells and one dither beyond them
    assert low >= 0.1 / 10 ** (3 + 5 * 0.25)
    assert high <= 1.0 * 10 ** (3 + 5 * 0.25)


def test_extend_zero_keeps_to_the_span():
    network = Network(lambda *_: "t")
    trace_boundaries(network, GAMMA, ("eta_crit",), lambda _: (0.1, 1.0), settings=TraceSettings(extend=0.0))
    low, high = network.reach()
    assert low >= 0.1 / 10**0.25
    assert high <= 1.0 * 10**1.25  # the batch begun at the edge of the span, at most


@pytest.mark.parametrize("hole", [(0.2, 0.3), (0.9, 1.1)], ids=["below", "around"])
def test_cells_that_the_runner_skipped_do_not_stop_a_trace(hole):
    def rule(gamma, eta, seed):
        return "." if hole[0] < eta < hole[1] else steps_at(0.01, 1.0)(gamma, eta, seed)

    network = Network(rule)
    points = trace_boundaries(network, GAMMA, ("eta_crit",), lambda _: (1e-2, 10.0))["eta_crit"]
    # a bracket around the hole cannot be narrower than the hole, nor needs to be wider by more than a quarter of itself
    resolution = 0.02 if hole[1] < 1 else 2 * np.log10(hole[1] / hole[0])
    assert_brackets(points, np.ones(7), resolution)
    assert set(network.asked.values()) == {1}  # what was skipped is not asked for again


# --- against a dense grid -------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    log_crit=st.floats(-2, 2),
    band=st.floats(0.8, 2.4),  # with the offset, within the reach of an extended scan
    notch=st.floats(0.065, 0.14),
    island=st.floats(0.0, 0.1),
    resolution=st.sampled_from([0.02, 0.005, 0.11]),
    sections=st.integers(2, 9),
    offset=st.floats(-1, 1),
)
def test_a_trace_agrees_with_a_dense_grid(log_crit, band, notch, island, resolution, sections, offset):
    """A band, a failing notch, an island of success (empty at 0) and failure above it, all within the guard's span."""

    def rule(_gamma, eta, _seed):
        above = np.log10(eta) - log_crit
        if above < -band:
            return "u"
        return "t" if above < 0 or notch <= above < notch + island else "x"

    trace = TraceSettings(resolution=resolution, sections=sections)
    centre = 10 ** (log_crit + offset)
    network = Network(rule)
    found = trace_boundaries(
        network, np.ones(3), ("eta_min", "eta_crit"), lambda _: (centre / 3, centre * 3), settings=trace
    )
    grid = 10 ** (log_crit + np.arange(-band - 1, 2, 0.004) + 0.001)
    cells = Network(rule)(np.ones(len(grid)), grid, np.zeros(len(grid), dtype=np.int64))
    losses = (cells.final_loss, cells.peak_loss, cells.initial_loss)
    for name, points in found.items():
        below, above = (grid[i] for i in find_bracket(name, cells.outcome, *losses, noise_free=False))
        assert len(points) == 3
        assert (width(points) <= resolution * (1 + 1e-6)).all()
        # both brackets hold the edge, so that they overlap
        assert (points.eta_low < above).all()
        assert (points.eta_high >= below).all()


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("coarse", 0.0),
        ("coarse", math.nan),
        ("resolution", -0.02),
        ("guard_span", math.inf),
        ("guard_spacing", "fine"),
        ("sections", 1),
        ("sections", 2.0),
        ("max_rounds", 0),
        ("extend", -1.0),
        ("extend", math.nan),
    ],
)
def test_bad_settings_name_their_field(field, value):
    with pytest.raises(InputError) as caught:
        TraceSettings(**{field: value})
    assert caught.value.field == f"trace.{field}"


def test_an_unknown_boundary_is_bad_input():
    with pytest.raises(InputError, match=r"^boundary = 'eta_mid'") as caught:
        trace_boundaries(lambda *_: pytest.fail("ran a cell"), np.ones(1), ("eta_mid",), lambda _: (0.1, 1.0))
    assert all(name in str(caught.value) for name in BOUNDARIES)
