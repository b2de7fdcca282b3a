"""Boundaries of the γ–η plane: exact expression, local exponent, limits, LaTeX and a fast numeric form.

For MSE and gradient descent on the L separate weights (η carries no factor of L):

    eta_crit = 2/λ* = (2/L) γ² (1+γ)^{2/L−2}                     the minimum is linearly stable below it
    eta_min  = (γ²/(LT)) ∫₀^f (1+γs)^{2/L−2}/(1−s) ds            gradient flow reaches level·L₀ at step T, f = 1−√level
    eta_max  = r(L) eta_crit                                     first escape of the map, see ``theory.crisis``

Source: the exponents are those of Table 1 of arXiv:2410.04642; the exact forms are derived in ``theory.mse_gd``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import sympy as sp
from numpy.typing import ArrayLike

from theory.errors import InputError, one_of, positive_array, positive_integer, positive_number
from theory.quadrature import FloatArray
from theory.symbols import depth as depth_symbol

BOUNDARIES = ("eta_min", "eta_crit", "eta_max")
REGIMES = ("lazy", "rich")
Regime = Literal["lazy", "rich"]


@dataclass(frozen=True)
class Limit:
    """Leading behaviour coefficient · γ^exponent of a boundary, as γ → 0 (lazy) or γ → ∞ (rich).

    Args:
        exponent: power of γ, in L.
        coefficient: what multiplies the power; in L and, for eta_min, T and level.
        condition: the depths for which this holds.
        correction: first relative correction: η = coefficient · γ^exponent · (1 + correction + …); ``None`` where none
            is derived.
    """

    exponent: sp.Expr
    coefficient: sp.Expr
    condition: sp.Basic = sp.true
    correction: sp.Expr | None = None


@dataclass(frozen=True)
class Arguments:
    """Checked arguments of a numeric boundary: γ flattened, L, T, level, β and δ (``nan`` where none is needed)."""

    gamma: FloatArray
    depth: int
    steps: float
    level: float
    beta: float = float("nan")
    delta: float = float("nan")


@dataclass(frozen=True)
class Boundary:
    """One boundary of the γ–η plane.

    Args:
        name: "eta_min", "eta_crit" or "eta_max".
        expr: the boundary's η, exactly, in the symbols gamma, L and, for eta_min, T and level.
        limits: the lazy and the rich limit for the depths named in their conditions.
        special_limits: limits of single depths that these conditions leave out, by (regime, depth).
        value: numeric form of ``expr``.
        slope: numeric form of ``local_exponent``.
        exponent: d ln η / d ln γ, exactly.
        needs_steps: whether the boundary depends on T (and on the level).
        needs_beta: whether the boundary depends on the momentum β.
        needs_delta: whether the boundary depends on the terminal error δ.
        undefined: why there is no numeric form; empty where there is one.
    """

    name: str
    expr: sp.Expr
    limits: Mapping[str, Limit]
    exponent: Callable[[], sp.Expr] = field(repr=False)
    value: Callable[[Arguments], FloatArray] = field(repr=False)
    slope: Callable[[Arguments], FloatArray] = field(repr=False)
    special_limits: Mapping[tuple[str, int], Limit] = field(default_factory=dict, repr=False)
    needs_steps: bool = False
    needs_beta: bool = False
    needs_delta: bool = False
    undefined: str = ""

    @cached_property
    def local_exponent(self) -> sp.Expr:
        """Local exponent d ln η / d ln γ, exactly, in the symbols of ``expr``."""
        return self.exponent()

    def limit(self, regime: Regime, depth: int | None = None) -> Limit:
        """Leading power of γ and its coefficient.

        Args:
            regime: "lazy" (γ → 0) or "rich" (γ → ∞).
            depth: a number of layers; left out, the general-L statement with the condition under which it holds.
                The rich limit of eta_min is the one that has exceptions: at L = 2 the "coefficient" still contains
                ln γ (there is no pure power), and at L = 1 there is no rich regime.

        Returns:
            The limit; for a given ``depth``, with that L put in.

        Raises:
            InputError: unknown regime, one for which no limit is derived, or a depth that is not an integer >= 1.
        """
        one_of("regime", regime, REGIMES)
        if regime not in self.limits:
            raise InputError("regime", regime, f"one whose limit of {self.name} is derived: {', '.join(self.limits)}")
        if depth is None:
            return self.limits[regime]
        layers = positive_integer("depth", depth)
        if (regime, layers) in self.special_limits:
            return self.special_limits[regime, layers]
        general = self.limits[regime]
        correction = None if general.correction is None else general.correction.subs(depth_symbol, layers)
        placed = [part.subs(depth_symbol, layers) for part in (general.exponent, general.coefficient)]
        return Limit(placed[0], placed[1], correction=correction)

    def numeric(
        self,
        *,
        gamma: ArrayLike,
        depth: int,
        steps: float | None = None,
        level: float = 0.9,
        beta: float | None = None,
        delta: float | None = None,
    ) -> FloatArray:
        """The boundary's learning rate on an array of γ.

        Args:
            gamma: feature-learning strength, positive, any shape.
            depth: number of layers L.
            steps: training budget T in optimizer steps; needed by eta_min, without effect on the others.
            level: fraction of the initial loss that counts as trained, in (0, 1); as ``steps``.
            beta: momentum β in [0, 1); needed with momentum, without effect on the others.
            delta: terminal error |f/f* − 1|; needed by eta_max of sign descent, without effect on the others.

        Returns:
            η (one rate for each of the L weights, no factor of L in it), float64, in the shape of ``gamma``.

        Raises:
            InputError: γ not positive and finite, depth not an integer >= 1, steps missing or not positive, level
                outside (0, 1), beta missing or outside [0, 1), delta missing or not positive.
        """
        return self._evaluate(self.value, gamma, depth, steps, level, beta, delta)

    def numeric_exponent(
        self,
        *,
        gamma: ArrayLike,
        depth: int,
        steps: float | None = None,
        level: float = 0.9,
        beta: float | None = None,
        delta: float | None = None,
    ) -> FloatArray:
        """The boundary's local exponent d ln η / d ln γ on an array of γ.

        Args:
            gamma: feature-learning strength, positive, any shape.
            depth: number of layers L.
            steps: as for ``numeric`` (the exponent does not depend on it).
            level: as for ``numeric``.
            beta: as for ``numeric``.
            delta: as for ``numeric``.

        Returns:
            The dimensionless slope, float64, in the shape of ``gamma``.

        Raises:
            InputError: as for ``numeric``.
        """
        return self._evaluate(self.slope, gamma, depth, steps, level, beta, delta)

    def latex(self) -> str:
        r"""The boundary as a LaTeX equation, without delimiters.

        Returns:
            For example ``\eta_{\mathrm{crit}} = …``.
        """
        return rf"\eta_{{\mathrm{{{self.name.removeprefix('eta_')}}}}} = {sp.latex(self.expr)}"

    def _evaluate(
        self,
        function: Callable[[Arguments], FloatArray],
        gamma: ArrayLike,
        depth: int,
        steps: float | None,
        level: float,
        beta: float | None,
        delta: float | None,
    ) -> FloatArray:
        if self.undefined:
            raise InputError("boundary", self.name, self.undefined)
        strengths = positive_array("gamma", gamma)
        layers = positive_integer("depth", depth)
        if steps is None and self.needs_steps:
            raise InputError("steps", steps, "given for eta_min: a positive number of optimizer steps")
        budget = float("nan") if steps is None else positive_number("steps", steps)
        momentum, error = float("nan"), float("nan")
        if self.needs_beta or beta is not None:
            momentum = checked_beta(beta)
        if self.needs_delta or delta is not None:
            error = positive_number("delta", delta)
        arguments = Arguments(strengths.ravel(), layers, budget, checked_level(level), momentum, error)
        return function(arguments).reshape(strengths.shape)[()]


def checked_level(level: float) -> float:
    """Check a loss level.

    Args:
        level: fraction of the initial loss.

    Returns:
        The value as a Python ``float``.

    Raises:
        InputError: not a number strictly between 0 and 1.
    """
    value = positive_number("level", level)
    if value >= 1:
        raise InputError("level", value, "a number strictly between 0 and 1")
    return value


def checked_beta(beta: float | None) -> float:
    """Check a momentum.

    Args:
        beta: β of v ← βv + g.

    Returns:
        The value as a Python ``float``.

    Raises:
        InputError: missing, or not a number in [0, 1).
    """
    if beta is not None and not isinstance(beta, bool) and isinstance(beta, int | float) and 0 <= beta < 1:
        return float(beta)
    raise InputError("beta", beta, "a momentum in [0, 1)")


def log_slope(expression: sp.Expr, variable: sp.Symbol) -> sp.Expr:
    """Logarithmic derivative d ln(expression) / d ln(variable), simplified.

    Args:
        expression: positive.
        variable: positive symbol.

    Returns:
        The local exponent.
    """
    return sp.factor(sp.simplify(variable * sp.diff(sp.log(expression), variable)))


def power_limit(expression: sp.Expr, variable: sp.Symbol, regime: Regime) -> Limit:
    """Leading power of an expression and its coefficient, from the limits of its local exponent and of the quotient.

    Args:
        expression: positive, algebraic in ``variable``.
        variable: positive symbol.
        regime: "lazy" (variable → 0) or "rich" (variable → ∞).

    Returns:
        The limit, valid for every L.
    """
    end = sp.S.Zero if regime == "lazy" else sp.oo
    exponent = sp.simplify(sp.limit(log_slope(expression, variable), variable, end))
    quotient = expression / variable**exponent
    if regime == "rich":
        # with y = 1/γ and 1 + γ = (1 + y)/y the symbolic powers of γ cancel before the limit is taken
        y = sp.Symbol("y", positive=True)
        quotient = quotient.subs(variable, 1 / y).subs(1 + 1 / y, (1 + y) / y)
        quotient, variable = sp.expand_power_base(quotient), y
    return Limit(exponent, sp.simplify(sp.limit(sp.simplify(quotient), variable, 0)))


def crit_value(arguments: Arguments) -> FloatArray:
    """eta_crit = (2/L)(γ/(1+γ))² (1+γ)^{2/L} for MSE and gradient descent, in a form that does not overflow.

    Args:
        arguments: checked arguments.

    Returns:
        η, same shape as γ.
    """
    one_plus = 1.0 + arguments.gamma
    return 2.0 / arguments.depth * (arguments.gamma / one_plus) ** 2 * one_plus ** (2.0 / arguments.depth)


def crit_slope(arguments: Arguments) -> FloatArray:
    """Local exponent 2(L+γ)/(L(1+γ)) of eta_crit, written as 2 − (2−2/L) γ/(1+γ).

    Args:
        arguments: checked arguments.

    Returns:
        d ln η / d ln γ, same shape as γ.
    """
    return 2.0 - (2.0 - 2.0 / arguments.depth) * (arguments.gamma / (1.0 + arguments.gamma))
