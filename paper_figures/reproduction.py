"""Two ledgers of the same claims, measured on different seeds, side by side: does each number come back?

Two numbers a < b with intervals agree when b − a ≤ √((a₊ − a)² + (b − b₋)²), with a₊ the upper end of a's interval and
b₋ the lower end of b's: the 95 % interval of the difference of independent numbers then holds 0, so that about one pair
in twenty disagrees by chance.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

COLUMNS = (
    *("id", "statement", "measured", "ci_low", "ci_high", "verdict"),
    *("measured_again", "ci_low_again", "ci_high_again", "verdict_again", "agrees", "same_verdict"),
)


def reproduction(first: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """Compare two ledgers.

    Args:
        first: as ``ledger.judge_all`` gives it, or read from ``claims.csv``.
        again: the same of another run.

    Returns:
        One row a claim that both runs measured, in ``COLUMNS``: ``agrees`` is ``yes`` or ``no``, and empty where an
        interval is unknown.
    """
    numbers = ["id", "measured", "ci_low", "ci_high", "verdict"]
    both = first[["statement", *numbers]].merge(again[numbers], on="id", suffixes=("", "_again"))
    both = both[np.isfinite(both["measured"]) & np.isfinite(both["measured_again"])]
    one, other = (both[["measured" + s, "ci_low" + s, "ci_high" + s]].to_numpy(float) for s in ("", "_again"))
    swapped = (one[:, 0] > other[:, 0])[:, None]
    low, high = np.where(swapped, other, one), np.where(swapped, one, other)
    room = np.hypot(low[:, 2] - low[:, 0], high[:, 0] - high[:, 1])
    known = np.isfinite(room)
    agrees = np.where(known, np.where(high[:, 0] - low[:, 0] <= room, "yes", "no"), "")
    same = np.where(both["verdict"] == both["verdict_again"], "yes", "no")
    return both.assign(agrees=agrees, same_verdict=same)[list(COLUMNS)].reset_index(drop=True)
