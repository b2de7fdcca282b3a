"""Theory over simulation over experiment: portraits side by side, with boundaries, brackets and fitted slopes.

One row a depth. Left, the toy's phase portrait with the exact boundaries and the simulated points; middle, the
networks' with the same exact boundaries and the measured points; right, every measured boundary divided by the exact
law, so that a power law that holds is a level line and what departs from it is seen at its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from empirical.trace import exact_law
from paper_figures.axes import cell_edges, log_ticks
from paper_figures.catapult_overlay import catapult_figure
from paper_figures.flow_overlay import collapse_figure, staircase_figure, trajectory_figure
from paper_figures.style import (
    BOUNDARY_COLOURS,
    BOUNDARY_MARKS,
    BOUNDARY_SYMBOLS,
    INK,
    OUTCOME_COLOURS,
    QUIET,
    TRAINED_MAP,
    house_style,
)
from simulate import BoundaryPoints, Outcome, PhasePortrait, ScalingFit
from theory import FitWindow, ToyModel
from theory.losses import exact_output

__all__ = [
    "LAW_DASHES",
    "catapult_figure",
    "collapse_figure",
    "draw_compensated",
    "draw_laws",
    "draw_points",
    "draw_portrait",
    "law_handles",
    "log_axes",
    "outcome_handles",
    "portrait_figure",
    "slope_label",
    "slope_legend",
    "staircase_figure",
    "trajectory_figure",
]

LAW_DASHES = {"eta_min": (4, 2), "eta_crit": (1, 0), "eta_max": (1, 1.4)}
"""The exact boundaries that are drawn, and how."""

Fits = dict[tuple[str, str], ScalingFit]
Points = dict[tuple[str, str], BoundaryPoints]


def log_axes(ax: Axes) -> None:
    """Logarithmic axes with a tick every other decade, written as powers of ten.

    Args:
        ax: the axes.
    """
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        log_ticks(axis)


def draw_portrait(ax: Axes, portrait: PhasePortrait) -> None:
    """Fill axes with the outcomes of a portrait; trained cells are shaded by their final loss.

    Args:
        ax: the axes; both become logarithmic.
        portrait: one depth, any number of seeds.
    """
    data = portrait.data
    gamma, eta = cell_edges(data["gamma"].values), cell_edges(data["eta"].values)
    outcome = portrait.most_common_outcome()
    colours = ListedColormap([OUTCOME_COLOURS[o] for o in Outcome])
    ax.pcolormesh(gamma, eta, outcome.T, cmap=colours, vmin=-0.5, vmax=len(Outcome) - 0.5, rasterized=True)
    loss = np.clip(np.nanmin((data["final_loss"] / data["initial_loss"]).values, axis=-1, initial=1.0), 0, 1)
    shaded = np.ma.masked_where(outcome != Outcome.TRAINED, loss)
    ax.pcolormesh(gamma, eta, shaded.T, cmap=TRAINED_MAP, vmin=0.0, vmax=portrait.thresholds.level, rasterized=True)
    log_axes(ax)
    ax.set(xlim=(gamma[0], gamma[-1]), ylim=(eta[0], eta[-1]))


def draw_laws(
    ax: Axes,
    gamma: NDArray[np.float64],
    depth: int,
    steps: int,
    level: float,
    *,
    loss: str = "mse",
    optimizer: str = "gd",
    beta: float | None = None,
    delta: float | None = None,
) -> tuple[str, ...]:
    """Draw the exact boundaries that the toy model has for this loss and optimizer.

    Args:
        ax: the axes.
        gamma: where, ascending.
        depth: weight layers L.
        steps: budget T.
        level: share of the initial loss that counts as trained.
        loss: as for ``theory.ToyModel``.
        optimizer: as for ``theory.ToyModel``.
        beta: momentum, needed with ``"momentum"``.
        delta: terminal error |f − 1| of sign descent's eta_max; when ``None`` that of a loss of ``level`` times its
            start, which is √level for MSE.

    Returns:
        The names of the boundaries drawn.
    """
    model = ToyModel(loss=loss, optimizer=optimizer)
    if delta is None:
        delta = 1.0 - float(exact_output(model.canonical[0], level))
    # one layer under a loss of bounded slope never diverges: its eta_max is not defined
    never_diverges = depth == 1 and optimizer == "gd" and loss != "mse"
    names = tuple(name for name in model.boundary_names if not (never_diverges and name == "eta_max"))
    for name in names:
        law = model.boundary(name)
        eta = law.numeric(gamma=gamma, depth=depth, steps=steps, level=level, beta=beta, delta=delta)
        ax.plot(gamma, eta, color="white", lw=3.0, alpha=0.65, zorder=3)
        ax.plot(gamma, eta, color=BOUNDARY_COLOURS[name], lw=1.5, dashes=LAW_DASHES[name], zorder=4)
    return names


def draw_points(ax: Axes, points: BoundaryPoints, divide_by: NDArray[np.float64] | float = 1.0) -> None:
    """Draw boundary points with their brackets.

    Args:
        ax: the axes.
        points: the points.
        divide_by: what η is divided by, a number or one value a point.
    """
    if len(points) == 0:
        return
    colour = BOUNDARY_COLOURS[points.name]
    eta, low, high = (values / divide_by for values in (points.eta, points.eta_low, points.eta_high))
    ax.errorbar(
        points.gamma,
        eta,
        yerr=[eta - low, high - eta],
        fmt=BOUNDARY_MARKS[points.name],
        ms=4.2,
        mfc=colour,
        mec="white",
        mew=0.6,
        ecolor=colour,
        elinewidth=1.1,
        zorder=6,
    )


def slope_label(fit: ScalingFit) -> str:
    """A fitted exponent with its interval, as a legend says it.

    Args:
        fit: the fit.

    Returns:
        Such as ``0.67 ± 0.03``, followed by a mark when the verdict is not ``consistent``.
    """
    mark = {"consistent": "", "inconsistent": " ✗", "undetermined": " ?"}[fit.verdict]
    digits = int(np.clip(np.ceil(-np.log10(max(fit.half_width, 1e-9)) - 0.02), 2, 4))
    return f"{fit.exponent:.{digits}f} ± {fit.half_width:.{digits}f}{mark}"


def slope_legend(ax: Axes, fits: Fits, regimes: tuple[str, ...] = ("lazy", "rich")) -> None:
    """A legend of fitted slopes, one line a boundary: lazy, then rich.

    Args:
        ax: the axes.
        fits: fits by (regime, boundary).
        regimes: the order in which a line gives them.
    """
    handles, labels = [], []
    for name in dict.fromkeys(boundary for _, boundary in fits):
        parts = [slope_label(fits[r, name]) if (r, name) in fits else "—" for r in regimes]
        handles.append(Line2D([], [], color=BOUNDARY_COLOURS[name], marker=BOUNDARY_MARKS[name], lw=0, mec="white"))
        labels.append(f"${BOUNDARY_SYMBOLS[name]}$:  " + "  |  ".join(parts))
    legend = ax.legend(
        handles,
        labels,
        loc="lower right",  # where nothing trains
        title="fitted slope, " + " | ".join(regimes),
        title_fontsize=8,
        handletextpad=0.2,
        borderaxespad=0.4,
        alignment="left",
        frameon=True,
        framealpha=0.88,
        edgecolor="none",
    )
    legend.set_zorder(8)


def draw_compensated(
    ax: Axes, points: Points, fits: Fits, windows: dict[str, FitWindow], depth: int, steps: int, level: float
) -> None:
    """Measured boundaries divided by the exact law, with the fits and their windows.

    Args:
        ax: the axes.
        points: points by (regime, boundary).
        fits: fits by (regime, boundary).
        windows: fit windows by regime.
        depth: weight layers L.
        steps: budget T.
        level: share of the initial loss that counts as trained.
    """
    for regime, window in windows.items():
        ax.axvspan(window.low, window.high, color="#eef1f4", zorder=0)
        for name in BOUNDARY_COLOURS:
            found, fit = points.get((regime, name)), fits.get((regime, name))
            if found is not None:
                draw_points(ax, found, exact_law(name, found.gamma, depth=depth, steps=steps, level=level))
            if fit is not None and np.isfinite(fit.coefficient):
                gamma = np.geomspace(*fit.window, 60)
                ratio = fit(gamma) / exact_law(name, gamma, depth=depth, steps=steps, level=level)
                ax.plot(gamma, ratio, color=BOUNDARY_COLOURS[name], lw=1.2, zorder=5)
        ax.annotate(
            f"{regime} window",
            (float(np.sqrt(window.low * window.high)), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -4),
            textcoords="offset points",
            ha="center",
            va="top",
            color=QUIET,
            fontsize=8,
        )
    ax.axhline(1, color=INK, lw=1.0, dashes=(4, 2))
    ax.annotate("exact law", (0.5, 1), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points")
    ax.set(xscale="log", yscale="log")
    log_ticks(ax.xaxis)
    ax.set_ylim(top=1.5 * ax.get_ylim()[1])  # room for the names of the windows
    ax.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def outcome_handles(portraits: list[PhasePortrait]) -> list[Patch]:
    """Legend entries for the outcomes that occur.

    Args:
        portraits: where to look for them.

    Returns:
        One patch an outcome, in the order of their definition.
    """
    seen = np.unique(np.concatenate([p.data["outcome"].values.ravel() for p in portraits]))
    shade = {Outcome.TRAINED: TRAINED_MAP(0.35)}
    return [
        Patch(
            facecolor=shade.get(Outcome(o), OUTCOME_COLOURS[Outcome(o)]),
            edgecolor=QUIET,
            lw=0.4,
            label=Outcome(o).label,
        )
        for o in seen
    ]


def portrait_figure(portrait: PhasePortrait, points: list[BoundaryPoints] | None = None) -> Figure:
    """One portrait with the exact boundaries drawn on it.

    Args:
        portrait: toy or trained; its attributes say depth, steps, loss and optimizer (gradient descent on MSE where
            they are silent), and ``beta`` of momentum.
        points: traced boundaries to draw on it as well.

    Returns:
        The figure.
    """
    what = portrait.data.attrs
    depth, steps, level = int(what.get("law_depth", what["depth"])), int(what["steps"]), portrait.thresholds.level
    loss, optimizer = str(what.get("loss", "mse")), str(what.get("optimizer", "gd"))
    optimizer = "sign" if optimizer == "adam" else optimizer  # its caricature: the laws there are
    gamma = portrait.data["gamma"].values
    extra = {name: float(what[name]) for name in ("beta", "delta") if name in what}
    with house_style():
        fig, ax = plt.subplots(figsize=(6.4, 5.2), layout="constrained")
        draw_portrait(ax, portrait)
        fine = np.geomspace(gamma[0], gamma[-1], 400)
        names = draw_laws(ax, fine, depth, steps, level, loss=loss, optimizer=optimizer, **extra)
        for found in points if points is not None else []:
            draw_points(ax, found)
        ax.set(xlabel=r"feature-learning strength $\gamma$", ylabel=r"learning rate $\eta$")
        ax.set_title(_title(what))
        outcomes = outcome_handles([portrait])
        laws = law_handles(names)
        blank = Line2D([], [], lw=0, label=" ")
        # a legend is filled column by column: this puts the outcomes in its first row and the laws in its second
        pairs = zip_longest(outcomes, laws, fillvalue=blank)
        fig.legend(
            handles=[handle for pair in pairs for handle in pair],
            loc="outside lower center",
            ncols=max(len(outcomes), len(laws)),
        )
    return fig


def _title(what: Mapping[str, Any]) -> str:
    # gradient descent, the usual, is left out
    parts = [str(what["arch"])]
    parts += [{"mse": "MSE"}.get(what["loss"], what["loss"])] if "loss" in what else []
    optimizer = what.get("optimizer", "gd")
    if optimizer == "momentum":
        parts.append(rf"momentum $\beta={float(what['beta']):g}$")
    elif optimizer != "gd":
        parts.append({"adam": "Adam", "sign": "sign descent"}[optimizer])
    budget = f"{int(what['steps']):,}".replace(",", "{,}")
    return ", ".join([*parts, f"$L={int(what['depth'])}$", f"$T={budget}$"])


def law_handles(names: Iterable[str] = tuple(LAW_DASHES)) -> list[Line2D]:
    """Legend entries for the exact boundaries.

    Args:
        names: the boundaries.

    Returns:
        One line a boundary.
    """
    return [
        Line2D([], [], color=BOUNDARY_COLOURS[n], dashes=LAW_DASHES[n], lw=1.5, label=f"exact ${BOUNDARY_SYMBOLS[n]}$")
        for n in names
    ]
