"""Appendix: silent alignment, run by run.

One panel a γ: the loss and the kernel–target alignment of the last layer, plain and centred, each from 0 at its start
to 1 at its end, against τ = ηt/γ; dots mark where each is half-way.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from paper_figures.appendix_spectra import gamma_title, shown_places
from paper_figures.style import INK, QUIET, gamma_colour, house_style, panel

NAME, TITLE = "appendix-silent", "Silent alignment across γ"
CAPTION = """\
**Silent alignment** ({{ mse.arch }}s, squared error), one seed, from lazy to rich. Progress of the loss and of the
last layer's kernel–target alignment, plain and centred, each from 0 at the start to 1 at the furthest point of the
run. Grey numbers: how far the centred alignment rises; where it barely moves its progress says little and is drawn
faint. At γ ≥ 10 the loss is half-way {{ m("silent-alignment") }} times later than the alignment, and
{{ m("silent-alignment-centred") }} times later than the centred one.\
"""
SHOWN = (1e-2, 1.0, 10.0, 1e2, 1e3, 1e4)
LEAST_RISE = 0.02


def progress(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0 at the start to 1 at the point furthest from it.

    Args:
        values: along training, shape ``(steps,)``.

    Returns:
        Same shape; NaN when nothing moves.
    """
    moved = values - values[0]
    furthest = moved[np.nanargmax(np.abs(moved))]
    return moved / furthest if furthest else np.full(len(values), np.nan)


def draw_progress(ax: Axes, run: xr.Dataset) -> None:
    """Progress of loss and alignments of one run.

    Args:
        ax: the axes.
        run: one γ and seed of what ``run_landscape`` gives.
    """
    gamma = float(run["gamma"])
    tau = run["step"].values * float(run["eta"]) / gamma
    looks = {"loss": ("-", INK), "alignment": ((0, (4, 1.5)), gamma_colour(gamma)),
             "centred_alignment": ("-", gamma_colour(gamma))}  # fmt: skip
    for name, (style, colour) in looks.items():
        values = run[name].values
        done = progress(values)
        moved = float(np.nanmax(np.abs(values - values[0])))
        faint = name != "loss" and moved < LEAST_RISE
        ax.plot(tau, done, ls=style, color=colour, lw=1.5, alpha=0.3 if faint else 1.0)
        over = np.nonzero(done >= 0.5)[0]
        if len(over) and over[0] > 0 and not faint:
            first = int(over[0])
            part = (0.5 - done[first - 1]) / (done[first] - done[first - 1])
            half = tau[first - 1] + part * (tau[first] - tau[first - 1])
            ax.plot(half, 0.5, "o", color=colour, mec="white", ms=5.5, zorder=6)
    rise = float(run["centred_alignment"].max() - run["centred_alignment"][0])
    ax.text(0.03, 0.95, f"rises by {rise:.2f}", transform=ax.transAxes, color=QUIET, va="top", fontsize=8)
    ax.set(xscale="log", xlim=(float(tau[1]), float(tau[-1])))


def figure(landscape: xr.Dataset) -> Figure:
    """Draw the figure.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        A panel for each of six γ.
    """
    places = shown_places(landscape, SHOWN)
    columns = -(-len(places) // 2)
    with house_style():
        fig, axes = plt.subplots(
            2, columns, figsize=(3.0 * columns + 0.4, 5.4), layout="constrained", sharey=True, squeeze=False
        )
        for number, (ax, place) in enumerate(zip(axes.ravel(), places, strict=False)):
            run = landscape.isel(gamma=place, seed=0)
            draw_progress(ax, run)
            panel(ax, "abcdef"[number], gamma_title(run))
        for ax in axes.ravel()[len(places) :]:
            ax.set_axis_off()
        for ax in axes[-1]:
            ax.set_xlabel(r"rescaled time $\tau=\eta t/\gamma$")
        for ax in axes[:, 0]:
            ax.set_ylabel("progress")
        keys = [
            Line2D([], [], color=INK, lw=1.5, label="loss"),
            Line2D([], [], color=gamma_colour(1e2), lw=1.5, ls=(0, (4, 1.5)), label="kernel–target alignment"),
            Line2D([], [], color=gamma_colour(1e2), lw=1.5, label="centred kernel–target alignment"),
        ]
        fig.legend(handles=keys, loc="outside lower center", ncols=3)
    return fig
