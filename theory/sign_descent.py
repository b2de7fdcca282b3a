"""Sign descent, w ← w − η sign(∂ℓ/∂w): the caricature of Adam. Every weight moves by η at each step.

On the balanced line w climbs from 1 to w* = (1+γ)^{1/L} whatever the convex loss, and then hops around w* with
amplitude at most η: there is no linear stability and no eta_crit. Two rates bound what is useful:

    eta_min = ((1+γ)^{1/L} − 1)/T                              the minimum is reached at step T (at any ``level``)
    eta_max = ((1+γ) + δγ)^{1/L} − (1+γ)^{1/L}                 one step from the minimum makes the output 1 + δ

Both go as γ for small and as γ^{1/L} for large γ, so the triangle does not close: eta_max/eta_min falls from δT only
to T((1+δ)^{1/L} − 1), which is δT/L for small δ.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import sympy as sp

from theory.boundaries import Arguments, Boundary, Limit
from theory.errors import InputError
from theory.quadrature import FloatArray
from theory.symbols import delta, depth, gamma, steps

#: why eta_crit is refused
NO_STABILITY = "eta_min or eta_max: sign descent has no linear stability, its steps do not shrink at the minimum"


def min_expr() -> sp.Expr:
    """eta_min: T steps of η cover the way to the minimum.

    Returns:
        η in γ, L and T.
    """
    return ((1 + gamma) ** (1 / depth) - 1) / steps


def max_expr() -> sp.Expr:
    """eta_max: the step from the minimum to the output 1 + δ.

    Returns:
        η in γ, L and δ.
    """
    return (1 + gamma + delta * gamma) ** (1 / depth) - (1 + gamma) ** (1 / depth)


def _min_value(arguments: Arguments) -> FloatArray:
    return np.expm1(np.log1p(arguments.gamma) / arguments.depth) / arguments.steps


def _min_slope(arguments: Arguments) -> FloatArray:
    # d ln (u^(1/L) - 1)/d ln γ = (γ/(1+γ))/L / (1 - u^(-1/L))
    log_end = np.log1p(arguments.gamma)
    share = arguments.gamma / (1.0 + arguments.gamma)
    return share / arguments.depth / -np.expm1(-log_end / arguments.depth)


def _max_value(arguments: Arguments) -> FloatArray:
    share = arguments.gamma / (1.0 + arguments.gamma)
    end = (1.0 + arguments.gamma) ** (1.0 / arguments.depth)
    return end * np.expm1(np.log1p(arguments.delta * share) / arguments.depth)


def _max_slope(arguments: Arguments) -> FloatArray:
    share = arguments.gamma / (1.0 + arguments.gamma)
    beyond = np.log1p(arguments.delta * share)
    # d ln: the factor (1+γ)^(1/L), then ln(1 + δ share), whose derivative is δ share (1 - share)/(1 + δ share)
    inner = arguments.delta * share / (1.0 + arguments.gamma) / (1.0 + arguments.delta * share)
    return (share + inner / -np.expm1(-beyond / arguments.depth)) / arguments.depth


def _slope_expression(expr: sp.Expr) -> sp.Expr:
    return gamma * sp.diff(expr, gamma) / expr


@cache
def boundary(name: str) -> Boundary:
    """One boundary of sign descent, the same for every convex loss.

    Args:
        name: "eta_min" or "eta_max".

    Returns:
        The boundary; eta_max's numeric form needs ``delta``.

    Raises:
        InputError: eta_crit, which sign descent does not have.
    """
    one, root = sp.S.One, 1 / depth
    if name == "eta_min":
        limits = {
            "lazy": Limit(one, 1 / (depth * steps), correction=-(depth - 1) * gamma / (2 * depth)),
            "rich": Limit(root, 1 / steps, correction=-(gamma**-root)),
        }
        expr = min_expr()
        return Boundary(
            name, expr, limits, lambda: _slope_expression(expr), _min_value, _min_slope, needs_steps=True
        )  # fmt: skip
    if name == "eta_max":
        drop = ((1 + delta) ** (root - 1) - 1) / ((1 + delta) ** root - 1)
        limits = {
            "lazy": Limit(one, delta / depth, correction=-(1 - root) * (1 + delta / 2) * gamma),
            "rich": Limit(root, (1 + delta) ** root - 1, correction=drop / (depth * gamma)),
        }
        expr = max_expr()
        return Boundary(
            name, expr, limits, lambda: _slope_expression(expr), _max_value, _max_slope, needs_delta=True
        )  # fmt: skip
    raise InputError("boundary", name, NO_STABILITY)


def closing_gamma(steps_given: float, layers: int, error: float) -> float:
    """The γ at which eta_max falls below eta_min: ``inf`` unless T is very small.

    Args:
        steps_given: budget T.
        layers: number of layers L.
        error: terminal error δ.

    Returns:
        γ: infinite for T((1+δ)^{1/L} − 1) ≥ 1, zero for δT ≤ 1, else the root by bisection (the ratio falls with γ).
    """
    if steps_given * np.expm1(np.log1p(error) / layers) >= 1:
        return float("inf")
    if error * steps_given <= 1:
        return 0.0
    low, high = -80.0, 600.0
    for _ in range(80):
        middle = (low + high) / 2
        place = Arguments(np.array([np.exp(middle)]), layers, steps_given, 0.5, delta=error)
        low, high = (middle, high) if _max_value(place)[0] > _min_value(place)[0] else (low, middle)
    return float(np.exp((low + high) / 2))
