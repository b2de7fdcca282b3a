"""Appendix: Hessian spectra along training across γ.

One panel a γ, from lazy to rich: the largest eigenvalues of the Hessian in the metric of the update, times η/2, so that
1 is the edge of stability. Coloured: as many as classes; grey: the next ones.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empirical.experiments.analysis import nearest
from paper_figures.axes import power_of_ten
from paper_figures.style import INK, QUIET, THEORY, gamma_colour, house_style, panel

NAME, TITLE = "appendix-spectra", "Hessian spectra along training across γ"
CAPTION = """\
**Spectra along training** ({{ mse.arch }}s, L = {{ mse.depth }}, squared error): the largest eigenvalues of the Hessian
in the metric of the update, times η/2, one seed; each γ at the second largest learning rate of the grid that
converges. Coloured: the first, as many as there are classes; grey: the next ones. Lazy, the largest changes by
{{ m("hessian-lazy-constant") }} of its value; rich (γ ≥ 100), the first eigenvalue beyond the number of classes grows
{{ m("hessian-rich-grows") }} times.\
"""
SHOWN = (1e-4, 1e-2, 1.0, 10.0, 1e2, 1e4)
STEPS, EDGE = "step $t+1$", r"$\eta\,\lambda/2$"


def shown_places(data: xr.Dataset, wanted: tuple[float, ...] = SHOWN) -> list[int]:
    """Positions of the γ of a data set that are nearest to those wanted, each once.

    Args:
        data: with a coordinate ``gamma``.
        wanted: γ.

    Returns:
        Ascending positions.
    """
    return sorted({nearest(data, gamma) for gamma in wanted})


def gamma_title(run: xr.Dataset) -> str:
    """γ of a run, as the title of its panel.

    Args:
        run: with a coordinate ``gamma``.

    Returns:
        Mathematics, three digits.
    """
    gamma = float(f"{float(run['gamma']):.3g}")
    return rf"$\gamma={power_of_ten(gamma)}$"


def draw_spectrum(ax: Axes, run: xr.Dataset, classes: int) -> None:
    """Eigenvalues of one run, over the edge.

    Args:
        ax: the axes.
        run: one γ and seed of what ``run_landscape`` gives.
        classes: number of classes.
    """
    steps, edge = run["spectrum_step"].values + 1, float(run["eta"]) / 2
    for rank in range(run.sizes["rank"] - 1, -1, -1):
        values = run["eigenvalue"].isel(rank=rank).values * edge
        inside = rank < classes
        colour = gamma_colour(float(run["gamma"])) if inside else QUIET
        shown = np.where(values > 0, values, np.nan)
        ax.plot(steps, shown, color=colour, lw=1.2 if inside else 0.7, marker="o", ms=1.8 if inside else 0.0)
    ax.axhline(1, **THEORY)
    ax.set(xscale="log", yscale="log")


def figure(landscape: xr.Dataset) -> Figure:
    """Draw the figure.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        A panel for each of six γ.
    """
    places, classes = shown_places(landscape), int(landscape.attrs["classes"])
    columns = -(-len(places) // 2)
    with house_style():
        fig, axes = plt.subplots(
            2, columns, figsize=(3.0 * columns + 0.4, 5.6), layout="constrained", sharex=True,
            sharey=True, squeeze=False,
        )  # fmt: skip
        for number, (ax, place) in enumerate(zip(axes.ravel(), places, strict=False)):
            run = landscape.isel(gamma=place, seed=0)
            draw_spectrum(ax, run, classes)
            panel(ax, "abcdef"[number], gamma_title(run))
        for ax in axes.ravel()[len(places) :]:
            ax.set_axis_off()
        for ax in axes[-1]:
            ax.set_xlabel(STEPS)
        for ax in axes[:, 0]:
            ax.set_ylabel(EDGE)
        rest = landscape.sizes["rank"] - classes
        keys = [
            Line2D([], [], color=INK, lw=1.2, marker="o", ms=3, label=f"first {classes}, as many as classes"),
            Line2D([], [], color=QUIET, lw=0.8, label=f"the next {rest}"),
            Line2D([], [], **THEORY, label=r"edge of stability, $\eta\lambda/2=1$"),
        ]  # fmt: skip
        fig.legend(handles=keys, loc="outside lower center", ncols=3)
    return fig
