"""One look for every figure: sizes, colours and marks, legible in print, on a slide, and to colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap

from simulate import Outcome

INK = "#1b2430"
QUIET = "#6b7480"

OUTCOME_COLOURS: dict[Outcome, str] = {
    Outcome.NOT_RUN: "#ffffff",
    Outcome.UNTRAINED: "#e9e6df",
    Outcome.TRAINED: "#7fb8b4",
    Outcome.CATAPULT: "#f0c75e",
    Outcome.UNSTABLE: "#d98a5b",
    Outcome.DEAD: "#8d7b92",
    Outcome.DIVERGED: "#4a4e5a",
}

TRAINED_MAP = LinearSegmentedColormap.from_list("trained", ["#0b5563", "#2f8f8b", "#8cc9bd", "#d9efe4"])
"""Colour of a trained cell by its final loss: dark has learned most."""

BOUNDARY_COLOURS = {"eta_min": "#2457a6", "eta_crit": "#c4262e", "eta_fail": "#7a3b9a", "eta_max": "#1b2430"}
BOUNDARY_MARKS = {"eta_min": "o", "eta_crit": "D", "eta_fail": "^", "eta_max": "s"}
BOUNDARY_SYMBOLS = {
    "eta_min": r"\eta_{\min}",
    "eta_crit": r"\eta_{\mathrm{crit}}",
    "eta_fail": r"\eta_{\mathrm{fail}}",
    "eta_max": r"\eta_{\max}",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with the settings of the house, and put the old ones back.

    Yields:
        Nothing; figures made inside have the style.
    """
    settings: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9.0,
        "mathtext.fontset": "cm",
        "axes.titlesize": 10.5,
        "axes.labelsize": 11.0,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.direction": "out",
        "ytick.direction": "out",
        "legend.frameon": False,
        "legend.fontsize": 8.0,
        "lines.solid_capstyle": "round",
        "figure.dpi": 110,
        "savefig.dpi": 170,
        "svg.fonttype": "path",
        "svg.hashsalt": "richscape",
    }
    with mpl.rc_context(settings):
        yield
