"""One look for every figure: sizes, colours and marks, legible in print, on a slide, and to colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from simulate import Outcome

Colour: TypeAlias = tuple[float, float, float, float]

STYLE_FILE = Path(__file__).with_name("richscape.mplstyle")
"""For ``matplotlib.style.use``: what ``house_style`` sets."""

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

FATE_COLOURS = {
    "monotone": "#7fb8b4",
    "wavering": "#cfe3dc",
    "catapult": "#f0c75e",
    "not_settled": "#d98a5b",
    "divergent": "#4a4e5a",
}
"""Fates of two-layer runs, by the names that their flag variable gives them; kin to the outcomes' colours."""

TRAINED_MAP = LinearSegmentedColormap.from_list("trained", ["#0b5563", "#2f8f8b", "#8cc9bd", "#d9efe4"])
"""Colour of a trained cell by its final loss: dark has learned most."""

RUN_MAP = LinearSegmentedColormap.from_list("runs", ["#d08214", "#c24b47", "#7f336c", "#2b2d5e"])
"""Colour of ordered runs, such as those of several γ; its lightness falls all the way."""

GAMMA_MAP = LinearSegmentedColormap.from_list("gamma", mpl.colormaps["plasma"](np.linspace(0.0, 0.86, 256)))
"""Colour of a γ, from lazy (blue) to rich (orange): plasma, perceptually uniform and safe for colour-blind readers,
without the yellows that do not show on white."""

GAMMA_NORM = LogNorm(1e-4, 1e4, clip=True)
"""The same γ has the same colour in every figure; what lies beyond has the colour of the end."""

PEAK_MAP = LinearSegmentedColormap.from_list("peaks", ["#fbf6e9", "#f0c75e", "#cf5a4c", "#5a1f4a"])
"""Colour of a peak by its height: light is none."""

BOUNDARY_COLOURS = {"eta_min": "#2457a6", "eta_crit": "#c4262e", "eta_fail": "#7a3b9a", "eta_max": "#1b2430"}
BOUNDARY_MARKS = {"eta_min": "o", "eta_crit": "D", "eta_fail": "^", "eta_max": "s"}
BOUNDARY_SYMBOLS = {
    "eta_min": r"\eta_{\min}",
    "eta_crit": r"\eta_{\mathrm{crit}}",
    "eta_fail": r"\eta_{\mathrm{fail}}",
    "eta_max": r"\eta_{\max}",
}

DOTTED = (0, (1, 1.6))
"""How a predicted time is drawn."""

THEORY: dict[str, Any] = {"color": INK, "lw": 1.2, "dashes": (4, 2.5), "zorder": 6}
"""How a prediction is drawn over what was solved."""


PLATE: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
"""What text stands on where lines may pass behind it."""


def run_colours(count: int) -> list[Colour]:
    """Colours for an ordered set of runs, ascending in darkness, so that the order survives in grey.

    Args:
        count: how many.

    Returns:
        RGBA, one a run.
    """
    return [RUN_MAP(at) for at in np.linspace(0.0, 1.0, count)]


def gamma_colour(gamma: float) -> Colour:
    """Colour of a feature-learning strength, the same in every figure.

    Args:
        gamma: γ.

    Returns:
        RGBA.
    """
    return GAMMA_MAP(float(GAMMA_NORM(gamma)))


def gamma_bar(figure: Figure, axes: Axes | list[Axes]) -> Colorbar:
    """A colour bar of γ, with the names of its ends.

    Args:
        figure: the figure.
        axes: beside which axes.

    Returns:
        The bar.
    """
    bar = figure.colorbar(ScalarMappable(GAMMA_NORM, GAMMA_MAP), ax=axes, pad=0.02, aspect=26)
    bar.ax.yaxis.set_major_locator(LogLocator(base=100))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.outline.set_visible(False)
    bar.ax.set_title(r"$\gamma$", fontsize=11)
    for height, name in ((0.06, "lazy"), (0.94, "rich")):
        bar.ax.text(0.5, height, name, transform=bar.ax.transAxes, rotation=90, ha="center", va="center", color="white")
    return bar


def panel(ax: Axes, letter: str, title: str) -> None:
    """Letter and title of a panel, above its left edge.

    Args:
        ax: the panel.
        letter: such as ``a``.
        title: a few words.
    """
    ax.set_title(rf"$\mathbf{{{letter}}}$  {title}", loc="left")


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with the settings of the house, and put the old ones back.

    Yields:
        Nothing; figures made inside have the style.
    """
    with mpl.rc_context(fname=STYLE_FILE):
        yield
