"""Figure 1: phase portraits of the γ–η plane, in theory and in trained networks.

a, b) The regimes, drawn from the exact boundaries of the scalar deep linear model: eta_min at three budgets, eta_crit,
and eta_max (for squared error eta_max is the crisis ratio times eta_crit). c, d) Test accuracy of trained networks on a
grid, with the same exact boundaries, nowhere shifted, and the boundaries that were measured.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from empirical.experiments.plane import Plane
from empirical.trace import law_of
from paper_figures.axes import cell_edges, log_ticks
from paper_figures.overlay import draw_points, slope_label
from paper_figures.style import (
    BOUNDARY_COLOURS,
    BOUNDARY_MARKS,
    BOUNDARY_SYMBOLS,
    INK,
    OUTCOME_COLOURS,
    PLATE,
    QUIET,
    gamma_colour,
    house_style,
    panel,
)
from simulate import Outcome
from theory import ToyModel

NAME, TITLE = "fig1", "Phase portraits of the γ–η plane"
CAPTION = """\
**Phase portraits of the γ–η plane.** a, b) Regimes of the scalar deep linear model, drawn from its exact
boundaries; as T grows the lower boundary falls and the region without training shrinks; the window closes at an
apex. c) {{ mse.arch }}s (L = {{ mse.depth }}, width {{ mse.width }}) on {{ mse.data }}, squared error, T =
{{ mse.steps }}; d) {{ ce.arch }}s (L = {{ ce.depth }}, width {{ ce.width }}), cross-entropy, T =
{{ ce.steps }}: test accuracy at the end where the loss has moved, outcomes elsewhere. Dashed and dotted: exact
laws of the model, nowhere shifted; points: measured, with brackets; solid: fits on windows chosen from theory.
Fitted slopes, lazy and rich: c) η_crit {{ m("eta-crit-lazy-mse") }} and {{ m("eta-crit-rich-mse") }}; d) η_crit
{{ m("eta-crit-lazy-ce") }} and {{ m("eta-crit-rich-ce") }}, η_max {{ m("eta-max-lazy-ce") }} and
{{ m("eta-max-rich-ce") }}. The lower boundary falls with T with slope {{ m("eta-min-budget-lazy") }} (lazy) and
{{ m("eta-min-budget-rich") }} (rich); the apex grows as T to the power {{ m("apex") }}.\
"""
SCHEMATIC_BUDGETS = (30, 300, 3000)
SCHEMATIC_GAMMA = (1e-4, 1e5)
LAW_STYLE = {"eta_min": (0, (4, 2)), "eta_crit": (0, (4, 1.2)), "eta_max": (0, (1, 1.2))}


def _lighten(colour: tuple[float, ...], share: float) -> tuple[float, float, float]:
    r, g, b = (1 - share * (1 - c) for c in colour[:3])
    return r, g, b


def _shade_trainable(ax: Axes, gamma: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    """Between two curves, each γ in a light shade of its own colour, so that lazy runs into rich."""
    shades = np.array([_lighten(gamma_colour(float(one)), 0.32) for one in gamma])
    across = np.stack([gamma, gamma])
    mesh = ax.pcolormesh(across, np.stack([low, high]), np.zeros(across.shape), shading="gouraud", rasterized=True)
    mesh.set_array(None)
    mesh.set_facecolor(list(map(tuple, np.concatenate([shades, shades]))))


def draw_schematic(ax: Axes, loss: str, depth: int = 3) -> None:
    """Draw the regimes of one loss, with their names.

    Args:
        ax: the axes.
        loss: ``mse`` or ``cross-entropy``.
        depth: weight layers L.
    """
    gamma = np.geomspace(*SCHEMATIC_GAMMA, 401)
    model = ToyModel(loss=loss)
    crit = model.boundary("eta_crit").numeric(gamma=gamma, depth=depth)
    top = model.boundary("eta_max").numeric(gamma=gamma, depth=depth)
    lows = [model.boundary("eta_min").numeric(gamma=gamma, depth=depth, steps=T) for T in SCHEMATIC_BUDGETS]
    low_end, high_end = float(lows[-1].min()) / 30, float(top.max()) * 100
    ax.fill_between(gamma, top, high_end, color="#d9d6d2", lw=0)
    ax.fill_between(gamma, crit, top, color=OUTCOME_COLOURS[Outcome.CATAPULT], alpha=0.75, lw=0)
    ax.fill_between(gamma, low_end, np.minimum(lows[-1], crit), color="#f4f2ee", lw=0)
    _shade_trainable(ax, gamma, np.minimum(lows[-1], crit), crit)
    ax.plot(gamma, crit, color=BOUNDARY_COLOURS["eta_crit"])
    ax.plot(gamma, top, color=BOUNDARY_COLOURS["eta_max"], ls=LAW_STYLE["eta_max"])
    for T, low in zip(SCHEMATIC_BUDGETS, lows, strict=True):
        open_ = low < crit
        ax.plot(gamma[open_], low[open_], color=BOUNDARY_COLOURS["eta_min"], ls=LAW_STYLE["eta_min"], lw=1.1)
        at = 12
        ax.text(
            gamma[at], low[at], f"$T={T}$", fontsize=7.5, color=BOUNDARY_COLOURS["eta_min"], va="center", bbox=PLATE
        )
    apex = model.apex(steps=SCHEMATIC_BUDGETS[0], depth=depth)
    ax.plot(
        [apex], [float(model.boundary("eta_crit").numeric(gamma=apex, depth=depth))], "v", color=INK, ms=5, zorder=6
    )
    ax.set(xscale="log", yscale="log", xlim=SCHEMATIC_GAMMA, ylim=(low_end, high_end))
    for axis in (ax.xaxis, ax.yaxis):
        log_ticks(axis)
    _name_regions(ax, gamma, crit, top, lows, loss, float(apex))


def _name_regions(
    ax: Axes,
    gamma: NDArray[np.float64],
    crit: NDArray[np.float64],
    top: NDArray[np.float64],
    lows: list[NDArray[np.float64]],
    loss: str,
    apex: float,
) -> None:
    """Words in the regions, slopes beside the lines."""

    def at(values: NDArray[np.float64], one: float) -> float:
        return float(np.exp(np.interp(np.log(one), np.log(gamma), np.log(values))))

    inside = lambda one: float(np.sqrt(at(lows[-1], one) * at(crit, one)))  # noqa: E731
    bold: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold"}
    ax.text(5e-2, inside(5e-2), "lazy", rotation=40, color=gamma_colour(1e-4), bbox=PLATE, **bold)
    ax.text(2.5, inside(2.5), "rich", rotation=32, color="#9c1f6e", bbox=PLATE, **bold)
    ax.text(1.2e3, inside(1.2e3), "ultra-rich", rotation=18, color="#a04a10", bbox=PLATE, **bold)
    ax.text(2e2, at(lows[-1], 2e2) / 1e3, "no training", color=QUIET, **bold)
    ax.text(1e-2, ax.get_ylim()[1] / 100, "unstable", color=INK, **bold)
    if loss == "mse":
        ax.annotate(
            "catapult", (0.1, at(crit, 0.1) * 1.5), (1.5e-3, at(crit, 0.1) * 2), ha="center", fontweight="bold",
            arrowprops={"arrowstyle": "-", "color": QUIET, "lw": 0.8},
        )  # fmt: skip
    else:
        ax.text(1.2e-3, float(np.sqrt(at(crit, 1.2e-3) * at(top, 1.2e-3))), "catapult", rotation=32, **bold)
    quiet: dict[str, Any] = {"fontsize": 8, "ha": "center"}
    ax.text(1.1e-3, at(crit, 1.1e-3) * (0.11 if loss == "mse" else 0.1), r"$\gamma^{2}$", **quiet)
    ax.text(60, at(top, 60) * 3.0, r"$\gamma^{2/L}$", **quiet)
    if loss != "mse":
        ax.text(1.1e-3, at(top, 1.1e-3) * 4, r"$\gamma$", **quiet)
    ax.text(6, at(lows[-1], 6) / 60, r"$\gamma/T$", **quiet)
    ax.annotate(
        f"apex at $T={SCHEMATIC_BUDGETS[0]}$", (apex, at(crit, apex)), (apex * 0.4, at(crit, apex) * 60),
        fontsize=7, ha="center", arrowprops={"arrowstyle": "-", "color": QUIET, "lw": 0.8},
    )  # fmt: skip


FAILED = (Outcome.UNSTABLE, Outcome.DEAD, Outcome.DIVERGED)


def draw_accuracy(ax: Axes, plane: Plane) -> plt.cm.ScalarMappable:
    """Test accuracy on the grid, failed cells in the colours of their outcome, exact laws dashed, measured points.

    Args:
        ax: the axes.
        plane: what was found.

    Returns:
        What a colour bar needs.
    """
    data = plane.portrait.data
    gamma, eta = cell_edges(data["gamma"].values), cell_edges(data["eta"].values)
    outcome = plane.portrait.most_common_outcome()
    colours = ListedColormap([OUTCOME_COLOURS[o] for o in Outcome])
    failed = np.ma.masked_where(~np.isin(outcome, FAILED), outcome)
    ax.pcolormesh(gamma, eta, failed.T, cmap=colours, vmin=-0.5, vmax=len(Outcome) - 0.5, rasterized=True, alpha=0.75)
    idle = np.ma.masked_where(outcome != Outcome.UNTRAINED, outcome)
    ax.pcolormesh(gamma, eta, idle.T, cmap=colours, vmin=-0.5, vmax=len(Outcome) - 0.5, rasterized=True)
    accuracy = data["final_accuracy"].mean("seed").values
    hidden = np.isin(outcome, (*FAILED, Outcome.UNTRAINED)) | ~np.isfinite(accuracy)
    shown = np.ma.masked_where(hidden, accuracy)
    image = ax.pcolormesh(gamma, eta, shown.T, cmap="GnBu", vmin=0.1, vmax=0.9, rasterized=True)
    what = law_of(plane.config.training)
    model, fine = ToyModel(loss=what["loss"]), np.geomspace(gamma[0], gamma[-1], 400)
    for name in model.boundary_names:
        law = model.boundary(name).numeric(gamma=fine, depth=what["depth"], steps=what["steps"], level=what["level"])
        ax.plot(fine, law, color="white", lw=3.0, alpha=0.6, zorder=3)
        ax.plot(fine, law, color=BOUNDARY_COLOURS[name], ls=LAW_STYLE[name], zorder=4)
    for (_, _), found in plane.points.items():
        draw_points(ax, found)
    for (_, name), fit in plane.fits.items():
        if np.isfinite(fit.coefficient):
            across = np.geomspace(*fit.window, 30)
            ax.plot(across, fit(across), color=BOUNDARY_COLOURS[name], lw=1.6, zorder=5)
    ax.set(xscale="log", yscale="log", xlim=(gamma[0], gamma[-1]), ylim=(eta[0], eta[-1]))
    for axis in (ax.xaxis, ax.yaxis):
        log_ticks(axis)
    _slopes(ax, plane)
    return image


def _slopes(ax: Axes, plane: Plane) -> None:
    """Legend of fitted slopes, lazy | rich, in the corner where nothing trains."""
    handles, labels = [], []
    for name in dict.fromkeys(boundary for _, boundary in plane.fits):
        parts = [slope_label(plane.fits[r, name]) if (r, name) in plane.fits else "–" for r in ("lazy", "rich")]
        handles.append(Line2D([], [], color=BOUNDARY_COLOURS[name], marker=BOUNDARY_MARKS[name], mec="white", ms=5))
        labels.append(f"${BOUNDARY_SYMBOLS[name]}$  " + " | ".join(parts))
    if handles:
        ax.legend(
            handles, labels, loc="lower right", title="fitted slope, lazy | rich", fontsize=7.5, title_fontsize=7.5,
            alignment="left", handlelength=1.4, frameon=True, framealpha=0.9, edgecolor="none",
        ).set_zorder(8)  # fmt: skip


def figure(mse: Plane, cross_entropy: Plane) -> Figure:
    """Draw the figure.

    Args:
        mse: networks trained on squared error.
        cross_entropy: networks trained on cross-entropy.

    Returns:
        Four panels.
    """
    with house_style():
        fig, axes = plt.subplots(2, 2, figsize=(7.8, 7.4), layout="constrained")
        depth = mse.config.training.depth
        for ax, letter, loss, name in zip(
            axes[0], "ab", ("mse", "cross-entropy"), ("MSE", "cross-entropy"), strict=True
        ):
            draw_schematic(ax, loss, depth)
            panel(ax, letter, f"theory: {name}, $L={depth}$")
        for ax, letter, plane in zip(axes[1], "cd", (mse, cross_entropy), strict=True):
            image = draw_accuracy(ax, plane)
            what = plane.config.training
            loss = "MSE" if what.loss == "mse" else what.loss
            panel(ax, letter, f"trained: {what.arch.upper()}, {loss}, $T={what.steps}$")
        bar = fig.colorbar(image, ax=axes[1].tolist(), pad=0.02, aspect=24)
        bar.set_label("test accuracy")
        bar.outline.set_visible(False)
        for ax in axes[1]:
            ax.set_xlabel(r"feature-learning strength $\gamma$")
        for ax in axes[:, 0]:
            ax.set_ylabel(r"learning rate $\eta$")
        predicted = [
            Line2D([], [], color=BOUNDARY_COLOURS[n], ls=LAW_STYLE[n], label=f"predicted ${BOUNDARY_SYMBOLS[n]}$")
            for n in ("eta_min", "eta_crit", "eta_max")
        ]
        fitted = [
            Line2D([], [], color=BOUNDARY_COLOURS[n], marker=BOUNDARY_MARKS[n], mec="white", ms=5,
                   label=f"measured and fitted ${BOUNDARY_SYMBOLS[n]}$")
            for n in dict.fromkeys(name for plane in (mse, cross_entropy) for _, name in plane.fits)
        ]  # fmt: skip
        others = (*FAILED, Outcome.UNTRAINED)
        failed = [Patch(color=OUTCOME_COLOURS[o], alpha=0.75, label=o.label) for o in others]
        fig.legend(handles=predicted + fitted + failed, loc="outside lower center", ncols=3)
    return fig
