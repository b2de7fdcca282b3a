"""Where divergence begins under gradient descent, for any convex loss and L ≥ 2: the boundary crisis at finite γ.

On the balanced line, with c = η/γ and f(w) = (w^L − 1)/γ, one step is

    g(w) = w − c φ(w),      φ(w) = w^{L−1} ℓ′(f(w)).

Let w* be the minimiser and m = max g over [0, w*]. For even L the map is odd and c w^{L−2} ℓ′(f(w)) grows with w for a
convex loss, so |g| ≤ |w| exactly up to where it is 2: orbits that start in [0, w*] stay in [−m, m] while
c m^{L−2} ℓ′(f(m)) ≤ 2, and above that an interval of starts moves away for ever. For odd L the way back from w < 0 is
w + c|w|^{L−1}|ℓ′|, convex, so the condition is g(g(m)) ≤ m (where g falls from the minimiser to m). Both are the one
statement **g(g(m)) = m, g(m) < 0**. The critical point w_c of m = g(w_c) obeys c = 1/φ′(w_c), so one bisection over
f_c = f(w_c) finds the edge. For MSE it returns the number r(L) of ``theory.crisis`` at every γ.

Starts anywhere in [0, w*] are covered, w = 1 among them. A loss much steeper than a square far below its minimum (cosh,
say) throws the starts near w = 0 out long before w = 1 at small γ; there the edge is a lower bound on that of w = 1.

For cross-entropy |ℓ′| < 1: at small γ, ℓ′ is a step, m = 1 + cσ, and the edge is η = c_L γ; at large γ, in units of
γ^{1/L}, the map is z − C z^{L−1} ℓ′(z^L), free of γ: η = C_L γ^{2/L}.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from theory.errors import InputError
from theory.log_table import LogTable
from theory.losses import CROSS_ENTROPY, Loss
from theory.quadrature import FloatArray
from theory.symbols import depth as depth_symbol

_HALVINGS = 90
_FARTHEST = 1e300  # output at which the search starts when 1/γ overflows
_RICH = 1e14  # a γ at which the rich coefficient is reached: the map's terms in 1/γ are below 1e-14
_LAZY = 1e-9  # a γ at which the lazy coefficient is reached


def _output(shift: FloatArray, gamma: FloatArray, depth: int) -> FloatArray:
    # f at w = 1 + shift, without cancellation near w = 1
    positive = np.expm1(depth * np.log1p(np.maximum(shift, -0.5))) / gamma
    with np.errstate(over="ignore"):
        return np.where(shift > -0.5, positive, ((1.0 + shift) ** depth - 1.0) / gamma)


def escape_rate(loss: Loss, gamma: FloatArray, depth: int) -> FloatArray:
    """The η of the crisis at each γ, by bisection.

    Args:
        loss: a convex loss with its minimum at 1.
        gamma: feature-learning strength, any shape.
        depth: number of layers L ≥ 2.

    Returns:
        η, same shape; about 1e-13 relative.

    Raises:
        InputError: the loss gives no finite edge, because its slope does not evaluate in float64.
    """

    def push(shift: FloatArray) -> FloatArray:
        return (1.0 + shift) ** (depth - 1) * loss.numeric_slope(_output(shift, gamma, depth))

    def escapes(place: FloatArray) -> tuple[NDArray[np.bool_], FloatArray]:
        shift = np.expm1(np.log1p(np.maximum(gamma * place, -1.0 + 1e-16)) / depth)
        weight = 1.0 + shift
        slope, bend = loss.numeric_slope(place), loss.numeric_curvature(place)
        rise = (depth - 1) * weight ** (depth - 2) * slope + depth * weight ** (2 * depth - 2) * bend / gamma
        rate = 1.0 / np.where(rise > 0, rise, np.nan)
        top = shift - rate * push(shift)
        across = top - rate * push(top)
        back = across - rate * push(across)
        # φ′ ≤ 0 is beyond c = ∞: as good as escaped
        return ~(rise > 0) | ((across < -1.0) & ~(back <= top)), rate

    # in arsinh f: the critical point lies near ln γ for bounded slopes, near −1/γ for others, and γ may be tiny
    low, high = -np.arcsinh(np.minimum(1.0 / gamma, _FARTHEST)), np.arcsinh(np.ones_like(gamma))
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(_HALVINGS):
            middle = (low + high) / 2.0
            out, _ = escapes(np.sinh(middle))
            low, high = np.where(out, middle, low), np.where(out, high, middle)
        found = gamma * escapes(np.sinh(high))[1]
    if not np.isfinite(found).all():
        raise InputError("loss", str(loss.excess), "such that its slope can be evaluated in float64 at large outputs")
    return found


@cache
def table(loss: Loss, depth: int) -> LogTable:
    """γ ↦ eta_max for one loss and depth.

    Args:
        loss: a convex loss with its minimum at 1.
        depth: number of layers L ≥ 2.

    Returns:
        The table of η/(γ (1+γ)^{2/L−1}), which is bounded for losses of bounded slope; built once, filled on demand.
    """
    return LogTable(lambda gamma: escape_rate(loss, gamma, depth) / (gamma * (1.0 + gamma) ** (2.0 / depth - 1.0)))


@cache
def lazy_coefficient(layers: int) -> float:
    """c_L: eta_max → c_L γ for cross-entropy, γ → 0.

    Args:
        layers: L ≥ 2.

    Returns:
        The coefficient: from ``theory.band`` where that is installed, else from the map at a very small γ.
    """
    try:
        from theory.band import band_threshold
    except ImportError:
        return float(escape_rate(CROSS_ENTROPY, np.array([_LAZY]), layers)[0] / _LAZY)
    return float(band_threshold(layers))


@cache
def rich_coefficient(loss: Loss, layers: int) -> float:
    """C_L: eta_max → C_L γ^{2/L}, γ → ∞.

    Args:
        loss: a convex loss with its minimum at 1.
        layers: L ≥ 2.

    Returns:
        The coefficient, from the map at a very large γ.
    """
    return float(escape_rate(loss, np.array([_RICH]), layers)[0] / _RICH ** (2.0 / layers))


class LazyBand(sp.Function):
    """c_L as a SymPy function of L: a number at every integer L ≥ 2 under ``evalf``."""

    nargs = (1,)

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        (layers,) = self.args
        return sp.Float(lazy_coefficient(int(layers))) if layers.is_Integer and layers >= 2 else None

    def _eval_is_positive(self) -> bool:
        return True

    def _latex(self, printer: sp.printing.latex.LatexPrinter, exp: str | None = None) -> str:
        return rf"c_{{{printer.doprint(self.args[0])}}}" + ("" if exp is None else f"^{{{exp}}}")


@cache
def functions(loss: Loss) -> tuple[type[sp.Function], type[sp.Function]]:
    """eta_max(γ, L) and its rich coefficient C(L) as SymPy functions, evaluated by ``evalf`` to float64.

    Args:
        loss: a convex loss with its minimum at 1.

    Returns:
        Both function classes.
    """

    class EtaMax(sp.Function):
        nargs = (2,)

        def _eval_evalf(self, prec: int) -> sp.Expr | None:
            strength, layers = self.args[0].evalf(20), self.args[1]
            if not (strength.is_Float and layers.is_Integer and layers >= 2):
                return None
            return sp.Float(float(escape_rate(loss, np.array([float(strength)]), int(layers))[0]))

        def _eval_is_positive(self) -> bool:
            return True

    class RichBand(sp.Function):
        nargs = (1,)

        def _eval_evalf(self, prec: int) -> sp.Expr | None:
            (layers,) = self.args
            return sp.Float(rich_coefficient(loss, int(layers))) if layers.is_Integer and layers >= 2 else None

        def _eval_is_positive(self) -> bool:
            return True

    EtaMax.__name__, RichBand.__name__ = "eta_max", "C_rich"
    return EtaMax, RichBand


def rich_limit(loss: Loss) -> tuple[sp.Expr, sp.Expr]:
    """Exponent and coefficient of eta_max as γ → ∞.

    Args:
        loss: a convex loss with its minimum at 1.

    Returns:
        2/L and C(L).
    """
    return 2 / depth_symbol, functions(loss)[1](depth_symbol)
