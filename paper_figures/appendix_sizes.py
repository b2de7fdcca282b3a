"""Appendix: consistency across width and batch size.

a, c) Loss of MLPs of several widths, and under several batch sizes, at the same γ and η: lines of one style would
coincide in the limit of infinite width. b, d) Their η_crit across γ over that of the exact toy, and the fitted slopes.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from empirical.experiments.families import family_fits
from paper_figures.axes import power_of_ten
from paper_figures.family_panels import draw_family, member_colours, slope_rows
from paper_figures.style import QUIET, Colour, house_style, panel

NAME, TITLE = "appendix-sizes", "Consistency across width and batch size"
CAPTION = """\
**Width and batch size** (MLPs, squared error). a, c) Loss on test examples at the same γ and the same η (before the
width multiplier of μP); lines: mean over seeds. b, d) η_crit in the fit windows, over that of the exact toy (dashed:
1). Share of fitted slopes (η_crit, η_fail, lazy and rich) that are consistent with theory:
{{ m("width-exponents") }} over widths, {{ m("batch-exponents") }} over batch sizes. Between the two largest widths
η_crit goes as N to the power {{ m("width-boundary-lazy") }} (lazy) and {{ m("width-boundary-rich") }} (rich); it goes
as B to the power {{ m("batch-boundary-lazy") }} (lazy) and {{ m("batch-boundary-rich") }} (rich).\
"""
STYLES = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))


def draw_curves(ax: Axes, curves: xr.Dataset, colours: dict[str, Colour]) -> None:
    """Losses of every member at the shared learning rates.

    Args:
        ax: the axes.
        curves: as ``run_shared_rates`` gives them.
        colours: by member.
    """
    for gamma, style in zip(curves["gamma"].values, STYLES, strict=False):
        for member in curves["member"].values:
            mean = curves["loss"].sel(gamma=gamma, member=member).mean("seed")
            ax.plot(curves["step"].values + 1, mean / float(mean[0]), color=colours[str(member)], ls=style, lw=1.2)
    keys = [Line2D([], [], color=c, label=f"${m}$") for m, c in colours.items()]
    keys += [
        Line2D([], [], color=QUIET, ls=s, label=rf"$\gamma={power_of_ten(g)}$")
        for g, s in zip(curves["gamma"].values, STYLES, strict=False)
    ]
    ax.set(xscale="log", xlabel="step $t+1$", ylabel=r"loss / $\mathcal{L}_0$", ylim=(0, None))
    ax.legend(handles=keys, loc="lower left", fontsize=7.5, ncols=2)


def figure(widths: pd.DataFrame, width_curves: xr.Dataset, batches: pd.DataFrame, batch_curves: xr.Dataset) -> Figure:
    """Draw the figure.

    Args:
        widths: boundaries across width.
        width_curves: learning curves across width.
        batches: boundaries across batch size.
        batch_curves: learning curves across batch size.

    Returns:
        Four panels.
    """
    rows = (("width $N$", widths, width_curves, "ab"), ("batch size $B$", batches, batch_curves, "cd"))
    with house_style():
        fig, axes = plt.subplots(2, 2, figsize=(8.6, 7.2), layout="constrained")
        for (left, right), (name, points, curves, letters) in zip(axes, rows, strict=True):
            colours = member_colours(points)
            draw_curves(left, curves, colours)
            panel(left, letters[0], f"{name}: loss at equal $\\gamma$, $\\eta$")
            draw_family(right, points, "eta_crit", colours, over_toy=True)
            slope_rows(right, family_fits(points), "eta_crit", colours)
            low, high = right.get_ylim()
            right.set_ylim(low, high * (high / low) ** 0.6)  # room for the legend
            panel(right, letters[1], rf"{name}: $\eta_{{\mathrm{{crit}}}}$")
    return fig
