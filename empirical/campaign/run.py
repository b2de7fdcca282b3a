"""Runs a campaign, unit by unit; the tables are whole after every unit, whatever comes after it.

A unit is: (1) in the rich regime, the Euler degree and what it predicts, written down; (2) its boundaries, traced;
(3) fits, each held against the toy's law at the depth, against 2/D, or both. All networks are trained in blocks that
are kept as shards, so that an interrupted campaign goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from empirical.campaign.degree import DegreeCells, Prediction, fit_against, measure_degrees, predict
from empirical.campaign.journal import Journal
from empirical.campaign.plan import Plan, plan
from empirical.campaign.schema import Campaign, Unit
from empirical.campaign.star import Recording, trace_star
from empirical.compare import Progress
from empirical.runners import Runner
from empirical.shard import TrainingConfig
from empirical.store import RunDirectory
from empirical.sweep import Sweep
from empirical.trace import EXPONENT_COLUMNS, boundary_rows, exponent_row, fit_boundary
from simulate import OUTCOME_NAMES, BoundaryPoints, ScalingFit, fit_power_law, trace_boundaries
from theory.errors import InputError

Fits = dict[tuple[str, str], ScalingFit]
"""Fits by (boundary, what the prediction came from: ``depth``, ``euler_degree`` or ``none``)."""


@dataclass(frozen=True)
class UnitResult:
    """What one unit found.

    Attributes:
        plan: where it looked.
        points: traced points by boundary.
        fits: see ``Fits``.
        cells: all cells that were run for it, as ``Recording.table`` gives them.
        degrees: cells whose Euler degree was measured; ``None`` where it was not.
        prediction: of the rich slope from the degree; ``None`` where there is none.
    """

    plan: Plan
    points: dict[str, BoundaryPoints]
    fits: Fits
    cells: dict[str, NDArray]
    degrees: DegreeCells | None
    prediction: Prediction | None


@dataclass(frozen=True)
class CampaignResult:
    """What a campaign has found so far.

    Attributes:
        campaign: what is run.
        done: finished units, in order.
        refused: units for which theory leaves no window, with the reason.
        waiting: units that have not run.
    """

    campaign: Campaign
    done: tuple[UnitResult, ...]
    refused: dict[str, str]
    waiting: tuple[Unit, ...]


def identity(config: TrainingConfig) -> dict[str, Any]:
    """Columns that say what was run.

    Args:
        config: what is trained.

    Returns:
        ``arch, variant, depth, loss, optimizer``.
    """
    what = {"arch": config.arch, "variant": f"relu, width {config.width}", "depth": config.depth}
    return what | {"loss": config.loss, "optimizer": config.optimizer}


def fit_unit(planned: Plan, points: dict[str, BoundaryPoints], prediction: Prediction | None) -> Fits:
    """Fit what a unit traced.

    Args:
        planned: the unit.
        points: traced points by boundary.
        prediction: made before, from the degree.

    Returns:
        One fit a boundary against the toy's law, where the degree is the depth exactly or the regime is lazy (there the
        exponent does not depend on it); one against 2/D where there is a prediction, but for ``eta_min``; one
        against nothing where there is neither.
    """
    fits: Fits = {}
    window, rich = planned.window, planned.unit.regime == "rich"
    ends = (window.low, window.high)
    for name, found in points.items():
        if not len(found):
            continue
        if (planned.exact or not rich) and name != "eta_star":
            try:
                fits[name, "depth"] = fit_boundary(found, window, **planned.law)
            except InputError as error:
                if error.field != "depth":
                    raise
        if prediction is not None and rich and name != "eta_min":
            fits[name, "euler_degree"] = fit_against(prediction, found, ends)
        if not any(boundary == name for boundary, _ in fits):
            widths = {"eta_low": found.eta_low, "eta_high": found.eta_high, "seed": found.seed}
            fits[name, "none"] = fit_power_law(found.gamma, found.eta, window=ends, **widths)
    return fits


def run_unit(planned: Plan, sweep: Sweep, journal: Journal | None) -> UnitResult:
    """Measure, predict, trace, fit: in this order.

    Args:
        planned: the unit.
        sweep: trains its networks.
        journal: where the prediction and the fit are dated; nowhere when ``None``.

    Returns:
        What was found.
    """
    unit = planned.unit
    seeds = tuple(range(unit.entry.seeds))
    recording, degrees, prediction = Recording(sweep.run_cells), None, None
    if unit.entry.degree and unit.regime == "rich":
        degrees, rough = measure_degrees(planned, sweep, seeds)
        prediction = predict(degrees)
        if prediction is not None and journal is not None:
            held = journal.predict(unit.name, prediction.record())
            prediction = Prediction(**{k: tuple(v) if isinstance(v, list) else v for k, v in held.items()})
        span = _around(planned, rough)
    else:
        span = planned.span
    points = trace_boundaries(
        recording, planned.gamma, planned.traced, span,
        seeds=seeds, settings=planned.settings, thresholds=planned.config.thresholds,
    )  # fmt: skip
    if "eta_star" in unit.entry.boundaries:
        points["eta_star"] = trace_star(recording, planned.gamma, seeds)
    points = {name: points[name] for name in unit.entry.boundaries}
    fits = fit_unit(planned, points, prediction)
    if journal is not None:
        journal.note("fitted", unit.name, [[*key, f"{fit.exponent:.9g}"] for key, fit in fits.items()])
    return UnitResult(planned, points, fits, recording.table(), degrees, prediction)


def _around(planned: Plan, rough: BoundaryPoints) -> Callable[[float], tuple[float, float]]:
    """First scans around the rough brackets, which cost fewer cells than those from the law."""
    known = {float(g): (low, high) for g, low, high in zip(rough.gamma, rough.eta_low, rough.eta_high, strict=True)}

    def span(gamma: float) -> tuple[float, float]:
        by_law = planned.span(gamma)
        if gamma not in known:
            return by_law
        low, high = known[gamma]
        bottom = by_law[0] if "eta_min" in planned.traced else low / 4
        return min(bottom, low / 4), 6 * planned.ratio_of_max(gamma) * high

    return span


def run_campaign(
    campaign: Campaign,
    store: RunDirectory | None,
    progress: Progress,
    runner: Runner | None = None,
    *,
    device: str = "cpu",
    on_unit: Callable[[CampaignResult], None] | None = None,
) -> CampaignResult:
    """Run a campaign, or go on with one.

    Args:
        campaign: what to run.
        store: directory that keeps what was computed; nothing is kept when ``None``.
        progress: is told how far the run is.
        runner: who trains, this process when ``None``.
        device: where to train.
        on_unit: called with all that has been found after each unit.

    Returns:
        Everything that was found.
    """
    units, refused, plans = campaign.units(), dict[str, str](), dict[str, Plan]()
    for unit in units:
        base = unit.entry.baseline
        name = base and replace(unit, entry=next(e for e in campaign.entries if e.name == base)).name
        try:
            plans[unit.name] = plan(unit, device, plans.get(name) if name else None)
        except InputError as error:
            refused[unit.name] = str(error)
    progress.plan(sum(p.expected_cells() * p.config.steps for p in plans.values()))
    journal = None if store is None else Journal(store)
    done: list[UnitResult] = []
    with runner or Runner() as trainer:
        for i, unit in enumerate(units):
            if unit.name not in plans:
                continue
            planned = plans[unit.name]
            progress.phase(unit.name, planned.expected_cells() * planned.config.steps)
            sweep = Sweep(planned.config, store, lambda _c, steps, held: progress.advance(steps, held), trainer)
            done.append(run_unit(planned, sweep, journal))
            if on_unit is not None:
                on_unit(CampaignResult(campaign, tuple(done), refused, units[i + 1 :]))
    return CampaignResult(campaign, tuple(done), refused, ())


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
        settled_at`` (share of T from which D stays within 5 % of its last value).
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
        tables.append(pd.DataFrame(columns | {"settled_at": np.repeat(cells.settled_at(), count)}))
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


def save(result: CampaignResult, store: RunDirectory) -> None:
    """Write the tables of all finished units: ``boundaries.csv, exponents.csv, degrees.csv, windows.csv, cells.nc``.

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
    tables |= {"degrees": degree_table(result), "windows": windows}
    for name, table in tables.items():
        store.write(f"{name}.csv", table.to_csv(index=False, float_format="%.10g"), grows=True)
    cells = cells_dataset(result)
    packed: dict[Hashable, Any] = {name: {"zlib": True, "complevel": 4} for name in cells.data_vars}
    store.write_with("cells.nc", lambda path: cells.to_netcdf(path, engine="netcdf4", encoding=packed), grows=True)
