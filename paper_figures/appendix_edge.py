"""Appendix: the Euler degree at the edge of stability, in a residual toy and in the residual networks of the campaigns.

Networks are drawn from ``degrees.csv`` and ``slow.csv`` of campaigns: the committed ones, or those of a given folder.
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
from paper_figures.claims.edge import FINAL_NORM, SCORES
from paper_figures.style import QUIET, THEORY, house_style, panel, run_colours
from simulate import ResidualStages, ResidualTrace, TraceSettings, run_residual, trace_residual
from simulate.residual import BELOW_CRIT, SLOW

NAME, TITLE = "appendix-edge", "The Euler degree at the edge of stability"
CAPTION = """\
**What large learning rates do to the Euler degree.** a) D along training of a residual toy with two normalised
blocks, 1.5 times below η_crit, T = 3000, at four γ: it rises to D∞ (dashed) as the toy learns, then falls as gradient
descent slides along the edge of stability to flatter minima. b) The same in a residual network of the campaigns, that
whose γ reach furthest; medians over seeds. c) Where training ends: 1.5 times below η_crit (open), and 16 times slower
and longer (filled); lines: the toy; marks: networks, medians over seeds with their range. The boundary of the toy goes
with γ as that of the slow runs. D just below η_crit over that of slow runs, all residual networks without a final norm:
{{ m("edge-degree") }}. d) ηλ/2 where training ends 1.5 times below η_crit, in transformers without a final norm that
train all their weights, or all but some; medians over seeds with their range. With queries and keys frozen it is
{{ m("edge-scores") }}.\
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
    ax.legend(fontsize=7.5, loc="best", frameon=True, framealpha=0.9, edgecolor="none")


def draw_ends(ax: Axes, trace: ResidualTrace, networks: pd.DataFrame) -> list[Line2D]:
    """D/D∞ at the end against γ.

    Args:
        ax: the axes.
        trace: of the toy.
        networks: rows with ``entry, gamma, degree, slow_degree, settled``, at the end of training.

    Returns:
        Keys of the legend.
    """
    crit = trace.points["eta_crit"]
    for runs, colour in ((trace.near, NEAR), (trace.slow, LATE)):
        line = _medians(crit.gamma, runs.degree / TOY.settled_degree)
        ax.plot(line.index, line["median"], color=colour, lw=1.4)
    keys = [
        Line2D([], [], color=LATE, marker="o", ms=4.5, label=f"{SLOW} times slower and longer"),
        Line2D([], [], color=NEAR, marker="o", mfc="white", ms=4.5,
               label=rf"{BELOW_CRIT:g} times below $\eta_{{\mathrm{{crit}}}}$"),
        Line2D([], [], color=QUIET, label="toy"),
    ]  # fmt: skip
    for mark, (entry, rows) in zip("Dos^vP*X", networks.groupby("entry", sort=False), strict=False):
        for column, colour in (("degree", NEAR), ("slow_degree", LATE)):
            ends = _medians(rows["gamma"].to_numpy(), (rows[column] / rows["settled"]).to_numpy())
            spread = [ends["median"] - ends["min"], ends["max"] - ends["median"]]
            ax.errorbar(
                ends.index, ends["median"], yerr=spread, fmt=mark, ms=4.5, color=colour, elinewidth=0.7, capsize=0,
                mfc=colour if column == "slow_degree" else "white",
            )  # fmt: skip
        keys.append(Line2D([], [], ls="", marker=mark, color=QUIET, ms=4.5, label=str(entry)))
    ax.axhline(1, **THEORY | {"zorder": 1})
    ax.set(xscale="log", xlabel=r"$\gamma$", ylabel=r"$D/D_\infty$ at the end")
    log_ticks(ax.xaxis)
    return keys


def draw_edges(ax: Axes, rows: pd.DataFrame) -> None:
    """ηλ/2 against γ, of networks some of whose tensors are frozen, and of those beside them.

    Args:
        ax: the axes.
        rows: ends of the entries of one campaign.
    """
    kinds = sorted(rows["frozen"].unique(), key=lambda frozen: (frozen != SCORES, frozen != "", frozen))
    for frozen, colour in zip(kinds, run_colours(max(3, len(kinds)))[::-1], strict=False):
        label = f"frozen: {', '.join(frozen.split())}" if frozen else "all trained"
        for mark, (_, mine) in zip("os^Dv", rows[rows["frozen"].eq(frozen)].groupby("entry"), strict=False):
            ends = _medians(mine["gamma"].to_numpy(), mine["edge"].to_numpy())
            spread = [ends["median"] - ends["min"], ends["max"] - ends["median"]]
            ax.errorbar(
                ends.index, ends["median"], yerr=spread, fmt=f"-{mark}", ms=4, color=colour, lw=1.1, elinewidth=0.7,
                label=label,
            )  # fmt: skip
            label = "_"
    ax.axhline(1, **THEORY | {"zorder": 1})
    ax.set(xscale="log", yscale="log", xlabel=r"$\gamma$", ylabel=r"$\eta\lambda/2$ at the end")
    ax.set_ylim(bottom=0.3)
    log_ticks(ax.xaxis)
    ax.legend(fontsize=7.5, loc="upper left")


def widest(rows: pd.DataFrame) -> tuple[str, str, int]:
    """The network whose γ reach furthest.

    Args:
        rows: as ``committed_degrees`` gives them.

    Returns:
        Its campaign, entry and budget.
    """
    log_gamma = rows.assign(at=np.log(rows["gamma"])).groupby(["campaign", "entry", "steps"])["at"]
    reach = (log_gamma.max() - log_gamma.min()).reset_index().sort_values("at", kind="stable").iloc[-1]
    return str(reach["campaign"]), str(reach["entry"]), int(reach["steps"])


def figure(degrees: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        degrees: as ``committed_degrees`` gives them.

    Returns:
        Degrees of the toy and of networks, along training and at its end.
    """
    trace = toy_trace()
    degrees = degrees[degrees["settled"] > FINAL_NORM]
    slow = degrees[degrees["slow_degree"].notna()]
    campaign, entry, steps = widest(slow if len(slow) else degrees)
    here = degrees[degrees["campaign"].eq(campaign) & degrees["steps"].eq(steps)]
    moving = degrees[degrees["campaign"].isin(degrees.loc[degrees["frozen"].ne(""), "campaign"])]
    with house_style():
        if len(moving):
            fig, grid = plt.subplots(2, 2, figsize=(9.6, 6.6), layout="constrained")
            axes = grid.ravel()
            ends = moving[moving["step"].eq(moving["steps"]) & moving["edge"].gt(0)]
            draw_edges(axes[3], ends[ends["campaign"].eq(ends["campaign"].iloc[0])])
            panel(axes[3], "d", r"transformers just below $\eta_{\mathrm{crit}}$")
        else:
            fig, axes = plt.subplots(1, 3, figsize=(11.6, 3.5), layout="constrained")
        draw_toy_paths(axes[0], trace)
        panel(axes[0], "a", "toy, two normalised blocks")
        mine = here[here["entry"].eq(entry)]
        draw_network_paths(axes[1], mine, float(mine["settled"].iloc[0]))
        panel(axes[1], "b", f"network {entry}, $T = {steps}$")
        keys = draw_ends(axes[2], trace, here[here["step"].eq(steps) & here["slow_degree"].notna()])
        panel(axes[2], "c", "where training ends")
        axes[2].legend(handles=keys, loc="best", fontsize=7)
    return fig
