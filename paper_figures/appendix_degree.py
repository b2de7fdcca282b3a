"""Appendix: the rich exponent of every network of the campaigns against 2/D, with D its measured Euler degree.

Drawn from ``exponents.csv`` of campaigns: the committed ones, or those below a given folder.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from paper_figures.style import INK, QUIET, THEORY, house_style, panel, run_colours

NAME, TITLE = "appendix-degree", "The rich exponent against 2/D"
CAPTION = """\
**Slope against 2/D.** Fitted rich exponents of the upper boundary (η_fail for squared error, η_max for cross-entropy)
of the networks of the campaigns, with 95 % intervals, against 2/D, with D the Euler degree measured on trained
networks; filled: squared error, open: cross-entropy; faint: intervals too wide for a verdict; marks that
would hide each other stand side by side; of many networks those with degrees above two are drawn once more, larger.
Dashed: slope = 2/D, nothing is fitted to it. Share of kinds of
networks all of whose determined fits are consistent: {{ m("euler-degree-kinds") }}; of fits:
{{ m("euler-degree") }}.\
"""
APART = 0.008
"""Distance of marks along 2/D that would hide each other."""

ARCHES = {"mlp": ("o", "MLP"), "cnn": ("s", "CNN"), "resnet": ("D", "ResNet"), "vit": ("^", "ViT")}


MANY, CROWDED = 20, (0.15, 0.9)
"""Fits from which on slopes of degrees above two are drawn once more, and the slopes that are."""


def degree_rows(tables: pd.DataFrame) -> pd.DataFrame:
    """Rich fits of the upper boundary that were predicted from a measured Euler degree.

    Args:
        tables: rows of ``exponents.csv``, with ``degree``.

    Returns:
        The rows with a fit: η_fail for MSE, η_max for cross-entropy, gradient descent.
    """
    upper = np.where(tables["loss"] == "mse", "eta_fail", "eta_max")
    chosen = (tables["predicted_by"] == "euler_degree") & (tables["regime"] == "rich") & (tables["optimizer"] == "gd")
    chosen &= (tables["boundary"] == upper) & tables["fitted"].notna() & tables["degree"].notna()
    return tables[chosen & (tables["arch"] != "toy")]


COLOURS = dict(zip(ARCHES, run_colours(len(ARCHES)), strict=True))


def draw_point(ax: Axes, x: float, y: float, row: Mapping[Hashable, Any], *, along: str) -> None:
    """One fit with its 95 % interval; faint when it is undetermined.

    Args:
        ax: the axes.
        x: where.
        y: where.
        row: of ``exponents.csv``.
        along: ``x`` or ``y``, the direction of the slope.
    """
    spread: dict[str, Any] = {f"{along}err": [[row["fitted"] - row["ci_low"]], [row["ci_high"] - row["fitted"]]]}
    mark, colour = ARCHES.get(row["arch"], ("X", ""))[0], COLOURS.get(row["arch"], QUIET)
    ax.errorbar(
        x, y, fmt=mark, ms=5.5, capsize=2, color=colour, elinewidth=1, mfc=colour if row["loss"] == "mse" else "white",
        alpha=1.0 if row["verdict"] != "undetermined" else 0.35, zorder=4, **spread,
    )  # fmt: skip


def side_by_side(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places of marks that would hide each other, moved apart.

    Args:
        x: where they belong, ascending.

    Returns:
        The same, and where neighbours are nearer than a mark is wide, the group spread evenly around its middle.
    """
    group = np.cumsum(np.diff(x, prepend=x[:1]) > APART)
    out = x.copy()
    for one in np.unique(group):
        inside = np.nonzero(group == one)[0]
        out[inside] = x[inside].mean() + APART * (np.arange(len(inside)) - (len(inside) - 1) / 2)
    return out


def draw_degrees(ax: Axes, rows: pd.DataFrame) -> None:
    """Slopes against 2/D.

    Args:
        ax: the axes.
        rows: as ``degree_rows`` gives them.
    """
    ordered = rows.assign(x=2 / rows["degree"]).sort_values(["x", "arch", "loss"])
    for x, row in zip(side_by_side(ordered["x"].to_numpy()), ordered.to_dict("records"), strict=True):
        draw_point(ax, x, row["fitted"], row, along="y")
    ends = np.array([0.1, 2.3])
    ax.plot(ends, ends, **THEORY | {"zorder": 1})
    top = max(2.2, 1.1 * float(rows["fitted"].max()) if len(rows) else 0)
    ax.set(xlim=(0, 2.2), ylim=(0, top), xlabel=r"$2/D$, measured", ylabel="fitted slope, $\\gamma\\gg1$")


