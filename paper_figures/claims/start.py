"""What a network's start says of eta_min, judged from the committed points and flows of the campaigns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from empirical.campaign.flow import PASSES, keys
from paper_figures.claims.tables import HELD_OUT, RESULTS, campaign_name
from paper_figures.ledger import UNDETERMINED, Claim, Finding, mean_interval, within
from simulate import Thresholds, fit_power_law

FIGURE = "appendix-start"
WITHIN = 0.1
"""Share by which times of flow and of training may differ on the mean."""

SLOPE = 0.02
"""Same for the rich slopes."""

COLUMNS = [
    *("arch", "variant", "depth", "loss", "steps", "seed", "gamma", "eta", "eta_low", "eta_high", "entry", "regime"),
    *("flow", "rest", "toy", "campaign"),
]
UNIT = ["campaign", "entry", "steps", "regime"]


def committed_flows(folder: Path = RESULTS) -> pd.DataFrame | None:
    """Points of eta_min beside gradient flow of the same networks, of every ``flow.csv`` in or below a folder.

    Args:
        folder: where to look; what is below ``HELD_OUT`` there is left out.

    Returns:
        Rows of ``boundaries.csv`` whose flow is known, in ``COLUMNS``: ``flow`` is the η at which descent takes as long
        as flow, ``rest`` by which factor flow rests at the level, ``toy`` the slope of the toy's law over the points of
        the unit (NaN where no toy has the degree of the network). ``None`` when there is none.
    """
    out = []
    for file in sorted(folder.rglob("flow.csv")):
        boundaries, exponents = (file.with_name(f"{name}.csv") for name in ("boundaries", "exponents"))
        if HELD_OUT in file.relative_to(folder).parts or not boundaries.exists() or not exponents.exists():
            continue
        points = pd.read_csv(boundaries)
        points = points[points["boundary"].eq("eta_min") & points["optimizer"].eq("gd")]
        made = pd.read_csv(file)
        mine = made.set_index(keys(made))[["tau", "rest"]].reindex(keys(points))
        steps = points["steps"].to_numpy() * (1 - Thresholds().tail_fraction / 2)
        fits = pd.read_csv(exponents)
        fits = fits[fits["boundary"].eq("eta_min") & fits["predicted_by"].eq("depth")]
        laws = fits[["entry", "steps", "regime", "predicted_window"]].rename(columns={"predicted_window": "toy"})
        known = points.assign(
            flow=points["gamma"].to_numpy() * mine["tau"].to_numpy() / steps,
            rest=mine["rest"].to_numpy(),
            campaign=campaign_name(folder, file.parent),
        )
        known = known[np.isfinite(known["flow"])].merge(laws, on=["entry", "steps", "regime"], how="left")
        out.append(known.reindex(columns=COLUMNS))
    joined = pd.concat(out, ignore_index=True) if out else pd.DataFrame()
    return joined if len(joined) else None


def committed_growth(folder: Path = RESULTS) -> pd.DataFrame | None:
    """How the kernels of the networks of campaigns grow from their start: every ``growth.csv`` in or below a folder.

    Args:
        folder: where to look; what is below ``HELD_OUT`` there is left out.

    Returns:
        Rows ``campaign, entry, seed, alignment, kernel, tau``; ``None`` when there is none.
    """
    files = [f for f in sorted(folder.rglob("growth.csv")) if HELD_OUT not in f.relative_to(folder).parts]
    if not files:
        return None
    return pd.concat(
        [pd.read_csv(file).assign(campaign=campaign_name(folder, file.parent)) for file in files], ignore_index=True
    )


def slopes(flows: pd.DataFrame) -> pd.DataFrame:
    """Rich slopes of eta_min beside those of flow and of the toy's law.

    Args:
        flows: as ``committed_flows`` gives them.

    Returns:
        One row a unit all of whose points pass the level: ``campaign, entry, steps, arch, fitted, half_width, flow,
        toy, verdict``.
    """
    out = []
    for (campaign, entry, steps, _), rows in flows[flows["regime"].eq("rich")].groupby(UNIT, sort=False):
        if not (rows["rest"] < PASSES).all():
            continue
        fit = fit_power_law(
            rows["gamma"], rows["eta"], eta_low=rows["eta_low"], eta_high=rows["eta_high"], seed=rows["seed"],
            law=rows["flow"],
        )  # fmt: skip
        out.append({
            "campaign": campaign, "entry": entry, "steps": steps, "arch": rows["arch"].iloc[0], "fitted": fit.exponent,
            "half_width": fit.half_width, "flow": fit.predicted_window, "toy": rows["toy"].iloc[0],
            "verdict": fit.verdict,
        })  # fmt: skip
    return pd.DataFrame(out)


def longest(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the longest budget of each entry.

    Args:
        rows: with ``campaign, entry, steps``.

    Returns:
        Those rows.
    """
    return rows[rows["steps"].eq(rows.groupby(["campaign", "entry"])["steps"].transform("max"))]


def start_time(flows: pd.DataFrame) -> Finding:
    """Supported when eta_min is within a tenth of the η at which descent takes as long as flow, on the mean.

    The logarithm of their ratio is averaged over the points of each entry at its longest budget whose flow passes the
    level (``empirical.campaign.flow``); the 95 % interval over entries has to lie within a tenth of 1.

    Returns:
        The finding, as a ratio.
    """
    every = longest(flows)
    points = every[every["rest"] < PASSES]
    logs = points.assign(log=np.log(points["eta"] / points["flow"])).groupby(["campaign", "entry"])["log"].mean()
    mean, interval = mean_interval(logs.to_numpy())
    low, high = np.exp(interval)
    verdict = within((low, high), (1 - WITHIN, 1 + WITHIN))
    detail = f"η_min over that of flow, {len(points)} points of {len(logs)} entries, γ from {points['gamma'].min():.0e}"
    detail += f" to {points['gamma'].max():.0e}; nothing is fitted; {len(every) - len(points)} others rest at the level"
    return Finding("1", float(np.exp(mean)), (float(low), float(high)), verdict, detail, "more entries")


def start_slope(flows: pd.DataFrame) -> Finding:
    """Supported when the rich slopes of eta_min are those of flow to 0.02, on the mean over entries.

    The difference is taken at the longest budget of each entry whose fit is decided; the 95 % interval over entries has
    to lie within 0.02 of zero. In its detail stands the same for the toy's law.

    Returns:
        The finding, as a difference of slopes.
    """
    found = slopes(longest(flows))
    found = found[found["verdict"].ne(UNDETERMINED)] if len(found) else found
    if found.empty:
        return Finding(
            "0", np.nan, (np.nan, np.nan), UNDETERMINED, "no decided unit whose flows pass the level", "some"
        )
    mean, interval = mean_interval((found["fitted"] - found["flow"]).to_numpy())
    toy, ends = mean_interval((found["fitted"] - found["toy"]).to_numpy())
    same = int(found["verdict"].eq("consistent").sum())
    detail = f"fitted less flow's slope; {same} of {len(found)} decided slopes hold flow's; "
    detail += f"less the toy's: {toy:.3f} ({ends[0]:.3f} … {ends[1]:.3f})"
    return Finding("0", mean, interval, within(interval, (-SLOPE, SLOPE)), detail, "more entries")


START: tuple[Claim, ...] = (
    Claim("start-time", "the least learning rate that trains is that of gradient flow from the network's own start, at "
          "every γ and in every architecture, where flow passes the level", "this project", FIGURE, ("flows",),
          start_time),
    Claim("start-slope", "so the rich slope of η_min is known before training", "this project", FIGURE, ("flows",),
          start_slope),
)  # fmt: skip
