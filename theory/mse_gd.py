"""The boundaries of the scalar deep linear model for MSE and gradient descent, built from the model for symbolic L.

Nothing here is typed in as a result: eta_crit comes from the Hessian and the optimizer's stability edge, eta_min from
the flow's closed-form time, eta_max from the crisis of the map. ``theory.mse_gd_derivation`` checks each step by other
means.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import sympy as sp

from theory.boundaries import Arguments, Boundary, Limit, crit_slope, crit_value, log_slope, power_limit
from theory.crisis import CrisisRatio, crisis_ratio
from theory.flow import mse_time, time_integrand
from theory.losses import MSE
from theory.optimizers import GD
from theory.quadrature import FloatArray, scaled_integral, trained_output
from theory.sharpness import gather_powers, sharpness_at_minimum
from theory.symbols import depth, eta, f, gamma, s, sharpness, steps, u, x

#: p in the flow's u^p, p = 2 − 2/L
_POWER = 2 - 2 / depth


@cache
def eta_crit_expr() -> sp.Expr:
    """eta_crit: the optimizer's stability edge at the sharpness of the minimum.

    Returns:
        η in γ and L.
    """
    return gather_powers(GD.critical_eta.subs(sharpness, sharpness_at_minimum(MSE)))


@cache
def eta_min_expr() -> sp.Expr:
    """eta_min: the η at which the flow's closed-form time to ``level`` times the initial loss is T.

    Returns:
        η in γ, L, T and level: a branch each for L = 1, L = 2 and the others.
    """
    reached = 1 + gamma * MSE.output_at_level
    # t is proportional to 1/eta, so eta t(u; eta) = eta_min T for any eta
    branches = [(_tidy(branch * eta / steps), condition) for branch, condition in mse_time(u).subs(u, reached).args]
    return sp.Piecewise(*branches)


def _tidy(branch: sp.Expr) -> sp.Expr:
    # join sums of logarithms into one, with its prefactor in front of it

    def joined(total: sp.Expr) -> sp.Expr:
        inside = sp.factor(sp.simplify(sp.logcombine(total, force=True).args[0]))
        return sp.expand_log(sp.log(inside)) if inside.is_Pow else sp.log(inside)

    factored = sp.factor_terms(branch)
    if branch.has(sp.hyper):
        return factored
    return factored.replace(lambda part: part.is_Add and part.has(sp.log), joined)


@cache
def eta_min_integral() -> sp.Expr:
    """eta_min as one integral, the same at every L: (γ²/(LT)) ∫₀^f (1+γs)^{2/L−2}/(1−s) ds with f = 1 − √level.

    Returns:
        η in γ, L, T and level, with an unevaluated ``Integral``.
    """
    integrand = time_integrand(MSE) / time_integrand(MSE).subs(s, 0)
    prefactor = sp.simplify(gamma * time_integrand(MSE).subs(s, 0) / steps)
    return prefactor * sp.Integral(sp.simplify(integrand), (s, 0, MSE.output_at_level))


@cache
def eta_min_exponent() -> sp.Expr:
    """Local exponent of eta_min, exactly, by differentiation of J = ∫ₐᵇ σ^{−p}/(1−σ) dσ at its limits a and b.

    Returns:
        d ln η / d ln γ = 2 − pγ/(1+γ) + γJ′/J, with γJ′ elementary and J = LT(1+γ)^p eta_min/γ².
    """
    reached = 1 + gamma * f
    ends = reached / (1 + gamma), 1 / (1 + gamma)
    moving = [sp.diff(end, gamma) * end**-_POWER / (1 - end) for end in ends]
    growth = gamma * sp.simplify(moving[0] - moving[1])
    prefactor = gamma**2 * (1 + gamma) ** -_POWER / (depth * steps)
    relative = sp.simplify(sp.powsimp(sp.expand(growth * prefactor)).subs(f, MSE.output_at_level))
    elementary = log_slope(prefactor, gamma)
    branches = []
    for branch, condition in eta_min_expr().args:
        layers = condition.rhs if isinstance(condition, sp.Eq) else depth
        exponent = elementary + relative / branch
        branches.append((sp.simplify(exponent.subs(depth, layers)) if layers != depth else exponent, condition))
    return sp.Piecewise(*branches)


@cache
def eta_min_limits() -> tuple[dict[str, Limit], dict[tuple[str, int], Limit]]:
    """Limits of eta_min: for general L, and for the depths that the general rich limit leaves out.

    Lazy: the limit is taken under the integral, whose integrand converges uniformly. Rich, L > 2: of the three parts
    of J (``theory.quadrature``) the elementary ∫e^{mx}dx grows as γ^m, the others stay bounded.

    Returns:
        Limits by regime, and by (regime, depth).
    """
    reached = MSE.output_at_level
    at_rest = sp.limit(time_integrand(MSE) / gamma, gamma, 0)
    lazy = sp.simplify(sp.integrate(at_rest, (s, 0, f)).subs(f, reached) / steps)
    lazy = sp.simplify(sp.expand_log(lazy, force=True))

    m, output = sp.symbols("m f", positive=True)
    growing = sp.integrate(sp.exp(m * x), (x, sp.log((1 + gamma) / (1 + gamma * output)), sp.log(1 + gamma)))
    # with L = 2/(1-m): eta_min/gamma -> gamma (1+gamma)^-(1+m) growing / (L T)
    quotient = sp.simplify(gamma * (1 + gamma) ** -(1 + m) * growing * (1 - m) / (2 * steps))
    rich = sp.simplify(sp.limit(quotient, gamma, sp.oo).subs(m, 1 - 2 / depth))

    two = eta_min_expr().subs(depth, 2)
    plain = sp.log(gamma * reached / (1 - reached)) * sp.limit(two / sp.log(gamma) / gamma, gamma, sp.oo)
    one = Limit(sp.Integer(2), lazy.subs(depth, 1))
    limits = {
        "lazy": Limit(sp.Integer(2), lazy, correction=_lazy_correction()),
        "rich": Limit(sp.Integer(1), rich, sp.Gt(depth, 2), _rich_correction()),
    }
    return limits, {("rich", 1): one, ("rich", 2): Limit(sp.Integer(1), plain)}


def _lazy_correction() -> sp.Expr:
    # -p gamma M_1/M_0, with M_k the integrals of s^k/(1-s) over (0, f)
    moments = [sp.integrate(s**k / (1 - s), s) for k in (0, 1)]
    first, second = ((moment.subs(s, f) - moment.subs(s, 0)).rewrite(sp.log) for moment in moments)
    # SymPy writes ln(s-1) for the primitive: one branch of the logarithm, the same at both ends
    values = [sp.expand(value).subs(sp.log(f - 1), sp.log(1 - f) + sp.I * sp.pi) for value in (first, second)]
    ratio = sp.simplify(values[1] / values[0])
    return -_POWER * gamma * sp.simplify(ratio.subs(f, MSE.output_at_level))


def _rich_correction() -> sp.Expr:
    # γ^-m [m ∫ s^-p (g - 1) ds - f^-m] with g - 1 = s/(1-s): what the growing part of J leaves, m = 1 - 2/L
    m, reached = 1 - 2 / depth, MSE.output_at_level
    return gamma**-m * (m * sp.Integral(s**-m / (1 - s), (s, 0, reached)) - reached**-m)


def _time_integral(arguments: Arguments) -> FloatArray:
    output, log_gap = trained_output(arguments.level)
    shape = arguments.gamma.shape
    return scaled_integral(arguments.gamma, np.full(shape, output), np.full(shape, log_gap), arguments.depth)


def min_value(arguments: Arguments) -> FloatArray:
    """eta_min = eta_crit J/(2T), the exact law in float64.

    Args:
        arguments: checked arguments.

    Returns:
        η, same shape as γ.
    """
    one_plus = 1.0 + arguments.gamma
    # (1+gamma)^(2/L-1) J is at most of order 1 + gamma's logarithm, so the order of the factors avoids overflow
    scaled = _time_integral(arguments) * one_plus ** (2.0 / arguments.depth - 1.0)
    return scaled * (arguments.gamma / one_plus) * arguments.gamma / (arguments.depth * arguments.steps)


def min_slope(arguments: Arguments) -> FloatArray:
    """Local exponent of eta_min, the exact law in float64.

    Args:
        arguments: checked arguments.

    Returns:
        d ln η / d ln γ, same shape as γ.
    """
    power = 2.0 - 2.0 / arguments.depth
    output, _ = trained_output(arguments.level)
    growth = -np.expm1(-power * np.log1p(arguments.gamma * output)) * (1.0 + arguments.gamma) ** (power - 1.0)
    return crit_slope(arguments) + growth / _time_integral(arguments)


def max_value(arguments: Arguments) -> FloatArray:
    """eta_max = r(L) eta_crit.

    Args:
        arguments: checked arguments.

    Returns:
        η, same shape as γ.
    """
    return crisis_ratio(arguments.depth) * crit_value(arguments)


@cache
def boundary(name: str) -> Boundary:
    """One boundary, with everything known about it.

    Args:
        name: "eta_min", "eta_crit" or "eta_max".

    Returns:
        The boundary; built once.
    """
    if name == "eta_min":
        limits, special = eta_min_limits()
        return Boundary(
            name,
            eta_min_expr(),
            limits,
            eta_min_exponent,
            min_value,
            min_slope,
            special_limits=special,
            needs_steps=True,
        )
    crit = eta_crit_expr()
    ratio = CrisisRatio(depth) if name == "eta_max" else sp.S.One
    edge: dict[str, Limit] = {}
    for regime in ("lazy", "rich"):
        bare = power_limit(crit, gamma, regime)
        small = gamma if regime == "lazy" else 1 / gamma
        edge[regime] = Limit(bare.exponent, ratio * bare.coefficient, correction=-_POWER * small)
    value = max_value if name == "eta_max" else crit_value
    return Boundary(name, ratio * crit, edge, lambda: log_slope(crit, gamma), value, crit_slope)
