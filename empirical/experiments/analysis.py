"""From what was measured to the numbers that figures draw and claims judge.

Fit windows are those of theory for eta_crit at the budget of the runs (``empirical.trace.default_window``); the window
of the boundary is also that of the sharpness, which at the edge is 2/η.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from empirical.experiments.catapults import highest_catapults
from empirical.measure.agreement import output_agreement
from empirical.phenomena.alignment import SilentAlignment, silent_alignment
from empirical.phenomena.plateau import PlateauExit, plateau_exit
from empirical.phenomena.power_law import LossPowerLaw, loss_power_law
from empirical.trace import default_window
from simulate import ScalingFit, fit_power_law
from theory import FitWindow
from theory.errors import InputError

RICH_FROM = 10.0
"""γ from which on runs count as rich where no fit window says more."""

LAZY_TO = 1e-2
"""γ up to which they count as lazy."""


def nearest(data: xr.Dataset, gamma: float) -> int:
    """Position of the γ of a data set that is nearest to a given one, in log γ.

    Args:
        data: with a coordinate ``gamma``.
        gamma: where to look.

    Returns:
        The position.
    """
    return int(np.argmin(np.abs(np.log(data["gamma"].values / gamma))))


def regime_window(data: xr.Dataset, regime: str, steps: int) -> FitWindow | None:
    """The fit window of a regime on the γ of a data set.

    Args:
        data: with a coordinate ``gamma`` and the attributes ``depth`` and ``loss``.
        regime: ``lazy`` or ``rich``.
        steps: budget T.

    Returns:
        The window, or ``None`` when theory leaves none.
    """
    gamma = data["gamma"].values
    ends = (float(gamma[0]), float(gamma[-1]))
    try:
        return default_window(int(data.attrs["depth"]), regime, steps, ends, loss=str(data.attrs["loss"]))
    except InputError:
        return None


def sharpness_fits(landscape: xr.Dataset) -> dict[str, ScalingFit]:
    """Slopes of the largest Hessian eigenvalue at the end of training against γ.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        By regime: the fit, held against −2 and −2/L.
    """
    last = landscape["eigenvalue"].isel(spectrum_step=-1, rank=0)
    depth, out = int(landscape.attrs["depth"]), {}
    for regime, slope in (("lazy", -2.0), ("rich", -2.0 / depth)):
        window = regime_window(landscape, regime, int(landscape["step"][-1]))
        if window is None:
            continue
        g, s = (index.ravel() for index in np.indices(last.shape))
        values = last.values.ravel()
        good = np.isfinite(values) & (values > 0)
        out[regime] = fit_power_law(
            last["gamma"].values[g][good],
            values[good],
            seed=last["seed"].values[s][good],
            window=(window.low, window.high),
            predicted=slope,
        )
    return out


def loss_laws(curves: xr.Dataset) -> dict[float, LossPowerLaw]:
    """Power laws of the online loss in time, over the last decade of the run.

    Args:
        curves: as ``run_curves`` gives it.

    Returns:
        By γ, of the mean over seeds.
    """
    mean = curves["loss"].mean("seed")
    return {
        float(gamma): loss_power_law(curves["step"].values, mean.sel(gamma=gamma).values)
        for gamma in curves["gamma"].values
    }


@dataclass(frozen=True)
class Plateau:
    """When the plateau of one run ends, and what its alignment did.

    Attributes:
        gamma: feature-learning strength.
        seed: seed.
        exit: of the loss.
        silent: alignment against loss.
    """

    gamma: float
    seed: int
    exit: PlateauExit
    silent: SilentAlignment


def plateaus(landscape: xr.Dataset, least: float = RICH_FROM, alignment: str = "alignment") -> list[Plateau]:
    """Plateaus of the rich runs.

    Args:
        landscape: as ``run_landscape`` gives it.
        least: γ from which on runs count.
        alignment: ``alignment`` or ``centred_alignment``.

    Returns:
        One entry a γ and seed.
    """
    out = []
    for gamma in landscape["gamma"].values[landscape["gamma"].values >= least]:
        for seed in landscape["seed"].values:
            run = landscape.sel(gamma=gamma, seed=seed)
            t, loss, eta = run["step"].values, run["loss"].values, float(run["eta"])
            left = plateau_exit(t, loss, eta=eta, gamma=float(gamma))
            # before the first step f = 0: the loss is known, the kernel too
            turned = silent_alignment(t, loss, run[alignment].values)
            out.append(Plateau(float(gamma), int(seed), left, turned))
    return out


def catapult_fit(catapults: xr.Dataset) -> ScalingFit:
    """Slope of the height of the highest catapults against γ, up to γ = 1.

    Args:
        catapults: as ``run_catapults`` gives it.

    Returns:
        The fit of log(peak / L₀) over every γ ≤ 1, the lazy side, and every seed that has a catapult there; the
        two-layer map predicts −2 for γ ≪ 1.
    """
    height = highest_catapults(catapults)["height"]
    g, s = (index.ravel() for index in np.indices(height.shape))
    values = height.values.ravel()
    good = np.isfinite(values) & (height["gamma"].values[g] <= 1.0)
    return fit_power_law(
        height["gamma"].values[g][good], values[good], seed=height["seed"].values[s][good], predicted=-2.0
    )


def agreement_matrix(landscape: xr.Dataset) -> NDArray[np.float64]:
    """Agreement of outputs between all pairs of γ at the end of training, of one seed, averaged over seeds.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        R² of f of the column's γ as a prediction of f of the row's, shape ``(gamma, gamma)``.
    """
    f = outputs_at_end(landscape)
    return np.mean([output_agreement(one[:, None], one[None]).r2 for one in np.moveaxis(f, 1, 0)], axis=0)


def outputs_at_end(landscape: xr.Dataset) -> NDArray[np.float64]:
    """F = (F − F₀)/γ on the sample at the end of training.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        Shape ``(gamma, seed, examples, classes)``.
    """
    raw = landscape["raw"].isel(step=-1).values
    return raw / landscape["gamma"].values.reshape(-1, 1, 1, 1)


def apex_slope(apex: pd.DataFrame) -> ScalingFit:
    """Slope of the networks' apex γ_max against T.

    Args:
        apex: as ``run_apex`` gives it.

    Returns:
        The fit, with the brackets, held against the exact apex of the toy at the same T.
    """
    known = apex.dropna()
    middle = np.sqrt(known["gamma_low"] * known["gamma_high"])
    return fit_power_law(
        known["steps"].astype(float), middle, eta_low=known["gamma_low"], eta_high=known["gamma_high"],
        seed=known["seed"], law=known["toy"],
    )  # fmt: skip


def budget_slopes(budgets: pd.DataFrame) -> dict[float, ScalingFit]:
    """Slopes of eta_min against T.

    Args:
        budgets: as ``run_budgets`` gives it.

    Returns:
        By γ, held against the exact toy's slope over the same T.
    """
    out = {}
    for gamma, part in budgets.groupby("gamma"):
        out[float(str(gamma))] = fit_power_law(
            part["steps"].astype(float), part["eta"], eta_low=part["eta_low"], eta_high=part["eta_high"],
            seed=part["seed"], predicted=-1.0, law=part["law"],
        )  # fmt: skip
    return out
