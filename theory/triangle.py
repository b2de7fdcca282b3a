"""The apex of the triangle of optimizability: the γ above which nothing trains within T steps.

MSE and gradient descent first:

eta_min(γ, T) and eta_crit(γ) meet where J(γ) = 2T, with J the integral of ``theory.quadrature``: eta_crit/eta_min =
2T/J exactly. J grows with γ for L ≥ 2, so there is one apex. L = 2: γ = ((1−f)e^{2T} − 1)/f.
L > 2, T → ∞: γ ≈ (2(L−2)T/L)^{L/(L−2)}.

Any other convex loss: 2(1+γ)^{2/L−2} T/(κK) = 1 with K of ``theory.flow_integral``, a numeric root. Momentum puts
T(1+β)/(1−β) for T. Sign descent, whose eta_max depends on δ, closes only if T((1+δ)^{1/L} − 1) < 1.
"""

from __future__ import annotations

import math

import numpy as np
import sympy as sp

from theory.boundaries import checked_beta, checked_level
from theory.errors import positive_integer, positive_number
from theory.losses import MSE, Loss
from theory.quadrature import scaled_integral, trained_output
from theory.symbols import depth, gamma, steps

_LARGEST_LOG = (
    650.0  # natural log of the largest γ for which J is evaluated; above it the leading form is exact in float64
)
_LARGEST_GENERAL_LOG = 300.0  # the same for other losses, whose K holds a power −2 of γ
_HALVINGS = 80  # of an interval of about 1400 in ln γ: to the last bit


def leading_form() -> sp.Expr:
    """Large-T form of the apex for L > 2, from equating the rich limits of eta_min and eta_crit.

    Returns:
        γ_max in T and L, (2(L−2)T/L)^{L/(L−2)}.
    """
    from theory.mse_gd import boundary

    low, high = boundary("eta_min").limit("rich"), boundary("eta_crit").limit("rich")
    # low.coefficient gamma^1 = high.coefficient gamma^(2/L): one power of gamma on each side
    base = sp.simplify(high.coefficient / low.coefficient)
    return base ** sp.simplify(1 / (low.exponent - high.exponent))


def two_layer_form() -> sp.Expr:
    """The apex at L = 2, exactly, from eta_min = eta_crit.

    Returns:
        γ_max in T and level.
    """
    from theory.mse_gd import boundary

    low, high = (boundary(name).expr.subs(depth, 2) for name in ("eta_min", "eta_crit"))
    (logarithm,) = low.atoms(sp.log)
    ((argument,),) = (logarithm.args,)
    needed = sp.simplify(logarithm * high / low)  # value of the logarithm at the apex, 2T in units of its prefactor
    (root,) = sp.solve(sp.Eq(argument, sp.exp(needed)), gamma)
    return sp.simplify(root)


def apex_log10(*, steps: float, depth: int, level: float = 0.9) -> float:
    """log10 of the apex γ_max(T); finite where γ_max itself overflows.

    Args:
        steps: training budget T in optimizer steps.
        depth: number of layers L.
        level: fraction of the initial loss that counts as trained, in (0, 1).

    Returns:
        log10 γ_max. ``inf`` when the triangle never closes (L = 1), ``-inf`` when it is empty at every γ, that is for
        2T ≤ −½ ln level.

    Raises:
        InputError: steps not positive, depth not an integer >= 1, level outside (0, 1).
    """
    budget, layers = 2.0 * positive_number("steps", steps), positive_integer("depth", depth)
    output, log_gap = trained_output(checked_level(level))
    if budget <= log_gap:
        return -math.inf
    if layers == 1:
        return math.inf
    if layers == 2:
        # ln((e^(2T - gap) - 1)/f); the exponential is factored out where it would overflow
        excess = budget - log_gap
        return (excess + math.log(-math.expm1(-excess)) - math.log(output)) / math.log(10.0)
    exponent = (layers - 2) / layers
    if math.log(exponent * budget) / exponent > _LARGEST_LOG:
        return math.log10(exponent * budget) / exponent

    low, high = -_LARGEST_LOG, _LARGEST_LOG + 10.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        value = scaled_integral(np.array([math.exp(middle)]), np.array([output]), np.array([log_gap]), layers)
        low, high = (middle, high) if value[0] < budget else (low, middle)
    return (low + high) / 2.0 / math.log(10.0)


