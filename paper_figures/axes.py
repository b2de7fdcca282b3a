"""What axes of every figure share: ticks at powers of ten, numbers as text, and edges of cells around grid points."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray


def log_ticks(axis: Axis) -> None:
    """A tick every other decade of a logarithmic axis, and none between.

    Args:
        axis: the axis.
    """
    axis.set_major_locator(LogLocator(base=100, numticks=30))
    axis.set_minor_locator(NullLocator())


def linear_edges(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of cells around grid points, half-way between neighbours.

    Args:
        points: ascending, shape (n,).

    Returns:
        Shape (n + 1,).
    """
    if len(points) == 1:  # a single cell has no neighbours to share its edges with
        return points[0] + np.array([-0.5, 0.5])
    middle = (points[1:] + points[:-1]) / 2
    return np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])


def cell_edges(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of log-spaced cells around grid points.

    Args:
        points: positive and ascending, shape (n,).

    Returns:
        Shape (n + 1,); a single cell is a decade wide.
    """
    return np.asarray(np.power(10.0, linear_edges(np.log10(points))))


def power_of_ten(value: float) -> str:
    r"""A number as mathematics writes it, without dollar signs.

    Args:
        value: positive.

    Returns:
        Such as ``10^{4}``, ``3\times 10^{4}`` or ``20``.
    """
    exponent = int(np.floor(np.log10(value) + 1e-12))
    factor = value / 10.0**exponent
    if abs(exponent) < 2:
        return f"{value:g}"
    return f"10^{{{exponent}}}" if np.isclose(factor, 1) else rf"{factor:.3g}\times 10^{{{exponent}}}"


def draw_pairs(
    fig: Figure,
    ax: Axes,
    gamma: NDArray[np.float64],
    matrix: NDArray[np.float64],
    label: str,
    low: float = 0.0,
) -> None:
    """A number in (low, 1) for every pair of γ, with a colour bar.

    Args:
        fig: the figure of the axes.
        ax: where.
        gamma: feature-learning strengths, ascending, shape (n,).
        matrix: the numbers, shape (n, n).
        label: of the bar.
        low: lower end of the colours.
    """
    edges = cell_edges(gamma)
    image = ax.pcolormesh(edges, edges, matrix.T, cmap="cividis", vmin=low, vmax=1, rasterized=True)
    ax.set(xscale="log", yscale="log", xlabel=r"$\gamma$", ylabel=r"$\gamma'$")
    log_ticks(ax.xaxis)
    log_ticks(ax.yaxis)
    ax.set_aspect("equal")
    bar = fig.colorbar(image, ax=ax, pad=0.02, aspect=22)
    bar.set_label(label)
    bar.outline.set_visible(False)
