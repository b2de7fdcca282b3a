"""The rows of ``laws.csv``: what two boundaries, or the parts of one in two regimes, say together.

- ``ratio`` and ``slope`` of a boundary over that of a baseline, or of the smallest budget (``laws``);
- ``slope`` of the sharpness at the end of training;
- ``apex``: the γ at which eta_min meets eta_crit, each seed by itself, held against the toy's apex;
- ``bump``: decades by which a boundary stands above the crossover law between its two windows, where the regime
  ``middle`` was traced (``phenomena.bump``); the exact law of MSE has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from empirical.campaign.degree import fit_sharpness
from empirical.campaign.laws import WIDEST, closing, compare_boundaries
from empirical.campaign.plan import Plan, reference
from empirical.campaign.run import CampaignResult, UnitResult
from empirical.phenomena.bump import measure_bump
from empirical.trace import exact_law
from simulate import BoundaryPoints
from simulate.boundary import collect
from theory import ToyModel
from theory.errors import InputError

COLUMNS = [
    *("unit", "over", "boundary", "quantity", "predicted", "fitted", "ci_low", "ci_high", "verdict", "n_points"),
]
LEAST_SEEDS = 3
"""Seeds from which on a scatter between them says something."""

CROSSING_OVER = ("eta_crit", "eta_fail", "eta_max")
"""Boundaries whose law is γ² at one end and γ^{2/D} at the other."""


def law_table(result: CampaignResult) -> pd.DataFrame:
    """The columns of ``laws.csv``.

    Args:
        result: what was found so far.

    Returns:
        One row a number: ``unit``, what it is held ``over``, ``boundary``, ``quantity`` (``ratio``, ``slope``, ``apex``
        or ``bump``), ``predicted`` (NaN where nothing is), ``fitted``, ``ci_low``, ``ci_high``, ``verdict``,
        ``n_points``. The sharpness is predicted to have the slope −2, or −2/D.
    """
    found = {one.plan.unit.name: one for one in result.done}
    rows = []
    for one in result.done:
        rows += _sharpness_rows(one)
        other = reference(result.campaign, one.plan.unit)
        base = None if other is None else found.get(other.name)
        if base is not None:
            rows += _ratio_rows(one, base)
    together: dict[tuple[str, int], dict[str, UnitResult]] = {}
    for one in result.done:
        unit = one.plan.unit
        together.setdefault((unit.entry.name, unit.steps), {})[unit.regime] = one
    for regimes in together.values():
        rows += _apex_rows(regimes) + _bump_rows(regimes)
    return pd.DataFrame(rows, columns=COLUMNS)


def _about(one: UnitResult, boundary: str, quantity: str, over: UnitResult | None = None) -> dict[str, Any]:
    other = "" if over is None else over.plan.unit.name
    return {"unit": one.plan.unit.name, "over": other, "boundary": boundary, "quantity": quantity}


def _found(predicted: float, fitted: float, ends: tuple[float, float], verdict: str, points: int) -> dict[str, Any]:
    row = {"predicted": predicted, "fitted": fitted, "ci_low": ends[0], "ci_high": ends[1]}
    return row | {"verdict": verdict, "n_points": points}


def _ratio_rows(one: UnitResult, base: UnitResult) -> list[dict[str, Any]]:
    """Mean ratio of each boundary to another unit's, and the difference of the exponents."""
    rows = []
    for boundary, points in one.points.items():
        if boundary not in base.points:
            continue
        law = _law_ratio(boundary, points.gamma, one.plan, base.plan)
        ratio = compare_boundaries(points, base.points[boundary], law)
        if ratio is None:
            continue
        fit, count = ratio.slope, ratio.n_points
        mean = _found(ratio.predicted, ratio.ratio, ratio.interval, ratio.verdict, count)
        slope = _found(fit.predicted_window, fit.exponent, fit.interval, fit.verdict, count)
        rows += [_about(one, boundary, "ratio", base) | mean, _about(one, boundary, "slope", base) | slope]
    return rows