def apex(*, steps: float, depth: int, level: float = 0.9) -> float:
    """The apex γ_max(T): the γ at which eta_min = eta_crit, to about 1e-12 relative.

    Args:
        steps: training budget T in optimizer steps.
        depth: number of layers L.
        level: fraction of the initial loss that counts as trained, in (0, 1).

    Returns:
        γ_max. ``inf`` for L = 1 and where it exceeds float64 (see ``apex_log10``); 0 when no γ trains within T.

    Raises:
        InputError: steps not positive, depth not an integer >= 1, level outside (0, 1).
    """
    exponent = apex_log10(steps=steps, depth=depth, level=level)
    return math.inf if exponent > math.log10(np.finfo(np.float64).max) else 10.0**exponent


def apex_equation() -> sp.Eq:
    """The condition that defines the apex.

    Returns:
        T = J/2, with J = (1+γ)^p times the integral of eta_min, in γ, L, T and level.
    """
    from theory.mse_gd import eta_crit_expr, eta_min_integral

    prefactor, integral = eta_min_integral().as_independent(sp.Integral)
    return sp.Eq(steps, sp.simplify(prefactor * steps / eta_crit_expr()) * integral)


def model_apex(
    loss: Loss,
    optimizer: str,
    *,
    steps: float,
    depth: int,
    level: float = 0.9,
    beta: float | None = None,
    delta: float | None = None,
) -> float:
    """The apex for any loss and optimizer of the model, at y = w₀ = 1.

    Args:
        loss: a convex loss with its minimum at 1.
        optimizer: "gd", "momentum" or "sign".
        steps: training budget T in optimizer steps.
        depth: number of layers L.
        level: fraction of the initial loss that counts as trained, in (0, 1).
        beta: momentum β; needed with "momentum".
        delta: terminal error δ; needed with "sign".

    Returns:
        γ_max; ``inf`` where the window never closes or γ_max exceeds float64, 0 where it is empty at every γ.

    Raises:
        InputError: an argument missing or out of range.
    """
    budget, layers, part = positive_number("steps", steps), positive_integer("depth", depth), checked_level(level)
    if optimizer == "sign":
        from theory.sign_descent import closing_gamma

        return closing_gamma(budget, layers, positive_number("delta", delta))
    if optimizer == "momentum":
        momentum = checked_beta(beta)
        budget *= (1.0 + momentum) / (1.0 - momentum)
    if loss == MSE:
        return apex(steps=budget, depth=layers, level=part)
    return _general_apex(loss, budget, layers, part)


def _general_apex(loss: Loss, budget: float, layers: int, level: float) -> float:
    # root of T · ratio(γ) = 1; the ratio falls from its lazy value as γ grows, for L ≥ 2
    from theory.general_loss import ratio_without_steps

    def open_at(log_gamma: float) -> bool:
        return budget * ratio_without_steps(loss, math.exp(log_gamma), layers, level) > 1.0

    if not open_at(-40.0):
        return 0.0
    if layers == 1:
        return math.inf
    low, high = -40.0, _LARGEST_GENERAL_LOG
    if open_at(high):
        # far out: 1/(ratio) = κ g₀/(2m) γ^m for L > 2, linear in ln γ for L = 2
        end = 1.0 / (budget * ratio_without_steps(loss, math.exp(high), layers, level))
        if layers > 2:
            log_apex = high - math.log(end) * layers / (layers - 2)
        else:
            pace = loss.numeric_curvature_at_minimum / (2.0 * budget * float(loss.pull_at_start.evalf(20)))
            log_apex = high + (1.0 - end) / pace
        return math.exp(log_apex) if log_apex < math.log(np.finfo(np.float64).max) else math.inf
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if open_at(middle) else (low, middle)
    return math.exp((low + high) / 2.0)
