"""What the edge of stability does to the Euler degree, judged from the committed cells of the campaigns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from empirical.campaign.again import LEARNED
from paper_figures.claims.tables import HELD_OUT, RESULTS, campaign_name
from paper_figures.ledger import Claim, Finding, above, mean_interval, within

FIGURE = "appendix-edge"
FROZEN = r"frozen ([^,]*)"
SCORES = "query key"
"""What makes the scores of an attention: its queries and keys."""
CELL = ["entry", "steps", "gamma", "seed"]
FINAL_NORM = 1.5
"""Networks with a final norm have D∞ = 1, and nothing to lose."""

COLUMNS = [*CELL, "step", "degree", "edge", "slow_degree", "settled", "frozen", "campaign"]


def committed_degrees(folder: Path = RESULTS) -> pd.DataFrame | None:
    """The Euler degree of residual networks along training, of every ``degrees.csv`` in or below a folder.

    Args:
        folder: where to look; what is below ``HELD_OUT`` there is left out.

    Returns:
        Rows of rich cells that learned, in ``COLUMNS``: those of networks with a degree at large weights,
        ``settled``, in the ``exponents.csv`` beside; with ``slow_degree``, the degree that the same network ended with
        when it trained slower and longer (NaN where there is no ``slow.csv`` beside), ``edge``, ηλ/2 at the end, and
        ``frozen``, the names of tensors that stayed at their start. ``None`` when there is none.
    """
    out = []
    for file in sorted(folder.rglob("degrees.csv")):
        exponents = file.with_name("exponents.csv")
        if HELD_OUT in file.relative_to(folder).parts or not exponents.exists():
            continue
        fits = pd.read_csv(exponents)
        fits = fits[fits["predicted_by"].eq("large_weights") & fits["optimizer"].eq("gd")]
        about = pd.DataFrame({
            "settled": 2 / fits.groupby("entry")["predicted"].first(),
            "frozen": fits.groupby("entry")["variant"].first().str.extract(FROZEN, expand=False).fillna(""),
        })
        rows = pd.read_csv(file)
        if "regime" in rows:
            rows = rows[rows["regime"].eq("rich")]
        rows = rows[rows["outcome"].isin(LEARNED)].merge(about, left_on="entry", right_index=True)
        slow = file.with_name("slow.csv")
        if slow.exists():
            again = pd.read_csv(slow)
            again = again[again["outcome"].isin(LEARNED)].rename(columns={"degree": "slow_degree"})
            rows = rows.merge(again[[*CELL, "slow_degree"]], on=CELL, how="left")
        out.append(rows.assign(campaign=campaign_name(folder, file.parent)).reindex(columns=COLUMNS))
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


def edge_scores(degrees: pd.DataFrame) -> Finding:
    """Supported when ηλ/2 just below η_crit is within a factor 2 of 1 in networks whose queries and keys do not move.

    The logarithm of ηλ/2 is averaged over the seeds of each entry and γ; the 95 % interval over these has to lie within
    (1/2, 2). In its detail stands the same number for the other networks of those campaigns.

    Returns:
        The finding.
    """
    ends = degrees[degrees["step"].eq(degrees["steps"]) & degrees["edge"].gt(0)]
    ends = ends[ends["campaign"].isin(ends.loc[ends["frozen"].ne(""), "campaign"])].assign(
        log=lambda d: np.log(d["edge"])
    )

    def of(rows: pd.DataFrame) -> tuple[float, tuple[float, float]]:
        return mean_interval(rows.groupby(["campaign", "entry", "steps", "gamma"])["log"].mean().to_numpy())

    (still, interval), (others, _) = of(ends[ends["frozen"].eq(SCORES)]), of(ends[ends["frozen"].ne(SCORES)])
    low, high = np.exp(interval)
    verdict = within((low, high), (0.5, 2))
    detail = f"ηλ/2 at the end, 1.5 times below η_crit; {np.exp(others):.3g} in the other networks of these campaigns"
    return Finding("1", float(np.exp(still)), (float(low), float(high)), verdict, detail, "more γ")


EDGE: tuple[Claim, ...] = (
    Claim("edge-degree", "just below η_crit residual networks end with a lower Euler degree than far below it",
          "this project", FIGURE, ("degrees",), edge_degree),
    Claim("edge-scores", "transformers without a final norm pass the edge of stability by queries and keys: where "
          "these are frozen, ηλ/2 = 1", "this project", FIGURE, ("degrees",), edge_scores),
)  # fmt: skip
