"""Makes docs/campaign_results.md from the committed tables of the campaigns: `python docs/campaign_results.py`.

Every number of the page is computed here from paper_figures/results; the text around it is in docs/findings.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from empirical.campaign.flow import summary as against_flow
from empirical.campaign.refit import refit
from empirical.campaign.run import UnitResult, fit_unit
from empirical.campaign.slow import summary as degrees_twice
from paper_figures.claims.tables import FIT, HELD_OUT, RESULTS, committed_tables
from simulate import BoundaryPoints, ScalingFit

DOCS = Path(__file__).parent
NAMES = {"eta_min": "η_min", "eta_crit": "η_crit", "eta_fail": "η_fail", "eta_max": "η_max", "eta_star": "η*"}
UPPER = ("eta_crit", "eta_fail", "eta_max")
WHAT = {"η_crit, η_fail, η_max": UPPER, "η_min": ("eta_min",), "η*": ("eta_star",)}
LAWS = {"euler_degree": "2/D measured", "euler_degree_drift": "… with drift", "large_weights": "2/D of large weights"}
MARKS = {"consistent": "consistent", "inconsistent": "**inconsistent**", "undetermined": "undetermined"}
KEYS = ["entry", "steps", "boundary", "regime", "predicted_by"]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def slope(row: pd.Series) -> str:
    """A fitted slope and its half-width."""
    return f"{row.fitted:.3f} ± {(row.ci_high - row.ci_low) / 2:.3f}"


ARCHITECTURES = {"mlp": "MLP", "cnn": "CNN", "resnet": "ResNet", "vit": "ViT"}


def against_the_toy(rows: pd.DataFrame, architectures: Sequence[str]) -> str:
    """Networks against the toy's exact law at their depth."""
    chosen = rows[(rows.predicted_by == "depth") & rows.arch.isin(architectures) & (rows.optimizer == "gd")]
    chosen = chosen[chosen.boundary.isin(NAMES)].sort_values(
        ["regime", "arch", "depth", "variant", "loss", "boundary"], kind="stable"
    )
    out = []
    for row in chosen.itertuples():
        who = f"{ARCHITECTURES[row.arch]}, L = {row.depth}, {row.variant.removeprefix('relu, ')}"
        window = f"{row.gamma_low:.3g} … {row.gamma_high:.3g}"
        out.append((
            who, row.loss, NAMES[row.boundary], row.regime, f"{row.predicted:.3f}", f"{row.predicted_window:.3f}",
            slope(row), window, f"{row.steps:g}", row.n_points, MARKS[row.verdict], row.campaign,
        ))  # fmt: skip
    head = ("network", "loss", "boundary", "regime", "γ → 0 or ∞", "over the window", "fitted", "window of γ", "T", "n")
    return table((*head, "verdict", "campaign"), out)


def inverse(row: pd.Series) -> str:
    """2/slope, the degree that a slope speaks of, and the half-width of its interval in per cent."""
    half = (row.ci_high - row.ci_low) / 2 / row.fitted
    return f"{2 / row.fitted:.2f} ± {100 * half:.0f} %" if half < 1 else "–"


def left(row: pd.Series) -> str:
    """Loss left just below eta_crit, at the least and at the largest γ."""
    table = pd.read_csv(RESULTS / row.campaign / "learned.csv")
    mine = table[(table.entry == row.entry) & (table.steps == row.steps) & (table.regime == row.regime)]
    mine = mine.sort_values("gamma")
    return f"{mine.remaining.iloc[0]:.2f} … {mine.remaining.iloc[-1]:.2f}" if len(mine) else "–"


def residual(rows: pd.DataFrame) -> str:
    """ResNets and ViTs, rich, against the three degrees."""
    chosen = rows[rows.predicted_by.isin(LAWS) & rows.arch.isin(["resnet", "vit"]) & (rows.regime == "rich")]
    out = []
    for key, group in chosen.groupby(["arch", "variant", "depth", "loss", "boundary"], sort=True):
        first = group.iloc[0]
        by = {row.predicted_by: row for row in group.itertuples()}
        cells = [f"{by[law].predicted_window:.3f}: {MARKS[by[law].verdict]}" if law in by else "–" for law in LAWS]
        degree = group["degree"].dropna()
        out.append((
            f"{ARCHITECTURES[key[0]]}, {key[1]}", key[3], NAMES[key[4]], f"{first.steps:g}",
            f"{degree.iloc[0]:.2f}" if len(degree) else "–", inverse(first), slope(first), *cells, left(first),
            f"{first.gamma_low:.3g} … {first.gamma_high:.3g}", first.campaign,
        ))  # fmt: skip
    head = (
        "network",
        "loss",
        "boundary",
        "T",
        "D at the largest γ",
        "fitted",
        *LAWS.values(),
        "window of γ",
        "campaign",
    )
    return table(head, out)


