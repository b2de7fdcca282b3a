"""Claims about the γ–η plane: exponents of its boundaries and of the best learning rate, budget, apex, bump."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from empirical.experiments.analysis import apex_slope, budget_slopes
from empirical.experiments.plane import Plane
from empirical.phenomena.bump import measure_bump
from empirical.trace import default_window, law_of
from paper_figures.ledger import (
    FROM_CAMPAIGN,
    NOT_SUPPORTED,
    PAPER,
    SUPPORTED,
    UNDETERMINED,
    Claim,
    Finding,
    above,
    mean_interval,
    of_fit,
)
from simulate import Outcome, PhasePortrait, fit_power_law
from theory.errors import InputError

SYMBOLS = {"eta_min": "η_min", "eta_crit": "η_crit", "eta_fail": "η_fail", "eta_max": "η_max"}


def _boundary(boundary: str, regime: str, symbol: str) -> Callable[[Plane], Finding]:
    def judge(plane: Plane) -> Finding:
        """Supported when the 95 % interval of the fitted slope, brackets included, holds that of the exact toy law.

        Over the same points; undetermined when its half-width is above 0.15 or there are fewer than five γ.

        Returns:
            The finding.
        """
        return of_fit(plane.fits.get((regime, boundary)), symbol=symbol)

    return judge


def of_campaign(tables: pd.DataFrame, plane: Plane, regime: str, boundary: str, symbol: str) -> Finding | None:
    """What the campaigns say of an exponent that a plane has too.

    Args:
        tables: as ``committed_tables`` gives them.
        plane: says which architecture, depth and loss.
        regime: ``lazy`` or ``rich``.
        boundary: which boundary.
        symbol: the predicted exponent in symbols.

    Returns:
        The finding of the narrowest determined interval among the widths that the campaigns have, or ``None``.
    """
    who = plane.config.training.identity()
    wanted = {"regime": regime, "boundary": boundary, "predicted_by": "depth"}
    wanted |= {name: who[name] for name in ("arch", "depth", "loss", "optimizer")}
    same = tables[tables["verdict"] != "undetermined"]
    for name, value in wanted.items():
        same = same[same[name] == value]
    if not len(same):
        return None
    row = same.iloc[int((same["ci_high"] - same["ci_low"]).to_numpy().argmin())]
    verdict = SUPPORTED if row["verdict"] == "consistent" else NOT_SUPPORTED
    detail = f"{FROM_CAMPAIGN}{row['campaign']}: {row['variant']}, T = {int(row['steps'])}, slope over γ in "
    detail += f"[{row['gamma_low']:.3g}, {row['gamma_high']:.3g}], {int(row['n_points'])} points"
    predicted = f"{symbol} = {row['predicted']:.3g} ({row['predicted_window']:.3g} on the window)"
    return Finding(predicted, float(row["fitted"]), (float(row["ci_low"]), float(row["ci_high"])), verdict, detail)


def _boundary_or_campaign(boundary: str, regime: str, symbol: str) -> Callable[..., Finding]:
    def judge(plane: Plane, tables: pd.DataFrame | None = None) -> Finding:
        """Supported when the 95 % interval of the fitted slope, brackets included, holds that of the exact toy law.

        Over the same points; undetermined when its half-width is above 0.15 or there are fewer than five γ. Where that
        leaves this run's fit undetermined, a determined fit of the campaigns on the same architecture, depth and loss
        is judged in its place, that of the narrowest interval (written after results of the first campaign were known).

        Returns:
            The finding.
        """
        own = of_fit(plane.fits.get((regime, boundary)), symbol=symbol)
        if own.verdict != UNDETERMINED or tables is None:
            return own
        elsewhere = of_campaign(tables, plane, regime, boundary, symbol)
        if elsewhere is None:
            return own
        here = f"; here {own.measured:.3g} [{own.interval[0]:.3g}, {own.interval[1]:.3g}]"
        return replace(elsewhere, detail=elsewhere.detail + here)

    return judge


def best_eta(portrait: PhasePortrait) -> NDArray[np.float64]:
    """Learning rate of least final loss at each γ, between the points of the grid.

    The vertex of the parabola in ln η through the best cell and its neighbours, among the trained cells below the first
    failure; the best cell itself at an end of that band.

    Args:
        portrait: the grid.

    Returns:
        Shape ``(gamma,)``; NaN where nothing trains.
    """
    data = portrait.data
    loss = data["final_loss"].mean("seed").values
    trained = (data["outcome"].values == Outcome.TRAINED).all(axis=-1)
    x, out = np.log(data["eta"].values), np.full(len(loss), np.nan)
    for g, row in enumerate(loss):
        good = np.nonzero(trained[g])[0]
        if len(good) == 0:
            continue
        gaps = np.nonzero(np.diff(good) > 1)[0]
        band = good[: int(gaps[0]) + 1] if len(gaps) else good
        best = int(band[np.argmin(row[band])])
        out[g] = x[best]
        if band[0] < best < band[-1]:
            below, at, beyond = row[best - 1 : best + 2]
            bend = below - 2 * at + beyond
            if bend > 0:
                out[g] += 0.5 * (x[1] - x[0]) * (below - beyond) / bend
    return np.exp(out)


def _best(regime: str, symbol: str) -> Callable[[Plane], Finding]:
    def judge(plane: Plane) -> Finding:
        """Supported when the 95 % interval of the slope of η* over the fit window of η_crit holds 2 or 2/L.

        η* is the learning rate of least final loss, between the points of the grid; the interval is from its scatter.
        Undetermined as for the boundaries.

        Returns:
            The finding.
        """
        gamma, eta = plane.portrait.data["gamma"].values, best_eta(plane.portrait)
        window, good = plane.config.window(regime, "eta_crit"), np.isfinite(eta)
        predicted = 2.0 if regime == "lazy" else 2.0 / plane.config.training.depth
        if window is None or not good.any():
            return of_fit(None, symbol=symbol)
        fit = fit_power_law(gamma[good], eta[good], window=(window.low, window.high), predicted=predicted)
        return of_fit(fit, symbol=symbol)

    return judge


def falls_with_budget(place: int) -> Callable[[pd.DataFrame], Finding]:
    """A judge of the lower boundary against T.

    Args:
        place: which γ of the experiment, ascending.

    Returns:
        The judge.
    """

    def judge(budgets: pd.DataFrame) -> Finding:
        """Supported when the 95 % interval of d ln η_min / d ln T holds that of the exact toy law over the same T."""
        fits = budget_slopes(budgets)
        gamma = sorted(fits)[place]
        found = of_fit(fits[gamma], symbol="−1")
        detail = f"slope over T in [{budgets['steps'].min()}, {budgets['steps'].max()}] at γ = {gamma:g}"
        predicted, needs = found.predicted.replace("−1 = -1", "−1"), found.needs.replace("γ", "T")
        return Finding(predicted, found.measured, found.interval, found.verdict, detail, needs)

    return judge


def apex_grows(apex: pd.DataFrame) -> Finding:
    """Supported when the 95 % interval of d ln γ_max / d ln T holds that of the toy's exact apex over the same T."""
    fit = apex_slope(apex)
    found = of_fit(fit)
    law = f"{fit.predicted_window:.3g} (exact toy; L/(L−2) = 3 for T → ∞)" if np.isfinite(fit.predicted_window) else "3"
    ratio = math.exp(mean_interval(np.log(np.sqrt(apex["gamma_low"] * apex["gamma_high"]) / apex["toy"]))[0])
    detail = f"T in [{apex['steps'].min()}, {apex['steps'].max()}], {fit.n_points} points; "
    detail += f"the networks' γ_max is {ratio:.2g} times the toy's" + (
        f": {fit.explanation}" if fit.explanation else ""
    )
    return Finding(law, found.measured, found.interval, found.verdict, detail, found.needs.replace("γ", "T"))


