"""The boundaries for any convex loss and gradient descent, for symbolic L; cross-entropy is the case with a name.

With κ = ℓ″(1) and f the output at which ℓ(f) = level·ℓ(0):

    eta_crit = 2/λ* = 2 γ² (1+γ)^{2/L−2} / (Lκ)                        exact
    eta_min  = (γ²/(LT)) ∫₀^f (1+γs)^{2/L−2} / (−ℓ′(s)) ds             exact; no closed form, by quadrature
    eta_max  = the crisis of the map at this γ                          a number for each γ and L, see ``theory.escape``

Expansions of eta_min (g = 1/(−ℓ′), g₀ = g(0) = 1/|ℓ′(0)|, p = 2 − 2/L, m = 1 − 2/L, M_k = ∫₀^f sᵏ g ds):

    lazy         (γ²/(LT)) M₀ (1 − pγ M₁/M₀ + O(γ²)),  the error below p(p+1)/2 γ² M₂/M₀ ≤ p(p+1)/2 (γf)² relative
    rich, L > 2  (γ g₀/((L−2)T)) (1 + γ^{−m} [(m/g₀) ∫₀^f s^{−p}(g − g₀) ds − f^{−m}] + O(1/γ))
    rich, L = 2  (γ/(2T)) (g₀ ln(γf) + ∫₀^f (g − g₀)/s ds + O(ln γ/γ))

The lazy error follows from 0 ≤ (1+x)^{−p} − 1 + px ≤ p(p+1)x²/2; the rich ones from the next term of the expansion
of (1+γs)^{−p} at γs ≫ 1. For MSE, ``theory.mse_gd`` has closed forms.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import sympy as sp

from theory.boundaries import Arguments, Boundary, Limit, Regime, crit_slope, crit_value, log_slope, power_limit
from theory.errors import InputError
from theory.escape import LazyBand, functions, rich_limit
from theory.escape import table as escape_table
from theory.flow_integral import table as time_table
from theory.losses import CROSS_ENTROPY, Loss
from theory.optimizers import GD
from theory.quadrature import FloatArray
from theory.sharpness import gather_powers, sharpness_at_minimum
from theory.symbols import depth, f, gamma, s, sharpness, steps

_P = 2 - 2 / depth
_M = 1 - 2 / depth


@cache
def crit_boundary(loss: Loss) -> Boundary:
    """eta_crit: the stability edge of gradient descent at the sharpness of the minimum.

    Args:
        loss: a convex loss with its minimum at 1.

    Returns:
        The boundary.
    """
    curvature = loss.curvature_at_minimum
    # κ is a number and may be a long one: the powers of γ are gathered without it
    bare = gather_powers(GD.critical_eta.subs(sharpness, sharpness_at_minimum(loss) / curvature))
    expr = bare / curvature
    limits: dict[str, Limit] = {}
    regimes: tuple[tuple[Regime, sp.Expr], ...] = (("lazy", gamma), ("rich", 1 / gamma))
    for regime, small in regimes:
        leading = power_limit(bare, gamma, regime)
        limits[regime] = Limit(leading.exponent, leading.coefficient / curvature, correction=-_P * small)
    scale = 1.0 / loss.numeric_curvature_at_minimum

    def value(arguments: Arguments) -> FloatArray:
        return scale * crit_value(arguments)

    return Boundary("eta_crit", expr, limits, lambda: log_slope(bare, gamma), value, crit_slope)


def inverse_pull(loss: Loss, at: sp.Expr) -> sp.Expr:
    """g(s) = 1/(−ℓ′(s)), the time that the flow spends on a unit of output, up to the network's factor.

    Args:
        loss: the loss.
        at: s.

    Returns:
        g.
    """
    return -1 / loss.slope.subs(f, at)


@cache
def min_expr(loss: Loss) -> sp.Expr:
    """eta_min as one integral.

    Args:
        loss: the loss.

    Returns:
        η in γ, L, T and level, with an unevaluated ``Integral``.
    """
    integrand = (1 + gamma * s) ** -_P * inverse_pull(loss, s)
    return gamma**2 / (depth * steps) * sp.Integral(integrand, (s, 0, loss.output_at_level))


@cache
def min_limits(loss: Loss) -> tuple[dict[str, Limit], dict[tuple[str, int], Limit]]:
    """The expansions of the module's header.

    Args:
        loss: the loss.

    Returns:
        Limits by regime, and by (regime, depth) for L = 1 and 2 in the rich regime.
    """
    reached, rest, at_rest = loss.output_at_level, inverse_pull(loss, s), 1 / loss.pull_at_start
    moments = [sp.Integral(s**k * rest, (s, 0, reached)) for k in (0, 1)]
    lazy = Limit(sp.Integer(2), moments[0] / (depth * steps), correction=-_P * gamma * moments[1] / moments[0])
    finite = sp.Integral(s**-_P * (rest - at_rest), (s, 0, reached))
    rich = Limit(
        sp.Integer(1),
        at_rest / ((depth - 2) * steps),
        sp.Gt(depth, 2),
        gamma**-_M * (_M / at_rest * finite - reached**-_M),
    )
    two = (at_rest * sp.log(gamma * reached) + sp.Integral((rest - at_rest) / s, (s, 0, reached))) / (2 * steps)
    one = Limit(sp.Integer(2), lazy.coefficient.subs(depth, 1))
    return {"lazy": lazy, "rich": rich}, {("rich", 1): one, ("rich", 2): Limit(sp.Integer(1), two)}


@cache
def min_boundary(loss: Loss) -> Boundary:
    """eta_min: gradient flow reaches level·L₀ at step T.

    Args:
        loss: the loss.

    Returns:
        The boundary.
    """
    limits, special = min_limits(loss)
    expr = min_expr(loss)

    def exponent() -> sp.Expr:
        (whole,) = expr.atoms(sp.Integral)
        moved = sp.diff(whole.function, gamma)
        return 2 + gamma * sp.Integral(moved, *whole.limits) / whole

    def value(arguments: Arguments) -> FloatArray:
        waiting = time_table(loss, arguments.level, arguments.depth).value(arguments.gamma)
        return (arguments.gamma * waiting) * arguments.gamma / (arguments.depth * arguments.steps)

    def slope(arguments: Arguments) -> FloatArray:
        return 2.0 + time_table(loss, arguments.level, arguments.depth).slope(arguments.gamma)

    return Boundary("eta_min", expr, limits, exponent, value, slope, special_limits=special, needs_steps=True)


def _several_layers(layers: int) -> int:
    if layers < 2:
        need = "an integer >= 2: a single layer under a loss of bounded slope never diverges"
        raise InputError("depth", layers, need)
    return layers


@cache
def max_boundary(loss: Loss) -> Boundary:
    """eta_max: the first escape of the map, numeric at every γ; its lazy limit is derived for cross-entropy.

    Args:
        loss: the loss.

    Returns:
        The boundary; ``expr`` is a function of γ and L that ``evalf`` evaluates to float64.
    """
    expr = functions(loss)[0](gamma, depth)
    limits = {"rich": Limit(*rich_limit(loss), sp.Gt(depth, 1))}
    if loss == CROSS_ENTROPY:
        limits["lazy"] = Limit(sp.S.One, LazyBand(depth), sp.Gt(depth, 1))

    def value(arguments: Arguments) -> FloatArray:
        one_plus = 1.0 + arguments.gamma
        scaled = escape_table(loss, _several_layers(arguments.depth)).value(arguments.gamma)
        return scaled * (arguments.gamma / one_plus) * one_plus ** (2.0 / arguments.depth)

    def slope(arguments: Arguments) -> FloatArray:
        bare = 1.0 + (2.0 / arguments.depth - 1.0) * (arguments.gamma / (1.0 + arguments.gamma))
        return bare + escape_table(loss, _several_layers(arguments.depth)).slope(arguments.gamma)

    return Boundary("eta_max", expr, limits, lambda: gamma * sp.diff(expr, gamma) / expr, value, slope)


def ratio_without_steps(loss: Loss, strength: float, layers: int, level: float) -> float:
    """eta_crit/(T eta_min) at one γ: above 1/T trains something.

    Args:
        loss: the loss.
        strength: γ.
        layers: L.
        level: fraction of the initial loss.

    Returns:
        2 (1+γ)^{2/L−2}/(κK), which falls as γ grows (L ≥ 2).
    """
    from theory.flow_integral import time_integral

    waiting = float(time_integral(loss, np.array([strength]), level, layers)[0])
    return 2.0 * (1.0 + strength) ** (2.0 / layers - 2.0) / (loss.numeric_curvature_at_minimum * waiting)


@cache
def boundary(loss: Loss, name: str) -> Boundary:
    """One boundary of one loss under gradient descent.

    Args:
        loss: a convex loss with its minimum at 1.
        name: "eta_min", "eta_crit" or "eta_max".

    Returns:
        The boundary; built once.
    """
    return {"eta_min": min_boundary, "eta_crit": crit_boundary, "eta_max": max_boundary}[name](loss)
