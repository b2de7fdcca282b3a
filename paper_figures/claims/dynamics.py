"""Claims about curves in time: power laws of the loss, accuracy, catapults, plateaus, alignment, staircases, τ."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import xarray as xr

from empirical.experiments.analysis import RICH_FROM, catapult_fit, loss_laws, nearest, plateaus
from empirical.phenomena.collapse import curve_collapse
from empirical.phenomena.staircase import find_staircase
from paper_figures.ledger import (
    NOT_SUPPORTED,
    NOTHING,
    PAPER,
    SUPPORTED,
    UNDETERMINED,
    Claim,
    Finding,
    above,
    against,
    fit_needs,
    known_mean,
    mean_interval,
    of_fit,
    share_interval,
)
from simulate import Outcome, fit_power_law

LONGER = "more seeds, which smooth the curve, and a larger T, where the last decade is past the drop"


def _law(curves: xr.Dataset, place: int) -> Finding:
    gamma = float(curves["gamma"][place])
    law = loss_laws(curves)[gamma]
    detail = f"exponent of the online loss at γ = {gamma:.3g}, t in [{law.window[0]:.3g}, {law.window[1]:.3g}]"
    detail += f", r² = {law.r2:.3f}"
    if not law.determined:
        return Finding("a power law", law.exponent, law.interval, UNDETERMINED, f"{detail}; {law.status}", LONGER)
    return against("a power law", law.exponent, law.interval, 0.0, detail)


def lazy_power_law(curves: xr.Dataset) -> Finding:
    """Supported when the last decade of the loss at the smallest γ is a power law (r² ≥ 0.9, no bend) that falls."""
    return _law(curves, 0)


def rich_power_law(curves: xr.Dataset) -> Finding:
    """Supported when the last decade of the loss near γ = 10 is a power law (r² ≥ 0.9, no bend) that falls."""
    return _law(curves, nearest(curves, 10.0))


def power_laws_differ(curves: xr.Dataset) -> Finding:
    """Supported when the rich exponent exceeds the lazy one and their 95 % intervals are disjoint.

    Not supported when the intervals overlap or the order is the other; undetermined when either is no power law.

    Returns:
        The finding.
    """
    laws = loss_laws(curves)
    lazy = laws[float(curves["gamma"][0])]
    rich = laws[float(curves["gamma"][nearest(curves, 10.0)])]
    difference = rich.exponent - lazy.exponent
    half = math.hypot(*((law.interval[1] - law.interval[0]) / 2 for law in (lazy, rich)))
    interval = (difference - half, difference + half)
    if not (lazy.determined and rich.determined):
        verdict = UNDETERMINED
    else:
        verdict = SUPPORTED if rich.interval[0] > lazy.interval[1] else NOT_SUPPORTED
    return Finding("> 0", difference, interval, verdict, "rich exponent less lazy exponent", f"both: {LONGER}")


def _advantage(curves: xr.Dataset, budget: int) -> np.ndarray:
    accuracy = curves["accuracy"].isel(budget=budget)
    one, more = accuracy.isel(gamma=nearest(curves, 1.0)), accuracy.isel(gamma=curves["gamma"].values > 3)
    return (more - one).values


def richer_is_no_worse(curves: xr.Dataset) -> Finding:
    """Supported when, at the largest budget, the best γ above 3 is at most 0.01 of accuracy behind γ = 1 (95 %, seeds).

    Not supported when it is more than 0.01 behind with the whole interval; undetermined between.

    Returns:
        The finding.
    """
    gain = _advantage(curves, -1)
    if not np.isfinite(gain).any():
        return Finding("≥ 0", math.nan, NOTHING, UNDETERMINED, "no γ above 3 trains", "a larger T")
    best = int(np.argmax(np.nan_to_num(known_mean(gain, 1), nan=-np.inf)))
    mean, interval = mean_interval(gain[best])
    gamma = curves["gamma"].values[curves["gamma"].values > 3][best]
    detail = f"accuracy at γ = {gamma:.3g} less that at γ = 1, T = {int(curves['budget'][-1])}"
    return against("≥ 0", mean, interval, -0.01, detail)


def budget_helps_rich(curves: xr.Dataset) -> Finding:
    """Supported when the largest γ loses less to γ = 1 at the largest budget than at the smallest (95 %, seeds)."""
    change = _advantage(curves, -1)[-1] - _advantage(curves, 0)[-1]
    mean, interval = mean_interval(change)
    largest = float(curves["gamma"][-1])
    detail = f"change of accuracy at γ = {largest:.3g} less that at γ = 1, from the smallest budget to the largest"
    return against("> 0", mean, interval, 0.0, detail)


def catapults_grow(catapults: xr.Dataset) -> Finding:
    """Supported when the height of the highest catapults falls with γ ≤ 1: the slope's 95 % interval is below 0.

    Not supported when it is above 0. The paper says no more than the sign.

    Returns:
        The finding.
    """
    fit = catapult_fit(catapults)
    low, high = fit.interval
    detail = of_fit(fit).detail
    if not np.isfinite(low):
        return Finding("< 0", fit.exponent, fit.interval, UNDETERMINED, detail, fit_needs(fit))
    verdict = SUPPORTED if high < 0 else NOT_SUPPORTED if low > 0 else UNDETERMINED
    return Finding("< 0", fit.exponent, fit.interval, verdict, detail, "more seeds and γ")


def catapults_as_two_layers(catapults: xr.Dataset) -> Finding:
    """Supported when the 95 % interval of the slope over γ ≤ 1 holds −2 and its half-width is at most 0.15.

    Not supported when the interval does not hold −2, however wide it is.

    Returns:
        The finding.
    """
    fit = catapult_fit(catapults)
    found = of_fit(fit)
    low, high = fit.interval
    away = np.isfinite(low) and not low <= -2 <= high
    return Finding(
        "−2", fit.exponent, fit.interval, NOT_SUPPORTED if away else found.verdict, found.detail, found.needs
    )


FEW = 0.05
"""Share of the runs that train up to which catapults count as absent."""


def no_rich_catapults(catapults: xr.Dataset) -> Finding:
    """Supported when fewer than 1 in 20 of the runs that train at γ ≥ 10 catapult, with the whole 95 % interval.

    Not supported when more than 1 in 20 do, with the whole interval.

    Returns:
        The finding.
    """
    outcome = catapults["outcome"].values[catapults["gamma"].values >= RICH_FROM]
    hits, trains = int((outcome == Outcome.CATAPULT).sum()), int((outcome == Outcome.TRAINED).sum())
    interval = share_interval(hits, hits + trains)
    share = hits / (hits + trains) if hits + trains else math.nan
    verdict = {SUPPORTED: NOT_SUPPORTED, NOT_SUPPORTED: SUPPORTED}.get(above(interval, FEW), UNDETERMINED)
    detail = f"share of catapults among {hits + trains} runs that train at γ ≥ 10"
    return Finding("0", share, interval, verdict, detail, "more seeds")


def alignment_first(landscape: xr.Dataset) -> Finding:
    """Supported when the loss is half-way later than the alignment: mean log ratio above 0 (95 %, over γ ≥ 10)."""
    return _lead(landscape, "alignment")


def centred_alignment_first(landscape: xr.Dataset) -> Finding:
    """Supported when the loss is half-way later than the centred alignment: mean log ratio above 0 (95 %, γ ≥ 10)."""
    return _lead(landscape, "centred_alignment")


def _lead(landscape: xr.Dataset, alignment: str) -> Finding:
    leads: dict[float, list[float]] = {}
    for one in plateaus(landscape, alignment=alignment):
        if one.silent.determined and 0 < one.silent.lead < math.inf:
            leads.setdefault(one.gamma, []).append(math.log(one.silent.lead))
    if len(leads) < 3:
        detail = f"the alignment rises by 0.02 at {len(leads)} γ only"
        return Finding("> 1", math.nan, NOTHING, UNDETERMINED, detail, "3 γ, by longer runs")
    mean, interval = mean_interval([np.mean(values) for values in leads.values()])
    found = (math.exp(interval[0]), math.exp(interval[1]))
    detail = f"time at which the loss is half-way over that of the alignment, {len(leads)} γ ≥ 10"
    return against("> 1", math.exp(mean), found, 1.0, detail, "γ")


def plateau_in_tau(landscape: xr.Dataset) -> Finding:
    """Supported when the 95 % interval of d ln τ_exit / d ln γ over γ ≥ 10² holds 0, what the toy has for L > 2."""
    known = [one for one in plateaus(landscape, 1e2) if one.exit.determined and one.exit.tau > 0]
    if not known:
        return Finding("0", math.nan, NOTHING, UNDETERMINED, "no run leaves its plateau", "longer runs")
    fit = fit_power_law(
        [one.gamma for one in known], [one.exit.tau for one in known], seed=[one.seed for one in known], predicted=0.0
    )
    found = of_fit(fit)
    detail = "slope of the τ at which a tenth of the loss is gone; " + found.detail
    return Finding("0", found.measured, found.interval, found.verdict, detail, found.needs)


def staircases(landscape: xr.Dataset) -> Finding:
    """Supported when some run at γ ≥ 10 drops in two steps or more; not supported when none of six or more does."""
    counts = []
    for gamma in landscape["gamma"].values[landscape["gamma"].values >= RICH_FROM]:
        for seed in landscape["seed"].values:
            run = landscape.sel(gamma=gamma, seed=seed)
            steps = find_staircase(run["step"].values, run["loss"].values)
            if steps.determined:
                counts.append(steps.count)
    several = int(np.sum(np.array(counts) >= 2))
    share = several / len(counts) if counts else math.nan
    verdict = SUPPORTED if several else NOT_SUPPORTED if len(counts) >= 6 else UNDETERMINED
    detail = f"share of runs with two steps or more, of {len(counts)} at γ ≥ 10"
    return Finding(
        "> 0 (sometimes)", share, share_interval(several, len(counts)), verdict, detail, "six curves or more"
    )


def outputs_collapse(landscape: xr.Dataset) -> Finding:
    """Supported when raw outputs of γ ≥ 100 are twice as near at equal τ as at equal t (95 %, over γ), on the plateau.

    Up to the τ at which the first of them has lost a tenth of its loss: later F ~ γ. The number is the geometric mean
    over pairs of the ratio of median distances.

    Returns:
        The finding.
    """
    exits = [one.exit.tau for one in plateaus(landscape, 1e2) if one.exit.determined]
    if len(exits) < 2:
        return Finding("≫ 1", math.nan, NOTHING, UNDETERMINED, "no plateau is left", "longer runs")
    return _collapse(landscape, "raw", (0.0, min(exits)))


def losses_collapse(landscape: xr.Dataset) -> Finding:
    """Supported when losses of γ ≥ 100 are twice as near at equal τ as at equal t (95 %, over γ), over the whole run.

    The number is the geometric mean over pairs of the ratio of median distances.

    Returns:
        The finding.
    """
    return _collapse(landscape, "loss", None)


def _collapse(landscape: xr.Dataset, what: str, window: tuple[float, float] | None) -> Finding:
    gains = []
    gamma = landscape["gamma"].values
    chosen = np.nonzero(gamma >= 1e2)[0]
    if len(chosen) < 2:
        return Finding("≫ 1", math.nan, NOTHING, UNDETERMINED, "fewer than two γ from 100 on", "two of them")
    for seed in range(landscape.sizes["seed"]):
        curves = landscape[what].isel(seed=seed, gamma=chosen).values
        found = curve_collapse(
            landscape["step"].values, [run.reshape(len(run), -1) for run in curves],
            eta=landscape["eta"].values[chosen], gamma=gamma[chosen], window=window,
        )  # fmt: skip
        if found.determined:
            gain = np.log((found.pairs["median_before"] / found.pairs["median"]).to_numpy())
            gains.append(_by_run(found.pairs, gain, gamma[chosen]))
    if not gains:
        return Finding("≫ 1", math.nan, NOTHING, UNDETERMINED, "no τ in common", "longer runs")
    mean, interval = mean_interval(np.mean(gains, axis=0))
    ends = (math.exp(interval[0]), math.exp(interval[1]))
    return against("≫ 1", math.exp(mean), ends, 2.0, "distance at equal t over that at equal τ", "γ")


def _by_run(pairs: pd.DataFrame, gain: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Mean over the pairs of each γ: pairs share runs, so that they are not as many independent numbers."""
    first, second = pairs["gamma_a"].to_numpy(), pairs["gamma_b"].to_numpy()
    return np.array([gain[(first == one) | (second == one)].mean() for one in gamma])


