"""Appendix: the Euler degree at the edge of stability, in a residual toy and in the residual networks of the campaigns.

Networks are drawn from ``degrees.csv`` and ``slow.csv`` of campaigns: the committed ones, or those below a given folder.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from empirical.ensemble import log_spaced_steps
from paper_figures.axes import log_ticks
from paper_figures.style import INK, QUIET, THEORY, house_style, panel, run_colours
from simulate import ResidualStages, ResidualTrace, TraceSettings, run_residual, trace_residual
from simulate.residual import BELOW_CRIT, SLOW

NAME, TITLE = "appendix-edge", "The Euler degree at the edge of stability"
CAPTION = """\
**What large learning rates do to the Euler degree.** a) D along training of a residual toy with two normalised blocks,
1.5 times below η_crit, T = 3000, at four γ: it rises to D∞ (dashed) as the toy learns, then falls as gradient descent
slides along the edge of stability to flatter minima. b) The same in the residual network of the campaigns whose γ reach
furthest; medians over seeds. c) Where training ends: 1.5 times below η_crit, and 16 times slower and longer; lines: the toy;
marks: networks, medians over seeds with their range. The boundary follows the slow runs, not D just below it. D below
η_crit over that of slow runs, all residual networks without a final norm: {{ m("edge-degree") }}.\
"""

TOY, STEPS = ResidualStages((2,)), 3000
GAMMAS = np.geomspace(1e2, 1e5, 4)
NEAR, LATE = run_colours(4)[1], run_colours(4)[3]


def toy_trace() -> ResidualTrace:
    """Runs of the toy below its boundary.

    Returns:
        A trace at seven γ from 10² to 10⁵.
    """
    gammas = np.geomspace(GAMMAS[0], GAMMAS[-1], 7)
    return trace_residual(network=TOY, gamma=gammas, steps=STEPS, settings=TraceSettings(resolution=0.03))


def _medians(gamma: NDArray[np.float64], value: NDArray[np.float64]) -> pd.DataFrame:
    """Median and range over seeds, by γ."""
    return pd.DataFrame({"gamma": gamma, "value": value}).groupby("gamma")["value"].agg(["median", "min", "max"])


def draw_toy_paths(ax: Axes, trace: ResidualTrace) -> None:
    """D of the toy against t.

    Args:
        ax: the axes.
        trace: as ``toy_trace`` makes it.
    """
    crit, steps = trace.points["eta_crit"], log_spaced_steps(STEPS, 24)
    for gamma, colour in zip(GAMMAS, run_colours(len(GAMMAS)), strict=True):
        mine = np.isclose(crit.gamma, gamma)
        eta, seed = crit.eta_low[mine] / BELOW_CRIT, crit.seed[mine]
        path = [
            np.median(run_residual(crit.gamma[mine], eta, network=TOY, steps=int(t), seed=seed).degree)
            for t in steps[steps > 0]
        ]
        ax.plot(steps[steps > 0], path, color=colour, lw=1.5, label=rf"$\gamma=10^{{{np.log10(gamma):.0f}}}$")
    _finish(ax, TOY.settled_degree)


def draw_network_paths(ax: Axes, rows: pd.DataFrame, settled: float) -> None:
    """D of networks against t.

    Args:
        ax: the axes.
        rows: of one entry and budget, just below eta_crit.
        settled: D∞.
    """
    gammas = np.unique(rows["gamma"])
    chosen = gammas[np.unique(np.linspace(0, len(gammas) - 1, 4).round().astype(int))]
    for gamma, colour in zip(chosen, run_colours(len(chosen)), strict=True):
        path = rows[rows["gamma"].eq(gamma) & (rows["step"] > 0)].groupby("step")["degree"].median()
        exponent = int(np.floor(np.log10(gamma)))
        label = rf"$\gamma={gamma / 10**exponent:.1f}\times10^{{{exponent}}}$"
        ax.plot(path.index, path, "-o", color=colour, ms=3, lw=1.3, label=label)
    _finish(ax, settled)


def _finish(ax: Axes, settled: float) -> None:
    ax.axhline(settled, **THEORY | {"zorder": 1})
    ax.set(xscale="log", xlabel="step $t$", ylabel="Euler degree $D$")
    ax.legend(fontsize=7.5, loc="lower right")


def draw_ends(ax: Axes, trace: ResidualTrace, networks: pd.DataFrame, settled: dict[str, float]) -> None:
    """D at the end against γ.

    Args:
        ax: the axes.
        trace: of the toy.
        networks: rows with ``entry, gamma, near, degree``.
        settled: D∞ of each entry.
    """
    crit = trace.points["eta_crit"]
    for runs, colour in ((trace.near, NEAR), (trace.slow, LATE)):
        line = _medians(crit.gamma, runs.degree)
        ax.plot(line.index, line["median"], color=colour, lw=1.4)
    for mark, (entry, rows) in zip("oDs^v", networks.groupby("entry", sort=False), strict=False):
        for column, colour in (("near", NEAR), ("degree", LATE)):
            ends = _medians(rows["gamma"].to_numpy(), rows[column].to_numpy())
            spread = [ends["median"] - ends["min"], ends["max"] - ends["median"]]
            ax.errorbar(
                ends.index, ends["median"], yerr=spread, fmt=mark, ms=4.5, color=colour, elinewidth=0.8, capsize=0,
                mfc=colour if column == "degree" else "white",
            )  # fmt: skip
        ax.plot([], [], mark, color=INK, ms=4.5, label=str(entry))
        ax.axhline(settled[str(entry)], **THEORY | {"zorder": 1})
    keys = [
        Line2D([], [], color=LATE, label=f"{SLOW} times slower"),
        Line2D([], [], color=NEAR, label=rf"{BELOW_CRIT:g} times below $\eta_{{\mathrm{{crit}}}}$"),
        Line2D([], [], **THEORY, label=r"$D_\infty$"),
    ]
    ax.legend(handles=[*keys, *ax.get_legend_handles_labels()[0]], fontsize=7.5, loc="best")
    ax.set(xscale="log", xlabel=r"$\gamma$", ylabel="$D$ at the end")
    log_ticks(ax.xaxis)


def figure(degrees: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        degrees: as ``committed_degrees`` gives them.

    Returns:
        Degrees of the toy and of networks, along training and at its end.
    """
    trace = toy_trace()
    with house_style():
        fig, axes = plt.subplots(1, 3, figsize=(10.4, 3.5), layout="constrained")
        draw_toy_paths(axes[0], trace)
        panel(axes[0], "a", "toy, two normalised blocks")
        reach = degrees.groupby(["campaign", "entry", "steps"])["gamma"].agg(lambda g: g.max() / g.min())
        slow = degrees[degrees["slow_degree"].notna()]
        best = slow.groupby(["campaign", "entry", "steps"])["gamma"].agg(lambda g: g.max() / g.min())
        campaign, entry, steps = (best if len(best) else reach).idxmax()
        mine = degrees[(degrees[["campaign", "entry", "steps"]] == [campaign, entry, steps]).all(axis=1)]
        draw_network_paths(axes[1], mine, float(mine["settled"].iloc[0]))
        panel(axes[1], "b", f"{entry}, T = {steps:g}")
        ends = slow[slow["step"].eq(slow["steps"]) & slow["campaign"].eq(campaign)]
        ends = ends.assign(near=ends["degree"], degree=ends["slow_degree"])
        draw_ends(axes[2], trace, ends, ends.groupby("entry")["settled"].first().to_dict())
        panel(axes[2], "c", "where training ends")
        for ax in axes:
            ax.tick_params(colors=QUIET)
    return fig
