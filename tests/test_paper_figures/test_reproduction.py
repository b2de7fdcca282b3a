"""Two ledgers side by side: numbers of one law come back as often as their intervals promise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from paper_figures.reproduction import COLUMNS, reproduction


def ledger(measured, half):
    measured, half = np.atleast_1d(measured).astype(float), np.broadcast_to(half, np.shape(measured))
    return pd.DataFrame({
        "id": [f"claim-{i}" for i in range(len(measured))],
        "statement": "",
        "measured": measured,
        "ci_low": measured - half,
        "ci_high": measured + half,
        "verdict": "supported",
    })


def test_numbers_of_one_law_disagree_once_in_twenty():
    """Two normal numbers with 95 % intervals: the share that agrees is binomial around 0.95, here within 4 σ."""
    draw, count = np.random.default_rng(0), 4000
    sigma = draw.uniform(0.1, 3.0, size=(2, count))
    first, again = (ledger(draw.normal(size=count) * s, 1.959964 * s) for s in sigma)
    agrees = (reproduction(first, again)["agrees"] == "yes").mean()
    assert abs(agrees - 0.95) < 4 * np.sqrt(0.95 * 0.05 / count)


@given(st.floats(-10, 10), st.floats(0.01, 5), st.floats(-10, 10), st.floats(0.01, 5))
def test_the_order_of_the_runs_does_not_matter(a, da, b, db):
    one, other = ledger(a, da), ledger(b, db)
    assert list(reproduction(one, other)["agrees"]) == list(reproduction(other, one)["agrees"])


def test_the_side_of_the_interval_that_faces_the_other_number_counts():
    wide_above = ledger(0.0, 0.1).assign(ci_high=5.0)
    assert reproduction(wide_above, ledger(4.0, 0.1))["agrees"].item() == "yes"
    assert reproduction(wide_above, ledger(-4.0, 0.1))["agrees"].item() == "no"


def test_unknown_numbers_and_intervals_are_left_out_or_left_open():
    first, again = ledger([1.0, np.nan, 2.0], 0.1), ledger([1.0, 1.0, 2.0], [0.1, 0.1, np.inf])
    table = reproduction(first, again)
    assert list(table["id"]) == ["claim-0", "claim-2"]
    assert list(table["agrees"]) == ["yes", ""]
    assert list(table.columns) == list(COLUMNS)
