"""Appendix: how the last layer's kernel turns along training, across γ.

a) Kernel–target alignment of the centred kernel along training. b) CKA with the kernel at the start. c) CKA between the
kernels of two γ of one start at the end.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.axes import draw_pairs
from paper_figures.style import gamma_bar, gamma_colour, house_style, panel

NAME, TITLE = "appendix-kernels", "Alignment and CKA along training"
CAPTION = """\
**Alignment and CKA along training** ({{ mse.arch }}s, squared error; last layer's kernel on test examples, mean over
seeds). a) Alignment of the centred kernel with the targets. b) Centred kernel alignment (CKA) with the kernel at the
start: at the end that of γ ≤ 0.01 less that of γ ≥ 10 is {{ m("cka-moves") }}. c) CKA between networks of two γ from
one start at the end of training.\
"""


def figure(representations: xr.Dataset) -> Figure:
    """Draw the figure.

    Args:
        representations: as ``run_representations`` gives them.

    Returns:
        Three panels.
    """
    gamma, step = representations["gamma"].values, representations["step"].values
    with house_style():
        fig, axes = plt.subplots(1, 3, figsize=(11.0, 3.6), layout="constrained")
        labels = (("centred_alignment", "kernel–target alignment", "a", "alignment of the centred kernel"),
                  ("cka_start", "CKA with the start", "b", "how far kernels move"))  # fmt: skip
        for ax, (name, label, letter, title) in zip(axes[:2], labels, strict=True):
            for one in gamma:
                values = representations[name].sel(gamma=one).mean("seed")
                ax.plot(step + 1, values, color=gamma_colour(float(one)))
            ax.set(xscale="log", xlabel="step $t+1$", ylabel=label)
            panel(ax, letter, title)
        gamma_bar(fig, axes[1])
        matrix = representations["cka"].mean("seed").values
        draw_pairs(fig, axes[2], gamma, matrix, "CKA at the end", low=np.floor(float(np.nanmin(matrix)) * 10) / 10)
        panel(axes[2], "c", r"between $\gamma$ at the end")
    return fig
