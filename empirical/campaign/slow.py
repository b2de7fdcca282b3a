"""Asks what degree networks have that train far below the boundary, where descent follows gradient flow.

``python -m empirical.campaign.slow FOLDER [T] [ENTRY …]``

Campaigns measure D where they trace: 1.5 times below eta_crit, at the edge of stability. Residual toys end there in
flatter minima of lower degree than gradient flow does, while their boundary goes with γ as that of the flow
(``simulate.residual``). Here the cells of ``degrees.csv`` are trained again with a sixteenth of their learning rate
and sixteen times the steps, so that ηT is the same; ``FOLDER/slow.csv`` gets a row a cell, and the slopes that the
campaign fitted stand beside both degrees.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from empirical.campaign.again import chosen, command, just_below, measure_again
from empirical.campaign.degree import DegreeCells, fit_against, power_of, predict
from empirical.campaign.refit import refit
from empirical.campaign.run import UnitResult
from simulate import Outcome
from simulate.residual import SLOW, UPPER


def _rich(folder: Path, entries: tuple[str, ...]) -> list[UnitResult]:
    """Rich units of networks that are not homogeneous of their depth."""
    units = [unit for unit in refit(folder).done if unit.plan.unit.regime == "rich" and not unit.plan.exact]
    return chosen(units, entries, folder)


def slow(folder: Path | str, entries: tuple[str, ...] = (), *, steps: int | None = None) -> pd.DataFrame:
    """Train the cells whose degree a campaign measured again, slower and longer.

    Args:
        folder: of a campaign, with its ``manifest.json``, ``boundaries.csv`` and ``degrees.csv``.
        entries: names of entries; all ResNets and ViTs when empty.
        steps: only units of this budget T; all when ``None``.

    Returns:
        One row a cell: ``entry, steps, gamma, eta, seed, outcome, degree, sharpness``, where ``steps`` is the T of the
        campaign, ``eta`` the learning rate of the slow run, and ``near`` the degree that the campaign measured.

    Raises:
        InputError: an entry that the campaign has not run; as ``refit`` does.
    """
    folder, parts = Path(folder), []
    for unit in _rich(folder, entries):
        plan, mine = unit.plan, just_below(folder, unit.plan)
        if mine.empty or steps not in {None, plan.unit.steps}:
            continue
        config = replace(plan.config, steps=SLOW * plan.config.steps)
        made = measure_again(config, mine.assign(eta=mine["eta"] / SLOW), ("euler_degree", "sharpness"))
        made = made.rename(columns={"euler_degree": "degree"}).assign(near=mine["degree"].to_numpy())
        made.insert(0, "entry", plan.unit.entry.name)
        made.insert(1, "steps", plan.unit.steps)
        parts.append(made)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _cells(rows: pd.DataFrame) -> DegreeCells:
    gamma, eta, seed = (rows[name].to_numpy() for name in ("gamma", "eta", "seed"))
    outcome = np.array([Outcome[name.upper()] for name in rows["outcome"]], dtype=np.int8)
    unseen = np.full(len(rows), np.nan)
    return DegreeCells(gamma, eta, seed, outcome, np.array([1]), rows[["degree"]].to_numpy(), unseen)


def summary(folder: Path | str, table: pd.DataFrame) -> pd.DataFrame:
    """Hold the slopes of a campaign against 2/D of both degrees.

    Args:
        folder: of the campaign.
        table: as ``slow`` makes it.

    Returns:
        One row a boundary: ``entry, steps, boundary, fitted, half_width``, medians of both degrees at the ends of the
        window (``near_low, near_high, slow_low, slow_high``), and the slopes of exp ∫ 2/D d ln γ over the points with
        their verdicts (``near, near_verdict, slow, slow_verdict``).
    """
    out = []
    for unit in _rich(Path(folder), ()):
        plan = unit.plan
        rows = table[table["entry"].eq(plan.unit.entry.name) & table["steps"].eq(plan.unit.steps)]
        power = power_of(plan.config.optimizer)
        laws = {"near": unit.prediction, "slow": predict(_cells(rows), power)}
        for boundary in UPPER:
            points = unit.points.get(boundary)
            if points is None or not len(points) or any(law is None for law in laws.values()):
                continue
            row: dict[str, Any] = {"entry": plan.unit.entry.name, "steps": plan.unit.steps, "boundary": boundary}
            for name, law in laws.items():
                assert law is not None
                fit = fit_against(law, points, (plan.window.low, plan.window.high))
                row |= {"fitted": fit.exponent, "half_width": (fit.interval[1] - fit.interval[0]) / 2}
                row |= {f"{name}_low": law.degree[0], f"{name}_high": law.degree[-1]}
                row |= {name: fit.predicted_window, f"{name}_verdict": fit.verdict}
            out.append(row)
    return pd.DataFrame(out)


def _main(folder: Path, rest: list[str]) -> None:
    budget = int(rest.pop(0)) if rest and rest[0].isdigit() else None
    made = slow(folder, tuple(rest), steps=budget)
    made.to_csv(folder / "slow.csv", index=False, float_format="%.10g")
    print(summary(folder, made).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    command(_main, "python -m empirical.campaign.slow FOLDER [T] [ENTRY …]")
