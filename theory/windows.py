"""The interval of γ on which an exponent may be fitted, chosen from theory before any data are seen.

The rule, for MSE and gradient descent: the local exponent of **eta_crit** (and eta_max: the same) is within
``tolerance`` of its limit,

    lazy: (2−2/L) γ/(1+γ) ≤ tolerance,      rich: (2−2/L)/(1+γ) ≤ tolerance,

and, in the rich regime, eta_crit/eta_min = 2T/J(γ) ≥ ``margin``: the window stays below the apex of the triangle,
near which a fit is wrong.

Other losses and momentum share eta_crit's exponent, so only the apex changes. Two boundaries have slopes of their own,
and their windows are found from those, on a grid of γ: eta_max of other losses than MSE, and both of sign descent,
where the rule is applied to eta_max and the margin is on eta_max/eta_min.

eta_min uses the same windows. Its own rich exponent approaches 1 like a power γ^{−(1−2/L)} for L > 2 and like 1/ln γ
for L = 2, so demanding its limit would leave nothing; a fit of eta_min is compared with the exact law's slope over the
window instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sympy as sp

from theory.boundaries import BOUNDARIES, REGIMES, Regime, checked_level
from theory.errors import InputError, one_of, positive_integer, positive_number
from theory.symbols import depth as depth_symbol
from theory.toy_model import ToyModel

_GRID_DECADES, _GRID_PER_DECADE = 12, 40


@dataclass(frozen=True)
class FitWindow:
    """An interval of γ for a fit, with the reason to print beside it.

    Args:
        regime: "lazy" or "rich".
        low: smallest γ of the window.
        high: largest γ of the window; above ``low``.
        reason: one sentence.
    """

    regime: str
    low: float
    high: float
    reason: str


def fit_window(
    boundary: str,
    depth: int,
    regime: Regime,
    steps: float,
    tolerance: float = 0.05,
    margin: float = 30.0,
    gamma_range: tuple[float, float] = (1e-8, 1e8),
    level: float = 0.9,
    *,
    loss: str | sp.Expr = "mse",
    optimizer: str = "gd",
    beta: float | None = None,
    delta: float | None = None,
) -> FitWindow:
    """Choose the γ window of a fit.

    Args:
        boundary: "eta_min", "eta_crit" or "eta_max".
        depth: number of layers L.
        regime: "lazy" or "rich".
        steps: training budget T in optimizer steps.
        tolerance: largest distance of eta_crit's local exponent from its limit.
        margin: least eta_crit/eta_min in the rich window.
        gamma_range: smallest and largest γ at hand; the window is clipped to it.
        level: fraction of the initial loss that counts as trained, for eta_min.
        loss: as for ``ToyModel``.
        optimizer: as for ``ToyModel``.
        beta: momentum β; needed with "momentum".
        delta: terminal error δ; needed with "sign".

    Returns:
        The window.

    Raises:
        InputError: an argument out of range, or no γ that meets the conditions.
    """
    one_of("boundary", boundary, BOUNDARIES)
    one_of("regime", regime, REGIMES)
    layers, budget = positive_integer("depth", depth), positive_number("steps", steps)
    allowed, ratio = positive_number("tolerance", tolerance), positive_number("margin", margin)
    checked_level(level)
    bottom, top = (positive_number("gamma_range", end) for end in gamma_range)
    if bottom >= top:
        raise InputError("gamma_range", gamma_range, "a smaller and a larger gamma, in this order")

    model = ToyModel(loss=loss, optimizer=optimizer)
    if boundary not in model.boundary_names:
        model.boundary(boundary)  # raises, and says why
    own = optimizer == "sign" or (boundary == "eta_max" and loss != "mse")
    reference = "eta_max" if own else "eta_crit"
    law, edge = _slope_edge(model, reference, layers, regime, allowed, delta)
    why = f"{reference}'s local exponent is within {allowed:g} of its {regime} limit {law}"
    low, high = 0.0, edge
    if regime == "rich":
        # the ratio is proportional to T, so a margin lowers the apex to that of T/margin
        low, high = edge, model.apex(steps=budget / ratio, depth=layers, level=level, beta=beta, delta=delta)
        why += f" and {'eta_max' if optimizer == 'sign' else 'eta_crit'}/eta_min >= {ratio:g} at T = {budget:g}"
    return _clipped(regime, layers, budget, (low, high), (bottom, top), why)


def _clipped(
    regime: Regime, layers: int, budget: float, window: tuple[float, float], span: tuple[float, float], why: str
) -> FitWindow:
    # the part of the window that lies in the span at hand
    (low, high), (bottom, top) = window, span
    if regime == "rich" and high <= low:
        need = f"larger, or margin smaller: at depth {layers} gamma must exceed {low:.3g} and stay below {high:.3g}"
        raise InputError("steps", budget, need)
    start, end = max(low, bottom), min(high, top)
    if start >= end:
        raise InputError("gamma_range", span, f"one that overlaps {low:.3g} < gamma < {high:.3g}, where {why}")
    clipped = ", clipped to the range at hand" if (start, end) != (low, high) else ""
    reason = f"gamma in [{start:.4g}, {end:.4g}] at depth {layers}, {regime}: there {why}{clipped}."
    return FitWindow(regime, start, end, reason)


def _slope_edge(
    model: ToyModel, name: str, layers: int, regime: Regime, allowed: float, delta: float | None
) -> tuple[str, float]:
    # the limit law in words, and the γ beyond which (towards the limit) the exponent stays within `allowed` of it
    if name == "eta_crit":
        # 2 - p γ/(1+γ), p = 2 - 2/L, can be solved
        power = 2.0 - 2.0 / layers
        lazy = float("inf") if power <= allowed else allowed / (power - allowed)
        return ("2", lazy) if regime == "lazy" else ("2/L", max(power / allowed - 1.0, 0.0))
    edge = model.boundary(name)
    law = edge.limit(regime).exponent
    goal = float(edge.limit(regime, layers).exponent)
    grid = np.logspace(-_GRID_DECADES, _GRID_DECADES, 2 * _GRID_DECADES * _GRID_PER_DECADE + 1)
    slope = edge.numeric_exponent(gamma=grid, depth=layers, delta=delta)
    far = np.abs(slope - goal) > allowed
    if regime == "lazy":
        inside = int(np.argmax(far)) - 1 if far.any() else grid.size
        if inside < 0:
            raise InputError("tolerance", allowed, f"larger: no gamma above {grid[0]:g} meets it")
        return str(law), float("inf") if inside == grid.size else float(grid[inside])
    inside = grid.size - int(np.argmax(far[::-1])) if far.any() else 0
    if inside == grid.size:
        raise InputError("tolerance", allowed, f"larger: no gamma below {grid[-1]:g} meets it")
    return str(law).replace(str(depth_symbol), "L"), 0.0 if inside == 0 else float(grid[inside])
