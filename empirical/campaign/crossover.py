"""Where eta_min of networks crosses over from its lazy to its rich law, against a toy of another start.

``python -m empirical.campaign.crossover FOLDER [ENTRY …]``

The toy starts at w = 1. One that starts at s has, with v = w/s, the same flow in v at γ/s^L and η/s², so that

    η_min(γ) = h η_toy(γ/γ₀),    γ₀ = s^L,  h = s²:

another start moves the crossover and changes nothing else. A network has a kernel of its own, so h is free here as well
as γ₀, and both are fitted to all regimes that a campaign traced, seed by seed. If networks cross over as a toy that
starts smaller does, one γ₀ has to give the lazy and the rich level *and* the rich slope.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import least_squares

from empirical.campaign.again import chosen, command
from empirical.campaign.law_rows import joined
from empirical.campaign.refit import refit
from empirical.campaign.run import UnitResult
from empirical.trace import exact_law
from simulate import fit_power_law

FloatArray = NDArray[np.float64]


def fit_crossover(gamma: ArrayLike, eta: ArrayLike, **law: Any) -> tuple[float, float, float]:
    """Fit γ₀ and h of one network's eta_min.

    Args:
        gamma: feature-learning strengths, on both sides of the crossover, shape ``(points,)``.
        eta: eta_min there, same shape.
        **law: ``depth, steps, level, loss, optimizer`` of ``exact_law``.

    Returns:
        (γ₀, h, root mean square of what is left, in decades).
    """
    gammas, logs = np.asarray(gamma, dtype=np.float64), np.log(np.asarray(eta, dtype=np.float64))

    def left(at: FloatArray) -> FloatArray:
        return np.asarray(logs - at[1] - np.log(exact_law("eta_min", gammas * np.exp(-at[0]), **law)))

    found = least_squares(left, [0.0, 0.0])
    return float(np.exp(found.x[0])), float(np.exp(found.x[1])), float(np.std(found.fun) / np.log(10))


def crossovers(folder: Path | str, entries: tuple[str, ...] = ()) -> pd.DataFrame:
    """Fit the crossover of every MLP and CNN under gradient descent whose eta_min has been traced on both sides.

    Args:
        folder: of a campaign.
        entries: names of entries; all when empty.

    Returns:
        One row an entry and budget: ``entry, steps, points``; γ₀ as the geometric mean over seeds with its 95 %
        interval, ``crossover, crossover_low, crossover_high``; the mean ``misfit`` in decades; over the rich window
        the slopes of the toy's law as it is and moved, ``law`` and ``moved``, and the fitted one, ``fitted`` ±
        ``half_width``.

    Raises:
        InputError: an entry without such units; as ``refit`` does.
    """
    units: dict[tuple[str, int], dict[str, UnitResult]] = {}
    known = [
        unit for unit in refit(folder).done
        if unit.plan.exact and unit.plan.config.optimizer == "gd" and len(unit.points.get("eta_min", ()))
    ]  # fmt: skip
    for unit in chosen(known, entries, folder):
        units.setdefault((unit.plan.unit.entry.name, unit.plan.unit.steps), {})[unit.plan.unit.regime] = unit
    out = []
    for (entry, steps), regimes in units.items():
        if not {"lazy", "rich"} <= regimes.keys():
            continue
        law, rich = regimes["rich"].plan.law, regimes["rich"]
        traced = joined("eta_min", regimes.values())
        seeds = [traced.seed == seed for seed in np.unique(traced.seed)]
        fits = np.array([fit_crossover(traced.gamma[mine], traced.eta[mine], **law) for mine in seeds])
        logs, ends = np.log(fits[:, 0]), (-np.inf, np.inf)
        if len(logs) > 1:
            ends = stats.t.interval(0.95, len(logs) - 1, loc=logs.mean(), scale=stats.sem(logs))
        middle, found = float(np.exp(logs.mean())), rich.points["eta_min"]
        fit = rich.fits["eta_min", "depth"]
        row: dict[str, Any] = {"entry": entry, "steps": steps, "points": len(traced), "crossover": middle}
        row |= {"crossover_low": np.exp(ends[0]), "crossover_high": np.exp(ends[1])}
        row["misfit"] = fits[:, 2].mean()
        for name, scale in (("law", 1.0), ("moved", middle)):
            curve = exact_law("eta_min", found.gamma / scale, **law)
            window = (rich.plan.window.low, rich.plan.window.high)
            row[name] = fit_power_law(found.gamma, curve, seed=found.seed, window=window).exponent
        out.append(row | {"fitted": fit.exponent, "half_width": (fit.interval[1] - fit.interval[0]) / 2})
    return pd.DataFrame(out)


def _main(folder: Path, rest: list[str]) -> None:
    made = crossovers(folder, tuple(rest))
    made.to_csv(folder / "crossovers.csv", index=False, float_format="%.6g")
    print(made.to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    command(_main, "python -m empirical.campaign.crossover FOLDER [ENTRY …]")
