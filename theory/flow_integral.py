"""The flow-time integral of any convex loss, and with it eta_min: quadrature-exact, tabulated in ln γ.

    K(γ) = ∫₀^f (1+γs)^{−p} / (−ℓ′(s)) ds,     p = 2 − 2/L,     eta_min = γ² K/(LT),     ℓ(f) = level·ℓ(0).

1/(−ℓ′) has the pole 1/(κ(1−s)) at the minimum, κ = ℓ″(1). It is taken out,

    K = K_MSE/κ + ∫₀^f (1+γs)^{−p} r(s) ds,      r(s) = 1/(−ℓ′(s)) − 1/(κ(1−s)),

K_MSE being known (``theory.quadrature``) and r smooth. With 1 + γs = eʸ the rest is ∫ e^{(2/L−1)y} r dy/γ over
(0, ln(1+γf)), by Gauss–Legendre on panels that are halved until nothing changes.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from theory.errors import InputError
from theory.log_table import LogTable
from theory.losses import MSE, Loss, exact_output
from theory.quadrature import FloatArray, scaled_integral

_NODES = 20
_PANEL = 1.5  # first width of a panel in ln(1 + γs)
_SAME = 2e-12  # relative change at which halving stops; the error is then far below it
_HALVINGS = 7


@cache
def output_at(loss: Loss, level: float) -> tuple[float, float]:
    """The output at which a loss level is reached, and −ln(1 − f), both without cancellation.

    Args:
        loss: the loss.
        level: fraction of the initial loss, in (0, 1).

    Returns:
        f and −ln(1 − f).
    """
    import mpmath

    output = exact_output(loss, level)
    with mpmath.workdps(40):
        return float(output), float(-mpmath.log1p(-output))


def _rest(loss: Loss, gamma: FloatArray, output: float, depth: int, panels: int) -> FloatArray:
    # ∫ (1+γs)^-p r(s) ds over (0, f), r the smooth part of 1/(−ℓ′)
    nodes, weights = _gauss_legendre()
    width = np.log1p(gamma * output) / panels
    grid = (np.arange(panels)[:, None] + nodes).ravel()
    y = width[:, None] * grid
    place = np.expm1(y) / gamma[:, None]
    smooth = -1.0 / loss.numeric_slope(place) - 1.0 / (loss.numeric_curvature_at_minimum * (1.0 - place))
    values = np.exp((2.0 / depth - 1.0) * y) * smooth
    return (values @ np.tile(weights, panels)) * width / gamma


@cache
def _gauss_legendre() -> tuple[FloatArray, FloatArray]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1.0) / 2.0, weights / 2.0  # moved to [0, 1]


def time_integral(loss: Loss, gamma: FloatArray, level: float, depth: int) -> FloatArray:
    """K(γ) of the module's header.

    Args:
        loss: a convex loss with its minimum at 1.
        gamma: feature-learning strength, one-dimensional; one number of panels serves all.
        level: fraction of the initial loss.
        depth: number of layers L.

    Returns:
        K, same shape.

    Raises:
        InputError: the loss varies too sharply for the quadrature to settle.
    """
    output, log_gap = output_at(loss, level)
    every = np.ones_like(gamma)
    scaled = scaled_integral(gamma, output * every, log_gap * every, depth)
    pole = scaled * (1.0 + gamma) ** (2.0 / depth - 2.0)
    if loss == MSE:
        return pole
    pole /= loss.numeric_curvature_at_minimum
    panels = max(1, int(np.log1p(gamma.max() * output) / _PANEL))
    value = pole + _rest(loss, gamma, output, depth, panels)
    for _ in range(_HALVINGS):
        panels *= 2
        previous, value = value, pole + _rest(loss, gamma, output, depth, panels)
        if (np.abs(value - previous) <= _SAME * np.abs(value)).all():
            return value
    raise InputError("loss", str(loss.excess), "smooth: its flow time does not settle under refinement")


@cache
def table(loss: Loss, level: float, depth: int) -> LogTable:
    """γ ↦ K(γ) for one loss, level and depth.

    Args:
        loss: a convex loss with its minimum at 1.
        level: fraction of the initial loss.
        depth: number of layers L.

    Returns:
        The table; built once, filled on demand.
    """

    def at(gamma: FloatArray) -> FloatArray:
        return np.array([time_integral(loss, row, level, depth) for row in gamma])

    return LogTable(at)
