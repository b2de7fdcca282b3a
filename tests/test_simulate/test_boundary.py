"""Boundaries seen from below.

Oracles: columns of outcomes written by hand with the answer beside them, a walk up the column written from the
definitions, and synthetic networks whose boundaries are known in advance.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from simulate import (
    BoundaryPoints,
    CellResults,
    Outcome,
    Thresholds,
    find_bracket,
)
from simulate.boundary import Line, collect

# One letter a cell: (outcome, tail / L₀, peak / L₀). S and K have settled, but K overshot on the way.
CELLS = {
    ".": (Outcome.NOT_RUN, math.nan, math.nan),
    "u": (Outcome.UNTRAINED, 0.95, 1.0),
    "t": (Outcome.TRAINED, 0.5, 1.0),
    "S": (Outcome.TRAINED, 1e-5, 1.0),
    "c": (Outcome.CATAPULT, 0.5, 2.0),
    "K": (Outcome.CATAPULT, 1e-5, 2.0),
    "x": (Outcome.UNSTABLE, 2.0, 3.0),
    "d": (Outcome.DEAD, 1.0, 1.0),
    "D": (Outcome.DIVERGED, math.nan, math.inf),
}
RUN = "".join(CELLS).replace(".", "")
INITIAL = 0.23  # a loss at the start that is not 1 shows where a threshold forgot to be relative to it


def cells_of(letters):
    outcome, tail, peak = (np.array(column) for column in zip(*(CELLS[letter] for letter in letters), strict=True))
    n = len(letters)
    return CellResults(
        outcome=outcome.astype(np.int8),
        final_loss=tail * INITIAL,
        initial_loss=np.full(n, INITIAL),
        peak_loss=peak * INITIAL,
        final_accuracy=np.full(n, math.nan),
        steps_run=np.full(n, 100),
    )


def bracket_of(letters, name, noise_free=False):
    cells = cells_of(letters)
    losses = (cells.final_loss, cells.peak_loss, cells.initial_loss)
    return find_bracket(name, cells.outcome, *losses, noise_free=noise_free)


# --- hand-written columns -------------------------------------------------------------------------------------------

HAND_WRITTEN = [
    # cells         eta_min eta_crit noise-free eta_fail eta_max
    ("uuttSStxxD", (1, 2), (6, 7), (5, 6), (6, 7), (8, 9)),
    ("uutSccxxd", (1, 2), (3, 4), (3, 4), (5, 6), (7, 8)),
    ("utSDSSDS", (0, 1), (2, 3), (2, 3), (2, 3), (2, 3)),  # isolated successes above a failure
    ("uSSxSSxxSD", (0, 1), (2, 3), (2, 3), (2, 3), (8, 9)),
    ("uSSuSSx", (0, 1), (2, 3), (2, 3), (5, 6), None),  # trapped, untrained: a failure for eta_crit alone
    ("uKSSKxD", (1, 2), (3, 4), (3, 4), (4, 5), (5, 6)),  # K settles, but overshoots: not in the settled band
    ("uttttx", (0, 1), (4, 5), None, (4, 5), None),  # no cell ever settles
    ("uuuu", None, None, None, None, None),
    ("tttt", None, None, None, None, None),
    ("SSSS", None, None, None, None, None),
    ("uuxx", None, None, None, None, None),  # no trained band at all
    ("uuxxDd", None, None, None, None, (3, 4)),
    ("Sx", None, (0, 1), (0, 1), (0, 1), None),
    ("DDDD", None, None, None, None, None),  # the first cell fails: the boundary lies below the scan
    ("DuSSx", (1, 2), (3, 4), (3, 4), (3, 4), None),
    ("xuSSx", (1, 2), (3, 4), (3, 4), (3, 4), None),  # failures below the band do not count for eta_crit and eta_fail
    ("uSd", (0, 1), (1, 2), (1, 2), (1, 2), (1, 2)),
    ("u", None, None, None, None, None),
]
COLUMNS = [("eta_min", False), ("eta_crit", False), ("eta_crit", True), ("eta_fail", False), ("eta_max", False)]


@pytest.mark.parametrize("case", HAND_WRITTEN, ids=lambda case: case[0])
def test_hand_written_columns(case):
    letters, *expected = case
    assert [bracket_of(letters, name, noise_free) for name, noise_free in COLUMNS] == expected


def walk_up(letters, name, noise_free):
    """The definition: scanning up, once the band has been entered, the first cell that fails."""
    band, fails = {
        "eta_min": (RUN, "tS"),
        "eta_crit": ("S", RUN.replace("S", "")) if noise_free else ("tS", RUN.replace("t", "").replace("S", "")),
        "eta_fail": ("tS", "xdD"),
        "eta_max": (RUN, "dD"),
    }[name]
    entered = False
    for i, letter in enumerate(letters):
        entered = entered or letter in band
        if entered and letter in fails:
            return (i - 1, i) if i else None
    return None


columns = st.text(alphabet=RUN, min_size=1, max_size=30)


@given(letters=columns, column=st.sampled_from(COLUMNS))
def test_find_bracket_is_the_walk_up(letters, column):
    assert bracket_of(letters, *column) == walk_up(letters, *column)


@given(letters=columns, above=columns, column=st.sampled_from(COLUMNS))
def test_what_lies_above_a_boundary_does_not_move_it(letters, above, column):
    found = bracket_of(letters, *column)
    assume(found is not None)
    assert bracket_of(letters[: found[1] + 1] + above, *column) == found


@pytest.mark.parametrize(
    ("tails", "expected"),
    [
        ([3.0, 1.0, 2.0, 4.0], (0, 2)),
        ([1.0, 2.0], (0, 1)),
        ([2.0, 1.0], (0, 1)),
        ([math.nan, 3.0, math.nan, 1.0, math.nan], (2, 4)),
        ([math.nan, math.nan], None),
    ],
)
def test_eta_star_is_the_least_tail(tails, expected):
    n, ones = len(tails), np.ones(len(tails))
    outcome = np.full(n, Outcome.TRAINED, dtype=np.int8)
    assert find_bracket("eta_star", outcome, np.array(tails), ones, ones, noise_free=False) == expected


@pytest.mark.parametrize(("settle", "expected"), [(1e-3, (3, 4)), (0.6, (4, 5)), (1e-6, None)])
def test_the_settle_threshold_is_used(settle, expected):
    cells = cells_of("uSSStu")
    losses = (cells.final_loss, cells.peak_loss, cells.initial_loss)
    found = find_bracket(
        "eta_crit", cells.outcome, *losses, noise_free=True, thresholds=Thresholds(settle=settle, level=0.9)
    )
    assert found == expected


# --- lines: cells that were not run ---------------------------------------------------------------------------------


def line_of(letters, eta=None, order=None):
    line = Line(1.0, 0)
    eta = np.arange(1.0, len(letters) + 1) if eta is None else np.asarray(eta)
    for part in np.array_split(np.arange(len(letters)) if order is None else np.asarray(order), 3):
        line.add(eta[part], {name: values[part] for name, values in cells_of(letters).fields().items()})
    return line


def test_cells_that_were_not_run_are_skipped():
    line = line_of(".uu.tS..x.D.")
    for name, low, high in (("eta_min", 3, 5), ("eta_crit", 6, 9), ("eta_fail", 6, 9), ("eta_max", 9, 11)):
        found = line.bracket(name, noise_free=False, thresholds=Thresholds())
        assert found == (pytest.approx(math.sqrt(low * high)), low, high)
    assert line.bracket("eta_star", noise_free=False, thresholds=Thresholds()) == (6, 5, 9)


@given(
    letters=st.text(alphabet="".join(CELLS), min_size=3, max_size=30), column=st.sampled_from(COLUMNS), data=st.data()
)
def test_a_line_does_not_depend_on_the_order_of_its_cells_nor_on_cells_not_run(letters, column, data):
    name, noise_free = column
    order = data.draw(st.permutations(range(len(letters))))
    found = line_of(letters, order=order).bracket(name, noise_free=noise_free, thresholds=Thresholds())
    held = [i for i, letter in enumerate(letters) if letter != "."]
    expected = walk_up("".join(letters[i] for i in held), name, noise_free)
    if expected is None:
        assert found is None
    else:
        low, high = (held[i] + 1.0 for i in expected)
        assert found == (pytest.approx(math.sqrt(low * high)), low, high)


# --- points ---------------------------------------------------------------------------------------------------------


def test_points_are_sorted_by_seed_and_gamma_and_tabulated():
    points = collect("eta_crit", [(3.0, 1, 3.0, 2.0, 4.0), (1.0, 1, 1.0, 0.5, 2.0), (2.0, 0, 2.0, 1.0, 4.0)])
    assert points.gamma.tolist() == [2.0, 1.0, 3.0]
    table = points.table()
    assert list(table.columns) == ["seed", "boundary", "gamma", "eta", "eta_low", "eta_high"]
    assert table["seed"].tolist() == [0, 1, 1]
    assert table["eta_low"].tolist() == [1.0, 0.5, 2.0]
    assert set(table["boundary"]) == {"eta_crit"}


def test_no_points_make_an_empty_table():
    points = collect("eta_min", [])
    assert isinstance(points, BoundaryPoints)
    assert len(points) == len(points.table()) == 0