def bump(plane: Plane) -> Finding:
    """Supported when η_crit rises above the law of two powers by more than 0.1 decades plus a step of the grid.

    The law is fitted to the two windows; the interval of the height is a step of the grid either way.

    Returns:
        The finding.
    """
    what = law_of(plane.config.training)
    points = plane.portrait.boundary("eta_crit")
    gamma = plane.portrait.data["gamma"].values
    ends = (float(gamma[0]), float(gamma[-1]))
    try:
        windows = [default_window(regime=r, gamma_range=ends, boundary="eta_crit", **what) for r in ("lazy", "rich")]
    except InputError as error:
        return Finding("0 (toy)", math.nan, (math.nan, math.nan), UNDETERMINED, str(error), "that γ on the grid")
    lazy, rich = ((w.low, w.high) for w in windows)
    found = measure_bump(points.gamma, points.eta, seed=points.seed, lazy_window=lazy, rich_window=rich,
                         depth=int(what["depth"]))  # fmt: skip
    if not found.determined:
        return Finding("0 (toy)", math.nan, (math.nan, math.nan), UNDETERMINED, found.status, "more γ on the grid")
    step = float(np.log10(points.eta_high / points.eta_low).max()) / 2
    interval = (found.height - step, found.height + step)
    detail = f"decades above the law at γ = {found.peak_gamma:.2g}, read off the grid"
    step_needed = "a finer grid along η"
    return Finding("0 (toy)", found.height, interval, above(interval, 0.1), detail, step_needed)


