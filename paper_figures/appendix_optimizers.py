"""Appendix: sign descent and Adam.

Boundaries of MLPs under sign descent (a) and Adam (b), with the exact toy's η_min and η_max under sign descent, whose
exponents are 1 (lazy) and 1/L (rich) for both: the window of learning rates narrows but does not close.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empirical.experiments.families import family_fits
from paper_figures.axes import log_ticks
from paper_figures.family_panels import ETA_LABEL, GAMMA_LABEL
from paper_figures.overlay import slope_label
from paper_figures.style import BOUNDARY_COLOURS, BOUNDARY_MARKS, BOUNDARY_SYMBOLS, house_style, panel
from theory import ToyModel

NAME, TITLE = "appendix-optimizers", "Sign descent and Adam"
CAPTION = """\
**Sign descent and Adam** (MLPs, squared error). Points: measured, mean over seeds with brackets; lines: exact η_min and
η_max of the toy under sign descent, nowhere shifted. Slopes of η_fail, where theory has 1 (lazy) and 1/L (rich): sign
descent {{ m("sign-lazy") }} and {{ m("sign-rich") }}, Adam {{ m("adam-lazy") }} and {{ m("adam-rich") }}.\
"""
NAMES = {"sign": "sign descent", "adam": "Adam"}


def figure(optimizers: pd.DataFrame, depth: int) -> Figure:
    """Draw the figure.

    Args:
        optimizers: as ``run_family`` gives them, members ``sign`` and ``adam``.
        depth: weight layers L.

    Returns:
        Two panels.
    """
    fits, model = family_fits(optimizers), ToyModel(loss="mse", optimizer="sign")
    steps = int(optimizers["steps"].iloc[0])
    fine = np.geomspace(optimizers["gamma"].min() / 2, optimizers["gamma"].max() * 2, 200)
    names = list(dict.fromkeys(optimizers["boundary"]))
    with house_style():
        fig, axes = plt.subplots(1, 2, figsize=(8.6, 4.0), layout="constrained", sharey=True)
        for ax, letter, (member, title) in zip(axes, "ab", NAMES.items(), strict=True):
            for law in model.boundary_names:
                exact = model.boundary(law).numeric(gamma=fine, depth=depth, steps=steps, level=0.9, delta=0.9**0.5)
                ax.plot(fine, exact, color=BOUNDARY_COLOURS[law], lw=1.1, dashes=(4, 2.5), zorder=1)
            handles, labels = [], []
            mine = optimizers[optimizers["member"] == member]
            for name in names:
                part = mine[mine["boundary"] == name]
                spread = [part["eta"] - part["eta_low"], part["eta_high"] - part["eta"]]
                ax.errorbar(part["gamma"], part["eta"], yerr=spread, fmt=BOUNDARY_MARKS[name], ms=4.5, mec="white",
                            mew=0.5, color=BOUNDARY_COLOURS[name], zorder=4)  # fmt: skip
                two = [fits.get((member, regime, name)) for regime in ("lazy", "rich")]
                handles.append(Line2D([], [], ls="", marker=BOUNDARY_MARKS[name], color=BOUNDARY_COLOURS[name]))
                labels.append(f"${BOUNDARY_SYMBOLS[name]}$:  " + " | ".join(slope_label(f) if f else "–" for f in two))
            handles.append(Line2D([], [], color=BOUNDARY_COLOURS["eta_max"], lw=1.1, dashes=(4, 2.5)))
            labels.append(r"exact toy: $1$ | $1/L$")
            ax.legend(handles, labels, title="fitted slope, lazy | rich", loc="upper left", fontsize=7.5,
                      title_fontsize=7.5, alignment="left")  # fmt: skip
            ax.set(xscale="log", yscale="log", xlabel=GAMMA_LABEL)
            low, high = ax.get_ylim()
            ax.set_ylim(low, high * 30)  # room for the legend
            log_ticks(ax.xaxis)
            log_ticks(ax.yaxis)
            panel(ax, letter, f"{title}, $L={depth}$")
        axes[0].set_ylabel(ETA_LABEL)
    return fig
