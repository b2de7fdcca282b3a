"""Where the unstable band ends: the boundary crisis of gradient descent on the balanced line.

In units of the minimiser, z = w/(1+γ)^{1/L}, gradient descent on the MSE is the one-parameter map

    g(z) = z − C z^{L−1}(z^L − 1),      C = (2/L) η/eta_crit,

at every γ. For L ≥ 2 it has exactly one orbit p < 0 < q of period 2 around the origin (for odd L, q/|p| = ρ > 1 gives
|p|^L = (ρ^{L−1}+1)/(ρ^{2L−1}−1), which falls as ρ grows, so one ρ belongs to each C; for even L, |p| = q). The interval
[p, q] is mapped into itself as long as the local maximum at the critical point z_c > 0 does not rise above q:

* on [0, q] the least value is g(q) = p and the greatest is g(z_c); on [p, 0], for odd L, the map lies above the
  diagonal and at or below g(p) = q (for even L it is odd, and the half-line z < 0 mirrors the other);
* a point outside [p, q] moves away from it for ever.

So the orbit of every start inside [p, q] stays bounded up to the C where **g(z_c) = q**, that is where the critical
value lies on the orbit of period 2: g(g(g(z_c))) = g(z_c) with g(g(z_c)) < 0. Above it an interval of starts around z_c
escapes. That C is the boundary crisis; it depends on L alone, and so does r(L) = eta_max/eta_crit = C L/2.

This bounds escape only: for odd L, z = 0 attracts from the left, and below the crisis orbits can end there, bounded and
untrained. Above it, the set of C at which one given start escapes is fractal.
"""

from __future__ import annotations

from functools import cache

import mpmath
import sympy as sp

from theory.errors import positive_integer
from theory.symbols import C, u, z

_DIGITS = 40  # working precision; differences of powers of numbers near 1 lose a few digits at large L
_HALVINGS = 140  # 2^-140 is below 10^-40


def _escapes(critical: mpmath.mpf, layers: int) -> tuple[bool, mpmath.mpf]:
    # whether the critical value lies beyond the orbit of period 2, and the C for which `critical` is z_c
    strength = 1 / ((2 * layers - 1) * critical ** (2 * layers - 2) - (layers - 1) * critical ** (layers - 2))

    def image(at: mpmath.mpf) -> mpmath.mpf:
        return at - strength * at ** (layers - 1) * (at**layers - 1)

    top = image(critical)
    across = image(top)
    # between the last zero of g and q the second iterate lies below the diagonal, beyond q above it
    return across < 0 and image(across) > top, strength


@cache
def _crisis(layers: int) -> mpmath.mpf:
    # r(L) for an integer L >= 2, to about 35 digits
    with mpmath.workdps(_DIGITS):
        # C falls from infinity to 1/L as its critical point z_c goes from `low` to 1
        low = (mpmath.mpf(layers - 1) / (2 * layers - 1)) ** (mpmath.mpf(1) / layers)
        high = mpmath.mpf(1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if _escapes(middle, layers)[0]:
                low = middle
            else:
                high = middle
        return _escapes(high, layers)[1] * layers / 2


def crisis_ratio(depth: int) -> float:
    """r(L) = eta_max/eta_crit: the boundary crisis of the map g, in units of the stability edge.

    Args:
        depth: number of layers L; 1 is the linear map, whose iterates diverge as soon as the minimum is unstable.

    Returns:
        1 for L = 1, 2 for L = 2, 2.150 for L = 3, and so on; dimensionless, accurate to float64.

    Raises:
        InputError: ``depth`` is not an integer >= 1.
    """
    layers = positive_integer("depth", depth)
    return float(layers) if layers <= 2 else float(_crisis(layers))


class CrisisRatio(sp.Function):
    """The number r(L) = eta_max/eta_crit as a SymPy function: exact at L = 1 and 2, a number at every other integer."""

    nargs = (1,)

    @classmethod
    def eval(cls, layers: sp.Expr) -> sp.Expr | None:
        """Exact values: r(1) = 1 (linear map) and r(2) = 2 (see ``two_layer_crisis``).

        Args:
            layers: the argument L.

        Returns:
            The value where it is known exactly, else ``None``: left unevaluated.
        """
        return layers if layers in (1, 2) else None

    def _eval_evalf(self, prec: int) -> sp.Expr | None:
        (layers,) = self.args
        if not (layers.is_Integer and layers.is_positive):
            return None
        return sp.Float(_crisis(int(layers)), precision=min(prec, 110))

    def _eval_is_positive(self) -> bool:
        return True

    def _sympystr(self, printer: sp.StrPrinter) -> str:
        return f"r({printer.doprint(self.args[0])})"

    def _latex(self, printer: sp.printing.latex.LatexPrinter, exp: str | None = None) -> str:
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"r_{{{printer.doprint(self.args[0])}}}{power}"


def two_layer_crisis() -> tuple[sp.Expr, sp.Expr]:
    """The crisis of two layers, solved exactly: both sides of g(z_c)² = q², as functions of C.

    For L = 2 the map is odd, so q obeys g(q) = −q; with u = z² both z_c² and q² are roots of linear equations.

    Returns:
        g(z_c)² and q²; they are equal at C = r(2), and nowhere else on C > 0.
    """
    image = z - C * z * (z**2 - 1)
    (critical,) = sp.solve(sp.diff(image, z).subs(z**2, u), u)
    (edge,) = sp.solve(sp.expand((image + z) / z).subs(z**2, u), u)
    squared = u * sp.expand(image / z).subs(z**2, u) ** 2
    return sp.factor(squared.subs(u, critical)), sp.factor(edge)