DYNAMICS: tuple[Claim, ...] = (
    Claim("power-law-lazy", "the online loss of a lazy network falls as a power of time", f"{PAPER}, figure 2", "fig2",
          ("curves",), lazy_power_law),
    Claim("power-law-rich", "the online loss of a rich network falls as a power of time", f"{PAPER}, figure 2", "fig2",
          ("curves",), rich_power_law),
    Claim("power-laws-differ", "rich networks learn with a larger power than lazy ones", f"{PAPER}, figure 2", "fig2",
          ("curves",), power_laws_differ),
    Claim("accuracy-rich", "trained long enough, γ > 1 is no worse than γ = 1", f"{PAPER}, figure 2", "fig2",
          ("curves",), richer_is_no_worse),
    Claim("accuracy-budget", "the accuracy of large γ catches up as T grows", f"{PAPER}, figure 2", "fig2",
          ("curves",), budget_helps_rich),
    Claim("catapult-height", "smaller γ catapults higher", f"{PAPER}, figure 4", "fig4", ("catapults",),
          catapults_grow),
    Claim("catapult-power", "the height of catapults ∝ γ^−2 for γ ≤ 1, as in the two-layer map",
          "theory/catapult.py", "fig4", ("catapults",), catapults_as_two_layers),
    Claim("catapult-rich", "there are no catapults at large γ", f"{PAPER}, figure 4", "fig4", ("catapults",),
          no_rich_catapults),
    Claim("silent-alignment", "at large γ the kernel turns to the task before the loss drops", f"{PAPER}, figure 4",
          "fig4", ("landscape",), alignment_first),
    Claim("silent-alignment-centred", "the same of the centred kernel", f"{PAPER}, figure 4", "fig4", ("landscape",),
          centred_alignment_first),
    Claim("plateau", "the plateau's length in τ does not depend on γ ≫ 1 (L > 2)", f"{PAPER}; theory/escape.py",
          "fig4", ("landscape",), plateau_in_tau),
    Claim("staircase", "at large γ the loss sometimes drops in several steps", f"{PAPER}, figure 4", "fig4",
          ("landscape",), staircases),
    Claim("tau-collapse", "raw outputs of different large γ coincide in τ = ηt/γ while u ≪ γ", f"{PAPER}, section 4",
          "fig4", ("landscape",), outputs_collapse),
    Claim("tau-collapse-loss", "losses of different large γ coincide in τ = ηt/γ", f"{PAPER}, section 4", "fig4",
          ("landscape",), losses_collapse),
)  # fmt: skip
