"""The scaling symmetry in the target y, the initial weight w₀ and γ: every model is the default one in other units.

With f = (∏ w − w₀^L)/γ, a loss ℓ of minimum at f = y, and ω = w/w₀, s = f/y, ℓ̃(s) = ℓ(y s)/y²:

    s = (∏ ω − 1)/γ̃,   γ̃ = γ y/w₀^L,      Δw = −η ∂ℓ/∂w  ⇔  Δω = −η̃ ∂ℓ̃/∂ω,   η̃ = η y²/w₀².

So η(γ) = (w₀²/y²) η̃(γ y/w₀^L) for gradient descent and momentum. Sign descent sees no scale of the loss: η = w₀ η̃.
MSE is its own ℓ̃; cross-entropy is not, since σ(y) sets the label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import sympy as sp

from theory.boundaries import Arguments, Boundary, Limit
from theory.errors import InputError
from theory.quadrature import FloatArray
from theory.symbols import depth, gamma


@dataclass(frozen=True)
class Scaling:
    """Target and initial weight of a model.

    Args:
        target: y, the output at the loss's minimum; a positive number or SymPy expression.
        init_scale: w₀, the initial value of every weight; likewise.
        signed: whether the optimizer sees the gradient's sign only.
    """

    target: sp.Expr
    init_scale: sp.Expr
    signed: bool = False

    @property
    def strength(self) -> sp.Expr:
        """γ̃/γ = y/w₀^L."""
        return self.target / self.init_scale**depth

    @property
    def rate(self) -> sp.Expr:
        """η/η̃: w₀²/y², or w₀ for sign descent."""
        return self.init_scale if self.signed else self.init_scale**2 / self.target**2

    @property
    def is_default(self) -> bool:
        """Whether y = w₀ = 1."""
        return bool(self.target == 1 and self.init_scale == 1)

    def numbers(self, layers: int) -> tuple[float, float]:
        """γ̃/γ and η/η̃ in float64.

        Args:
            layers: number of layers L.

        Returns:
            Both factors.

        Raises:
            InputError: y or w₀ is a symbol, or the factors leave float64.
        """
        if self.target.free_symbols or self.init_scale.free_symbols:
            raise InputError("target, init_scale", (self.target, self.init_scale), "numbers for a numeric form")
        factors = float(self.strength.subs(depth, layers).evalf(20)), float(self.rate.evalf(20))
        if not all(math.isfinite(factor) and factor > 0 for factor in factors):
            raise InputError("init_scale", self.init_scale, f"such that y/w_0**{layers} fits into float64")
        return factors


def positive_quantity(field: str, given: object) -> sp.Expr:
    """Check a positive number or a positive SymPy expression.

    Args:
        field: name shown in the error.
        given: the value.

    Returns:
        The value as a SymPy expression; integral floats become integers.

    Raises:
        InputError: neither, not positive, or not finite.
    """
    if isinstance(given, sp.Expr):
        value = given
    elif isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
        value = sp.nsimplify(given) if float(given).is_integer() else sp.Float(given)
    else:
        raise InputError(field, given, "a positive number, or a SymPy expression that is positive")
    if not value.is_positive or (not value.free_symbols and not value.is_finite):
        raise InputError(field, given, "a positive number, or a SymPy expression that is positive")
    return value


def rescale(boundary: Boundary, scaling: Scaling) -> Boundary:
    """A boundary of the default model in the units of another one.

    Args:
        boundary: of the model with y = w₀ = 1 (and the loss ℓ̃).
        scaling: target and initial weight.

    Returns:
        η(γ) = (η/η̃) η̃(γ̃).
    """
    if scaling.is_default:
        return boundary
    inner = gamma * scaling.strength

    def placed(arguments: Arguments) -> tuple[Arguments, float]:
        strength, rate = scaling.numbers(arguments.depth)
        return replace(arguments, gamma=strength * arguments.gamma), rate

    def value(arguments: Arguments) -> FloatArray:
        there, rate = placed(arguments)
        return rate * boundary.value(there)

    def slope(arguments: Arguments) -> FloatArray:
        return boundary.slope(placed(arguments)[0])

    def limit(given: Limit, layers: int | None = None) -> Limit:
        own = inner if layers is None else inner.subs(depth, layers)
        factor = scaling.rate * (own / gamma) ** given.exponent
        correction = None if given.correction is None else given.correction.subs(gamma, own)
        return Limit(given.exponent, factor * given.coefficient.subs(gamma, own), given.condition, correction)

    return replace(
        boundary,
        expr=scaling.rate * boundary.expr.subs(gamma, inner),
        limits={regime: limit(given) for regime, given in boundary.limits.items()},
        special_limits={key: limit(given, key[1]) for key, given in boundary.special_limits.items()},
        exponent=lambda: boundary.local_exponent.subs(gamma, inner),
        value=value,
        slope=slope,
    )
