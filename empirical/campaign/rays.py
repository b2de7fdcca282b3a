"""Asks whether networks of larger γ lie on the ray through those of smaller γ.

``python -m empirical.campaign.rays FOLDER [ENTRY …]``

Trains again the cells of a campaign whose degree was measured (``degrees.csv``), and measures at the end of training
the exponent that 2/λ would have in γ if the final weights only changed in size (``measure.ray``). Beside it stand 2/D,
of the same cells, and the slope that 2/λ does have from γ to γ. ``FOLDER/rays.csv`` gets a row a cell.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from empirical.campaign.again import LEARNED, chosen, command, just_below, measure_again
from empirical.campaign.refit import refit
from simulate import fit_power_law


def rays(folder: Path | str, entries: tuple[str, ...] = ()) -> pd.DataFrame:
    """Measure the exponent along the ray of each cell that learned in a rich unit.

    Args:
        folder: of a campaign, with its ``manifest.json``, ``boundaries.csv`` and ``degrees.csv``.
        entries: names of entries; all when empty.

    Returns:
        One row a cell: ``entry, steps, gamma, eta, seed, degree, sharpness, ray_exponent``, all measured here.

    Raises:
        InputError: an entry without a rich unit; as ``refit`` does.
    """
    folder, parts = Path(folder), []
    rich = [unit for unit in refit(folder).done if unit.plan.unit.regime == "rich"]
    for unit in chosen(rich, entries, folder):
        plan, mine = unit.plan, just_below(folder, unit.plan)
        mine = mine[mine["outcome"].isin(LEARNED)]
        if mine.empty:
            continue
        made = measure_again(plan.config, mine, ("euler_degree", "sharpness", "ray_exponent"))
        made = made.drop(columns="outcome").rename(columns={"euler_degree": "degree"})
        made.insert(0, "entry", plan.unit.entry.name)
        made.insert(1, "steps", plan.unit.steps)
        parts.append(made)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Put the exponents of each unit side by side.

    Args:
        table: as ``rays`` makes it.

    Returns:
        One row a unit: means over γ of the medians over seeds of ``two_over_degree`` and ``ray_exponent``; the slope of
        2/λ over γ and its half-width, ``slope`` and ``half_width``.
    """
    out = []
    for (entry, steps), cells in table.groupby(["entry", "steps"], sort=False):
        good = cells[np.isfinite(cells["ray_exponent"]) & (cells["sharpness"] > 0) & (cells["degree"] > 0)]
        middle = good.groupby("gamma")[["degree", "ray_exponent"]].median()
        fit = fit_power_law(good["gamma"], 2 / good["sharpness"], seed=good["seed"])
        out.append({
            "entry": entry, "steps": steps, "gammas": len(middle), "two_over_degree": (2 / middle["degree"]).mean(),
            "ray_exponent": middle["ray_exponent"].mean(), "slope": fit.exponent,
            "half_width": (fit.interval[1] - fit.interval[0]) / 2,
        })  # fmt: skip
    return pd.DataFrame(out)


def _main(folder: Path, rest: list[str]) -> None:
    made = rays(folder, tuple(rest))
    made.to_csv(folder / "rays.csv", index=False, float_format="%.6g")
    print(summary(made).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    command(_main, "python -m empirical.campaign.rays FOLDER [ENTRY …]")
