"""Figure 5: which networks agree, and how their kernels are aligned with the task.

a) Outputs f on test examples of pairs of networks from one start: two lazy ones, two rich ones, a lazy and a rich one,
at the end of training. b) R² of all pairs of γ. c) Kernel–target alignment of last-layer representations across γ.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from empirical.experiments.analysis import nearest, outputs_at_end
from empirical.measure.agreement import output_agreement
from paper_figures.axes import cell_edges, log_ticks, power_of_ten
from paper_figures.style import INK, QUIET, gamma_colour, house_style, panel

NAME, TITLE = "fig5", "Agreement of outputs and kernel–target alignment across γ"
CAPTION = """\
**Agreement and alignment** ({{ mse.arch }}s, squared error, one start for all γ of a seed). a) Outputs of pairs
of networks at the end of training. b) R² of all pairs, mean over seeds: {{ m("lazy-agree") }} on average among
γ ≤ 0.01, {{ m("rich-agree") }} among γ ≥ 100. c) Kernel–target alignment of the last layer; it is higher at γ ≥
100 than at γ ≤ 0.01 by {{ m("alignment-gamma") }}.\
"""
PAIRS = (("lazy, lazy", 1e-4, 1e-2), ("rich, rich", 1e2, 1e4), ("lazy, rich", 1e-2, 1e2))
MOST_DOTS = 1200


def draw_pair(ax: Axes, landscape: xr.Dataset, pair: tuple[float, float]) -> float:
    """Outputs of one network against those of another.

    Args:
        ax: the axes.
        landscape: as ``run_landscape`` gives it.
        pair: near which two γ.

    Returns:
        R².
    """
    outputs = outputs_at_end(landscape)[:, 0]
    places = [nearest(landscape, gamma) for gamma in pair]
    first, second = (outputs[place] for place in places)
    r2 = float(output_agreement(first, second).r2)
    gammas = [float(landscape["gamma"][place]) for place in places]
    every = max(1, first.size // MOST_DOTS)
    ax.scatter(first.ravel()[::every], second.ravel()[::every], s=4, lw=0, alpha=0.5, rasterized=True,
               color=gamma_colour(float(np.sqrt(gammas[0] * gammas[1]))))  # fmt: skip
    low, high = float(min(first.min(), second.min())), float(max(first.max(), second.max()))
    ax.plot([low, high], [low, high], color=INK, lw=0.8, dashes=(3, 2))
    ax.set_aspect("equal", adjustable="datalim")
    ax.set(xlabel=rf"$f$ at $\gamma={power_of_ten(gammas[0])}$", ylabel=rf"$f$ at $\gamma={power_of_ten(gammas[1])}$")
    ax.text(0.04, 0.95, f"$R^2={r2:.3f}$", transform=ax.transAxes, va="top")
    return r2


def draw_matrix(fig: Figure, ax: Axes, landscape: xr.Dataset, matrix: NDArray[np.float64]) -> None:
    """R² of all pairs of γ.

    Args:
        fig: the figure.
        ax: the axes.
        landscape: as ``run_landscape`` gives it.
        matrix: R², shape ``(gamma, gamma)``.
    """
    edges = cell_edges(landscape["gamma"].values)
    image = ax.pcolormesh(edges, edges, np.clip(matrix, 0, 1).T, cmap="cividis", vmin=0, vmax=1, rasterized=True)
    ax.set(xscale="log", yscale="log", xlabel=r"$\gamma$", ylabel=r"$\gamma'$")
    log_ticks(ax.xaxis)
    log_ticks(ax.yaxis)
    ax.set_aspect("equal")
    bar = fig.colorbar(image, ax=ax, pad=0.02, aspect=22)
    bar.set_label("$R^2$")
    bar.outline.set_visible(False)


def draw_alignment(ax: Axes, landscape: xr.Dataset) -> None:
    """Alignment at the end and at the start against γ; error bars from the smallest to the largest seed.

    Args:
        ax: the axes.
        landscape: as ``run_landscape`` gives it.
    """
    gamma, alignment = landscape["gamma"].values, landscape["alignment"]
    end, start = alignment.isel(step=-1), alignment.isel(step=0)
    mean = end.mean("seed").values
    low, high = end.min("seed").values, end.max("seed").values
    ax.plot(gamma, mean, color=QUIET, lw=1.0, zorder=2)
    for one, value, least, most in zip(gamma, mean, low, high, strict=True):
        spread = [[max(value - least, 0.0)], [max(most - value, 0.0)]]  # rounding may leave −1e-17
        ax.errorbar(one, value, yerr=spread, fmt="o", ms=4.5, capsize=1.5, color=gamma_colour(float(one)))
    ax.axhline(float(start.mean()), color=INK, lw=1.0, dashes=(4, 2.5), label="at the start")
    ax.plot([], [], "o-", color=QUIET, ms=4.5, label="at the end of training")
    ax.set(xscale="log", xlabel=r"feature-learning strength $\gamma$", ylabel="kernel–target alignment")
    log_ticks(ax.xaxis)
    ax.legend(loc="best")


def figure(landscape: xr.Dataset, matrix: NDArray[np.float64]) -> Figure:
    """Draw the figure.

    Args:
        landscape: as ``run_landscape`` gives it.
        matrix: R² of all pairs of γ.

    Returns:
        Five panels: three pairs, the matrix, the alignment.
    """
    with house_style():
        fig = plt.figure(figsize=(8.6, 6.4), layout="constrained")
        upper, lower = np.asarray(fig.subfigures(2, 1, height_ratios=(0.9, 1.0)))
        for place, (ax, (name, *pair)) in enumerate(zip(upper.subplots(1, 3), PAIRS, strict=True)):
            draw_pair(ax, landscape, (pair[0], pair[1]))
            if place:
                ax.set_title(name, loc="left")
            else:
                panel(ax, "a", name)
        left, right = lower.subplots(1, 2)
        draw_matrix(lower, left, landscape, matrix)
        panel(left, "b", r"agreement of $f$ between all pairs of $\gamma$")
        draw_alignment(right, landscape)
        panel(right, "c", "alignment of the last layer's kernel")
    return fig
