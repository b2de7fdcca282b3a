"""Figure 4: catapults when lazy, plateaus when rich, and which turns first there, the kernel or the loss.

a) Loss of the highest catapults that come back, one γ a line. b) Their height against γ; crosses on the axis are γ at
which no learning rate gives a catapult. c) Loss at large γ in rescaled time τ = ηt/γ: a plateau, then a drop.
d) Kernel–target alignment of the last layer in the same time; dots mark where alignment (d) and loss (c) are half-way.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from empirical.experiments.analysis import RICH_FROM, Plateau
from empirical.experiments.catapults import highest_catapults
from paper_figures.axes import log_ticks
from paper_figures.overlay import slope_label
from paper_figures.style import INK, QUIET, THEORY, gamma_bar, gamma_colour, house_style, panel
from simulate import ScalingFit

NAME, TITLE = "fig4", "Catapults when lazy, plateaus when rich"
CAPTION = """\
**Catapults and plateaus** ({{ mse.arch }}s, squared error). a) Loss of the highest catapult that comes back,
for each γ. b) Its height against γ: slope {{ m("catapult-height") }}; share of catapults among the runs that
train at γ ≥ 10: {{ m("catapult-rich") }}. c) Loss and d) kernel–target alignment of the last layer at large γ
against τ = ηt/γ; dots mark where each is half-way. The loss is half-way {{ m("silent-alignment") }} times later
than the alignment; the τ at which the plateau ends has slope {{ m("plateau") }} in γ.\
"""
SHOWN_STEPS = 100


def draw_catapults(ax: Axes, catapults: xr.Dataset) -> None:
    """Loss of the highest catapult of each γ, first seed that has one.

    Args:
        ax: the axes.
        catapults: as ``run_catapults`` gives it.
    """
    rung = highest_catapults(catapults)["rung"]
    t = catapults["step"].values
    for g, gamma in enumerate(catapults["gamma"].values):
        have = np.nonzero(rung.values[g] >= 0)[0]
        if len(have) and gamma <= 1:
            run = catapults.isel(gamma=g, seed=have[0], rate=int(rung.values[g, have[0]]))
            ax.plot(t, run["loss"] / float(run["start"]), color=gamma_colour(float(gamma)), lw=1.2)
        elif gamma > 10 and g % 2 == 0:
            # no catapult at any rung: the highest rung that trains
            trained = np.nonzero(catapults["outcome"].values[g, :, 0] == 2)[0]
            if len(trained):
                run = catapults.isel(gamma=g, seed=0, rate=int(trained[-1]))
                ax.plot(t, run["loss"] / float(run["start"]), color=gamma_colour(float(gamma)), lw=0.8, alpha=0.6)
    ax.axhline(1, color=QUIET, lw=0.8, dashes=(2, 2))
    ax.set(yscale="log", xlabel="step $t$", ylabel=r"loss / $\mathcal{L}_0$", xlim=(0, SHOWN_STEPS))
    ax.set_xlim(0, min(SHOWN_STEPS, int(t[-1])))


def draw_heights(ax: Axes, catapults: xr.Dataset, fit: ScalingFit) -> None:
    """Height of the highest catapults against γ.

    Args:
        ax: the axes.
        catapults: as ``run_catapults`` gives it.
        fit: of the heights.
    """
    height = highest_catapults(catapults)["height"]
    gamma = height["gamma"].values
    for g, one in enumerate(gamma):
        values = height.values[g]
        ax.plot(np.full(len(values), one), values, "o", color=gamma_colour(float(one)), ms=5, mec="white", mew=0.5)
        if not np.isfinite(values).any():
            ax.plot(one, 0.03, "x", color=QUIET, ms=5, transform=ax.get_xaxis_transform(), clip_on=False)
    if np.isfinite(fit.coefficient):
        across = np.geomspace(*fit.window, 20)
        ax.plot(
            across,
            fit(across),
            color=INK,
            lw=1.4,
            label=f"fitted slope {slope_label(fit).rstrip(' ✗?')}".replace("-", "−"),
        )
        law = float(fit(fit.window[1])) * (across / fit.window[1]) ** -2.0
        ax.plot(across, law, label=r"two-layer map, $\gamma \ll 1$: $-2$", **THEORY)
    ax.plot([], [], "x", color=QUIET, ms=5, label="no catapult at any $\\eta$")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel=r"feature-learning strength $\gamma$",
        ylabel="highest peak / $\\mathcal{L}_0$",
    )
    highest = float(np.nanmax(height.values)) if np.isfinite(height.values).any() else 10.0
    ax.set_ylim(1, 20 * highest)  # the line of the two-layer map leaves the frame; the rest is room for the legend
    log_ticks(ax.xaxis)
    ax.legend(loc="upper right")


def draw_plateaus(top: Axes, bottom: Axes, landscape: xr.Dataset, found: list[Plateau]) -> None:
    """Loss and alignment of rich runs against τ.

    Args:
        top: for the losses.
        bottom: for the alignments.
        landscape: as ``run_landscape`` gives it.
        found: their plateaus.
    """
    gammas = landscape["gamma"].values
    for gamma in gammas[gammas >= RICH_FROM][::2]:
        run = landscape.sel(gamma=gamma).isel(seed=0)
        pace = float(run["eta"]) / float(gamma)
        tau, colour = run["step"].values * pace, gamma_colour(float(gamma))
        top.plot(tau, run["loss"] / float(run["loss"][0]), color=colour)
        bottom.plot(tau, run["alignment"], color=colour)
        for one in found:
            if one.gamma == gamma and one.seed == int(run["seed"]) and one.silent.determined:
                for ax, values, at in (
                    (top, run["loss"] / float(run["loss"][0]), one.silent.loss_half_time * pace),
                    (bottom, run["alignment"], one.silent.alignment_half_time * pace),
                ):
                    level = np.interp(at, tau, values.values)
                    ax.plot(at, level, "o", color=colour, mec="white", mew=0.6, ms=5, zorder=6)
    for ax, name in ((top, r"loss / $\mathcal{L}_0$"), (bottom, "kernel–target alignment")):
        ax.set(xscale="log", xlabel=r"rescaled time $\tau=\eta t/\gamma$", ylabel=name)
    top.set_ylim(bottom=0)


def figure(catapults: xr.Dataset, fit: ScalingFit, landscape: xr.Dataset, found: list[Plateau]) -> Figure:
    """Draw the figure.

    Args:
        catapults: as ``run_catapults`` gives it.
        fit: of the catapults' heights.
        landscape: as ``run_landscape`` gives it.
        found: plateaus of the rich runs.

    Returns:
        Four panels.
    """
    with house_style():
        fig, axes = plt.subplots(2, 2, figsize=(8.0, 6.6), layout="constrained")
        draw_catapults(axes[0, 0], catapults)
        panel(axes[0, 0], "a", r"smaller $\gamma$, higher catapult")
        draw_heights(axes[0, 1], catapults, fit)
        panel(axes[0, 1], "b", "height of the catapults")
        draw_plateaus(axes[1, 0], axes[1, 1], landscape, found)
        panel(axes[1, 0], "c", r"large $\gamma$: a plateau, then a drop")
        panel(axes[1, 1], "d", "alignment of the last layer's kernel")
        gamma_bar(fig, [axes[0, 1], axes[1, 1]])
    return fig
