"""Figures of catapults: fates and peaks in the plane of γ and ηλ₀, and single runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from paper_figures.axes import cell_edges, linear_edges, log_ticks
from paper_figures.style import DOTTED, FATE_COLOURS, INK, PEAK_MAP, house_style, run_colours

if TYPE_CHECKING:  # drawing needs the results, not what solves them
    from simulate.catapult import CatapultPortrait
from simulate.two_layer_descent import TwoLayerRun

FloatArray: TypeAlias = NDArray[np.float64]

_LABEL_SHARE = 0.16  # a region this wide, of the smaller side of the grid, has room for its name
_RUN_FLOOR = 1e-6  # losses below this share of their start are not worth room


def catapult_figure(portrait: CatapultPortrait, runs: Mapping[float, TwoLayerRun] | None = None) -> Figure:
    """Fates and peak heights of two-layer runs in the plane of γ and ηλ₀, with the edges ηλ₀ = 2 and 4.

    Args:
        portrait: what ``simulate.catapult.catapult_portrait`` found.
        runs: losses to draw against the step in a third panel, by their ηλ₀.

    Returns:
        Two panels, or three.
    """
    data = portrait.data
    gamma, rate = cell_edges(data["gamma"].values), linear_edges(data["scaled_rate"].values)
    with house_style():
        columns = 3 if runs else 2
        fig, axes = plt.subplots(1, columns, figsize=(4.2 * columns + 0.4, 4.0), layout="constrained")
        _draw_fates(axes[0], data["fate"], gamma, rate)
        _draw_peaks(axes[1], data["peak_loss"].values, gamma, rate)
        for ax in axes[:2]:
            log_ticks(ax.xaxis)
            ax.set(xlabel=r"feature-learning strength $\gamma$", ylim=(rate[0], rate[-1]))
            for edge in (2.0, 4.0):
                ax.axhline(edge, color="white", lw=2.0, alpha=0.55, zorder=4)  # the dots are seen on dark cells too
                ax.axhline(edge, color=INK, lw=1.2, ls=DOTTED, zorder=5)
        axes[0].set_ylabel(r"learning rate $\eta\lambda_0$")
        axes[1].tick_params(labelleft=False)
        axes[0].set_title("fate of the run")
        if runs:
            _draw_runs(axes[2], runs)
    return fig


def _draw_fates(ax: Axes, fate: xr.DataArray, gamma: FloatArray, rate: FloatArray) -> None:
    names = str(fate.attrs["flag_meanings"]).split()
    flags = np.asarray(fate.attrs["flag_values"])
    index = np.searchsorted(flags, fate.values)
    colours = ListedColormap([FATE_COLOURS[name] for name in names])
    ax.set_xscale("log")
    ax.pcolormesh(gamma, rate, index.T, cmap=colours, vmin=-0.5, vmax=len(names) - 0.5, rasterized=True)
    small = []
    for at, name in enumerate(names):
        here = np.pad(index == at, 1)  # the outside counts as border
        if not here.any():
            continue
        depth = distance_transform_edt(here)[1:-1, 1:-1]
        g, r = np.unravel_index(int(np.argmax(depth)), depth.shape)
        if depth[g, r] * 2 < _LABEL_SHARE * min(index.shape):
            small.append(Patch(color=FATE_COLOURS[name], label=name.replace("_", " ")))
            continue
        dark = name == "divergent"
        ax.text(
            float(fate["gamma"][g]),
            float(fate["scaled_rate"][r]),
            name.replace("_", " "),
            ha="center",
            va="center",
            color="white" if dark else INK,
            fontsize=11,
        )
    if small:
        ax.legend(handles=small, loc="lower left", frameon=True, framealpha=0.9, edgecolor="none")


def _draw_peaks(ax: Axes, peak: FloatArray, gamma: FloatArray, rate: FloatArray) -> None:
    start = 0.5  # L₀ of MSE, target 1
    height = np.ma.masked_invalid(np.where(np.isfinite(peak), peak / start, np.nan))
    ax.set_xscale("log")
    ax.set_facecolor(FATE_COLOURS["divergent"])
    top = max(10.0, float(height.max())) if height.count() else 10.0
    image = ax.pcolormesh(gamma, rate, height.T, cmap=PEAK_MAP, norm=LogNorm(1.0, top), rasterized=True)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    log_ticks(bar.ax.yaxis)
    ax.set_title(r"peak of the loss $/ L_0$")


def _draw_runs(ax: Axes, runs: Mapping[float, TwoLayerRun]) -> None:
    longest = max(len(run.loss) for run in runs.values()) - 1
    for (scaled_rate, run), colour in zip(sorted(runs.items()), run_colours(len(runs)), strict=True):
        share = run.loss / run.loss[0]
        ax.plot(share, color=colour, lw=2.2)
        last = int(np.flatnonzero(np.isfinite(share) & (share > _RUN_FLOOR))[-1])
        ax.annotate(
            rf"$\eta\lambda_0 = {scaled_rate:g}$",
            (last, share[last]),
            xytext=(5, 2),
            textcoords="offset points",
            va="bottom" if last < longest else "center",
            color=colour,
            fontsize=10,
        )
    ax.set(yscale="log", xlabel=r"steps $t$", ylabel=r"loss $/ L_0$", xlim=(0, 1.25 * longest))
    ax.set_ylim(bottom=max(_RUN_FLOOR, ax.get_ylim()[0]))
    log_ticks(ax.yaxis)
    ax.set_title("single runs")
