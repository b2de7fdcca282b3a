"""Heavy-ball momentum, v ← βv + g, w ← w − ηv, β in [0, 1), from v = 0.

    eta_crit = 2(1+β)/λ* = (1+β) times that of gradient descent         exact
    eta_min  = (1−β) times that of gradient descent: the velocity of slow motion is g/(1−β)
                                                                 relative error O(1/((1−β)T))

There is no eta_max here. In units of the minimiser, z = w/(1+γ)^{1/L}, the MSE step is z ← z − C q,
q ← βq + z^{L−1}(z^L − 1), so γ is in the start only; but the map is planar, its first escape depends on that start, and
for β near 1 a ball that rolls in from small z (rich starts) can escape below eta_crit. No threshold is derived.

The averaging form, v ← βv + (1−β)g, has 1/(1−β) times these rates.
"""

from __future__ import annotations

from functools import cache

import sympy as sp

from theory.boundaries import Arguments, Boundary, Limit
from theory.errors import InputError
from theory.losses import Loss
from theory.quadrature import FloatArray
from theory.symbols import beta

#: why eta_max is refused
NO_ESCAPE = "eta_min or eta_crit: where heavy-ball iterates escape depends on the start, and is not derived"


def _scaled(base: Boundary, symbolic: sp.Expr, name: str) -> Boundary:
    # a boundary of gradient descent times a factor that depends on β only
    def value(arguments: Arguments) -> FloatArray:
        factor = 1.0 - arguments.beta if name == "eta_min" else 1.0 + arguments.beta
        return factor * base.value(arguments)

    def scale(limit: Limit) -> Limit:
        return Limit(limit.exponent, symbolic * limit.coefficient, limit.condition, limit.correction)

    return Boundary(
        name,
        symbolic * base.expr,
        {regime: scale(limit) for regime, limit in base.limits.items()},
        lambda: base.local_exponent,
        value,
        base.slope,
        special_limits={key: scale(limit) for key, limit in base.special_limits.items()},
        needs_steps=base.needs_steps,
        needs_beta=True,
    )


@cache
def boundary(loss: Loss, name: str) -> Boundary:
    """One boundary of one loss under the heavy ball.

    Args:
        loss: a convex loss with its minimum at 1.
        name: "eta_min", "eta_crit" or "eta_max".

    Returns:
        The boundary; numeric forms need ``beta``.

    Raises:
        InputError: eta_max, which has not been derived.
    """
    from theory.models import gradient_descent_boundary

    if name == "eta_max":
        raise InputError("boundary", name, NO_ESCAPE)
    return _scaled(gradient_descent_boundary(loss, name), 1 - beta if name == "eta_min" else 1 + beta, name)
