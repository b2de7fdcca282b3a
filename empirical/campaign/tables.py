"""What a campaign has found, as the files that users read."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from empirical.campaign.law_rows import law_table
from empirical.campaign.run import CampaignResult
from empirical.store import RunDirectory
from empirical.trace import EXPONENT_COLUMNS, boundary_rows, exponent_row
from simulate import OUTCOME_NAMES


def boundary_table(result: CampaignResult) -> pd.DataFrame:
    """The columns of ``boundaries.csv``, and the entry and regime of each point.

    Args:
        result: what was found so far.

    Returns:
        One row a traced point.
    """
    tables = [
        boundary_rows(found, one.plan.config.steps, **one.plan.config.identity()).assign(
            entry=one.plan.unit.entry.name, regime=one.plan.unit.regime
        )
        for one in result.done
        for found in one.points.values()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def exponent_table(result: CampaignResult) -> pd.DataFrame:
    """The columns of ``exponents.csv``, and what a campaign adds to them.

    Args:
        result: what was found so far.

    Returns:
        One row a fit. Further columns: ``steps`` (T), ``entry``, ``degree`` (D at the largest γ), ``slope_low`` and
        ``slope_high`` (least and largest 2/D over γ and seeds), ``explanation`` of an undetermined verdict.
    """
    rows = []
    for one in result.done:
        who, guess = one.plan.config.identity(), one.prediction
        for (boundary, by), fit in one.fits.items():
            row = exponent_row(fit, boundary, one.plan.unit.regime, **who) | {"predicted_by": by}
            shown = guess is not None and by.startswith("euler_degree")
            nan = math.nan
            row |= {"steps": one.plan.config.steps, "entry": one.plan.unit.entry.name}
            row |= {"degree": guess.degree[-1] if guess and shown else nan}
            row |= {"slope_low": guess.low if guess and shown else nan}
            row |= {"slope_high": guess.high if guess and shown else nan, "explanation": fit.explanation}
            rows.append(row)
    more = ["steps", "entry", "degree", "slope_low", "slope_high", "explanation"]
    return pd.DataFrame(rows, columns=[*EXPONENT_COLUMNS, *more])


def degree_table(result: CampaignResult) -> pd.DataFrame:
    """The columns of ``degrees.csv``.

    Args:
        result: what was found so far.

    Returns:
        One row a cell and step at which D was measured: ``entry, steps, gamma, eta, seed, outcome, step, degree,
        settled_at`` (share of T from which D stays within 5 % of its last
        value), ``sharpness`` (λ at the end), ``regime, edge`` (ηλ/2).
    """
    tables = []
    for one in result.done:
        if one.degrees is None:
            continue
        cells = one.degrees
        count = len(cells.step)
        columns: dict[str, Any] = {"entry": one.plan.unit.entry.name, "steps": one.plan.config.steps}
        columns |= {name: np.repeat(getattr(cells, name), count) for name in ("gamma", "eta", "seed")}
        columns["outcome"] = np.repeat(np.array(OUTCOME_NAMES)[cells.outcome], count)
        columns |= {"step": np.tile(cells.step, len(cells.gamma)), "degree": cells.degree.ravel()}
        columns |= {"settled_at": np.repeat(cells.settled_at(), count)}
        columns |= {"sharpness": np.repeat(cells.sharpness, count), "regime": one.plan.unit.regime}
        tables.append(pd.DataFrame(columns | {"edge": columns["eta"] * columns["sharpness"] / 2}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def cells_dataset(result: CampaignResult) -> xr.Dataset:
    """Every cell that the traces ran, for ``cells.nc``.

    Args:
        result: what was found so far.

    Returns:
        Along ``cell``: ``unit`` (position in the attribute ``units``), ``gamma, eta, seed`` and what became of it.
    """
    parts = [one.cells | {"unit": np.full(len(one.cells["gamma"]), i)} for i, one in enumerate(result.done)]
    names = list(parts[0]) if parts else []
    data = {name: ("cell", np.concatenate([part[name] for part in parts])) for name in names}
    about = {"outcome_names": " ".join(OUTCOME_NAMES), "units": " ".join(one.plan.unit.name for one in result.done)}
    return xr.Dataset(data, attrs=about)


def _at(gamma: pd.Series, eta: pd.Series) -> pd.Series:
    """A place in the plane that survives the ten digits of ``boundaries.csv``."""
    return gamma.map("{:.8g}".format) + " " + eta.map("{:.8g}".format)


def learned_table(cells: xr.Dataset, boundaries: pd.DataFrame) -> pd.DataFrame:
    """How much networks have learned when their budget ends, just below eta_crit: the columns of ``learned.csv``.

    The exponents of theory are those of networks that end in the same state at every γ; where this loss changes along a
    window, they do not.

    Args:
        cells: as ``cells_dataset`` gives them, or ``cells.nc`` has them.
        boundaries: as ``boundary_table`` gives them, or ``boundaries.csv`` has them.

    Returns:
        One row a unit and γ: ``entry, steps, regime, gamma, seeds, remaining`` (median over seeds of the loss at the
        end over that at the start, of the last cell below eta_crit), ``least, largest``.
    """
    columns = ["entry", "steps", "regime", "gamma", "seeds", "remaining", "least", "largest"]
    below = boundaries[boundaries["boundary"] == "eta_crit"].copy() if len(boundaries) else boundaries
    if not len(below):
        return pd.DataFrame(columns=columns)
    units = cells.attrs["units"].split()
    run = pd.DataFrame({name: cells[name].values for name in ("unit", "gamma", "eta", "seed")})
    run["remaining"] = cells["final_loss"].values / cells["initial_loss"].values
    run["unit"] = [units[i] for i in run["unit"]]
    below["unit"] = [f"{row.entry}.T{row.steps}.{row.regime}" for row in below.itertuples()]
    key = ["unit", "seed", "at"]
    run, below = run.assign(at=_at(run["gamma"], run["eta"])), below.assign(at=_at(below["gamma"], below["eta_low"]))
    met = below.merge(run[[*key, "remaining"]].drop_duplicates(key), on=key)
    grouped = met.groupby(["entry", "steps", "regime", "gamma"], sort=False)["remaining"]
    return grouped.agg(seeds="size", remaining="median", least="min", largest="max").reset_index()[columns]


def save(result: CampaignResult, store: RunDirectory) -> None:
    """Write the tables of all finished units: ``*.csv`` and ``cells.nc``.

    Args:
        result: what was found so far.
        store: where.
    """
    windows = pd.DataFrame(
        [{"unit": one.plan.unit.name, "reason": one.plan.window.reason} for one in result.done]
        + [{"unit": name, "reason": f"refused: {why}"} for name, why in result.refused.items()],
        columns=["unit", "reason"],
    )
    boundaries, cells = boundary_table(result), cells_dataset(result)
    tables = {
        "boundaries": boundaries,
        "exponents": exponent_table(result),
        "learned": learned_table(cells, boundaries),
    }
    tables |= {"degrees": degree_table(result), "windows": windows, "laws": law_table(result)}
    for name, table in tables.items():
        store.write(f"{name}.csv", table.to_csv(index=False, float_format="%.10g"), grows=True)
    packed: dict[Hashable, Any] = {name: {"zlib": True, "complevel": 4} for name in cells.data_vars}
    store.write_with("cells.nc", lambda path: cells.to_netcdf(path, engine="netcdf4", encoding=packed), grows=True)
