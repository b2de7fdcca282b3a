"""Tables of the experiments on the bump: one wide table a setup, and what follows from it.

A row of a wide table is one (γ, seed) of a setup, with γ in its own units (``unit``) already divided out:

==============================  =======================================================================================
``crit_P``                      η_crit with peaks up to P L₀; ``crit_1.5`` is the usual one
``fail``, ``max``               η_fail, η_max
``slow_start, _end, _most``     sharpness λ of a slow run (η_crit/10, 10 T): at θ₀, at its end, the largest on the way
``slow_tail``                   its final loss over L₀
``edge_eta, _start, _end, …``   the same of a run at 0.9 of the last η that trains; ``edge_peak``: loss over L₀
==============================  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import least_squares
from scipy.stats import t

from empirical.phenomena.bump import measure_bump

LAZY_WINDOW, RICH_WINDOW = (4e-4, 6e-3), (90.0, 1100.0)
"""Where the scalar law's local exponent is within 0.02 of its limits, for L = 2, 3, 4."""

USUAL = "crit_1.5"
_ROW = ["seed", "gamma"]


def widen(points: pd.DataFrame, watched: dict[str, pd.DataFrame], **about: Any) -> pd.DataFrame:
    """Put what is known of each (γ, seed) in one row.

    Args:
        points: traced points: ``seed, gamma, eta, boundary, peak``.
        watched: tables with ``seed, gamma`` and measurements, by the prefix that these get.
        **about: ``setup, depth, loss, unit``.

    Returns:
        The wide table.
    """
    named = points.assign(column=points["boundary"].str.removeprefix("eta_"))
    crit = named["boundary"] == "eta_crit"
    named.loc[crit, "column"] = [f"crit_{peak:g}" for peak in named.loc[crit, "peak"]]
    out = named.pivot_table(index=_ROW, columns="column", values="eta").reset_index()
    for prefix, table in watched.items():
        names = {name: f"{prefix}_{name}" for name in table if name not in _ROW}
        out = out.merge(table.rename(columns=names), on=_ROW, how="left")
    out["gamma"] /= float(about["unit"])
    out.columns.name = None
    for place, (name, value) in enumerate(about.items()):
        out.insert(place, name, value)
    return out


def bump_row(table: pd.DataFrame, eta: pd.Series, rich: float, **about: Any) -> dict[str, Any]:
    """Measure a bump in the windows of this file.

    Args:
        table: with ``gamma`` and ``seed``.
        eta: η, or 2/λ, of each row.
        rich: exponent of the law at large γ.
        **about: further columns.

    Returns:
        Height in decades with its 95 % interval, where it is, A, γ₀, and the scatter; ``corner`` is what
        min(A γ², A γ₀^{2−r} γ^r), the two powers without a round joint, has there, ``remainder`` the rest.
    """
    known = eta.notna()
    gamma, seed = (table.loc[known, name].to_numpy() for name in ("gamma", "seed"))
    found = measure_bump(
        gamma, eta[known], seed=seed, lazy_window=LAZY_WINDOW, rich_window=RICH_WINDOW, rich_exponent=rich
    )
    low, high = found.height_interval
    ratio = found.peak_gamma / found.crossover
    corner = (2 - rich) * float(np.log10(1 + min(ratio, 1 / ratio)))
    row = {"height": found.height, "low": low, "high": high, "at": found.peak_gamma, "A": found.coefficient}
    row |= {"gamma0": found.crossover, "scatter": found.scatter, "rich": rich, "corner": corner}
    return about | row | {"remainder": found.height - corner, "status": found.status}


def free_exponent(table: pd.DataFrame, eta: pd.Series) -> float:
    """Slope of a boundary in the rich window, by least squares over all points.

    Args:
        table: with ``gamma``.
        eta: of each row.

    Returns:
        d ln η / d ln γ.
    """
    part = table["gamma"].between(*RICH_WINDOW) & eta.notna()
    return float(np.polyfit(np.log(table.loc[part, "gamma"]), np.log(eta[part]), 1)[0])