def _twins() -> list[tuple[Path, Path]]:
    """Folders of held-out seeds and the campaigns that they repeat, which have the same place among the results."""
    again = sorted(file.parent for file in (RESULTS / HELD_OUT).rglob("exponents.csv"))
    return [(folder, RESULTS / folder.relative_to(RESULTS / HELD_OUT)) for folder in again]


SEEDS_AGAIN = ["depth", "large_weights"]
"""Laws that other seeds are held against: the measured degrees are themselves measured on the seeds."""


def held_out() -> tuple[str, str, int, int]:
    """Verdicts of campaigns and of their repetition on other seeds: by boundary, those that differ, and numbers."""
    differ, counts = [], []
    for again, first in _twins():
        tables = [pd.read_csv(folder / "exponents.csv") for folder in (first, again)]
        both = tables[0].merge(tables[1], on=KEYS, suffixes=("", "_again"))
        pooled = _pooled(first, again)
        chosen = both[both.predicted_by.isin(SEEDS_AGAIN) & both.boundary.isin(NAMES)]
        for row in chosen.itertuples():
            if "undetermined" in {row.verdict, row.verdict_again}:
                continue
            same = row.verdict == row.verdict_again
            counts.append((first.relative_to(RESULTS).as_posix(), row.regime, NAMES[row.boundary], same))
            if same:
                continue
            half = (row.ci_high_again - row.ci_low_again) / 2
            joint = pooled[f"{row.entry}.T{row.steps}.{row.regime}", row.boundary, row.predicted_by]
            differ.append((
                row.entry, row.regime, f"{row.steps:g}", NAMES[row.boundary], f"{row.predicted_window:.3f}", slope(row),
                MARKS[row.verdict], f"{row.fitted_again:.3f} ± {half:.3f}", MARKS[row.verdict_again],
                f"{joint.exponent:.3f} ± {joint.half_width:.3f}", MARKS[joint.verdict],
            ))  # fmt: skip
    names = ("campaign", "regime", "boundary", "same")
    grouped = pd.DataFrame(counts, columns=names).groupby([*names[:3]], sort=False)["same"].agg(["size", "sum"])
    by_boundary = table((*names[:3], "decided both times", "same"), [(*at, *row) for at, row in grouped.iterrows()])
    head = ("entry", "regime", "T", "boundary", "predicted", "fitted", "verdict", "other seeds", "verdict")
    others = table((*head, "all seeds", "verdict"), differ)
    return by_boundary, others, int(grouped["sum"].sum()), int(grouped["size"].sum())


def _pooled(*folders: Path) -> dict[tuple[str, str, str], ScalingFit]:
    """One fit over the seeds of several campaigns, by unit, boundary and law."""
    found: dict[str, dict[str, list[BoundaryPoints]]] = {}
    units: dict[str, UnitResult] = {}
    for folder in folders:
        for one in refit(folder).done:
            name = one.plan.unit.name
            units.setdefault(name, one)
            for boundary, points in one.points.items():
                found.setdefault(name, {}).setdefault(boundary, []).append(points)
    out = {}
    for name, boundaries in found.items():
        joint = {
            boundary: BoundaryPoints(
                boundary,
                *(
                    np.concatenate([getattr(p, c) for p in parts])
                    for c in ("gamma", "seed", "eta", "eta_low", "eta_high")
                ),
            )
            for boundary, parts in boundaries.items()
        }
        for (boundary, law), fit in fit_unit(units[name].plan, joint, None).items():
            out[name, boundary, law] = fit
    return out


def momentum() -> str:
    """Heavy ball over gradient descent, by batch size."""
    laws = pd.read_csv(RESULTS / "cpu-momentum" / "laws.csv")
    laws = laws[laws.quantity == "ratio"]
    out = []
    for regime in ("lazy", "rich"):
        for batch in (8, 32, 128, 512):
            mine = laws[laws.unit == f"batch-{batch}-momentum.T300.{regime}"].set_index("boundary")
            cells = [
                f"{mine.fitted[b]:.2f} ({mine.ci_low[b]:.2f} … {mine.ci_high[b]:.2f})" for b in ("eta_crit", "eta_fail")
            ]
            out.append((regime, batch, *cells))
    return table(("regime", "batch", "η_crit, β = 0.9 over β = 0", "η_fail"), out)


def degrees_of_slow_runs() -> tuple[str, str]:
    """Slopes of residual networks against 2/D just below the boundary and of slow runs, and how many hold."""
    out, counts = [], []
    for file in sorted(RESULTS.rglob("slow.csv")):
        for row in degrees_twice(file.parent, pd.read_csv(file)).itertuples():
            if not np.isfinite(row.half_width) or row.slow_verdict == "undetermined":
                continue
            counts.append((row.near_verdict == "consistent", row.slow_verdict == "consistent"))
            out.append((
                row.entry, f"{row.steps:g}", NAMES[row.boundary], f"{row.fitted:.3f} ± {row.half_width:.3f}",
                f"{row.near_low:.2f} … {row.near_high:.2f}", f"{row.near:.3f}: {MARKS[row.near_verdict]}",
                f"{row.slow_low:.2f} … {row.slow_high:.2f}", f"{row.slow:.3f}: {MARKS[row.slow_verdict]}",
                file.parent.relative_to(RESULTS).as_posix(),
            ))  # fmt: skip
    near, slow = np.array(counts).sum(axis=0)
    head = ("entry", "T", "boundary", "fitted", "D below η_crit", "2/D", "D of slow runs", "2/D", "campaign")
    return table(head, out), f"{near} (just below η_crit) and {slow} (slow runs) of {len(counts)}"


