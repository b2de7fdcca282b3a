"""Appendix: the loss around the edge of stability, across γ and η.

One panel a γ: the loss, step by step, on a ladder of learning rates in units of the toy's exact η_crit; dashed: runs
that did not come back.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from paper_figures.appendix_spectra import gamma_title, shown_places
from paper_figures.style import INK, QUIET, RUN_MAP, house_style, panel
from simulate import Outcome

NAME, TITLE = "appendix-catapults", "Losses around the edge of stability"
CAPTION = """\
**Losses around the edge of stability** ({{ mse.arch }}s, squared error), one seed: a ladder of learning rates in units
of the toy's exact η_crit(γ), the same rungs at every γ. Solid: runs that train, some after a catapult; thin and
dashed: runs that do not come back. Height of the highest catapult against γ: slope {{ m("catapult-height") }}; share
of catapults among the runs that train at γ ≥ 10: {{ m("catapult-rich") }}.\
"""
SHOWN = (1e-2, 1e-1, 1.0, 10.0, 1e2, 1e3)
SHOWN_STEPS = 100
CAME_BACK = (Outcome.TRAINED, Outcome.CATAPULT)
TOP = 1e8
"""Losses above this times L₀ are not drawn: they are on their way out."""


def draw_ladder(ax: Axes, run: xr.Dataset, norm: LogNorm) -> None:
    """Losses of one γ and seed.

    Args:
        ax: the axes.
        run: of what ``run_catapults`` gives.
        norm: of η over the toy's η_crit.
    """
    t = run["step"].values
    for rung in range(run.sizes["rate"]):
        one = run.isel(rate=rung)
        loss = one["loss"].values / float(one["start"])
        back = int(one["outcome"]) in CAME_BACK
        shown = np.where(np.isfinite(loss) & (loss < TOP), loss, np.nan)
        look = {"lw": 1.1} if back else {"lw": 0.7, "ls": (0, (3, 1.5)), "alpha": 0.6}
        ax.plot(t, shown, color=RUN_MAP(norm(float(one["rate"]))), **look)
    ax.axhline(1, color=QUIET, lw=0.8, dashes=(2, 2))
    ax.set(yscale="log", xlim=(0, min(SHOWN_STEPS, int(t[-1]))))


def figure(catapults: xr.Dataset) -> Figure:
    """Draw the figure.

    Args:
        catapults: as ``run_catapults`` gives it.

    Returns:
        A panel for each of six γ.
    """
    places = shown_places(catapults, SHOWN)
    columns = -(-len(places) // 2)
    rate = catapults["rate"].values
    norm = LogNorm(float(rate[0]), float(rate[-1]))
    with house_style():
        fig, axes = plt.subplots(
            2, columns, figsize=(3.0 * columns + 1.0, 5.6), layout="constrained", sharex=True,
            sharey=True, squeeze=False,
        )  # fmt: skip
        for number, (ax, place) in enumerate(zip(axes.ravel(), places, strict=False)):
            run = catapults.isel(gamma=place, seed=0)
            draw_ladder(ax, run, norm)
            panel(ax, "abcdef"[number], gamma_title(run))
        for ax in axes.ravel()[len(places) :]:
            ax.set_axis_off()
        for ax in axes[-1]:
            ax.set_xlabel("step $t$")
        for ax in axes[:, 0]:
            ax.set_ylabel(r"loss / $\mathcal{L}_0$")
        bar = fig.colorbar(ScalarMappable(norm, RUN_MAP), ax=axes.ravel().tolist(), pad=0.015, aspect=32)
        bar.set_label(r"$\eta$ / exact $\eta_{\mathrm{crit}}(\gamma)$ of the toy")
        bar.ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.outline.set_visible(False)
        keys = [
            Line2D([], [], color=INK, lw=1.1, label="trains"),
            Line2D([], [], color=INK, lw=0.7, ls=(0, (3, 1.5)), label="does not come back"),
        ]
        fig.legend(handles=keys, loc="outside lower center", ncols=2)
    return fig
