"""Panels of a family of trainings: its boundaries against γ beside the exact toy, and their slopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from empirical.experiments.families import Fits
from paper_figures.axes import log_ticks
from paper_figures.overlay import slope_label
from paper_figures.style import INK, QUIET, Colour, run_colours

TOY: dict[str, Any] = {"color": QUIET, "lw": 1.0, "dashes": (4, 2.5)}
"""How the exact toy is drawn among several colours; nowhere shifted."""

GAMMA_LABEL, ETA_LABEL = r"feature-learning strength $\gamma$", r"learning rate $\eta$"


def member_colours(points: pd.DataFrame) -> dict[str, Colour]:
    """A colour for each member, darker for larger values.

    Args:
        points: as ``run_family`` gives them.

    Returns:
        RGBA by member.
    """
    names = list(dict.fromkeys(points["member"]))
    return dict(zip(names, run_colours(len(names)), strict=True))


def draw_family(
    ax: Axes, points: pd.DataFrame, boundary: str, colours: Mapping[str, Colour], *, over_toy: bool = False
) -> None:
    """Measured boundary of each member, mean and extremes over seeds, with the exact toy dashed.

    Args:
        ax: the axes.
        points: as ``run_family`` gives them.
        boundary: which.
        colours: by member.
        over_toy: whether η is shown over that of the exact toy, so that members a factor apart are told apart.
    """
    chosen = points[points["boundary"] == boundary]
    for _, part in chosen.groupby(["member", "regime"], sort=False):
        colour = colours[str(part["member"].iloc[0])]
        if over_toy:
            part = part.assign(**{name: part[name] / part["law"] for name in ("eta", "eta_low", "eta_high", "law")})
        by_gamma = part.groupby("gamma")
        gamma = np.unique(part["gamma"])
        eta = np.exp(by_gamma["eta"].apply(lambda one: np.log(one).mean())).to_numpy()
        spread = [eta - by_gamma["eta_low"].min().to_numpy(), by_gamma["eta_high"].max().to_numpy() - eta]
        ax.plot(gamma, by_gamma["law"].mean(), **TOY, zorder=1)
        ax.errorbar(gamma, eta, yerr=spread, fmt="o", ms=4, mec="white", mew=0.5, elinewidth=1, color=colour,
                    zorder=4)  # fmt: skip
    label = r"$\eta$ / that of the exact toy" if over_toy else ETA_LABEL
    ax.set(xscale="log", yscale="log", xlabel=GAMMA_LABEL, ylabel=label)
    log_ticks(ax.xaxis)
    if not over_toy:
        log_ticks(ax.yaxis)


def slope_rows(ax: Axes, fits: Fits, boundary: str, colours: Mapping[str, Colour], **legend: Any) -> None:
    """A legend with a line for each member: its fitted slopes, lazy and rich.

    Args:
        ax: the axes.
        fits: as ``family_fits`` gives them.
        boundary: which.
        colours: by member.
        **legend: for ``Axes.legend``.
    """
    handles, labels = [], []
    for member, colour in colours.items():
        parts = [
            slope_label(fits[member, regime, boundary]) if (member, regime, boundary) in fits else "–"
            for regime in ("lazy", "rich")
        ]
        handles.append(Line2D([], [], ls="", marker="o", ms=4.5, mec="white", color=colour))
        labels.append(f"${member}$:  " + " | ".join(parts) if "=" in member else f"{member}:  " + " | ".join(parts))
    handles.append(Line2D([], [], **TOY))
    labels.append("exact toy")
    look: dict[str, Any] = {
        "fontsize": 7,
        "title_fontsize": 7.5,
        "alignment": "left",
        "handlelength": 1.3,
        "loc": "upper left",
    }
    ax.legend(handles, labels, title="fitted slope, lazy | rich", **look | legend)


def draw_slopes(
    ax: Axes, points: pd.DataFrame, fits: Fits, regime: str, marks: Mapping[str, str], colours: Mapping[str, Colour]
) -> None:
    """Fitted slopes of one regime against what differs, each with its interval, and the exact toy's beside them.

    Args:
        ax: the axes.
        points: as ``run_family`` gives them.
        fits: of them.
        regime: ``lazy`` or ``rich``.
        marks: mark of each boundary that is drawn.
        colours: by member.
    """
    value = dict(zip(points["member"], points["value"], strict=True))
    shifts = np.linspace(-0.06, 0.06, len(marks)) if len(marks) > 1 else np.zeros(1)
    places = {member: place for place, member in enumerate(colours)}
    for shift, (boundary, mark) in zip(shifts, marks.items(), strict=True):
        for member, place in places.items():
            fit = fits.get((member, regime, boundary))
            if fit is None or not np.isfinite(fit.half_width):
                continue
            ax.plot([place - 0.3, place + 0.3], [fit.predicted_window] * 2, color=INK, lw=1.4, zorder=2)
            known = fit.verdict != "undetermined"
            ax.errorbar(
                place + 2 * shift, fit.exponent, yerr=fit.half_width, fmt=mark, ms=5, capsize=2,
                color=colours[member], mfc=colours[member] if known else "white", zorder=4,
            )  # fmt: skip
    ax.set_xticks(list(places.values()), [f"{value[member]:g}" for member in places])
    ax.set_xlim(-0.6, len(places) - 0.4)
