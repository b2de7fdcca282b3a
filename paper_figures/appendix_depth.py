"""Appendix: the upper boundary of MLPs across depth.

a) η_crit in the lazy and in the rich fit windows, one colour a depth, with the exact toy of that depth dashed, nowhere
shifted. b, c) Fitted slopes of η_crit and η_fail against depth with 95 % intervals, beside those that the exact toy
has over the same points.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empirical.experiments.families import family_fits
from paper_figures.family_panels import draw_family, draw_slopes, member_colours
from paper_figures.style import BOUNDARY_MARKS, BOUNDARY_SYMBOLS, INK, QUIET, house_style, panel

NAME, TITLE = "appendix-depth", "The upper boundary across depth"
CAPTION = """\
**Depth** (MLPs of L weight layers, squared error). a) η_crit in the fit windows that theory chose; dashed: exact toy
of the same depth, nowhere shifted. Slopes are fitted to each side. b, c) Slopes with 95 % intervals; bars: those of
the exact toy over the same points, 2 and 2/L in the limit; open: undetermined. Share of consistent fits, b)
{{ m("depth-lazy") }}, c) {{ m("depth-rich") }}.\
"""
BOUNDARIES = ("eta_crit", "eta_fail")


def figure(depths: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        depths: as ``run_family`` gives them; a member's value is its depth.

    Returns:
        Three panels.
    """
    fits, colours = family_fits(depths), member_colours(depths)
    with house_style():
        fig, axes = plt.subplots(1, 3, figsize=(10.6, 3.7), layout="constrained", width_ratios=(1.35, 1, 1))
        draw_family(axes[0], depths, "eta_crit", colours)
        panel(axes[0], "a", r"$\eta_{\mathrm{crit}}$ of MLPs")
        handles: list[Any] = [Line2D([], [], ls="", marker="o", color=c, label=f"${m}$") for m, c in colours.items()]
        handles.append(Line2D([], [], color=QUIET, dashes=(4, 2.5), label="exact toy"))
        axes[0].legend(handles=handles, loc="upper left", fontsize=7.5)
        for ax, letter, regime, symbol in zip(axes[1:], "bc", ("lazy", "rich"), ("2", "2/L"), strict=True):
            draw_slopes(ax, depths, fits, regime, {name: BOUNDARY_MARKS[name] for name in BOUNDARIES}, colours)
            ax.set(xlabel="weight layers $L$", ylabel="fitted slope")
            panel(ax, letter, rf"{regime}: ${symbol}$")
        keys = [
            Line2D([], [], ls="", marker=BOUNDARY_MARKS[n], color=INK, label=f"${BOUNDARY_SYMBOLS[n]}$")
            for n in BOUNDARIES
        ]
        keys.append(Line2D([], [], color=INK, lw=1.4, label="exact toy"))
        axes[2].legend(handles=keys, loc="upper right")
        low, high = axes[1].get_ylim()
        axes[1].set_ylim(min(low, 1.9), max(high, 2.1))
    return fig
