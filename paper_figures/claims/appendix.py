"""Claims that the appendix bears on: architectures, depth, width, batch size, optimizers, rich networks, CKA, 2/D."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import stats

from empirical.experiments.agreement import LEVELS, agreement_at_loss
from empirical.experiments.analysis import LAZY_TO, RICH_FROM
from empirical.experiments.families import Fits, family_fits
from empirical.experiments.plane import Plane
from empirical.trace import exact_law, law_of
from paper_figures.appendix_degree import degree_rows
from paper_figures.claims.tables import FIGURE, LEAST_ARCHITECTURES, sources
from paper_figures.ledger import (
    NOT_SUPPORTED,
    NOTHING,
    PAPER,
    SUPPORTED,
    UNDETERMINED,
    Claim,
    Finding,
    against,
    mean_interval,
    of_fit,
    share_interval,
    within,
)
from simulate import Outcome

MOST = 0.9
"""Share above which "most" is counted as true."""

INSIDE, BELOW = 10**0.5, 10.0
"""Distance in η from the boundaries of the toy at which a cell of a grid counts as well inside, or well below."""

SAME = 0.1
"""Exponent up to which a boundary counts as independent of width."""


def _positions(plane: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray]:
    """η over the exact η_min, η_crit over η, and the outcomes of a grid, each (gamma, eta)."""
    data, law = plane.portrait.data, law_of(plane.config.training)
    gamma, eta = data["gamma"].values, data["eta"].values
    low, high = (exact_law(name, gamma, **law)[:, None] for name in ("eta_min", "eta_crit"))
    return np.asarray(eta / low), np.asarray(high / eta), plane.portrait.most_common_outcome()


def _share(hits: int, trials: int, detail: str) -> Finding:
    interval = share_interval(hits, trials)
    if trials == 0:
        return Finding(f"> {MOST}", math.nan, NOTHING, UNDETERMINED, f"no {detail}", "a wider grid")
    return against(f"> {MOST}", hits / trials, interval, MOST, f"of {trials} {detail}", "cells")


def trains_inside(portraits: Mapping[str, Plane]) -> Finding:
    """Supported when more than 0.9 of the cells well inside the toy's band train, with the whole 95 % interval.

    Well inside is half a decade or more of η from both the exact η_min and the exact η_crit, and training includes
    catapults; all architectures and losses together. Not supported when fewer do, with the whole interval.

    Returns:
        The finding.
    """
    hits = trials = 0
    for plane in portraits.values():
        over, under, outcome = _positions(plane)
        inside = (over >= INSIDE) & (under >= INSIDE)
        hits += int(np.isin(outcome[inside], (Outcome.TRAINED, Outcome.CATAPULT)).sum())
        trials += int(inside.sum())
    return _share(hits, trials, f"cells inside the band, {len(portraits)} grids")


def idle_below(portraits: Mapping[str, Plane]) -> Finding:
    """Supported when more than 0.9 of the cells a decade or more below the toy's η_min do not train (95 %).

    All architectures and losses together. Not supported when fewer do not, with the whole interval.

    Returns:
        The finding.
    """
    hits = trials = 0
    for plane in portraits.values():
        over, under, outcome = _positions(plane)
        below = (over <= 1 / BELOW) & (under >= BELOW)
        hits += int((outcome[below] == Outcome.UNTRAINED).sum())
        trials += int(below.sum())
    return _share(hits, trials, f"cells below η_min, {len(portraits)} grids")


def _consistent(fits: Fits, regimes: tuple[str, ...], least: int) -> Finding:
    chosen = {key: fit for key, fit in fits.items() if key[1] in regimes}
    known = {key: fit for key, fit in chosen.items() if fit.verdict != "undetermined"}
    hits, trials = sum(fit.verdict == "consistent" for fit in known.values()), len(known)
    interval, met = share_interval(hits, trials), len({key[0] for key in known})
    detail = f"share of consistent slopes among {trials} of {met} members"
    failed = [f"{m} {b} {r} {f.exponent:.2f} (theory {f.predicted_window:.2f})"
              for (m, r, b), f in known.items() if f.verdict == "inconsistent"]  # fmt: skip
    detail += f"; not: {', '.join(failed[:4])}" + (" …" if len(failed) > 4 else "") if failed else ""
    if met < least:
        few = f"determined slopes of {least} members, by more γ, seeds or steps"
        return Finding("all", hits / trials if trials else math.nan, interval, UNDETERMINED, detail, few)
    verdict = SUPPORTED if hits == trials else NOT_SUPPORTED if interval[1] < 0.95 else UNDETERMINED
    return Finding(
        "all", hits / trials, interval, verdict, detail, "more members, or narrower intervals of those named"
    )


def _depth(regime: str) -> Callable[[pd.DataFrame], Finding]:
    def judge(depths: pd.DataFrame) -> Finding:
        """Supported when every determined slope of η_crit and η_fail, at three or more depths, is the exact toy's.

        Not supported when the share of consistent slopes is below 0.95 with its whole 95 % interval.

        Returns:
            The finding.
        """
        return _consistent(family_fits(depths), (regime,), 3)

    return judge


def exponents_of_widths(widths: pd.DataFrame) -> Finding:
    """Supported when every determined slope, lazy and rich, at three or more widths is the exact toy's.

    Not supported when the share of consistent slopes is below 0.95 with its whole 95 % interval.

    Returns:
        The finding.
    """
    return _consistent(family_fits(widths), ("lazy", "rich"), 3)


def exponents_of_batches(batches: pd.DataFrame) -> Finding:
    """Supported when every determined slope, lazy and rich, at three or more batch sizes is the exact toy's.

    Not supported when the share of consistent slopes is below 0.95 with its whole 95 % interval.

    Returns:
        The finding.
    """
    return _consistent(family_fits(batches), ("lazy", "rich"), 3)


def power_of_value(points: pd.DataFrame, regime: str, last: int = 0) -> NDArray[np.float64]:
    """Exponent of η_crit in what differs between the members, at each γ of a regime.

    Args:
        points: as ``run_family`` gives them.
        regime: ``lazy`` or ``rich``.
        last: how many members, those of the largest values; all when 0.

    Returns:
        Least-squares slopes of ln η, mean over seeds, against the logarithm of the members' value, one a γ that all of
        these members have.
    """
    chosen = points[(points["boundary"] == "eta_crit") & (points["regime"] == regime)]
    members = sorted(chosen["value"].unique())[-last:]
    out = []
    for _, part in chosen.groupby("gamma"):
        mean = part.assign(ln=np.log(part["eta"])).groupby("value")["ln"].mean()
        if len(members) >= 2 and set(members) <= set(mean.index):
            out.append(float(np.polyfit(np.log(members), mean.loc[members].to_numpy(), 1)[0]))
    return np.array(out)


def _within(values: NDArray[np.float64], low: float, high: float, predicted: str, detail: str) -> Finding:
    mean, interval = mean_interval(values)
    if not np.isfinite(interval).all():
        return Finding(predicted, mean, NOTHING, UNDETERMINED, detail, "two γ at which every member has its boundary")
    return Finding(predicted, mean, interval, within(interval, (low, high)), detail, "more γ and seeds")


def _width(regime: str) -> Callable[[pd.DataFrame], Finding]:
    def judge(widths: pd.DataFrame) -> Finding:
        """Supported when the exponent of η_crit in width is within 0.1 of 0, with its whole 95 % interval (over γ).

        Between the two largest widths, since μP speaks of the limit. Not supported when the whole interval is beyond.

        Returns:
            The finding.
        """
        largest = sorted(widths["value"].unique())[-2:]
        detail = f"d ln η_crit / d ln N from N = {largest[0]:g} to {largest[-1]:g}, mean over γ ({regime})"
        return _within(power_of_value(widths, regime, 2), -SAME, SAME, "0", detail)

    return judge


def _batch(regime: str) -> Callable[[pd.DataFrame], Finding]:
    def judge(batches: pd.DataFrame) -> Finding:
        """Supported when the exponent of η_crit in batch size is from 0 to 1, with its whole 95 % interval (over γ).

        Where noise sets the boundary it is proportional to B, where curvature sets it, independent of B. Not supported
        when the whole interval is outside.

        Returns:
            The finding.
        """
        detail = f"d ln η_crit / d ln B, mean over γ ({regime})"
        return _within(power_of_value(batches, regime), 0.0, 1.0, "0 … 1", detail)

    return judge


def _optimizer(member: str, regime: str, symbol: str) -> Callable[[pd.DataFrame], Finding]:
    def judge(optimizers: pd.DataFrame) -> Finding:
        """Supported when the 95 % interval of the slope of η_fail holds that of the exact toy under sign descent.

        Over the same points; undetermined when its half-width is above 0.15 or there are fewer than five γ.

        Returns:
            The finding.
        """
        return of_fit(family_fits(optimizers).get((member, regime, "eta_fail")), symbol=symbol)

    return judge


def rich_consistent(landscape: xr.Dataset) -> Finding:
    """Supported when R² between networks of γ ≥ 10 at equal loss is above 0.9 on average (95 %, over neighbours in γ).

    At the lowest level of the loss that half of these γ reach. Not supported when the whole interval is below 0.9.

    Returns:
        The finding.
    """
    count = int((landscape["gamma"].values >= RICH_FROM).sum())
    for level in sorted(LEVELS):
        gamma, matrix = agreement_at_loss(landscape, level, RICH_FROM)
        if 2 * len(gamma) >= count and len(gamma) >= 3:
            # pairs share runs: the interval is over neighbours in γ, the number is the mean over all pairs
            mean, interval = mean_interval(np.diag(matrix, 1))
            detail = f"mean R² of neighbouring γ at {level:g} of the initial loss, {len(gamma)} γ ≥ 10"
            return against(f"> {MOST}", mean, interval, MOST, detail, "γ")
    return Finding(
        f"> {MOST}", math.nan, NOTHING, UNDETERMINED, "no level of the loss is reached by half of the γ", "longer runs"
    )


def cka_moves(representations: xr.Dataset) -> Finding:
    """Supported when the CKA with the start, at the end, is lower for γ ≥ 10 than for γ ≤ 0.01 (95 %, over γ).

    The interval is Welch's for the difference of two means, each over γ of the mean over seeds.

    Returns:
        The finding.
    """
    end = representations["cka_start"].isel(step=-1).mean("seed")
    gamma = representations["gamma"].values
    lazy, rich = end.values[gamma <= LAZY_TO], end.values[gamma >= RICH_FROM]
    lazy, rich = lazy[np.isfinite(lazy)], rich[np.isfinite(rich)]
    detail = f"CKA with the start at the end, {len(lazy)} lazy γ less {len(rich)} rich ones"
    if min(len(lazy), len(rich)) < 2:
        return Finding("> 0", math.nan, NOTHING, UNDETERMINED, detail, "two lazy and two rich γ")
    found = stats.ttest_ind(lazy, rich, equal_var=False).confidence_interval(0.95)
    interval = (float(found.low), float(found.high))
    return against("> 0", float(lazy.mean() - rich.mean()), interval, 0.0, detail, "γ")


def degree_kinds(tables: pd.DataFrame) -> Finding:
    """Supported when every kind of network has all its determined rich slopes of the upper boundary at 2/D.

    Kinds are architectures with their variants and depths, four or more; D is the Euler degree measured on them. Not
    supported when the share of such kinds is below 0.95 with its whole 95 % interval. Of several campaigns that
    measured one exponent the longest budget counts (written after results of the first campaign were known).

    Returns:
        The finding.
    """
    rows = degree_rows(tables)
    rows = rows[rows["verdict"] != "undetermined"]
    kinds = {
        f"{one['arch']} ({one['variant']}, L = {one['depth']})": bool((part["verdict"] == "consistent").all())
        for _, part in rows.groupby(["arch", "variant", "depth"])
        for one in part.head(1).to_dict("records")
    }
    hits, trials = sum(kinds.values()), len(kinds)
    interval = share_interval(hits, trials)
    detail = f"{hits} of {trials} kinds of networks, from {sources(rows)}"
    failed = [kind for kind, good in kinds.items() if not good]
    detail += f"; not: {', '.join(failed[:4])}" if failed else ""
    if trials < LEAST_ARCHITECTURES:
        few = f"determined fits on {LEAST_ARCHITECTURES} kinds"
        return Finding("slope = 2/D", hits / trials if trials else math.nan, interval, UNDETERMINED, detail, few)
    verdict = SUPPORTED if hits == trials else NOT_SUPPORTED if interval[1] < 0.95 else UNDETERMINED
    return Finding("slope = 2/D", hits / trials, interval, verdict, detail, "more kinds of networks")


_OPTIMIZERS = (("sign", "sign descent"), ("adam", "Adam"))
APPENDIX_CLAIMS: tuple[Claim, ...] = (
    Claim("portrait-inside", "inside the toy's band every architecture trains, under either loss",
          f"{PAPER}, appendix", "appendix-portraits", ("portraits",), trains_inside),
    Claim("portrait-below", "below the toy's η_min no architecture trains, under either loss", f"{PAPER}, appendix",
          "appendix-portraits", ("portraits",), idle_below),
    *(
        Claim(f"depth-{regime}", f"the upper boundary ∝ γ^{power} for {side} at every depth L (MLP, MSE)",
              f"{PAPER}, table 1", "appendix-depth", ("depths",), _depth(regime))
        for regime, power, side in (("lazy", "2", "γ ≪ 1"), ("rich", "2/L", "γ ≫ 1"))
    ),
    Claim("width-exponents", "the exponents do not depend on width", f"{PAPER}, appendix", "appendix-sizes",
          ("widths",), exponents_of_widths),
    *(
        Claim(f"width-boundary-{regime}", f"η_crit does not depend on width when {regime} (μP)", f"{PAPER}, appendix",
              "appendix-sizes", ("widths",), _width(regime))
        for regime in ("lazy", "rich")
    ),
    Claim("batch-exponents", "the exponents do not depend on batch size", f"{PAPER}, appendix", "appendix-sizes",
          ("batches",), exponents_of_batches),
    *(
        Claim(f"batch-boundary-{regime}", f"η_crit grows with batch size, at most in proportion, when {regime}",
              "this project", "appendix-sizes", ("batches",), _batch(regime))
        for regime in ("lazy", "rich")
    ),
    *(
        Claim(f"{member}-{regime}", f"under {name} the upper boundary ∝ γ^{power} for {side} (MLP, MSE)",
              "theory/optimizers.py", "appendix-optimizers", ("optimizers",), _optimizer(member, regime, power))
        for member, name in _OPTIMIZERS
        for regime, power, side in (("lazy", "1", "γ ≪ 1"), ("rich", "1/L", "γ ≫ 1"))
    ),
    Claim("rich-consistent", "rich networks of different γ are the same function at equal loss", f"{PAPER}, appendix",
          "appendix-consistency", ("landscape",), rich_consistent),
    Claim("cka-moves", "kernels of rich networks move further from their start than those of lazy ones",
          f"{PAPER}, figure 5", "appendix-kernels", ("representations",), cka_moves),
    Claim("euler-degree-kinds", "every kind of network has the rich exponent 2/D, D its measured Euler degree",
          "this project", FIGURE, ("tables",), degree_kinds),
)  # fmt: skip
