"""The interval of γ on which an exponent may be fitted, chosen from theory before any data are seen.

The rule, for MSE and gradient descent: the local exponent of **eta_crit** (and eta_max: the same) is within
``tolerance`` of its limit,

    lazy: (2−2/L) γ/(1+γ) ≤ tolerance,      rich: (2−2/L)/(1+γ) ≤ tolerance,

and, in the rich regime, eta_crit/eta_min = 2T/J(γ) ≥ ``margin``: the window stays below the apex of the triangle,
near which a fit is wrong.

eta_min uses the same windows. Its own rich exponent approaches 1 like a power γ^{−(1−2/L)} for L > 2 and like 1/ln γ
for L = 2, so demanding its limit would leave nothing; a fit of eta_min is compared with the exact law's slope over the
window instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from theory.boundaries import BOUNDARIES, REGIMES, Regime, checked_level
from theory.errors import InputError, one_of, positive_integer, positive_number
from theory.triangle import apex


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
) -> FitWindow:
    """Choose the γ window of a fit (MSE, gradient descent).

    Args:
        boundary: "eta_min", "eta_crit" or "eta_max".
        depth: number of layers L.
        regime: "lazy" or "rich".
        steps: training budget T in optimizer steps.
        tolerance: largest distance of eta_crit's local exponent from its limit.
        margin: least eta_crit/eta_min in the rich window.
        gamma_range: smallest and largest γ at hand; the window is clipped to it.
        level: fraction of the initial loss that counts as trained, for eta_min.

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

    power = 2.0 - 2.0 / layers  # how far apart the two limits of eta_crit's exponent lie
    law, limit = ("2", "lazy") if regime == "lazy" else ("2/L", "rich")
    why = f"eta_crit's local exponent is within {allowed:g} of its {limit} limit {law}"
    if regime == "lazy":
        low, high = 0.0, float("inf") if power <= allowed else allowed / (power - allowed)
    else:
        low = max(power / allowed - 1.0, 0.0)
        # eta_crit/eta_min = 2T/J, so a margin lowers the apex to that of T/margin
        high = apex(steps=budget / ratio, depth=layers, level=level)
        why += f" and eta_crit/eta_min >= {ratio:g} at T = {budget:g}"
        if high <= low:
            need = f"larger, or margin smaller: at depth {layers} gamma must exceed {low:.3g} and stay below {high:.3g}"
            raise InputError("steps", budget, need)
    start, end = max(low, bottom), min(high, top)
    if start >= end:
        raise InputError("gamma_range", gamma_range, f"one that overlaps {low:.3g} < gamma < {high:.3g}, where {why}")
    clipped = ", clipped to the range at hand" if (start, end) != (low, high) else ""
    reason = f"gamma in [{start:.4g}, {end:.4g}] at depth {layers}, {regime}: there {why}{clipped}."
    return FitWindow(regime, start, end, reason)