def joined(boundary: str, units: Iterable[UnitResult], seed: int | None = None) -> BoundaryPoints:
    """Points of one boundary in several units.

    Args:
        boundary: which.
        units: those that traced it give theirs.
        seed: only of this seed; of all when ``None``.

    Returns:
        All of their points, γ, η and brackets.
    """
    rows = [
        row
        for points in (one.points[boundary] for one in units if boundary in one.points)
        for row in zip(points.gamma, points.seed, points.eta, points.eta_low, points.eta_high, strict=True)
        if seed is None or row[1] == seed
    ]
    return collect(boundary, rows)


def _apex_rows(regimes: dict[str, UnitResult]) -> list[dict[str, Any]]:
    """Where the window of trainable learning rates closes; no verdict on what was extrapolated, which bends."""
    one = regimes.get("rich")
    if one is None:
        return []
    units, plan = list(regimes.values()), one.plan
    names, seeds = ("eta_min", "eta_crit"), plan.unit.entry.every_seed
    apexes = [closing(*(joined(name, units, seed) for name in names)) for seed in seeds]
    there = [apex for apex in apexes if apex is not None]
    if not there:
        return []
    logs, half = np.log([apex.gamma for apex in there]), math.inf
    if len(logs) >= LEAST_SEEDS:  # 95 % interval of the mean, widths of brackets included
        variance = logs.var(ddof=1) + np.mean([apex.error**2 for apex in there])
        half = float(stats.t.ppf(0.975, len(logs) - 1) * np.sqrt(variance / len(logs)))
    mean = float(logs.mean())
    ends = (float(np.exp(mean - half)), float(np.exp(mean + half))) if math.isfinite(half) else (math.nan, math.nan)
    predicted, verdict = _toy_apex(plan), "undetermined"
    if half <= WIDEST and math.isfinite(predicted) and not any(apex.extrapolated for apex in there):
        verdict = "consistent" if abs(mean - math.log(predicted)) <= half else "inconsistent"
    return [_about(one, "apex", "apex") | _found(predicted, float(np.exp(mean)), ends, verdict, len(there))]


def _toy_apex(plan: Plan) -> float:
    """Apex of the toy, NaN where it has none or the network is not the toy's."""
    law = plan.law
    if not plan.exact or law["optimizer"] not in {"gd", "momentum"}:
        return math.nan
    beta = law["beta"] if law["optimizer"] == "momentum" else None
    model = ToyModel(loss=law["loss"], optimizer=law["optimizer"])
    apex = model.apex(steps=law["steps"], depth=law["depth"], level=law["level"], beta=beta)
    return apex if 0 < apex < math.inf else math.nan


def _bump_rows(regimes: dict[str, UnitResult]) -> list[dict[str, Any]]:
    """Height of the bump of each boundary, in decades."""
    if set(regimes) != {"lazy", "rich", "middle"}:
        return []
    one, lazy = regimes["rich"], regimes["lazy"]
    plan, guess = one.plan, one.prediction
    if plan.config.optimizer in {"sign", "adam"} or (guess is None and not plan.exact):  # not γ², or no exponent
        return []
    slope = 2 / plan.law["depth"] if guess is None else guess.slope
    rows = []
    for boundary in CROSSING_OVER:
        points = joined(boundary, regimes.values())
        if not len(points) or not slope < 2 or (boundary == "eta_max" and plan.config.loss != "mse"):
            continue
        found = measure_bump(
            points.gamma,
            points.eta,
            seed=points.seed,
            lazy_window=(lazy.plan.window.low, lazy.plan.window.high),
            rich_window=(plan.window.low, plan.window.high),
            rich_exponent=slope,
        )
        if not found.determined:
            continue
        known = plan.exact and plan.config.loss == "mse"
        verdict = "undetermined"
        if known and np.isfinite(found.height_interval).all():
            verdict = "inconsistent" if found.present else "consistent"
        height = _found(0.0 if known else math.nan, found.height, found.height_interval, verdict, len(points))
        rows.append(_about(one, boundary, "bump", lazy) | height)
    return rows


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
    found = _found(fit.predicted_window, fit.exponent, fit.interval, fit.verdict, fit.n_points)
    return [_about(one, "sharpness", "slope") | found]


def _law_ratio(boundary: str, gamma: NDArray[np.float64], a: Plan, b: Plan) -> NDArray[np.float64] | None:
    """Ratio of the exact laws of two units; nothing where a boundary has none."""
    try:
        return exact_law(boundary, gamma, **a.law) / exact_law(boundary, gamma, **b.law)
    except (InputError, KeyError):
        return None
