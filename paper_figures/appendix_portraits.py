"""Appendix: phase portraits of every architecture under both losses.

Small grids of test accuracy, one panel a network, with the exact boundaries of the scalar deep linear model, nowhere
shifted. Its depth is the number of weight layers of MLPs and CNNs; for ResNets and ViTs it is the Euler degree at large
weights, rounded.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from empirical.experiments.plane import Plane
from empirical.trace import law_of
from paper_figures.family_panels import ETA_LABEL, GAMMA_LABEL
from paper_figures.fig1_phase_portraits import FAILED, LAW_STYLE, draw_accuracy
from paper_figures.style import BOUNDARY_COLOURS, BOUNDARY_SYMBOLS, OUTCOME_COLOURS, PLATE, house_style, panel
from simulate import Outcome

NAME, TITLE = "appendix-portraits", "Phase portraits of every architecture"
CAPTION = """\
**Phase portraits of every architecture.** Test accuracy at the end where the loss has moved, outcomes elsewhere. Lines:
exact boundaries of the scalar deep linear model, nowhere shifted; its depth L is that of MLPs and CNNs, and the rounded
Euler degree at large weights, D, of ResNets and ViTs. Well inside the model's band, half a decade or more from both
its η_min and its η_crit, the share of cells that train is {{ m("portrait-inside") }}; a decade or more below η_min,
the share of cells that do not is {{ m("portrait-below") }}.\
"""


def figure(portraits: Mapping[str, Plane]) -> Figure:
    """Draw the figure.

    Args:
        portraits: by name, as ``run_portraits`` gives them: half of them for each loss.

    Returns:
        Two rows of panels.
    """
    columns = -(-len(portraits) // 2)
    with house_style():
        fig, axes = plt.subplots(
            2, columns, figsize=(2.7 * columns + 0.6, 6.2), layout="constrained", sharex=True,
            sharey=True, squeeze=False,
        )  # fmt: skip
        for place, (ax, (name, plane)) in enumerate(zip(axes.ravel(), portraits.items(), strict=False)):
            image = draw_accuracy(ax, plane)
            training = plane.config.training
            panel(ax, "abcdefgh"[place], name)
            depth = int(law_of(training)["depth"])
            degree = f"$L={depth}$" if training.arch in {"mlp", "cnn"} else f"$D={depth}$"
            ax.text(0.96, 0.04, degree, transform=ax.transAxes, ha="right", bbox=PLATE, zorder=9)
        for ax in axes[:, 0]:
            ax.set_ylabel(ETA_LABEL)
        for ax in axes[-1]:
            ax.set_xlabel(GAMMA_LABEL.replace("feature-learning strength ", ""))
        bar = fig.colorbar(image, ax=axes.ravel().tolist(), pad=0.015, aspect=32)
        bar.set_label("test accuracy")
        bar.outline.set_visible(False)
        laws = [
            Line2D([], [], color=BOUNDARY_COLOURS[n], ls=LAW_STYLE[n], label=f"exact toy, ${BOUNDARY_SYMBOLS[n]}$")
            for n in ("eta_min", "eta_crit", "eta_max")
        ]
        failed = [Patch(color=OUTCOME_COLOURS[o], alpha=0.75, label=o.label) for o in (*FAILED, Outcome.UNTRAINED)]
        fig.legend(handles=laws + failed, loc="outside lower center", ncols=7)
        first = next(iter(portraits.values())).portrait.data
        for ax in axes.ravel():
            ax.set_ylim(float(first["eta"].min()), float(np.max(first["eta"])))
    return fig
