"""Appendix: late in training rich networks of different γ are the same function at the same loss.

a) Losses of rich networks against τ. b) R² of their outputs at equal loss, all pairs, against the loss. c) The matrix
of all γ at the lowest loss that enough of them reach.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from empirical.experiments.agreement import LEVELS, agreement_at_loss, agreement_by_level
from empirical.experiments.analysis import RICH_FROM
from paper_figures.axes import draw_pairs
from paper_figures.style import INK, QUIET, gamma_bar, gamma_colour, house_style, panel

NAME, TITLE = "appendix-consistency", "Rich networks of different γ at equal loss"
CAPTION = """\
**Consistency of rich networks** ({{ mse.arch }}s, squared error, one start for all γ of a seed). a) Loss on test
examples of γ ≥ 10 against τ = ηt/γ, one seed; levels as in b. b) R² of the outputs of pairs of γ when each has first
reached a given share of its initial loss: all pairs, and their mean. c) All γ at the lowest level that half of the
rich ones reach: there R² among γ ≥ 10 is {{ m("rich-consistent") }} on average.\
"""


def lowest_common(landscape: xr.Dataset) -> float:
    """Lowest level that at least half of the large γ reach.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        Share of the initial loss; the highest of ``LEVELS`` when they reach none.
    """
    count = int((landscape["gamma"].values >= RICH_FROM).sum())
    reached = [one for one in LEVELS if 2 * len(agreement_at_loss(landscape, one, RICH_FROM)[0]) >= count]
    return min(reached, default=LEVELS[0])


def draw_levels(ax: Axes, landscape: xr.Dataset) -> None:
    """R² of pairs against the share of the loss that is left.

    Args:
        ax: the axes.
        landscape: as ``run_landscape`` gives it.
    """
    means = agreement_by_level(landscape)
    for level in means:
        gamma, matrix = agreement_at_loss(landscape, level, RICH_FROM)
        for i in range(len(gamma)):
            for j in range(len(gamma)):
                if i != j and np.isfinite(matrix[i, j]):
                    colour = gamma_colour(float(np.sqrt(gamma[i] * gamma[j])))
                    ax.plot(level, max(matrix[i, j], -0.1), "o", ms=2.5, color=colour, alpha=0.45, mew=0)
    ax.plot(list(means), list(means.values()), color=INK, lw=1.6, marker="D", ms=4, mec="white", label="mean of pairs")
    ax.set(xlabel=r"loss / $\mathcal{L}_0$, equal for both", ylabel="$R^2$", ylim=(-0.12, 1.03))
    ax.invert_xaxis()
    ax.legend(loc="lower right")


def figure(landscape: xr.Dataset) -> Figure:
    """Draw the figure.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        Three panels.
    """
    level = lowest_common(landscape)
    with house_style():
        fig, axes = plt.subplots(1, 3, figsize=(11.2, 3.7), layout="constrained")
        for gamma in landscape["gamma"].values[landscape["gamma"].values >= RICH_FROM]:
            run = landscape.sel(gamma=gamma).isel(seed=0)
            tau = run["step"].values * float(run["eta"]) / float(gamma)
            axes[0].plot(tau[1:], run["loss"][1:] / float(run["loss"][0]), color=gamma_colour(float(gamma)))
        axes[0].axhline(level, color=QUIET, lw=0.8, dashes=(2, 2))
        axes[0].set(xscale="log", xlabel=r"rescaled time $\tau=\eta t/\gamma$", ylabel=r"loss / $\mathcal{L}_0$")
        axes[0].set_ylim(bottom=0)
        panel(axes[0], "a", r"losses, $\gamma\geq 10$")
        gamma_bar(fig, axes[0])
        draw_levels(axes[1], landscape)
        panel(axes[1], "b", r"outputs at equal loss, $\gamma\geq 10$")
        gamma, matrix = agreement_at_loss(landscape, level)
        draw_pairs(fig, axes[2], gamma, np.clip(matrix, 0, 1), "$R^2$")
        panel(axes[2], "c", rf"all $\gamma$, at ${level:g}\,\mathcal{{L}}_0$")
    return fig
