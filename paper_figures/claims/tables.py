"""Claims about every architecture, judged from the committed tables of the campaigns (``paper_figures/results``).

Where several campaigns measured the same boundary of the same kind of network, the one of the longest budget T counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from paper_figures.ledger import NOT_SUPPORTED, SUPPORTED, UNDETERMINED, Claim, Finding, share_interval

RESULTS = Path(__file__).parents[1] / "results"
LEAST_ARCHITECTURES = 4
FIGURE = "appendix-degree"
"""What shows the campaigns."""

HELD_OUT = "held-out"
"""Results of the same campaigns on other seeds: they are compared with those, and are no evidence of their own."""

FIT = ["arch", "variant", "depth", "loss", "optimizer", "boundary", "regime"]
"""What is the same in two measurements of one exponent."""

SOURCE = ["campaign", "entry", "steps"]
"""What tells them apart. Two rows of one source are one fit held against two predictions."""

COLUMNS = [
    *FIT, *("predicted", "predicted_by", "predicted_window", "fitted", "ci_low", "ci_high", "n_points"),
    *("gamma_low", "gamma_high", "verdict", "steps", "entry", "degree", "explanation"),
]  # fmt: skip
"""What is read; a table without some of them leaves them empty."""


def committed_tables(folder: Path = RESULTS) -> pd.DataFrame | None:
    """Every ``exponents.csv`` in or below a folder, each exponent from its longest budget.

    Args:
        folder: where to look; what is below ``HELD_OUT`` there repeats other campaigns and is left out.

    Returns:
        Their rows in ``COLUMNS``, with ``campaign``, the folder of each below ``folder`` (its own name for the folder
        itself); ``None`` when there is none.
    """
    files = [f for f in sorted(folder.rglob("exponents.csv")) if HELD_OUT not in f.relative_to(folder).parts]
    if not files:
        return None
    return longest_budget(pd.concat(
        [pd.read_csv(f).reindex(columns=COLUMNS).assign(campaign=campaign_name(folder, f.parent)) for f in files],
        ignore_index=True,
    ))  # fmt: skip


def campaign_name(folder: Path, campaign: Path) -> str:
    """Name of a campaign by where it lies.

    Args:
        folder: below which campaigns lie.
        campaign: the folder of one, or ``folder`` itself.

    Returns:
        Its path below the folder; its own name for the folder itself.
    """
    return campaign.relative_to(folder).as_posix() if campaign != folder else campaign.resolve().name


def longest_budget(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the longest budget, where several sources measured the same exponent.

    Args:
        rows: in ``COLUMNS``, with ``campaign``.

    Returns:
        The rows kept, in their order; of equal budgets those of more points, then the first. No verdict is looked at.
    """
    ordered = rows.sort_values(["steps", "n_points"], ascending=False, kind="stable", na_position="last")
    kept = ordered.drop_duplicates(FIT)[[*FIT, *SOURCE]]
    return rows.reset_index().merge(kept, on=[*FIT, *SOURCE]).sort_values("index").drop(columns="index").reset_index(
        drop=True
    )  # fmt: skip


def sources(rows: pd.DataFrame) -> str:
    """Which campaigns rows are from.

    Args:
        rows: as ``committed_tables`` gives them.

    Returns:
        Such as ``cpu-short (T = 300), gpu (T = 1000, 10000)``.
    """
    budgets = rows.dropna(subset="steps").groupby("campaign", sort=False)["steps"].unique()
    return ", ".join(
        f"{name} (T = {', '.join(str(int(one)) for one in sorted(budgets.get(name, [])))})"
        if name in budgets else str(name)
        for name in rows["campaign"].unique()
    )  # fmt: skip


