"""Appendix: agreement of outputs along training.

a) R² of networks of every γ with a lazy one of the same start, at equal step. b) R² with a rich one. c) The matrices of
all pairs at several steps.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from empirical.experiments.agreement import agreement_with, outputs
from empirical.experiments.analysis import nearest
from empirical.measure.agreement import output_agreement
from paper_figures.axes import cell_edges, log_ticks, power_of_ten
from paper_figures.style import INK, gamma_bar, gamma_colour, house_style, panel

NAME, TITLE = "appendix-agreement", "Agreement of outputs along training"
CAPTION = """\
**Agreement of outputs along training** ({{ mse.arch }}s, squared error, one start for all γ of a seed; mean over
seeds). a, b) R² of f with that of a lazy and of a rich reference at equal step; learning rates are those of the grid,
near the edge of stability of each γ. c) All pairs at three steps. At the end R² is {{ m("lazy-agree") }} on average
among γ ≤ 0.01 and {{ m("rich-agree") }} among γ ≥ 100.\
"""
REFERENCES = (("lazy", 1e-3), ("rich", 1e2))


def draw_reference(ax: Axes, landscape: xr.Dataset, gamma: float) -> float:
    """Agreement of every γ with one.

    Args:
        ax: the axes.
        landscape: as ``run_landscape`` gives it.
        gamma: near which γ the reference is.

    Returns:
        The γ of the reference.
    """
    place = nearest(landscape, gamma)
    r2 = agreement_with(landscape, place)[..., 1:].mean(1)  # at the start every f is zero
    for one, values in zip(landscape["gamma"].values, r2, strict=True):
        ax.plot(landscape["step"].values[1:], np.maximum(values, -1), color=gamma_colour(float(one)), lw=1.1)
    ax.axhline(0, color=INK, lw=0.6, dashes=(2, 2))
    ax.set(xscale="log", xlabel="step $t$", ylabel="$R^2$ with the reference", ylim=(-0.55, 1.03))
    return float(landscape["gamma"][place])


def figure(landscape: xr.Dataset) -> Figure:
    """Draw the figure.

    Args:
        landscape: as ``run_landscape`` gives it.

    Returns:
        Two panels of curves above three matrices.
    """
    f, edges = outputs(landscape), cell_edges(landscape["gamma"].values)
    last = landscape.sizes["step"] - 1
    moments = np.unique(np.searchsorted(landscape["step"].values, np.geomspace(10, landscape["step"].values[-1], 3)))
    with house_style():
        fig = plt.figure(figsize=(8.8, 6.6), layout="constrained")
        upper, lower = np.asarray(fig.subfigures(2, 1, height_ratios=(1.0, 0.95)))
        above = upper.subplots(1, 2, sharey=True)
        for ax, letter, (name, gamma) in zip(above, "ab", REFERENCES, strict=True):
            at = draw_reference(ax, landscape, gamma)
            panel(ax, letter, rf"with a {name} one, $\gamma={power_of_ten(at)}$")
        above[1].set_ylabel("")
        gamma_bar(upper, above.tolist())
        below = lower.subplots(1, len(moments), sharey=True, squeeze=False)[0]
        for ax, moment in zip(below, np.minimum(moments, last), strict=True):
            now = f[:, :, moment]
            r2 = np.mean([output_agreement(one[:, None], one[None]).r2 for one in np.moveaxis(now, 1, 0)], axis=0)
            image = ax.pcolormesh(edges, edges, np.clip(r2, 0, 1).T, cmap="cividis", vmin=0, vmax=1, rasterized=True)
            ax.set(xscale="log", yscale="log", xlabel=r"$\gamma$")
            ax.set_aspect("equal")
            log_ticks(ax.xaxis)
            log_ticks(ax.yaxis)
            title = f"all pairs, $t={int(landscape['step'][moment])}$"
            if ax is below[0]:
                panel(ax, "c", title)
            else:
                ax.set_title(title, loc="left")
        below[0].set_ylabel(r"$\gamma'$")
        bar = lower.colorbar(image, ax=below.tolist(), pad=0.02, aspect=22)
        bar.set_label("$R^2$")
        bar.outline.set_visible(False)
    return fig
