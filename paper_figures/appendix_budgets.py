"""Appendix: the lower boundary falls with the budget T, and the triangle of optimizability closes at an apex.

a) η_min of MLPs across γ at several T, with the exact toy's η_min and η_crit. b) η_min against T at a lazy and a rich
γ. c) The apex γ_max against T: exact toy, its leading form (2(L−2)T/L)^{L/(L−2)}, and the γ between which networks
stop training at any learning rate.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from empirical.experiments.analysis import apex_slope, budget_slopes
from paper_figures.axes import log_ticks, power_of_ten
from paper_figures.family_panels import TOY, draw_family, member_colours
from paper_figures.overlay import slope_label
from paper_figures.style import BOUNDARY_COLOURS, INK, QUIET, THEORY, gamma_colour, house_style, panel
from theory import ToyModel

NAME, TITLE = "appendix-budgets", "The lower boundary and the apex at several budgets"
CAPTION = """\
**Budgets** ({{ mse.arch }}s, L = {{ mse.depth }}, squared error). a) Measured η_min at several budgets T; dashed: exact
toy of the same T, nowhere shifted; red: the toy's η_crit. b) η_min against T: slope {{ m("eta-min-budget-lazy") }}
(lazy) and {{ m("eta-min-budget-rich") }} (rich); −1 in theory. c) The γ at which the window of learning rates closes:
bars reach from the last γ at which some η trains to the first at which none does. Slope {{ m("apex") }}; L/(L−2) for
T → ∞.\
"""


def draw_lower(ax: Axes, lower: pd.DataFrame, depth: int) -> None:
    """η_min across γ.

    Args:
        ax: the axes.
        lower: as ``run_family`` gives it, a member a budget.
        depth: weight layers L.
    """
    colours = member_colours(lower)
    draw_family(ax, lower, "eta_min", colours)
    fine = np.geomspace(lower["gamma"].min(), lower["gamma"].max(), 200)
    crit = ToyModel(loss="mse").boundary("eta_crit").numeric(gamma=fine, depth=depth)
    ax.plot(fine, crit, color=BOUNDARY_COLOURS["eta_crit"], lw=1.2, label=r"exact $\eta_{\mathrm{crit}}$")
    ax.plot([], [], **TOY, label=r"exact $\eta_{\mathrm{min}}$")
    for member, colour in colours.items():
        ax.plot([], [], "o", color=colour, ms=4.5, label=f"${member}$")
    ax.legend(loc="lower right", fontsize=7.5)


def draw_against_budget(ax: Axes, budgets: pd.DataFrame) -> None:
    """η_min against T, over its exact value at the smallest T.

    Args:
        ax: the axes.
        budgets: as ``run_budgets`` gives it.
    """
    for gamma, fit in budget_slopes(budgets).items():
        part = budgets[budgets["gamma"] == gamma].sort_values("steps")
        unit = float(part["law"].iloc[0])
        ax.plot(part["steps"], part["law"] / unit, color=QUIET, lw=1.0, dashes=(4, 2.5), zorder=1)
        spread = [(part["eta"] - part["eta_low"]) / unit, (part["eta_high"] - part["eta"]) / unit]
        label = rf"$\gamma={power_of_ten(gamma)}$: {slope_label(fit)}"
        ax.errorbar(part["steps"], part["eta"] / unit, yerr=spread, fmt="o", ms=4, mec="white", mew=0.5,
                    color=gamma_colour(gamma), label=label)  # fmt: skip
    ax.plot([], [], color=QUIET, lw=1.0, dashes=(4, 2.5), label="exact toy")
    ax.set(xscale="log", yscale="log", xlabel="budget $T$", ylabel=r"$\eta_{\min}$ / toy's at smallest $T$")
    plain_numbers(ax)
    ax.legend(loc="lower left", title="fitted slope", alignment="left")


def plain_numbers(ax: Axes) -> None:
    """Ticks at 1, 2, 5, 10, … as plain numbers along a logarithmic axis of less than two decades.

    Args:
        ax: the axes; its horizontal axis is changed.
    """
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def draw_apex(ax: Axes, apex: pd.DataFrame, depth: int) -> None:
    """γ_max against T.

    Args:
        ax: the axes.
        apex: as ``run_apex`` gives it.
        depth: weight layers L, above 2.
    """
    fine = np.geomspace(apex["steps"].min() / 1.2, apex["steps"].max() * 1.2, 40)
    model = ToyModel(loss="mse")
    exact = np.array([float(model.apex(steps=float(one), depth=depth)) for one in fine])
    ax.plot(fine, exact, **THEORY, label="exact toy")
    if depth > 2:
        leading = (2 * (depth - 2) * fine / depth) ** (depth / (depth - 2))
        ax.plot(fine, leading, color=QUIET, lw=1.0, ls=":", label=r"leading form, $T^{L/(L-2)}$")
    known = apex.dropna()
    middle = np.sqrt(known["gamma_low"] * known["gamma_high"])
    spread = [middle - known["gamma_low"], known["gamma_high"] - middle]
    label = f"MLPs: slope {slope_label(apex_slope(apex))}"
    ax.errorbar(known["steps"], middle, yerr=spread, fmt="v", ms=5, capsize=2, color=INK, mec="white", label=label)
    ax.set(xscale="log", yscale="log", xlabel="budget $T$", ylabel=r"apex $\gamma_{\max}$")
    plain_numbers(ax)
    ax.legend(loc="upper left")


def figure(lower: pd.DataFrame, budgets: pd.DataFrame, apex: pd.DataFrame, depth: int) -> Figure:
    """Draw the figure.

    Args:
        lower: η_min across γ, a member a budget.
        budgets: η_min against T.
        apex: γ_max against T.
        depth: weight layers L.

    Returns:
        Three panels.
    """
    with house_style():
        fig, axes = plt.subplots(1, 3, figsize=(11.0, 3.8), layout="constrained")
        draw_lower(axes[0], lower, depth)
        panel(axes[0], "a", r"$\eta_{\min}$ falls with $T$")
        draw_against_budget(axes[1], budgets)
        panel(axes[1], "b", "slope in $T$")
        draw_apex(axes[2], apex, depth)
        panel(axes[2], "c", "the window closes")
        log_ticks(axes[0].xaxis)
    return fig