def judge_rows(rows: pd.DataFrame, predicted: str, kinds: int) -> Finding:
    """Verdict on a claim that is about many fits.

    Args:
        rows: of ``exponents.csv``.
        predicted: as text.
        kinds: least number of architectures (``arch`` and ``variant``) with a determined fit.

    Returns:
        Supported when every determined fit is consistent, not supported when more than 1 in 20 is not with the whole
        95 % interval of the share, undetermined otherwise or for too few kinds of networks.
    """
    known = rows[rows["verdict"] != "undetermined"]
    hits, trials = int((known["verdict"] == "consistent").sum()), len(known)
    interval = share_interval(hits, trials)
    met = known[["arch", "variant"]].drop_duplicates().shape[0]
    detail = f"share of consistent fits among {trials} on {met} kinds of networks, from {sources(rows)}"
    if met < kinds:
        few = f"determined fits on {kinds} kinds"
        return Finding(predicted, hits / trials if trials else math.nan, interval, UNDETERMINED, detail, few)
    verdict = SUPPORTED if hits == trials else NOT_SUPPORTED if interval[1] < 0.95 else UNDETERMINED
    failed = known[known["verdict"] == "inconsistent"]
    if len(failed):
        worst = ", ".join(
            f"{r.entry} {r.boundary} {r.fitted:.2f} ({r.predicted_window:.2f})" for r in failed.head(4).itertuples()
        )
        detail += f"; not: {worst}" + (" …" if len(failed) > 4 else "")
    return Finding(predicted, hits / trials, interval, verdict, detail, "more fits: a share of 0.95 is not excluded")


def _everywhere(regime: str, loss: str) -> Callable[[pd.DataFrame], Finding]:
    boundary = "eta_fail" if loss == "mse" else "eta_max"

    def judge(tables: pd.DataFrame) -> Finding:
        """Supported when every determined fit on four or more kinds of networks is consistent with the law.

        The boundary is η_fail for MSE and η_max for cross-entropy, under gradient descent. Not supported when the share
        of consistent fits is below 0.95 with its whole 95 % interval. Of several campaigns that measured one exponent
        the longest budget counts, and a fit held against its depth and against its Euler degree counts once, for the
        depth: both were written after results of the first campaign were known.

        Returns:
            The finding.
        """
        chosen = (tables["regime"] == regime) & (tables["loss"] == loss) & (tables["optimizer"] == "gd")
        chosen &= (tables["boundary"] == boundary) & (tables["arch"] != "toy")
        # "depth" stands before "euler_degree" and "none" in the alphabet too
        once = tables[chosen].sort_values("predicted_by", kind="stable").drop_duplicates(FIT).sort_index()
        return judge_rows(once, "all consistent", LEAST_ARCHITECTURES)

    return judge


def _other_degree(by: str) -> Callable[[pd.DataFrame], Finding]:
    def judge(tables: pd.DataFrame) -> Finding:
        """Supported when every determined rich fit with this prediction is consistent with it, under gradient descent.

        On four or more kinds of networks; not supported as for the claims on every architecture, with the same choice
        among campaigns. Written after results of the first campaign had suggested the prediction.

        Returns:
            The finding.
        """
        chosen = (tables["predicted_by"] == by) & (tables["regime"] == "rich") & (tables["optimizer"] == "gd")
        return judge_rows(tables[chosen], "all consistent", LEAST_ARCHITECTURES)

    return judge


def euler_degree_law(tables: pd.DataFrame) -> Finding:
    """Supported when every determined rich fit that was predicted from an Euler degree is consistent with 2/D.

    On four or more kinds of networks; not supported as for the claims on every architecture. Of several campaigns that
    measured one exponent the longest budget counts (written after results of the first campaign were known).

    Returns:
        The finding.
    """
    chosen = (tables["predicted_by"] == "euler_degree") & (tables["regime"] == "rich")
    return judge_rows(tables[chosen], "slope = 2/D", LEAST_ARCHITECTURES)


TABLES: tuple[Claim, ...] = (
    *(
        Claim(f"everywhere-{regime}-{'mse' if loss == 'mse' else 'ce'}",
              f"the {regime} exponent is that of theory on every architecture ({'MSE' if loss == 'mse' else loss})",
              "arXiv:2410.04642, figure 1", FIGURE, ("tables",), _everywhere(regime, loss))
        for loss in ("mse", "cross-entropy") for regime in ("lazy", "rich")
    ),
    Claim("euler-degree", "the rich exponent of any network is 2/D, with D its measured Euler degree", "this project",
          FIGURE, ("tables",), euler_degree_law),
    Claim("euler-degree-drift", "the rich exponent of a ResNet or ViT is 2/D − 2 d ln D/d ln γ, while D drifts",
          "this project", FIGURE, ("tables",), _other_degree("euler_degree_drift")),
    Claim("large-weights", "the rich exponent of a ResNet or ViT is 2/D, with D its degree at large weights",
          "this project", FIGURE, ("tables",), _other_degree("large_weights")),
)  # fmt: skip
