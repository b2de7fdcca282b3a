"""Claims about every architecture, judged from the committed tables of the campaigns (``paper_figures/results``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from paper_figures.ledger import NOT_SUPPORTED, SUPPORTED, UNDETERMINED, Claim, Finding, share_interval

RESULTS = Path(__file__).parents[1] / "results"
LEAST_ARCHITECTURES = 4


def committed_tables(folder: Path = RESULTS) -> pd.DataFrame | None:
    """Every ``exponents.csv`` below a folder.

    Args:
        folder: where to look.

    Returns:
        Their rows, or ``None`` when there is none.
    """
    files = sorted(folder.rglob("exponents.csv"))
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True) if files else None


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
    detail = f"share of consistent fits among {trials} on {met} kinds of networks"
    if met < kinds:
        return Finding(predicted, hits / trials if trials else math.nan, interval, UNDETERMINED, detail)
    verdict = SUPPORTED if hits == trials else NOT_SUPPORTED if interval[1] < 0.95 else UNDETERMINED
    failed = known[known["verdict"] == "inconsistent"]
    if len(failed):
        worst = ", ".join(f"{r.arch} {r.boundary} {r.regime} {r.fitted:.2f}" for r in failed.head(4).itertuples())
        detail += f"; not: {worst}" + (" …" if len(failed) > 4 else "")
    return Finding(predicted, hits / trials, interval, verdict, detail)


def _everywhere(regime: str, loss: str) -> Callable[[pd.DataFrame], Finding]:
    boundary = "eta_fail" if loss == "mse" else "eta_max"

    def judge(tables: pd.DataFrame) -> Finding:
        """Supported when every determined fit on four or more kinds of networks is consistent with the law.

        The boundary is η_fail for MSE and η_max for cross-entropy, under gradient descent. Not supported when the share
        of consistent fits is below 0.95 with its whole 95 % interval.

        Returns:
            The finding.
        """
        chosen = (tables["regime"] == regime) & (tables["loss"] == loss) & (tables["optimizer"] == "gd")
        chosen &= (tables["boundary"] == boundary) & (tables["arch"] != "toy")
        return judge_rows(tables[chosen], "all consistent", LEAST_ARCHITECTURES)

    return judge


def euler_degree_law(tables: pd.DataFrame) -> Finding:
    """Supported when every determined rich fit that was predicted from an Euler degree is consistent with 2/D.

    On four or more kinds of networks; not supported as for the claims on every architecture.

    Returns:
        The finding.
    """
    chosen = (tables["predicted_by"] == "euler_degree") & (tables["regime"] == "rich")
    return judge_rows(tables[chosen], "slope = 2/D", LEAST_ARCHITECTURES)


TABLES: tuple[Claim, ...] = (
    *(
        Claim(f"everywhere-{regime}-{'mse' if loss == 'mse' else 'ce'}",
              f"the {regime} exponent is that of theory on every architecture ({'MSE' if loss == 'mse' else loss})",
              "arXiv:2410.04642, figure 1", "campaign", ("tables",), _everywhere(regime, loss))
        for loss in ("mse", "cross-entropy") for regime in ("lazy", "rich")
    ),
    Claim("euler-degree", "the rich exponent of any network is 2/D, with D its measured Euler degree", "this project",
          "campaign", ("tables",), euler_degree_law),
)  # fmt: skip