def bumps(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Bumps of every boundary, and of the parts of η_crit.

    Args:
        tables: wide ones.

    Returns:
        One row a setup and quantity; of η_crit also κ, the largest η_crit λ(θ₀)/2 over γ (``kappa``), and the height
        (2−r) log₁₀(1 + κ^{1/(2−r)}) of min(κ A γ², A γ₀^{2−r} γ^r) over the law at its corner (``bound``).
    """
    rows = []
    for table in tables:
        name, rich = str(table["setup"].iloc[0]), 2 / int(table["depth"].iloc[0])
        quantities = {
            str(column): table[column] for column in table if str(column).startswith(("crit_", "fail", "max"))
        }
        quantities |= {f"2/slow_{which}": 2 / table[f"slow_{which}"] for which in ("start", "end", "most")}
        for which, eta in quantities.items():
            kappa = _largest(table, eta * table["slow_start"] / 2) if which.startswith("crit_") else np.nan
            row = bump_row(table, eta, rich, setup=name, quantity=which)
            rows.append(row | {"kappa": kappa, "bound": (2 - rich) * np.log10(1 + kappa ** (1 / (2 - rich)))})
        free = free_exponent(table, table[USUAL])
        rows.append(bump_row(table, table[USUAL], free, setup=name, quantity=f"{USUAL}, free exponent"))
    return pd.DataFrame(rows)


def _mean(values: pd.Series) -> float:
    """Geometric mean of what is known."""
    return float(np.exp(np.log(values).mean()))


def _largest(table: pd.DataFrame, values: pd.Series) -> float:
    """Largest mean over seeds."""
    return float(values.groupby(table["gamma"]).apply(_mean).max())


def _interval(table: pd.DataFrame, values: pd.Series) -> tuple[float, float, float]:
    """Geometric mean with its 95 % interval over seeds (Student's t of the means of the seeds)."""
    means = np.log(values).groupby(table["seed"]).mean().to_numpy()
    if len(means) < 2:
        return float(np.exp(means[0])), np.nan, np.nan
    half = float(t.ppf(0.975, len(means) - 1)) * means.std(ddof=1) / len(means) ** 0.5
    return tuple(float(np.exp(means.mean() + side)) for side in (0.0, -half, half))  # type: ignore[return-value]


def corner_law(
    gamma: ArrayLike, *, coefficient: float, crossover: float, rich: float, order: float
) -> NDArray[np.float64]:
    """The crossover of two powers with a joint of any sharpness, η = A γ² (1 + (γ/γ₀)^s)^{−(2−r)/s}.

    s = 1 is the scalar model's law, s = 2 that of flow's minimum in the two-layer net from u₀ ⟂ v₀, s = ∞ a corner;
    at γ₀ it stands (2−r)(1 − 1/s) log₁₀ 2 decades above s = 1.

    Args:
        gamma: feature-learning strengths, any shape.
        coefficient: A.
        crossover: γ₀.
        rich: exponent r at γ ≫ γ₀.
        order: s.

    Returns:
        η, same shape.
    """
    at = np.log(np.asarray(gamma, dtype=np.float64))
    rounded = np.logaddexp(0.0, order * (at - np.log(crossover))) / order
    return np.asarray(coefficient * np.exp(2 * at - (2 - rich) * rounded))


_ORDERS = (0.3, 30.0)  # above, the joint is a corner for points this far apart


def fit_corner(gamma: ArrayLike, eta: ArrayLike, rich: float, order: float | None = None) -> tuple[float, float]:
    """Fit ``corner_law`` to all points, with no windows.

    Args:
        gamma: γ of each point.
        eta: η of each.
        rich: r.
        order: s; fitted when ``None``.

    Returns:
        s, and the root-mean-square misfit in decades.
    """
    x, y = (np.log(np.asarray(values, dtype=np.float64)) for values in (gamma, eta))

    def misfit(p: NDArray[np.float64]) -> NDArray[np.float64]:
        s = float(np.exp(p[2])) if order is None else order
        law = corner_law(np.exp(x), coefficient=1.0, crossover=float(np.exp(p[1])), rich=rich, order=s)
        return np.asarray(p[0] + np.log(law) - y)

    start, reach = [float(np.median(y - 2 * x)), 0.0, np.log(2.0)], np.log(_ORDERS)
    bounds = ([-np.inf, -np.inf, reach[0]], [np.inf, np.inf, reach[1]])
    free = slice(None) if order is None else slice(2)
    found = least_squares(misfit, start[free], bounds=(bounds[0][free], bounds[1][free]), x_scale="jac")
    s = float(np.exp(found.x[2])) if order is None else order
    return s, float(np.sqrt(np.mean(found.fun**2)) / np.log(10))


def orders(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """How sharp the joint of the two powers is, seed by seed, without windows.

    Args:
        tables: wide ones.

    Returns:
        One row a setup and threshold of the peak, and one of 2/λ of the slow run: ``order`` s with its 95 % interval
        over seeds, and the misfit in decades of the fitted s, of s = 1 (the scalar law with A and γ₀ free) and of a
        corner.
    """
    rows = []
    for table in tables:
        quantities = {str(name): table[name] for name in table if str(name).startswith("crit_")}
        for column, eta in (quantities | {"2/slow_end": 2 / table["slow_end"]}).items():
            found = {}
            for seed, part in table[eta.notna()].groupby("seed"):
                data = (part["gamma"], eta[part.index], 2 / int(part["depth"].iloc[0]))
                free, rms = fit_corner(*data)
                found[seed] = (free, rms, fit_corner(*data, 1.0)[1], fit_corner(*data, _ORDERS[1])[1])
            fits = pd.DataFrame.from_dict(found, orient="index", columns=["order", "rms", "rms_1", "rms_corner"])
            mean, low, high = _interval(fits.assign(seed=fits.index), fits["order"])
            row = {"setup": table["setup"].iloc[0], "quantity": column, "order": mean, "low": low, "high": high}
            rows.append(row | fits[["rms", "rms_1", "rms_corner"]].mean().to_dict())
    return pd.DataFrame(rows)


def edges(tables: Iterable[pd.DataFrame], found: pd.DataFrame) -> pd.DataFrame:
    """How far beyond the edge of the slow run networks train, at both ends, and how far down the rich power reaches.

    Args:
        tables: wide ones.
        found: ``bumps`` of them.

    Returns:
        One row a setup: ``lazy`` and ``rich``, η_crit λ/2 with the λ of the slow run's end in the two windows (with
        95 % intervals over seeds); ``edge_rich``, ηλ/2 at the end of runs just below the boundary; ``start``, the
        largest η_crit λ(θ₀)/2 over γ, and ``start_at``, its γ; ``carry_low, carry_high``, the least and largest
        log₁₀ of η_crit over the rich power for γ from γ₀ to the window, and ``carry_from``, the first γ there.
    """
    rows = []
    for table in tables:
        name = table["setup"].iloc[0]
        (fit,) = found[(found["setup"] == name) & (found["quantity"] == USUAL)].to_dict("records")
        beyond = table[USUAL] * table["slow_end"] / 2
        row: dict[str, Any] = {"setup": name}
        for label, window in (("lazy", LAZY_WINDOW), ("rich", RICH_WINDOW)):
            part = table[table["gamma"].between(*window)]
            names = (label, f"{label}_low", f"{label}_high")
            row |= dict(zip(names, _interval(part, beyond[part.index]), strict=True))
        part = table[table["gamma"].between(*RICH_WINDOW)]
        row["edge_rich"] = _mean(part["edge_eta"] * part["edge_end"] / 2) if "edge_eta" in table else np.nan
        start = (table[USUAL] * table["slow_start"] / 2).groupby(table["gamma"]).apply(_mean)
        row |= {"start": float(start.max()), "start_at": start.index[int(start.argmax())]}
        power = fit["A"] * fit["gamma0"] ** (2 - fit["rich"]) * table["gamma"] ** fit["rich"]
        excess = np.log10(table[USUAL] / power).groupby(table["gamma"]).mean()
        between = excess[(excess.index >= 0.99 * fit["gamma0"]) & (excess.index < RICH_WINDOW[0])]
        row |= {"carry_low": between.min(), "carry_high": between.max(), "carry_from": between.index.min()}
        rows.append(row)
    return pd.DataFrame(rows)