def _rows(plane: str, network: str, loss: str, boundaries: tuple[str, ...], powers: dict[str, tuple[str, str]]) -> list:
    out = []
    for boundary in boundaries:
        for regime, symbol in zip(("lazy", "rich"), powers[boundary], strict=True):
            side = "γ ≪ 1" if regime == "lazy" else "γ ≫ 1"
            name = f"{boundary.replace('_', '-')}-{regime}-{'mse' if plane == 'mse' else 'ce'}"
            statement = f"{SYMBOLS[boundary]} ∝ γ^{symbol} for {side} ({network}, {loss})"
            source = f"{PAPER}, table 1"
            if plane == "mse":
                out.append(Claim(name, statement, source, "fig1", (plane,), _boundary(boundary, regime, symbol)))
            else:
                judge = _boundary_or_campaign(boundary, regime, symbol)
                out.append(Claim(name, statement, source, "fig1", (plane,), judge, ("tables",)))
    for regime, symbol in (("lazy", "2"), ("rich", "2/L")):
        side = "γ ≪ 1" if regime == "lazy" else "γ ≫ 1"
        name = f"eta-star-{regime}-{'mse' if plane == 'mse' else 'ce'}"
        statement = f"the best learning rate η* ∝ γ^{symbol} for {side} ({network}, {loss})"
        out.append(Claim(name, statement, f"{PAPER}, abstract", "fig1", (plane,), _best(regime, symbol)))
    return out


_SAME = ("2", "2/L")
PLANE: tuple[Claim, ...] = (
    *_rows("mse", "MLP", "MSE", ("eta_crit", "eta_fail"), {"eta_crit": _SAME, "eta_fail": _SAME}),
    *_rows("cross_entropy", "CNN", "cross-entropy", ("eta_crit", "eta_max"),
           {"eta_crit": _SAME, "eta_max": ("1", "2/L")}),
    Claim("eta-min-budget-lazy", "the lower boundary falls as 1/T, γ ≪ 1 (MLP, MSE)", f"{PAPER}, table 1", "fig1",
          ("budgets",), falls_with_budget(0)),
    Claim("eta-min-budget-rich", "the lower boundary falls as 1/T, γ ≫ 1 (MLP, MSE)", f"{PAPER}, table 1", "fig1",
          ("budgets",), falls_with_budget(-1)),
    Claim("apex", "the window of learning rates closes at a γ that grows as T^(L/(L−2))", "theory/triangle.py", "fig1",
          ("apex",), apex_grows),
    Claim("bump", "around γ = 1 the networks' η_crit stands above the law of two powers", "this project", "fig1",
          ("mse",), bump),
)  # fmt: skip
