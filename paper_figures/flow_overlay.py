"""Figures of gradient flows: collapse in τ, staircases of modes, single trajectories.

Functions take results of ``simulate`` and return figures; what is written on a figure is read off the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from paper_figures.axes import log_ticks, power_of_ten
from paper_figures.style import DOTTED, INK, PLATE, QUIET, THEORY, Colour, house_style, run_colours
from theory.errors import one_of

if TYPE_CHECKING:  # drawing needs the results, not what solves them
    from simulate.collapse import TauCollapse
    from simulate.staircase import Staircase
    from simulate.trajectory import Trajectory

FloatArray: TypeAlias = NDArray[np.float64]

_NAMES_UP = 11.0  # points from an axis up to the names of its events
TRAJECTORY_COLOUR = "#2f6f86"

DECOUPLED: dict[str, Any] = {"color": "white", "lw": 1.0, "dashes": (3, 2.5), "zorder": 6}
"""How a prediction is drawn inside the thick line that it should lie on."""


def _percent(share: float) -> str:
    return f"{100 * share:.3g}\u2009%"


def collapse_figure(collapse: TauCollapse) -> Figure:
    """Raw outputs of several γ against t and against τ, with F_∞, the collapse distance and the drop times.

    Args:
        collapse: what ``simulate.tau_collapse`` found.

    Returns:
        Two panels. On each curve a dot marks where the loss is half its start; dotted lines are the predicted ends of
        the plateaus.
    """
    colours = run_colours(len(collapse.gamma))[::-1]  # the largest γ is the lightest: F_∞ is seen on it
    with house_style():
        fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained", sharey=True)
        left.set(xscale="log", yscale="log")
        for run, colour in enumerate(colours):
            gamma, tau, raw = collapse.gamma[run], collapse.curve_tau[run], collapse.curve_raw_output[run]
            drop = float(collapse.drops["measured"][run])
            height = float(np.exp(np.interp(np.log(drop), np.log(tau), np.log(raw))))
            for ax, unit in ((left, gamma / collapse.eta), (right, 1.0)):
                ax.plot(tau * unit, raw, color=colour, lw=2.6, zorder=3)
                ax.plot(drop * unit, height, "o", color=colour, mec="white", mew=0.8, ms=6, zorder=7)
            left.annotate(
                rf"$\gamma = {power_of_ten(gamma)}$",
                (drop * gamma / collapse.eta, height),
                xytext=(-8, 5),
                textcoords="offset points",
                ha="right",
                color=colour,
                fontsize=10,
            )
        _draw_limit(right, collapse)
        _draw_exits(right, collapse, colours)
        halved = Line2D([], [], marker="o", lw=0, color=QUIET, mec="white", ms=6, label="loss at half its start")
        left.legend(handles=[halved], loc="upper left", handletextpad=0.1, borderpad=0.1)
        left.set(xlabel=r"steps $t$", ylabel=r"raw output $F - F_0 = \gamma f$", ylim=_room(collapse.curve_raw_output))
        for axis in (left.xaxis, left.yaxis):
            log_ticks(axis)
        right.set_xlabel(r"rescaled time $\tau = \eta t/\gamma$")
        left.set_title(f"$L = {collapse.depth}$, {_loss_name(collapse.loss)}: each $\\gamma$ runs on its own clock")
        right.set_title(r"in $\tau$ the raw outputs collapse, until they drop")
    return fig


def _room(values: FloatArray) -> tuple[float, float]:
    # limits of a logarithmic axis, a twentieth of its length beyond the data
    low, high = np.log(values.min()), np.log(values.max())
    return float(np.exp(low - (high - low) / 20)), float(np.exp(high + (high - low) / 20))


def _loss_name(loss: str) -> str:
    return {"mse": "MSE"}.get(loss, loss)


def _draw_limit(ax: Axes, collapse: TauCollapse) -> None:
    tau, limit = collapse.limit_curve
    ax.plot(tau, limit, **THEORY)
    middle = int(np.searchsorted(tau, 0.4 * tau[-1]))
    ax.annotate(
        r"$F_\infty(\tau)$",
        (tau[middle], limit[middle]),
        xytext=(-4, 8),
        textcoords="offset points",
        ha="right",
        fontsize=12,
    )
    # the corner that the curves leave free: they bend upwards for L > 2 and flatten at L = 2
    corner = (0.98, 0.05, "right", "bottom") if collapse.depth == 2 else (0.03, 0.97, "left", "top")
    ax.text(
        *corner[:2],
        f"largest relative distance at\nequal $\\tau$, up to $f = {collapse.output:g}$:\n"
        f"measured {_percent(collapse.distance)}\npredicted {_percent(collapse.predicted_distance)}",
        transform=ax.transAxes,
        ha=corner[2],
        va=corner[3],
        linespacing=1.5,
        bbox=PLATE,
    )


def _draw_exits(ax: Axes, collapse: TauCollapse, colours: list[Colour]) -> None:
    shared = np.ptp(collapse.plateau_exit) == 0
    ends = (
        {float(collapse.plateau_exit[0]): QUIET} if shared else dict(zip(collapse.plateau_exit, colours, strict=True))
    )
    for place, colour in ends.items():
        ax.axvline(place, color=colour, lw=1.2, ls=DOTTED, zorder=1)
    ax.annotate(
        r"$\tau^*$" if shared else r"$\tau^*(\gamma)$",
        (float(collapse.plateau_exit[0]), 0.03 if shared else 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        va="bottom" if shared else "top",
        color=QUIET if shared else colours[0],
        fontsize=12,
    )


def staircase_figure(staircase: Staircase) -> Figure:
    """Loss and mode strengths of a matrix network against τ, with the predicted step times as vertical lines.

    Args:
        staircase: what ``simulate.mode_staircase`` found.

    Returns:
        Two panels, one time axis; the dashed curves are those of decoupled modes.
    """
    steps = staircase.steps
    colours = run_colours(len(steps))[::-1]  # the strongest mode is the darkest
    with house_style():
        fig, (above, below) = plt.subplots(
            2, 1, figsize=(6.8, 5.6), layout="constrained", sharex=True, height_ratios=(1, 1.15)
        )
        above.plot(staircase.tau, staircase.loss, color=INK, lw=2.0, zorder=4)
        for mode, colour in enumerate(colours):
            value = staircase.singular_values[mode]
            below.plot(staircase.tau, staircase.strengths[:, mode], color=colour, lw=2.6, zorder=4)
            below.plot(staircase.tau, staircase.predicted_strengths[:, mode], **DECOUPLED)
            for ax in (above, below):
                ax.axvline(steps["predicted"][mode], color=colour, lw=1.2, ls=DOTTED, zorder=1)
            below.annotate(
                f"$s = {value:g}$",
                (staircase.tau[-1], staircase.strengths[-1, mode]),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=10,
                annotation_clip=False,
            )
            if np.isnan(steps["measured"][mode]):  # the run ended before this step
                continue
            above.annotate(
                rf"$\tau_{{{mode + 1}}} = {steps['measured'][mode]:.4g}$",
                (steps["predicted"][mode], 1.0 - 0.1 * (mode % 2)),  # neighbours at two heights
                xycoords=("data", "axes fraction"),
                xytext=(5, -2),
                textcoords="offset points",
                va="top",
                color=colour,
                fontsize=10,
                bbox=PLATE,
            )
        above.set(ylabel=r"loss $/ L_0$", ylim=(0, 1.15), xlim=(0, staircase.tau[-1]))
        below.set(ylabel=r"mode strength $u_a^\top f\, v_a$", xlabel=r"rescaled time $\tau = \eta t/\gamma$")
        below.set_ylim(0, 1.08 * float(np.nanmax(staircase.strengths)))
        ratios = " : ".join(f"{ratio:.5g}" for ratio in staircase.step_ratios if np.isfinite(ratio))
        above.set_title(
            rf"$L = {staircase.depth}$, $\gamma = {power_of_ten(staircase.gamma)}$:"
            f"  modes step at times in the ratio {ratios}"
        )
        solved, step = Line2D([], [], color=colours[0], lw=2.6), Line2D([], [], color=QUIET, lw=1.2, ls=DOTTED)
        handles: list[Any] = [solved, (solved, Line2D([], [], **DECOUPLED)), step]  # a pair is drawn one over the other
        fig.legend(
            handles,
            ["matrix flow", "decoupled modes, exact", "predicted steps"],
            loc="outside lower center",
            ncols=3,
            handlelength=3.2,
        )
    return fig


def trajectory_figure(trajectory: Trajectory, time: Literal["tau", "t"] = "tau") -> Figure:
    """Loss, output and sharpness of one flow, one above the other, with its events marked.

    Args:
        trajectory: what ``simulate.gradient_flow`` or ``simulate.matrix_flow`` found.
        time: ``"tau"``, or ``"t"`` for steps.

    Returns:
        Two panels, and a third where the sharpness is known. Of a matrix network every entry of f is drawn.

    Raises:
        InputError: another time.
    """
    scaled = one_of("time", time, ("tau", "t")) == "tau"
    at = trajectory.tau if scaled else trajectory.t
    unit = trajectory.eta / trajectory.gamma if scaled else 1.0
    shown = [
        (r"loss $/ L_0$", trajectory.loss / trajectory.loss[0]),
        (r"output $f$", trajectory.output.reshape(len(at), -1)),
        (r"sharpness $\lambda$", trajectory.sharpness),
    ]
    shown = [panel for panel in shown if np.isfinite(panel[1]).any()]
    with house_style():
        fig, axes = plt.subplots(
            len(shown), 1, figsize=(6.8, 0.8 + 1.8 * len(shown)), layout="constrained", sharex=True
        )
        for ax, (label, values) in zip(axes, shown, strict=True):
            ax.plot(at, values, color=TRAJECTORY_COLOUR, lw=2.2, zorder=4)
            ax.set_ylabel(label)
            if ax is axes[-1] and np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
                ax.set_yscale("log")  # sharpening goes over decades
        axes[-1].set_xlabel(r"rescaled time $\tau = \eta t/\gamma$" if scaled else r"steps $t$")
        axes[-1].set_xlim(at[0], at[-1])
        axes[-1].ticklabel_format(axis="x", scilimits=(-2, 4), useMathText=True)
        happened = {name: when * unit for name, when in trajectory.events.items() if np.isfinite(when)}
        _mark_events(axes, happened, at[-1])
        axes[0].set_title(
            rf"$\gamma = {power_of_ten(trajectory.gamma)}$, $\eta = {power_of_ten(trajectory.eta)}$",
            pad=_NAMES_UP + 18,
        )
    return fig


def _mark_events(axes: Sequence[Axes], happened: Mapping[str, float], end: float) -> None:
    # upright lines, with their names in a row above the first panel, led to their lines where they had to give way
    names = sorted(happened, key=happened.__getitem__)
    for name, middle in zip(
        names, _side_by_side([len(name) for name in names], [happened[n] / end for n in names]), strict=True
    ):
        when = happened[name]
        for ax in axes:
            ax.axvline(when, color=QUIET, lw=1.2, ls=DOTTED, zorder=1)
        axes[0].annotate(
            name.replace("_", " "),
            (when / end, 1.0),
            xycoords="axes fraction",
            xytext=(middle, _NAMES_UP),
            textcoords=("axes fraction", "offset points"),
            ha="center",
            color=QUIET,
            arrowprops={"arrowstyle": "-", "color": QUIET, "lw": 0.7, "shrinkA": 1, "shrinkB": 0, "relpos": (0.5, 0)},
        )


def _side_by_side(letters: list[int], wanted: list[float]) -> list[float]:
    # middles of words, as near as possible to where they are wanted (ascending), on an axis from 0 to 1
    half = [0.006 * count + 0.012 for count in letters]
    middles = list(wanted)
    edge = 0.0
    for at, middle in enumerate(middles):  # to the right of the word before
        middles[at] = max(middle, edge + half[at])
        edge = middles[at] + half[at]
    edge = 1.0
    for at in reversed(range(len(middles))):  # and to the left of the word after
        middles[at] = min(middles[at], edge - half[at])
        edge = middles[at] - half[at]
    return middles
