"""The main figure: for every depth, toy beside network beside the ratio of measurement to law."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empirical.compare import Comparison, Family
from paper_figures.overlay import (
    draw_compensated,
    draw_laws,
    draw_points,
    draw_portrait,
    law_handles,
    outcome_handles,
    slope_legend,
)
from paper_figures.style import BOUNDARY_COLOURS, BOUNDARY_MARKS, BOUNDARY_SYMBOLS, house_style


def _portrait_panel(ax: plt.Axes, family: Family, steps: int, level: float) -> None:
    gamma = family.portrait.data["gamma"].values
    draw_portrait(ax, family.portrait)
    draw_laws(ax, np.geomspace(gamma[0], gamma[-1], 400), family.depth, steps, level)
    for found in family.points.values():
        draw_points(ax, found)
    slope_legend(ax, family.fits)


def comparison_figure(comparison: Comparison) -> Figure:
    """Draw a comparison.

    Args:
        comparison: what ``empirical.compare`` found.

    Returns:
        One row a depth, three columns: toy, network, measured over exact.
    """
    config = comparison.config
    steps, level, rows = config.steps, config.thresholds.level, len(config.depths)
    with house_style():
        fig, axes = plt.subplots(
            rows, 3, figsize=(13.2, 3.75 * rows + 0.9), layout="constrained", squeeze=False, width_ratios=(1, 1, 0.9)
        )
        for row, toy, trained in zip(axes, comparison.toy, comparison.trained, strict=True):
            _portrait_panel(row[0], toy, steps, level)
            _portrait_panel(row[1], trained, steps, level)
            draw_compensated(row[2], trained.points, trained.fits, trained.windows, trained.depth, steps, level)
            row[0].set_ylabel(f"$L={toy.depth}$\n" + r"learning rate $\eta$")
            row[2].set_ylabel(r"measured $\eta$ / exact toy law")
            row[2].set_xlim(row[1].get_xlim())
        arch = comparison.trained[0].arch.upper()
        axes[0, 0].set_title("simulated: scalar deep linear model")
        axes[0, 1].set_title(f"trained: {arch}, width {config.width}, {config.data}")
        axes[0, 2].set_title("how far the network is from the law")
        for ax in axes[-1]:
            ax.set_xlabel(r"feature-learning strength $\gamma$")
        marks = [
            Line2D([], [], color=BOUNDARY_COLOURS[n], marker=BOUNDARY_MARKS[n], lw=0, mec="white", ms=6)
            for n in ("eta_min", "eta_crit", "eta_fail")
        ]
        for handle, name in zip(marks, ("eta_min", "eta_crit", "eta_fail"), strict=True):
            handle.set_label(f"measured ${BOUNDARY_SYMBOLS[name]}$")
        outcomes = outcome_handles([family.portrait for family in (*comparison.toy, *comparison.trained)])
        fig.legend(handles=outcomes + law_handles() + marks, loc="outside lower center", ncols=6)
    return fig
