"""What the edge of stability does to the Euler degree, judged from the committed cells of the campaigns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from paper_figures.claims.tables import HELD_OUT, RESULTS, campaign_name
from paper_figures.ledger import Claim, Finding, above, mean_interval

FIGURE = "appendix-edge"
LEARNED = ("trained", "catapult")
CELL = ["entry", "steps", "gamma", "seed"]
FINAL_NORM = 1.5
"""Networks with a final norm have D∞ = 1, and nothing to lose."""

COLUMNS = [*CELL, "step", "degree", "slow_degree", "settled", "campaign"]


def committed_degrees(folder: Path = RESULTS) -> pd.DataFrame | None:
    """The Euler degree of residual networks along training, of every ``degrees.csv`` in or below a folder.

    Args:
        folder: where to look; what is below ``HELD_OUT`` there is left out.

    Returns:
        Rows of rich cells that learned, in ``COLUMNS``: those of networks with a degree at large weights,
        ``settled``, in the ``exponents.csv`` beside; with ``slow_degree``, the degree that the same network ended with
        when it trained slower and longer (NaN where there is no ``slow.csv`` beside). ``None`` when there is none.
    """
    out = []
    for file in sorted(folder.rglob("degrees.csv")):
        exponents = file.with_name("exponents.csv")
        if HELD_OUT in file.relative_to(folder).parts or not exponents.exists():
            continue
        fits = pd.read_csv(exponents)
        fits = fits[fits["predicted_by"].eq("large_weights") & fits["optimizer"].eq("gd")]
        settled = (2 / fits.groupby("entry")["predicted"].first()).rename("settled")
        rows = pd.read_csv(file)
        if "regime" in rows:
            rows = rows[rows["regime"].eq("rich")]
        rows = rows[rows["outcome"].isin(LEARNED)].merge(settled, left_on="entry", right_index=True)
        rows["slow_degree"] = np.nan
        slow = file.with_name("slow.csv")
        if slow.exists():
            again = pd.read_csv(slow)
            again = again[again["outcome"].isin(LEARNED)].rename(columns={"degree": "slow_degree"})
            rows = rows.drop(columns="slow_degree").merge(again[[*CELL, "slow_degree"]], on=CELL, how="left")
        out.append(rows.assign(campaign=campaign_name(folder, file.parent))[COLUMNS])
    joined = pd.concat(out, ignore_index=True) if out else pd.DataFrame()
    return joined if len(joined) else None


def edge_degree(degrees: pd.DataFrame) -> Finding:
    """Supported when D just below η_crit is less than D of the same networks trained slower, on the mean over kinds.

    The logarithm of their ratio is averaged over the cells of each entry and budget without a final norm (D∞ > 1), and
    the 95 % interval is over entries and budgets; it has to lie below zero (not supported: above).

    Returns:
        The finding, as a ratio.
    """
    ends = degrees[degrees["step"].eq(degrees["steps"]) & degrees["settled"].gt(FINAL_NORM)]
    ends = ends[ends["slow_degree"].gt(0) & ends["degree"].gt(0)]
    cells = ends.assign(ratio=np.log(ends["degree"]) - np.log(ends["slow_degree"]))
    logs = cells.groupby(["campaign", "entry", "steps"])["ratio"].mean()
    mean, interval = mean_interval(logs.to_numpy())
    detail = f"D 1.5 times below η_crit over D of slow runs, {len(ends)} cells of {len(logs)} entries and budgets"
    verdict = above((-interval[1], -interval[0]), 0.0)
    low, high = np.exp(interval)
    return Finding("less than 1", float(np.exp(mean)), (float(low), float(high)), verdict, detail, "more entries")


EDGE: tuple[Claim, ...] = (
    Claim("edge-degree", "just below η_crit residual networks end with a lower Euler degree than far below it",
          "this project", FIGURE, ("degrees",), edge_degree),
)  # fmt: skip
