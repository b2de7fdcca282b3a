"""Figure 3: Hessian spectra, in the metric of the update, of MLPs trained on squared error.

a) The largest eigenvalues at the end of training against γ, with the fitted and the predicted slopes of the first.
b) The largest eigenvalue along training for several γ. c) Spectra of lazy networks that are wide enough to tell
outliers from the bulk, by rank. d) The largest eigenvalues along training of a rich network.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from empirical.experiments.analysis import nearest
from paper_figures.axes import log_ticks, power_of_ten
from paper_figures.overlay import slope_label
from paper_figures.style import INK, QUIET, THEORY, gamma_bar, gamma_colour, house_style, panel
from simulate import ScalingFit

NAME, TITLE = "fig3", "Hessian spectra across γ and along training"
CAPTION = """\
**Hessian spectra** in the metric of the update ({{ mse.arch }}s, L = {{ mse.depth }}, squared error). a) Top
eigenvalues at the end of training, mean over seeds. Slope of the largest: {{ m("sharpness-lazy") }} (lazy,
predicted −2) and {{ m("sharpness-rich") }} (rich, predicted −2/L). b) The largest along training, in units of
the edge 2/η; a lazy one changes by {{ m("hessian-lazy-constant") }} of its value. c) Lazy, at the end of training:
the share of seeds with as many outliers as classes is {{ m("outliers-lazy") }}. d) Rich: the first eigenvalue
beyond the number of classes grows {{ m("hessian-rich-grows") }} times (γ ≥ 100).\
"""
RICH = 1e3
"""The γ of panel d."""


def draw_final(ax: Axes, landscape: xr.Dataset, fits: dict[str, ScalingFit]) -> None:
    """Eigenvalues at the end against γ.

    Args:
        ax: the axes.
        landscape: as ``run_landscape`` gives it.
        fits: of the largest eigenvalue, by regime.
    """
    gamma = landscape["gamma"].values
    last = landscape["eigenvalue"].isel(spectrum_step=-1).mean("seed")
    for rank in range(last.sizes["rank"] - 1, -1, -1):
        values = last.isel(rank=rank).values
        colours = [gamma_colour(float(g)) for g in gamma]
        ax.scatter(gamma, np.where(values > 0, values, np.nan), c=colours, s=9 if rank else 22, lw=0,
                   alpha=0.45 if rank else 1.0, zorder=3 if rank else 4)  # fmt: skip
    for regime, fit in fits.items():
        if not np.isfinite(fit.coefficient):
            continue
        across = np.geomspace(*fit.window, 20)
        middle = float(np.sqrt(fit.window[0] * fit.window[1]))
        power = "-2" if regime == "lazy" else "-2/L"
        law = 3.0 * fit(middle) * (across / middle) ** fit.predicted
        ax.plot(across, law, **THEORY)
        ax.plot(across, fit(across), color=INK, lw=1.6, zorder=5)
        side, place = ("left", (0.3, 0.88)) if regime == "lazy" else ("right", (0.99, 0.52))
        text = rf"{regime}: predicted ${power}$" + "\n" + f"fitted {slope_label(fit)}".replace("-", "−")
        ax.text(*place, text, fontsize=8, ha=side, va="bottom", transform=ax.transAxes)
    ax.set(xscale="log", yscale="log", xlabel=r"feature-learning strength $\gamma$", ylabel="Hessian eigenvalue")
    log_ticks(ax.xaxis)
    log_ticks(ax.yaxis)


def draw_sharpness(ax: Axes, landscape: xr.Dataset) -> None:
    """Largest eigenvalue along training, over the edge 2/η.

    Args:
        ax: the axes.
        landscape: as ``run_landscape`` gives it.
    """
    steps = landscape["spectrum_step"].values + 1
    for gamma in landscape["gamma"].values[:: max(1, landscape.sizes["gamma"] // 8)]:
        run = landscape.sel(gamma=gamma)
        edge = run["eigenvalue"].isel(rank=0).mean("seed") * float(run["eta"]) / 2
        ax.plot(steps, edge, color=gamma_colour(float(gamma)), marker="o", ms=3)
    ax.axhline(1, **THEORY)
    ax.annotate("edge of stability", (0.02, 1), xycoords=("axes fraction", "data"), xytext=(0, -10),
                textcoords="offset points", fontsize=8)  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="step $t+1$", ylabel=r"$\eta\,\lambda_{\max}/2$")


def draw_spectrum(ax: Axes, landscape: xr.Dataset, gamma: float) -> float:
    """Largest eigenvalues along training of one network.

    Args:
        ax: the axes.
        landscape: as ``run_landscape`` gives it.
        gamma: near which γ.

    Returns:
        The γ.
    """
    run = landscape.isel(gamma=nearest(landscape, gamma), seed=0)
    steps, classes = run["spectrum_step"].values + 1, int(landscape.attrs["classes"])
    for rank in range(run.sizes["rank"]):
        values = run["eigenvalue"].isel(rank=rank).values
        inside = rank < classes
        look: dict[str, Any] = (
            {"color": gamma_colour(float(run["gamma"])), "lw": 1.2} if inside else {"color": QUIET, "lw": 0.7}
        )
        ax.plot(steps, np.where(values > 0, values, np.nan), **look)
    ax.set(xscale="log", yscale="log", xlabel="step $t+1$", ylabel="Hessian eigenvalue")
    ax.plot([], [], color=gamma_colour(float(run["gamma"])), label=f"first {classes}: as many as classes")
    ax.plot([], [], color=QUIET, lw=0.8, label=f"the next {run.sizes['rank'] - classes}")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.22)  # room for the legend
    ax.legend(loc="upper left", borderpad=0.2)
    return float(run["gamma"])


def draw_outliers(ax: Axes, spectra: xr.Dataset) -> None:
    """Spectra of lazy networks by rank, one line a seed, in units of their largest eigenvalue.

    Args:
        ax: the axes.
        spectra: as ``run_spectra`` gives it.
    """
    classes, colour = int(spectra.attrs["classes"]), gamma_colour(float(spectra.attrs["gamma"]))
    rank = np.arange(1, spectra.sizes["rank"] + 1)
    for values in spectra["hessian"].values:
        share = np.where(values > 0, values, np.nan) / values[0]
        ax.plot(rank[classes - 1 :], share[classes - 1 :], color=QUIET, lw=0.8)
        ax.plot(rank[:classes], share[:classes], color=colour, lw=1.0)
    newton = spectra["gauss_newton"].values
    mean = (newton / newton[:, :1]).mean(0)
    ax.plot(rank, mean, "o", color=INK, mfc="white", ms=3.5, mew=0.8, label="Gauss–Newton, mean", zorder=5)
    ax.axvline(classes + 0.5, color=INK, lw=0.8, dashes=(2, 2))
    ax.text(classes, 0.04, f"{classes} classes", fontsize=8, transform=ax.get_xaxis_transform(), ha="right")
    ax.plot([], [], color=colour, label=f"Hessian, {spectra.sizes['seed']} seeds")
    ax.set(yscale="log", xlabel="rank", ylabel=r"eigenvalue / $\lambda_{\max}$")
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 3.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend(loc="upper right")


def figure(landscape: xr.Dataset, fits: dict[str, ScalingFit], spectra: xr.Dataset) -> Figure:
    """Draw the figure.

    Args:
        landscape: as ``run_landscape`` gives it.
        fits: of the largest eigenvalue at the end, by regime.
        spectra: as ``run_spectra`` gives it.

    Returns:
        Four panels.
    """
    with house_style():
        fig, axes = plt.subplots(2, 2, figsize=(8.0, 6.8), layout="constrained")
        draw_final(axes[0, 0], landscape, fits)
        panel(axes[0, 0], "a", f"top {landscape.sizes['rank']} eigenvalues at the end")
        draw_sharpness(axes[0, 1], landscape)
        panel(axes[0, 1], "b", "largest eigenvalue along training")
        gamma_bar(fig, axes[0, 1])
        draw_outliers(axes[1, 0], spectra)
        where = rf"$\gamma={power_of_ten(float(spectra.attrs['gamma']))}$, width {spectra.attrs['width']}"
        panel(axes[1, 0], "c", f"lazy, {where}: outliers")
        shown = draw_spectrum(axes[1, 1], landscape, RICH)
        panel(axes[1, 1], "d", rf"rich, $\gamma={power_of_ten(shown)}$, along training")
    return fig
