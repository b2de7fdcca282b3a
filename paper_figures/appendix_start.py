"""Appendix: what a network's start says of its eta_min. One path from θ₀ serves every γ.

Networks are drawn from ``boundaries.csv``, ``flow.csv`` and ``growth.csv`` of campaigns: the committed ones, or those
of a given folder.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empirical.campaign.flow import PASSES
from empirical.trace import exact_law
from paper_figures.axes import log_ticks
from paper_figures.claims.start import longest, slopes
from paper_figures.style import DOTTED, INK, QUIET, Colour, house_style, panel, run_colours
from theory.kernel_growth import GrowingKernel

NAME, TITLE = "appendix-start", "The start of a network and its least learning rate"
CAPTION = """\
**Flow from the start knows η_min.** a) The tangent kernel of MLPs in the direction of the targets, over its value at
the start, while the residual is that of the start: a function of B = ⟨y, F − F₀⟩/⟨y, y⟩ that knows neither γ nor η
(points at B = γ are where f has come to the size of the targets). Dashed: the toy of three layers from its aligned
start; dotted: from a mirrored one, whose kernel does not grow at first order. b) τ = η_min T/γ of the same networks
(squared error, longest budget, medians over seeds): marks: training; lines: gradient flow from θ₀, in which nothing is
fitted; dashed: the toy's law. c) η_min over that of flow, every point of every network: {{ m("start-time") }} on the
mean where flow passes the level of 0.9 (filled). Where it rests there (open: to know how frequent classes are is worth
0.1 of the squared error) the noise of a tail decides. d) Rich slopes as fitted, against those of flow (filled) and of
the toy's law (open), which exists for MLPs and CNNs. Fitted less flow: {{ m("start-slope") }}.\
"""

ARCHITECTURES = {"mlp": "MLP", "cnn": "CNN", "resnet": "ResNet", "vit": "ViT"}
MARKS = dict(zip(ARCHITECTURES, "osD^", strict=True))
LAYERS = 3
"""Of the toys in the first panel."""


def _colours() -> dict[str, Colour]:
    return dict(zip(ARCHITECTURES, run_colours(len(ARCHITECTURES)), strict=True))


def plain(flows: pd.DataFrame) -> pd.DataFrame:
    """Points of one MLP of each depth, under squared error: of several that with most points, then the first.

    Args:
        flows: as ``committed_flows`` gives them.

    Returns:
        Their rows at the longest budget, by depth.
    """
    rows = longest(flows[flows["arch"].eq("mlp") & flows["loss"].eq("mse")])
    sizes = rows.groupby(["depth", "campaign", "entry"], sort=False).size().reset_index(name="size")
    largest = sizes.sort_values("size", ascending=False, kind="stable").drop_duplicates("depth")
    return rows.merge(largest[["depth", "campaign", "entry"]]).sort_values("depth", kind="stable")


def draw_kernels(ax: Axes, growth: pd.DataFrame, points: pd.DataFrame) -> None:
    """K/K₀ against B.

    Args:
        ax: the axes.
        growth: as ``committed_growth`` gives it.
        points: as ``plain`` gives them: which networks are shown.
    """
    shown = points.drop_duplicates(["depth", "campaign", "entry"])
    for depth, colour in zip(shown["depth"], run_colours(len(shown)), strict=True):
        mine = growth.merge(shown.loc[shown["depth"].eq(depth), ["campaign", "entry"]])
        path = mine.set_index("alignment")["kernel"]
        if len(path):
            moved = path[path.index > 0]
            ax.plot(moved.index, moved / path.loc[0.0], color=colour, label=f"$L = {depth}$")
    at = np.geomspace(1e-3, 1e5, 100)
    for start_of_toy, dashes in (("aligned", (4, 2.5)), ("mirrored", DOTTED[1])):
        toy = GrowingKernel(LAYERS, start_of_toy).kernel(at) / LAYERS
        ax.plot(at, toy, color=INK, lw=1.1, dashes=dashes, label=f"toy, $L = {LAYERS}$, {start_of_toy}")
    ax.set(xscale="log", yscale="log", xlabel="$B$", ylabel="$K(B)/K(0)$", ylim=(0.7, None))
    log_ticks(ax.xaxis)
    log_ticks(ax.yaxis)
    ax.legend(fontsize=7.5, loc="upper left")


