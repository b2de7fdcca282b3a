"""The derivation for sign descent: statements, expressions, and checks that iterate the map in exact arithmetic."""

from __future__ import annotations

import mpmath
import sympy as sp

from theory.boundaries import Boundary, Regime
from theory.derivation import Derivation, Step
from theory.general_derivation import _is_minimiser
from theory.losses import Loss
from theory.sharpness import minimiser
from theory.sign_descent import boundary
from theory.symbols import delta, depth, gamma, steps


def derivation(loss: Loss) -> Derivation:
    """The derivation, unrun.

    Args:
        loss: a convex loss with its minimum at 1; only the sign of its slope is used.

    Returns:
        All steps, in reading order.
    """
    low, high = boundary("eta_min"), boundary("eta_max")
    listed = [
        Step(
            "Minimiser", "The loss is least at one balanced weight.",
            r"w^*", minimiser(loss), lambda claimed: _is_minimiser(loss, claimed), "ℓ′ = 0 there, for symbolic L",
        ),
        Step(
            "eta_min", "T steps of η cover the way from 1 to the minimum, whatever the convex loss.",
            r"\eta_{\mathrm{min}}", low.expr, _arrives, "w = 1 + Tη has the output 1, L = 1…8, three γ, 30 digits",
        ),
        Step(
            "eta_max", "One step from the minimum makes the output 1 + δ: a larger η cannot end within δ.",
            r"\eta_{\mathrm{max}}", high.expr, _overshoots, "w* + η has the output 1 + δ, for symbolic L",
        ),
        *[_limit_step(edge, regime) for edge in (low, high) for regime in ("lazy", "rich")],
        Step(
            "The window does not close", "Its ratio falls from δT to this; δT/L when δ is small.",
            r"\lim_{\gamma\to\infty}\eta_{\mathrm{max}}/\eta_{\mathrm{min}}", steps * ((1 + delta) ** (1 / depth) - 1),
            _window, "both boundaries at γ = 10^400, L = 2…8",
        ),
    ]  # fmt: skip
    return Derivation(f"Scalar deep linear model, {loss.name}, sign descent", tuple(listed))


def _at(expression: sp.Expr, layers: int, strength: sp.Expr) -> mpmath.mpf:
    values = {steps: 50, delta: sp.Rational(1, 10), gamma: strength}
    return mpmath.mpf(sp.N(expression.subs(depth, layers).subs(values), 60))


@mpmath.workdps(50)
def _arrives(claimed: sp.Expr) -> bool:
    for layers in range(1, 9):
        for strength in (sp.Rational(1, 9), sp.Integer(4), sp.Integer(10) ** 6):
            weight = mpmath.mpf(1)
            for _ in range(50):
                weight += _at(claimed, layers, strength)
            if abs((weight**layers - 1) / mpmath.mpf(strength) - 1) > 1e-30:
                return False
    return True


def _overshoots(claimed: sp.Expr) -> bool:
    reached = sp.expand((1 + gamma) ** (1 / depth) + claimed) ** depth
    return bool(sp.simplify((sp.simplify(reached) - 1) / gamma - 1 - delta) == 0)


def _limit_step(edge: Boundary, regime: Regime) -> Step:
    limit = edge.limit(regime)
    # the correction is of order γ (lazy) or γ^(-1/L) at most (rich): far enough out, its square is below the tolerance
    end = sp.Integer(10) ** (-30 if regime == "lazy" else 400)

    @mpmath.workdps(50)
    def check(claimed: sp.Expr) -> bool:
        for layers in range(2, 9):
            ratio = _wide(claimed / edge.expr, layers, end)
            if abs(ratio - 1) > 1e-45:
                return False
        return True

    return Step(
        f"{edge.name}, {regime} limit",
        f"As gamma goes to {'0' if regime == 'lazy' else 'infinity'}, with the first correction.",
        rf"\eta_{{\mathrm{{{edge.name.removeprefix('eta_')}}}}}",
        limit.coefficient * gamma**limit.exponent * (1 + (limit.correction or 0)),
        check,
        "compared with the exact expression far out on the axis",
    )


def _wide(expression: sp.Expr, layers: int, strength: sp.Expr) -> mpmath.mpf:
    # 500 digits: 1 + γ and its roots are subtracted at γ = 10^-30 and 10^400
    values = {steps: 50, delta: sp.Rational(1, 10), gamma: strength}
    return mpmath.mpf(sp.N(expression.subs(depth, layers).subs(values), 60, maxn=2000))


@mpmath.workdps(50)
def _window(claimed: sp.Expr) -> bool:
    far = sp.Integer(10) ** 400
    ratio = boundary("eta_max").expr / boundary("eta_min").expr
    return all(abs(_wide(ratio / claimed, layers, far) - 1) < 1e-45 for layers in range(2, 9))
