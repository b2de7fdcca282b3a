"""Losses of the scalar model, as the excess over their minimum, in terms of the output f.

    MSE            ℓ(f) = (f − 1)²/2
    cross-entropy  ℓ(f) = ln(1 + eᶠ) − σ(1) f − [ln(1 + e) − σ(1)]      soft label p₁ = σ(1), σ(f) = 1/(1 + e⁻ᶠ)

A loss is one expression; its slope ℓ′, curvature ℓ″ and level sets are computed from it. All losses here have their
minimum at f = 1; one with its minimum at another f* > 0 is brought there by ``canonical_loss``: ℓ(f* f)/f*², which
has the same curvature at the minimum (see ``theory.scaling``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import NDArray

from theory.errors import InputError
from theory.symbols import f, level

_BISECTIONS = 130  # of [0, 1] for the output at a level: to 40 digits
_WIDE = 30.0  # beyond this |f| the logistic function is evaluated without hyperbolic functions
_SATURATED = 300.0  # an output at which exponentials still fit, and sigmoids are flat
_DIGITS = 50  # precision at which a user's loss is examined
_TOLERANCE = mpmath.mpf(10) ** -20


@dataclass(frozen=True)
class Loss:
    """A loss ℓ(f) of the centred output, with minimum value zero at f = 1.

    Args:
        name: the name used everywhere ("mse", "cross-entropy", "user").
        excess: ℓ(f) minus its minimum, a SymPy expression in the symbol ``f``.
    """

    name: str
    excess: sp.Expr

    @cached_property
    def slope(self) -> sp.Expr:
        """ℓ′(f)."""
        return sp.diff(self.excess, f)

    @cached_property
    def curvature(self) -> sp.Expr:
        """ℓ″(f)."""
        return sp.diff(self.excess, f, 2)

    @cached_property
    def minimum(self) -> sp.Expr:
        """The output at which ℓ′ vanishes, found from the slope where SymPy can solve it; 1 by convention."""
        if self.slope.is_polynomial(f):
            roots = [root for root in sp.solve(self.slope, f) if root == 1]
            return roots[0] if roots else sp.S.One
        return sp.S.One

    @cached_property
    def curvature_at_minimum(self) -> sp.Expr:
        """ℓ″(1)."""
        return sp.factor(self.curvature.subs(f, self.minimum).rewrite(sp.exp))

    @cached_property
    def numeric_curvature_at_minimum(self) -> float:
        """ℓ″(1) in float64."""
        return float(self.curvature_at_minimum.evalf(20))

    @cached_property
    def pull_at_start(self) -> sp.Expr:
        """|ℓ′(0)| = −ℓ′(0)."""
        return sp.factor(-self.slope.subs(f, 0))

    @cached_property
    def output_at_level(self) -> sp.Expr:
        """The output at which the loss has first fallen to ``level`` times ℓ(0); closed for MSE, else a function."""
        if self != MSE:
            return output_function(self)(level)
        roots = sp.solve(self.excess - level * self.excess.subs(f, 0), f)
        (first,) = [root for root in roots if root.subs(level, 1) == 0]
        return first

    def numeric_slope(self, output: NDArray[np.float64]) -> NDArray[np.float64]:
        """ℓ′ in float64.

        Args:
            output: f, any shape.

        Returns:
            ℓ′(f), same shape; for MSE and cross-entropy with full relative accuracy at the minimum.
        """
        if self == MSE:
            return output - 1.0
        if self == CROSS_ENTROPY:
            # σ(f) − σ(1) = sinh((f−1)/2) / (2 cosh(1/2) cosh(f/2)): nothing cancels at f = 1
            inner = np.clip(output, -_WIDE, _WIDE)
            near = np.sinh((inner - 1.0) / 2.0) / (2.0 * np.cosh(0.5) * np.cosh(inner / 2.0))
            tail = np.exp(-np.minimum(np.abs(output), 700.0))
            label = float(1.0 / (1.0 + np.exp(-1.0)))
            far = np.where(output > 0, (1.0 - label) - tail, tail - label)
            return np.where(np.abs(output) < _WIDE, near, far)
        return _evaluated(self.slope, output, saturated=True)

    def numeric_curvature(self, output: NDArray[np.float64]) -> NDArray[np.float64]:
        """ℓ″ in float64.

        Args:
            output: f, any shape.

        Returns:
            ℓ″(f), same shape.
        """
        if self == MSE:
            return np.ones_like(output)
        if self == CROSS_ENTROPY:
            tail = np.exp(-np.minimum(np.abs(output), 700.0))
            return tail / (1.0 + tail) ** 2
        return _evaluated(self.curvature, output, saturated=False)


@cache
def _compiled(expression: sp.Expr) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    compiled: Callable[[NDArray[np.float64]], NDArray[np.float64]] = sp.lambdify(f, expression, "numpy")
    return compiled


def _evaluated(expression: sp.Expr, output: NDArray[np.float64], *, saturated: bool) -> NDArray[np.float64]:
    # ∞/∞ far out is how e^f/(e^f + 1) ends in float64: there the slope keeps its last value, the curvature is zero
    with np.errstate(all="ignore"):
        found = np.asarray(_compiled(expression)(output), dtype=np.float64) + np.zeros_like(output)
        lost = np.isnan(found) & ~np.isnan(output)
        if lost.any():
            edge = _compiled(expression)(np.copysign(_SATURATED, output[lost])) if saturated else 0.0
            found[lost] = edge
    return found


@cache
def exact_output(loss: Loss, part: float | mpmath.mpf) -> mpmath.mpf:
    """The output at which the loss first equals ``part`` times its start, to about 38 digits, by bisection on [0, 1].

    Args:
        loss: the loss; it falls from f = 0 to f = 1.
        part: in (0, 1).

    Returns:
        f, in (0, 1).
    """
    with mpmath.workdps(_DIGITS):
        if loss == MSE:
            return 1 - mpmath.sqrt(part)
        excess = sp.lambdify(f, loss.excess, "mpmath")
        goal, low, high = excess(mpmath.mpf(0)) * part, mpmath.mpf(0), mpmath.mpf(1)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > goal else (low, middle)
        return (low + high) / 2


@cache
def output_function(loss: Loss) -> type[sp.Function]:
    """The inverse of the loss as a SymPy function of the level: evaluated by ``evalf``, left alone otherwise.

    Args:
        loss: the loss.

    Returns:
        A function class of one argument.
    """

    class OutputAtLevel(sp.Function):
        nargs = (1,)

        def _eval_evalf(self, prec: int) -> sp.Expr | None:
            part = self.args[0].evalf(40)
            return sp.Float(exact_output(loss, mpmath.mpf(part)), precision=min(prec, 120)) if part.is_Number else None

        def _eval_is_positive(self) -> bool:
            return True

    OutputAtLevel.__name__ = "f_T"
    return OutputAtLevel


MSE = Loss("mse", (f - 1) ** 2 / 2)

_LABEL = 1 / (1 + sp.exp(-1))
CROSS_ENTROPY = Loss("cross-entropy", sp.log(1 + sp.exp(f)) - _LABEL * f - (sp.log(1 + sp.E) - _LABEL))

#: losses with a name; any other convex loss is given as an expression
LOSSES = {loss.name: loss for loss in (MSE, CROSS_ENTROPY)}


def cross_entropy(at: sp.Expr) -> sp.Expr:
    """Cross-entropy with the soft label σ(y), the loss whose minimum lies at the output y.

    Args:
        at: y.

    Returns:
        ℓ(f), not shifted to a minimum of zero.
    """
    return sp.log(1 + sp.exp(f)) - f / (1 + sp.exp(-at))


def canonical_loss(given: sp.Expr, name: str = "user") -> tuple[Loss, sp.Expr]:
    """Check a convex loss given as an expression, and bring its minimum to f = 1, its least value to 0.

    Args:
        given: ℓ(f), a SymPy expression in one symbol, of whatever name.
        name: the loss's name.

    Returns:
        ℓ(f* f)/f*² − its minimum, and f*.

    Raises:
        InputError: not an expression of one symbol; no minimum at f > 0, where the network can go from f = 0; not
            twice differentiable or without positive curvature there; not falling and convex from the start to there.
    """
    if not isinstance(given, sp.Expr) or len(given.free_symbols) != 1:
        raise InputError("loss", given, "a SymPy expression in exactly one symbol, the output f")
    (symbol,) = given.free_symbols
    energy = given.subs(symbol, f)
    if energy.has(sp.zoo, sp.nan, sp.I):
        raise InputError("loss", given, "a real expression")
    place = _place_of_minimum(given, energy)
    curvature = sp.diff(energy, f, 2)
    at_place = _real_value(curvature, place)
    if at_place is None:
        raise InputError("loss", given, f"twice differentiable at its minimum f = {sp.N(place, 6)}")
    if at_place <= _TOLERANCE:
        raise InputError("loss", given, f"of positive curvature at its minimum f = {sp.N(place, 6)}")
    for fraction in (0, 0.1, 0.25, 0.5, 0.75, 0.9):
        bend = _real_value(curvature, place * sp.Rational(str(fraction)))
        fall = _real_value(sp.diff(energy, f), place * sp.Rational(str(fraction)))
        if bend is None or fall is None or bend < -_TOLERANCE or fall >= 0:
            raise InputError("loss", given, f"convex and falling from f = 0 to its minimum f = {sp.N(place, 6)}")
    shifted = (energy.subs(f, place * f) - energy.subs(f, place)) / place**2
    return Loss(name, shifted), place


def _real_value(expression: sp.Expr, at: sp.Expr) -> mpmath.mpf | None:
    value = sp.N(expression.subs(f, at), _DIGITS)
    return mpmath.mpf(value) if value.is_Float or value.is_Integer or value.is_Rational else None


def _place_of_minimum(given: sp.Expr, energy: sp.Expr) -> sp.Expr:
    # the zero of ℓ′ at f > 0: exactly where SymPy finds it, else to 50 digits
    slope = sp.diff(energy, f)
    first = _real_value(slope, sp.S.Zero)
    if first is None:
        raise InputError("loss", given, "differentiable at f = 0, where training starts")
    if first >= 0:
        raise InputError("loss", given, "falling at f = 0, so that its minimum lies at an output above 0")
    high = sp.S.One
    while (value := _real_value(slope, high)) is not None and value < 0 and high < 10**6:
        high *= 2
    if value is None or value < 0:
        raise InputError("loss", given, "a loss with a minimum: the slope must change sign at some f in (0, 10^6)")
    with mpmath.workdps(_DIGITS):
        compiled = sp.lambdify(f, slope, "mpmath")
        low, top = mpmath.mpf(0), mpmath.mpf(int(high))
        for _ in range(_BISECTIONS + 60):
            middle = (low + top) / 2
            low, top = (middle, top) if compiled(middle) < 0 else (low, middle)
        simple = sp.nsimplify(sp.Float((low + top) / 2, 40), rational=True, tolerance=1e-30)
        return simple if simple.q < 10**6 else sp.Float((low + top) / 2, 40)