def draw_times(ax: Axes, points: pd.DataFrame) -> None:
    """η_min T/γ against γ.

    Args:
        ax: the axes.
        points: as ``plain`` gives them.
    """
    for (depth, rows), colour in zip(points.groupby("depth"), run_colours(points["depth"].nunique()), strict=True):
        times = rows.assign(time=rows["eta"] * rows["steps"] / rows["gamma"]).groupby("gamma")["time"].median()
        flow = rows.assign(time=rows["flow"] * rows["steps"] / rows["gamma"]).groupby("gamma")["time"].median()
        toy = exact_law("eta_min", times.index.to_numpy(), depth=int(str(depth)), steps=1) / times.index
        ax.plot(times.index, times, "o", ms=4, color=colour)
        ax.plot(flow.index, flow, color=colour, lw=1.2)
        ax.plot(times.index, toy, color=colour, lw=0.9, dashes=(4, 2.5), alpha=0.8)
    ax.set(xscale="log", yscale="log", xlabel=r"$\gamma$", ylabel=r"$\tau = \eta_{\min} T/\gamma$")
    log_ticks(ax.xaxis)
    log_ticks(ax.yaxis)
    keys = [
        Line2D([], [], ls="", marker="o", ms=4, color=QUIET, label="training"),
        Line2D([], [], color=QUIET, lw=1.2, label=r"flow from $\theta_0$"),
        Line2D([], [], color=QUIET, lw=0.9, dashes=(4, 2.5), label="toy's law"),
    ]
    ax.legend(handles=keys, fontsize=7.5, loc="lower right")


def draw_ratios(ax: Axes, flows: pd.DataFrame) -> None:
    """η_min over that of flow against γ.

    Args:
        ax: the axes.
        flows: as ``committed_flows`` gives them.
    """
    colours = _colours()
    for arch, rows in longest(flows).groupby("arch", sort=False):
        passes, ratio = rows["rest"] < PASSES, rows["eta"] / rows["flow"]
        look: dict[str, Any] = {"color": colours.get(str(arch), QUIET), "marker": MARKS.get(str(arch), "v"), "ls": ""}
        label = f"{ARCHITECTURES.get(str(arch), str(arch))}, {passes.sum()} points"
        ax.plot(rows["gamma"][passes], ratio[passes], ms=3, mew=0, alpha=0.55, label=label, **look)
        ax.plot(rows["gamma"][~passes], ratio[~passes], ms=3, mfc="none", mew=0.5, alpha=0.6, **look)
    ax.axhspan(0.9, 1.1, color=QUIET, alpha=0.12, lw=0)
    ax.axhline(1, color=INK, lw=0.9)
    ax.set(xscale="log", yscale="log", xlabel=r"$\gamma$", ylabel=r"$\eta_{\min}$, training over flow", ylim=(0.6, 3.2))
    ax.set_yticks([0.7, 0.9, 1.1, 1.5, 2, 3], ["0.7", "0.9", "1.1", "1.5", "2", "3"])
    ax.minorticks_off()
    log_ticks(ax.xaxis)
    ax.legend(fontsize=7.5, loc="upper left", ncols=2)


def draw_slopes(ax: Axes, flows: pd.DataFrame) -> None:
    """Fitted rich slopes against predicted ones.

    Args:
        ax: the axes.
        flows: as ``committed_flows`` gives them.
    """
    colours, found = _colours(), slopes(longest(flows))
    found = found[found["half_width"] < 0.15]
    for arch, rows in found.groupby("arch", sort=False):
        look: dict[str, Any] = {
            "color": colours.get(str(arch), QUIET),
            "marker": MARKS.get(str(arch), "v"),
            "ms": 4.5,
            "ls": "",
        }
        ax.plot(rows["toy"], rows["fitted"], **look | {"mfc": "white", "mew": 0.9, "alpha": 0.8})
        ax.errorbar(rows["flow"], rows["fitted"], yerr=rows["half_width"], elinewidth=0.7, capsize=0, **look)
    numbers = found[["flow", "toy", "fitted"]].to_numpy()
    ends = np.array([np.nanmin(numbers) - 0.03, np.nanmax(numbers) + 0.03]) if len(found) else np.array([0.9, 1.3])
    ax.plot(ends, ends, color=INK, lw=0.9)
    ax.set(xlabel=r"predicted slope of $\eta_{\min}$", ylabel="fitted slope", xlim=ends, ylim=ends)
    keys = [
        Line2D([], [], ls="", marker="o", ms=4.5, color=QUIET, label=r"flow from $\theta_0$"),
        Line2D([], [], ls="", marker="o", ms=4.5, mfc="white", mec=QUIET, label="toy's law"),
    ]
    ax.legend(handles=keys, fontsize=7.5, loc="upper left")


def figure(flows: pd.DataFrame, growth: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        flows: as ``committed_flows`` gives them.
        growth: as ``committed_growth`` gives it.

    Returns:
        Kernels, times, ratios and slopes.
    """
    points = plain(flows)
    with house_style():
        fig, axes = plt.subplots(2, 2, figsize=(9.6, 7.0), layout="constrained")
        draw_kernels(axes[0, 0], growth, points)
        panel(axes[0, 0], "a", "growth of the kernel from the start")
        draw_times(axes[0, 1], points)
        panel(axes[0, 1], "b", "how long it takes")
        draw_ratios(axes[1, 0], flows)
        panel(axes[1, 0], "c", "every network")
        draw_slopes(axes[1, 1], flows)
        panel(axes[1, 1], "d", "rich slopes")
    return fig
