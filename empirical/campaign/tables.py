"""What a campaign has found, as the files that users read."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from empirical.campaign.degree import fit_sharpness
from empirical.campaign.laws import compare_boundaries
from empirical.campaign.plan import Plan, reference
from empirical.campaign.run import CampaignResult, UnitResult
from empirical.shard import TrainingConfig
from empirical.store import RunDirectory
from empirical.trace import EXPONENT_COLUMNS, boundary_rows, exact_law, exponent_row
from simulate import OUTCOME_NAMES
from theory.errors import InputError


def identity(config: TrainingConfig) -> dict[str, Any]:
    """Columns that say what was run.

    Args:
        config: what is trained.

    Returns:
        ``arch, variant, depth, loss, optimizer``.
    """
    what = {"arch": config.arch, "variant": config.variant(), "depth": config.depth}
    return what | {"loss": config.loss, "optimizer": config.optimizer}


def boundary_table(result: CampaignResult) -> pd.DataFrame:
    """The columns of ``boundaries.csv``, and the entry and regime of each point.

    Args:
        result: what was found so far.

    Returns:
        One row a traced point.
    """
    tables = [
        boundary_rows(found, one.plan.config.steps, **identity(one.plan.config)).assign(
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
        who, guess = identity(one.plan.config), one.prediction
        for (boundary, by), fit in one.fits.items():
            row = exponent_row(fit, boundary, one.plan.unit.regime, **who) | {"predicted_by": by}
            shown = guess is not None and by == "euler_degree"
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


def law_table(result: CampaignResult) -> pd.DataFrame:
    """The columns of ``laws.csv``: each unit's boundaries over those of its baseline, or of its smallest budget.

    Args:
        result: what was found so far.

    Returns:
        Two rows a boundary, ``quantity`` being ``ratio`` (its mean) or ``slope`` (the difference of the exponents); and
        for the ``sharpness`` at the end of training its ``slope``, predicted as −2, or −2/D.
    """
    found = {one.plan.unit.name: one for one in result.done}
    rows = []
    for one in result.done:
        rows += _sharpness_rows(one)
        other = reference(result.campaign, one.plan.unit)
        base = None if other is None else found.get(other.name)
        if base is None:
            continue
        for boundary, points in one.points.items():
            if boundary not in base.points:
                continue
            law = _law_ratio(boundary, points.gamma, one.plan, base.plan)
            ratio = compare_boundaries(points, base.points[boundary], law)
            if ratio is None:
                continue
            what = {"unit": one.plan.unit.name, "over": base.plan.unit.name, "boundary": boundary}
            fit = ratio.slope
            for quantity, values in (
                ("ratio", (ratio.predicted, ratio.ratio, *ratio.interval, ratio.verdict)),
                ("slope", (fit.predicted_window, fit.exponent, *fit.interval, fit.verdict)),
            ):
                named = dict(zip(("predicted", "fitted", "ci_low", "ci_high", "verdict"), values, strict=True))
                rows.append(what | {"quantity": quantity} | named | {"n_points": ratio.n_points})
    columns = [
        "unit",
        "over",
        "boundary",
        "quantity",
        "predicted",
        "fitted",
        "ci_low",
        "ci_high",
        "verdict",
        "n_points",
    ]
    return pd.DataFrame(rows, columns=columns)


def _sharpness_rows(one: UnitResult) -> list[dict[str, Any]]:
    """The slope of the sharpness, held against 1/η_crit of the law: the toy's when lazy, the degree's when rich."""
    cells, planned = one.degrees, one.plan
    if cells is None or planned.config.optimizer in {"sign", "adam"}:  # no linear stability to set η by λ
        return []
    law = None if one.prediction is None else 1 / one.prediction.law(cells.gamma)
    if planned.unit.regime == "lazy":
        law = 1 / exact_law("eta_crit", cells.gamma, **planned.law)
    fit = fit_sharpness(cells, (planned.window.low, planned.window.high), law)
    if fit is None:
        return []
    row = {"unit": planned.unit.name, "over": "", "boundary": "sharpness", "quantity": "slope"}
    values = {"predicted": fit.predicted_window, "fitted": fit.exponent, "ci_low": fit.interval[0]}
    return [row | values | {"ci_high": fit.interval[1], "verdict": fit.verdict, "n_points": fit.n_points}]


def _law_ratio(boundary: str, gamma: NDArray[np.float64], a: Plan, b: Plan) -> NDArray[np.float64] | None:
    """Ratio of the exact laws of two units; nothing where a boundary has none."""
    try:
        return exact_law(boundary, gamma, **a.law) / exact_law(boundary, gamma, **b.law)
    except (InputError, KeyError):
        return None


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
    tables = {"boundaries": boundary_table(result), "exponents": exponent_table(result)}
    tables |= {"degrees": degree_table(result), "windows": windows, "laws": law_table(result)}
    for name, table in tables.items():
        store.write(f"{name}.csv", table.to_csv(index=False, float_format="%.10g"), grows=True)
    cells = cells_dataset(result)
    packed: dict[Hashable, Any] = {name: {"zlib": True, "complevel": 4} for name in cells.data_vars}
    store.write_with("cells.nc", lambda path: cells.to_netcdf(path, engine="netcdf4", encoding=packed), grows=True)