def entry_names(rows: pd.DataFrame) -> list[str]:
    """Names of fits along an axis.

    Args:
        rows: as ``degree_rows`` gives them.

    Returns:
        Entries, with their campaign and budget where there are several campaigns.
    """
    several = rows["campaign"].nunique() > 1
    return [
        f"{one.entry} ({one.campaign}, T = {one.steps:g})" if several else str(one.entry) for one in rows.itertuples()
    ]


def degree_keys(rows: pd.DataFrame) -> list[Line2D]:
    """Keys of the legend.

    Args:
        rows: as ``degree_rows`` gives them.

    Returns:
        The architectures that are there, the two losses, and the law.
    """
    met = [arch for arch in ARCHES if arch in set(rows["arch"])]
    return [
        *(Line2D([], [], ls="", marker=ARCHES[a][0], color=COLOURS[a], label=ARCHES[a][1]) for a in met),
        Line2D([], [], ls="", marker="o", color=INK, label="MSE"),
        Line2D([], [], ls="", marker="o", color=INK, mfc="white", label="cross-entropy"),
        Line2D([], [], ls="", marker="o", color=INK, alpha=0.35, label="undetermined"),
        Line2D([], [], **THEORY, label="slope $=2/D$"),
    ]


def slopes_figure(tables: pd.DataFrame) -> Figure:
    """The first panel by itself, for a page or a slide.

    Args:
        tables: rows of ``exponents.csv``.

    Returns:
        Slopes against 2/D.
    """
    rows = degree_rows(tables)
    with house_style():
        fig, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
        draw_degrees(ax, rows)
        ax.legend(handles=degree_keys(rows), loc="upper left")
    return fig


def figure(tables: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        tables: rows of ``exponents.csv``.

    Returns:
        Slopes against 2/D, those of degrees above two once more, larger, and the deviations of all.
    """
    rows = degree_rows(tables)
    with house_style():
        height = max(4.4, 0.19 * len(rows) + 0.9)
        if len(rows) > MANY:
            # room for labels at the left: boxes of a fixed shape leave none
            room = ConstrainedLayoutEngine(rect=(0.02, 0, 0.98, 1))
            fig = plt.figure(figsize=(10.4, height), layout=room)
            by = fig.subplot_mosaic("ab;cb", width_ratios=(1.1, 1))
            draw_degrees(by["c"], rows)
            by["c"].set(xlim=CROWDED, ylim=CROWDED)
            panel(by["c"], "c", "the same, degrees above two")
        else:
            fig = plt.figure(figsize=(10.4, height), layout="constrained")
            by = fig.subplot_mosaic("ab", width_ratios=(1.2, 1))
        for name in by.keys() - {"b"}:
            by[name].set_box_aspect(1)
            by[name].set_anchor("N")
        axes = (by["a"], by["b"])
        draw_degrees(axes[0], rows)
        panel(axes[0], "a", "rich slope of the upper boundary")
        axes[0].legend(handles=degree_keys(rows), loc="upper left")
        ordered = rows.sort_values(["degree", "arch", "loss"]).reset_index(drop=True)
        for place, row in enumerate(ordered.to_dict("records")):
            draw_point(axes[1], row["fitted"] - row["predicted_window"], place, row, along="x")
        axes[1].axvline(0, **THEORY | {"zorder": 1})
        axes[1].set_yticks(range(len(ordered)), entry_names(ordered), fontsize=7.5)
        axes[1].set(xlabel="fitted slope less that of theory", ylim=(len(ordered) - 0.4, -0.6))
        known = ordered[ordered["verdict"] != "undetermined"]  # the others may be as wide as they like
        ends = [known[end] - known["predicted_window"] for end in ("ci_low", "ci_high")]
        wide = max(0.2, 1.1 * float(np.abs(ends).max(initial=0.0)))
        axes[1].set_xlim(-wide, wide)
        panel(axes[1], "b", "deviation, by network")
    return fig
