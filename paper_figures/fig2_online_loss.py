"""Figure 2: online learning across γ.

a) Online loss of CNNs against time, each γ at the second largest learning rate that converges on the grid of figure 1,
with the power laws that were fitted to the last decade of a lazy and of a rich run. b) Test accuracy against γ at
several budgets T; error bars are the smallest and largest over seeds.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from empirical.experiments.analysis import nearest
from empirical.phenomena.power_law import LossPowerLaw
from paper_figures.axes import log_ticks
from paper_figures.style import INK, PLATE, QUIET, gamma_bar, gamma_colour, house_style, panel, run_colours

NAME, TITLE = "fig2", "Online loss and accuracy across γ"
CAPTION = """\
**Online learning across γ** ({{ ce.arch }}s, cross-entropy). a) Online loss, mean over seeds, each γ at the
second largest learning rate of the grid that converges. Fitted powers of time over the last decade:
{{ m("power-law-lazy") }} for the smallest γ, {{ m("power-law-rich") }} near γ = 10. b) Test accuracy at several
budgets; bars reach from the worst to the best seed. The best γ above 3 less γ = 1, at the largest budget:
{{ m("accuracy-rich") }}.\
"""
RICH = 10.0
"""The rich run whose power law is drawn."""

HIGHEST = 1.4
"""Losses are shown up to this many times their start; what is higher is named in a note."""


def draw_losses(ax: Axes, curves: xr.Dataset, laws: dict[float, LossPowerLaw]) -> None:
    """Online losses, and two fitted power laws.

    Args:
        ax: the axes.
        curves: as ``run_curves`` gives it.
        laws: fitted laws by γ.
    """
    t, mean = curves["step"].values, curves["loss"].mean("seed")
    for gamma in curves["gamma"].values:
        ax.plot(t, mean.sel(gamma=gamma), color=gamma_colour(float(gamma)), lw=1.1)
    chosen = (("lazy", 0, (4, 2), 1.12), ("rich", nearest(curves, RICH), (1, 1.3), 0.88))
    for regime, place, dashes, shift in chosen:
        law = laws[float(curves["gamma"][place])]
        if not np.isfinite(law.exponent):
            continue
        across = np.geomspace(*law.window, 20)
        exponent = rf"$t^{{-{law.exponent:.2f}}}$" + ("" if law.determined else " ?")
        label = f"{regime}, fitted: {exponent}"
        ax.plot(across, shift * law(across), color=INK, dashes=dashes, lw=1.6, label=label, zorder=6)
    ax.set(xscale="log", yscale="log", xlabel="step $t$", ylabel="online loss")
    start, highest = float(mean.isel(step=0).mean()), float(mean.max())
    if highest > HIGHEST * start:  # a catapult at the chosen learning rate would flatten everything else
        ax.set_ylim(0.8 * float(mean.min()), HIGHEST * start)
        note = f"off scale: a catapult\nof {highest / start:.2g} " + r"$\mathcal{L}_0$"
        ax.text(0.98, 0.98, note, transform=ax.transAxes, ha="right", va="top", fontsize=8, color=QUIET,
                bbox=PLATE, zorder=7)  # fmt: skip
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend(loc="lower left")


def draw_accuracies(ax: Axes, curves: xr.Dataset) -> None:
    """Test accuracy against γ, a line for each budget.

    Args:
        ax: the axes.
        curves: as ``run_curves`` gives it.
    """
    gamma = curves["gamma"].values
    budgets = curves["budget"].values
    for budget, colour in zip(budgets, run_colours(len(budgets)), strict=True):
        values = curves["accuracy"].sel(budget=budget)
        mean = values.mean("seed").values
        spread = [mean - values.min("seed").values, values.max("seed").values - mean]
        label = f"$T={int(budget)}$"
        ax.errorbar(gamma, mean, yerr=spread, color=colour, marker="o", ms=3.5, lw=1.3, capsize=1.5, label=label)
    ax.set(xscale="log", xlabel=r"feature-learning strength $\gamma$", ylabel="test accuracy")
    log_ticks(ax.xaxis)
    low, high = ax.get_ylim()
    ax.plot([1.0, 1.0], [low, high], color=QUIET, lw=0.8, dashes=(2, 2), zorder=0)
    ax.set_ylim(low - 0.14 * (high - low), high)  # room for the legend
    ax.legend(loc="lower center", ncols=len(budgets))


def figure(curves: xr.Dataset, laws: dict[float, LossPowerLaw]) -> Figure:
    """Draw the figure.

    Args:
        curves: as ``run_curves`` gives it.
        laws: fitted power laws by γ.

    Returns:
        Two panels.
    """
    with house_style():
        fig, axes = plt.subplots(1, 2, figsize=(8.0, 3.7), layout="constrained")
        draw_losses(axes[0], curves, laws)
        what = curves.attrs
        loss = "MSE" if what["loss"] == "mse" else what["loss"]
        panel(axes[0], "a", f"{str(what['arch']).upper()}, {loss}")
        gamma_bar(fig, axes[0])
        draw_accuracies(axes[1], curves)
        panel(axes[1], "b", f"accuracy at budget $T$, {curves.sizes['seed']} seeds")
    return fig