def times_of_flow() -> str:
    """eta_min against gradient flow from the networks' own starts."""

    def verdict(row: dict[str, Any], law: str) -> str:
        return f"{row[law]:.3f}: {MARKS[row[f'{law}_verdict']]}" if np.isfinite(row[law]) else "–"

    out = []
    for file in sorted(RESULTS.rglob("flow.csv")):
        if HELD_OUT in file.relative_to(RESULTS).parts:
            continue
        for row in against_flow(file.parent, pd.read_csv(file)).to_dict("records"):
            if row["regime"] == "middle":
                continue
            out.append((
                row["entry"], f"{row['steps']:g}", row["regime"], f"{row['pass']} of {row['points']}",
                f"{row['ratio']:.3f}", f"{row['spread']:.3f}", f"{row['fitted']:.3f} ± {row['half_width']:.3f}",
                verdict(row, "flow"), verdict(row, "toy"),
                file.parent.relative_to(RESULTS).as_posix(),
            ))  # fmt: skip
    head = ("entry", "T", "regime", "pass", "η_min over flow's", "spread, decades", "fitted", "flow", "toy's law")
    return table((*head, "campaign"), out)


def summary(rows: pd.DataFrame) -> str:
    """How many verdicts of each kind, by regime, law and kind of network."""
    out = []
    kinds = {"MLPs and CNNs": ["mlp", "cnn"], "ResNets and ViTs": ["resnet", "vit"]}
    for regime, law, words in (
        ("lazy", "depth", "exact law"), ("rich", "depth", "exact law"),
        *(("rich", law, words) for law, words in LAWS.items()),
    ):  # fmt: skip
        for (kind, arches), (what, boundaries) in product(kinds.items(), WHAT.items()):
            mine = rows[(rows.regime == regime) & (rows.predicted_by == law) & rows.arch.isin(arches)]
            mine = mine[mine.boundary.isin(boundaries) & (mine.optimizer == "gd")]
            if not len(mine) or (kind == "MLPs and CNNs" and law != "depth"):
                continue
            counts = mine.verdict.value_counts()
            out.append((kind, regime, what, words, *(int(counts.get(v, 0)) for v in MARKS)))
    return table(("networks", "regime", "boundaries", "held against", *MARKS), out)


def main() -> None:
    """Write the page."""
    rows = committed_tables()
    assert rows is not None
    rows = rows.sort_values(FIT, kind="stable")
    by_boundary, differ, same, decided = held_out()
    slow, counts = degrees_of_slow_runs()
    page = f"""# Results of the campaigns

Made by `python docs/campaign_results.py` from `paper_figures/results`; [findings](findings.md) says
what the numbers mean. Slopes are d ln η/d ln γ with 95 % intervals; of several campaigns that measured one slope
the longest budget is shown.

{summary(rows)}
## MLPs and CNNs

{against_the_toy(rows, ["mlp", "cnn"])}
## ResNets and vision transformers, lazy

{against_the_toy(rows, ["resnet", "vit"])}
## ResNets and vision transformers, rich

Each fitted slope beside three predictions: 2/D over the window, with D measured 1.5 times below the boundary and
written down before the boundary was traced; the same with the drift of D counted; and 2/D of the degree for large
weights, which needs no training. *Loss left*: at the end over that at the start, just below η_crit, at both ends of the
window.

{residual(rows)}
## Degrees of slow runs

The same slopes against 2/D with D measured twice: 1.5 times below η_crit, at the edge of stability, and with a
sixteenth of that learning rate for sixteen times as long. At the ends of the window of γ, medians over seeds; decided
slopes only. {counts} hold.

{slow}
## The time of gradient flow

eta_min against gradient flow from each network's own start, in which nothing is fitted. *pass*: points whose flow
passes the level, where others rest; over these the geometric mean of the ratio and the spread of its logarithm; the
fitted slope, and those of flow (where all points pass) and of the toy's law over the same points, with verdicts.

{times_of_flow()}
## Other seeds

Campaigns on seeds from 100 on, which were used for nothing else: {same} of {decided} decided verdicts are the same.

{by_boundary}
The others; *all seeds* is one fit to both.

{differ}
## Momentum and batch size

MLPs of width 16, L = 3, 7×7 inputs, T = 300: boundaries of heavy ball over those of gradient descent at the same γ.
Without noise the ratio is 1 + β = 1.9.

{momentum()}"""
    (DOCS / "campaign_results.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
