"""Appendix: raw outputs of large γ collapse in rescaled time.

a, b) The norm of F − F₀ on test examples against t and against τ = ηt/γ. c) The distance from the smallest γ, median
over time, before and after.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from empirical.experiments.analysis import plateaus
from empirical.phenomena.collapse import CurveCollapse, curve_collapse
from paper_figures.style import DOTTED, GAMMA_NORM, INK, QUIET, gamma_bar, gamma_colour, house_style, panel

NAME, TITLE = "appendix-collapse", "Raw outputs collapse in rescaled time"
CAPTION = """\
**Collapse in rescaled time** ({{ mse.arch }}s, squared error). a) Root-mean-square raw output F − F₀ on test examples
against t, γ ≥ 100, one seed; b) the same against τ = ηt/γ; dotted: where the first of them has lost a tenth of its
loss, up to where theory has one curve. c) Distance of the raw outputs from those of the smallest γ shown, relative to
the smaller, median over that time, mean over seeds: at equal t, and at equal τ. Over all pairs they are
{{ m("tau-collapse") }} times nearer at equal τ.\
"""
LEAST = 1e2


def collapse_end(landscape: xr.Dataset) -> float:
    """τ at which the first of the large γ has lost a tenth of its loss.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        τ; infinite when none has.
    """
    return min((one.exit.tau for one in plateaus(landscape, LEAST) if one.exit.determined), default=np.inf)


def collapses(landscape: xr.Dataset) -> list[CurveCollapse]:
    """Distances of the raw outputs of large γ up to the end of the plateau.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        One a seed; undetermined ones left out, and none where fewer than two γ are large.
    """
    gamma = landscape["gamma"].values
    chosen = np.nonzero(gamma >= LEAST)[0]
    out: list[CurveCollapse] = []
    if len(chosen) < 2:
        return out
    for seed in range(landscape.sizes["seed"]):
        raw = landscape["raw"].isel(seed=seed, gamma=chosen).values
        found = curve_collapse(
            landscape["step"].values, [run.reshape(len(run), -1) for run in raw],
            eta=landscape["eta"].values[chosen], gamma=gamma[chosen], window=(0.0, collapse_end(landscape)),
        )  # fmt: skip
        if found.determined:
            out.append(found)
    return out


def draw_outputs(ax: Axes, landscape: xr.Dataset, *, rescaled: bool) -> None:
    """Root-mean-square raw outputs.

    Args:
        ax: the axes.
        landscape: as ``run_landscape`` gives it.
        rescaled: whether against τ.
    """
    for gamma in landscape["gamma"].values[landscape["gamma"].values >= LEAST]:
        run = landscape.sel(gamma=gamma).isel(seed=0)
        pace = float(run["eta"]) / float(gamma) if rescaled else 1.0
        size = np.sqrt((run["raw"].values ** 2).mean((-2, -1)))
        ax.plot(run["step"].values[1:] * pace, size[1:], color=gamma_colour(float(gamma)))
    label = r"rescaled time $\tau=\eta t/\gamma$" if rescaled else "step $t$"
    ax.set(xscale="log", yscale="log", xlabel=label, ylabel=r"rms raw output $F-F_0$")
    if rescaled and np.isfinite(collapse_end(landscape)):
        ax.axvline(collapse_end(landscape), color=INK, lw=1.0, ls=DOTTED)


def from_smallest(pairs: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The pairs of the smallest γ.

    Args:
        pairs: of a ``CurveCollapse``.

    Returns:
        Which rows they are, and the other γ of each, ascending.
    """
    first, second = pairs["gamma_a"].to_numpy(), pairs["gamma_b"].to_numpy()
    rows = np.nonzero(first == first.min())[0]
    rows = rows[np.argsort(second[rows])]
    return rows, second[rows]


def draw_distances(ax: Axes, found: list[CurveCollapse]) -> None:
    """Distances from the smallest γ, before and after.

    Args:
        ax: the axes.
        found: as ``collapses`` gives them.
    """
    if found:
        first, others = from_smallest(found[0].pairs)
        looks = (("median_before", "o", QUIET, "at equal $t$"), ("median", "D", INK, r"at equal $\tau$"))
        for column, mark, colour, label in looks:
            mean = np.mean([one.pairs[column].to_numpy()[first] for one in found], axis=0)
            ax.plot(others, mean, marker=mark, ms=5, mec="white", color=colour, label=label)
        ax.legend(loc="best")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel=r"feature-learning strength $\gamma$",
        ylabel="relative distance of raw outputs",
    )
    ax.set_xlim(LEAST / 2, 2 * float(GAMMA_NORM.vmax or LEAST))
    ax.xaxis.set_minor_formatter(NullFormatter())


def figure(landscape: xr.Dataset) -> Figure:
    """Draw the figure.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        Three panels.
    """
    with house_style():
        fig, axes = plt.subplots(1, 3, figsize=(10.8, 3.6), layout="constrained")
        draw_outputs(axes[0], landscape, rescaled=False)
        panel(axes[0], "a", r"before: against $t$")
        draw_outputs(axes[1], landscape, rescaled=True)
        panel(axes[1], "b", r"after: against $\tau$")
        gamma_bar(fig, axes[1])
        draw_distances(axes[2], collapses(landscape))
        panel(axes[2], "c", r"distance from the smallest $\gamma$")
    return fig
