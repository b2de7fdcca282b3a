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
untrained (``theory.cascade``). Above it, the set of C at which one given start escapes is fractal. So three numbers are
kept apart: ``crisis_ratio``, a theorem, up to which *no* start in (p, q) escapes; ``trapping_interval``, its ends; and
``first_escape``, a numerical fact, where the run from the start z₀ = (1+γ)^{−1/L} is first seen to escape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from theory.derivation import Step
from theory.errors import InputError, positive_array, positive_integer, positive_number
from theory.symbols import C, depth, u, z

FloatArray = NDArray[np.float64]
Map = Callable[[FloatArray, FloatArray], FloatArray]  # next places from places and parameters

_DIGITS = 40  # working precision; differences of powers of numbers near 1 lose a few digits at large L
_HALVINGS = 140  # 2^-140 is below 10^-40
#: distances above the lowest parameter, relative to it, that a scan for the first escape visits: 0.2 % apart, because
#: escaping windows narrow with their distance from the crisis
_DISTANCES = np.concatenate([[0.0], np.geomspace(1e-5, 4.0, 6500)])
_CHUNK = 500  # parameters iterated side by side
_BOUND = 30.0  # |z| beyond which nothing returns: the trapping intervals near the crisis end below 3
_ITERATIONS = 3000  # of one run in a scan, after its plateau
_LONGEST_PLATEAU = 100_000  # steps; longer ones are refused


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


def critical_parts(layers: int) -> tuple[sp.Expr, sp.Expr]:
    """The critical point's own coordinates, in which C drops out: u = z_c^L.

    g′(z_c) = 0 gives C z_c^{L−2} = 1/D, hence g(z_c)/z_c = N/D and C = u^{2/L − 1}/D; C falls from infinity to 1/L as u
    goes from (L−1)/(2L−1), where D = 0, to 1.

    Args:
        layers: number of layers L, an integer or a symbol.

    Returns:
        N = (2L−2)u − (L−2) and D = (2L−1)u − (L−1).
    """
    return (2 * layers - 2) * u - (layers - 2), (2 * layers - 1) * u - (layers - 1)


def crisis_equation(depth: int) -> tuple[sp.Expr, sp.Expr]:
    """Two polynomials in u = z_c^L, left in factors, that are equal at the crisis: r(L) is an algebraic number.

    With ρ = q/|p| the condition g(z_c) = q reads ρ = A/B, A = D^{2L−1}, B = N^{L−2}(uN^L − D^L) − A. For even L, ρ = 1
    and the equation is A = B; for odd L, ρ^L|p|^L = u(N/D)^L with |p|^L = (ρ^{L−1}+1)/(ρ^{2L−1}−1) gives
    uN^L(A^{2L−1} − B^{2L−1}) = D^L A^L (A^{L−1} + B^{L−1}).

    Args:
        depth: number of layers L.

    Returns:
        The left side and the right side.

    Raises:
        InputError: ``depth`` is not an integer >= 2.
    """
    layers = positive_integer("depth", depth, least=2)
    above, below = critical_parts(layers)
    first = below ** (2 * layers - 1)
    second = above ** (layers - 2) * (u * above**layers - below**layers) - first
    if layers % 2 == 0:
        return first, second
    spread = u * above**layers * (first ** (2 * layers - 1) - second ** (2 * layers - 1))
    return spread, below**layers * first**layers * (first ** (layers - 1) + second ** (layers - 1))


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


def lowest_escape(step: Map, start: Callable[[FloatArray], FloatArray], lowest: float, iterations: int) -> float:
    """The least parameter of a scan from below at which an orbit leaves |z| <= 30, refined around the first hit.

    The scan visits distances above ``lowest`` from 1e-5 to 4 times it, 0.2 % apart. The gap below its first hit is
    divided into 32 again and again, each time keeping the part below the first hit, until the parts are within
    rounding: bisection that still looks from below. An escaping window narrower than the spacing can lie lower and be
    missed.

    Args:
        step: the map.
        start: where the orbits begin, as a function of the parameters.
        lowest: a parameter at which nothing escapes.
        iterations: steps of each orbit.

    Returns:
        The parameter, or NaN when nothing escapes up to five times ``lowest``.
    """

    def escaping(parameters: FloatArray) -> NDArray[np.bool_]:
        places, gone = start(parameters), np.zeros(parameters.shape, dtype=bool)
        for _ in range(iterations):
            places = step(places, parameters)
            gone |= np.abs(places) > _BOUND
            places[gone] = 0.0
        return gone

    parameters = lowest * (1.0 + _DISTANCES)
    for chunk in range(1, parameters.size, _CHUNK):
        hits = np.flatnonzero(escaping(parameters[chunk : chunk + _CHUNK]))
        if hits.size:
            break
    else:
        return float("nan")
    below, above = parameters[chunk + hits[0] - 1], parameters[chunk + hits[0]]
    while above - below > 1e-12 * above:
        parts = np.linspace(below, above, 33)
        first = max(int(np.argmax(escaping(parts))), 1)
        below, above = parts[first - 1], parts[first]
    return float(above)


@cache
def _first_escape(strength: float, layers: int) -> float:
    place = (1.0 + strength) ** (-1.0 / layers)
    lowest = 2.0 / layers * crisis_ratio(layers)
    # dz/dt = C z^{L-1}: steps that the orbit waits near zero
    plateau = np.log(1.0 + strength) if layers == 2 else place ** (2.0 - layers) / (layers - 2)
    if plateau / lowest > _LONGEST_PLATEAU:
        raise InputError("gamma", strength, f"so small that the plateau takes at most {_LONGEST_PLATEAU} steps")

    def step(places: FloatArray, parameters: FloatArray) -> FloatArray:
        return places - parameters * places ** (layers - 1) * (places**layers - 1.0)

    found = lowest_escape(step, lambda c: np.full(c.shape, place), lowest, _ITERATIONS + int(plateau / lowest))
    return found * layers / 2.0


def first_escape(gamma: ArrayLike, depth: int) -> FloatArray:
    """Where the run from w = 1 first escapes, seen from below, in units of eta_crit: a numerical fact, not a theorem.

    No escape is possible below ``crisis_ratio``; the scan (``lowest_escape``) begins there, with 3000 steps a run after
    its plateau. A finer scan or a longer run can only move the result down, towards the crisis, because the escaping
    set is fractal above it.

    Args:
        gamma: γ, of any shape, at least 1e-9 (closer to the minimum, float64 rounds the start onto it).
        depth: number of layers L.

    Returns:
        η/eta_crit, at least ``crisis_ratio(depth)``, in the shape of γ; NaN when nothing escapes below five times that.

    Raises:
        InputError: ``depth`` is not an integer >= 2, or γ is not positive, below 1e-9, or so large that the plateau
            takes more than 100 000 steps.
    """
    layers = positive_integer("depth", depth, least=2)
    strengths = positive_array("gamma", gamma)
    if (strengths < 1e-9).any():
        raise InputError("gamma", float(strengths.min()), "at least 1e-9")
    return np.array([_first_escape(float(one), layers) for one in strengths.flat]).reshape(strengths.shape)


def trapping_interval(depth: int, ratio: float) -> tuple[float, float]:
    """The orbit p < 0 < q of period 2 around the origin: starts outside [p, q] escape at once.

    Args:
        depth: number of layers L.
        ratio: η/eta_crit.

    Returns:
        p and q, in units of the minimiser (z = w/w*). [p, q] is mapped into itself up to ``crisis_ratio(depth)``.

    Raises:
        InputError: ``depth`` is not an integer >= 2, or ``ratio`` is not a positive number.
    """
    layers = positive_integer("depth", depth, least=2)
    strength = 2.0 / layers * positive_number("ratio", ratio)

    def orbit(spread: float) -> tuple[float, float, float]:
        # |p|, q and C for q/|p| = spread; even L has spread 1 and any |p|
        size = ((spread ** (layers - 1) + 1.0) / (spread ** (2 * layers - 1) - 1.0)) ** (1.0 / layers)
        return size, spread * size, (1.0 + spread) / (size ** (layers - 2) * (size**layers + 1.0))

    low, high = 0.0, 60.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        if layers % 2 == 0:  # C q^{L-2}(q^L - 1) = 2, in ln q
            below = strength * np.exp(middle * (layers - 2)) * np.expm1(middle * layers) < 2.0
        else:
            below = orbit(1.0 + np.expm1(middle))[2] < strength if middle > 0 else True
        low, high = (middle, high) if below else (low, middle)
    if layers % 2 == 0:
        return -float(np.exp(low)), float(np.exp(low))
    size, edge, _ = orbit(float(np.exp(high)))
    return -size, edge


def _algebraic_ratio(layers: int) -> sp.Expr:
    # r(L) by the secant method on the polynomials; crisis_ratio only says which of their roots is meant
    place = np.linspace((layers - 1) / (2 * layers - 1), 1.0, 2002)[1:]
    strengths = place ** (2.0 / layers - 1.0) / ((2 * layers - 1) * place - (layers - 1))
    guess = float(place[np.argmin(np.abs(strengths * layers / 2.0 - crisis_ratio(layers)))])
    left, right = crisis_equation(layers)
    with mpmath.workdps(_DIGITS):
        near = (mpmath.mpf(guess), mpmath.mpf(guess) + mpmath.mpf("1e-4"))
        root = mpmath.findroot(sp.lambdify(u, left / right - 1, "mpmath"), near)
        below = (2 * layers - 1) * root - (layers - 1)
        return sp.Float(root ** (mpmath.mpf(2) / layers - 1) / below * layers / 2, 30)


def _third_image(layers: int) -> Callable[[sp.Basic], bool]:
    # a check: at the claimed r, the critical value is below its image's image's zero and returns to itself
    @mpmath.workdps(_DIGITS)
    def check(claimed: sp.Basic) -> bool:
        strength = 2 * mpmath.mpf(claimed) / layers

        def image(at: mpmath.mpf) -> mpmath.mpf:
            return at - strength * at ** (layers - 1) * (at**layers - 1)

        top = image(mpmath.findroot(lambda at: mpmath.diff(image, at), 0.8))
        return bool(image(top) < 0 and abs(image(image(top)) / top - 1) < mpmath.mpf(10) ** -20)

    return check


def _outer_orbit(claimed: sp.Basic) -> bool:
    # g takes -a to ρa for this C by construction; that it takes ρa back to -a is the test
    for layers in (3, 5, 7):
        for spread in (1.1, 1.5, 3.0):
            size = float(claimed.subs({depth: layers, _SPREAD: spread})) ** (1 / layers)
            strength = (1 + spread) / (size ** (layers - 2) * (size**layers + 1))
            edge = spread * size
            if abs(edge - strength * edge ** (layers - 1) * (edge**layers - 1) + size) > 1e-9:
                return False
    return True


def _image_of_critical(claimed: sp.Basic) -> bool:
    for layers in range(2, 8):
        place = mpmath.mpf("0.95")  # any point right of D = 0 is the critical point of some C
        strength = 1 / mpmath.diff(lambda at, n=layers: at ** (n - 1) * (at**n - 1), place)
        expected = 1 - strength * place ** (layers - 2) * (place**layers - 1)
        if abs(mpmath.mpf(sp.N(claimed.subs({depth: layers, u: sp.Float(place**layers, 30)}))) - expected) > 1e-9:
            return False
    return True


_SPREAD = sp.Symbol("rho", positive=True)


def steps() -> tuple[Step, ...]:
    """The derivation of the crisis, step by step.

    Returns:
        Steps for ``theory.derivation.Derivation``, with checks on the map itself.
    """
    above, below = critical_parts(depth)
    return (
        Step(
            "Critical value", "With u = z_c^L, the greatest value of the map over the critical point is free of C.",
            r"g(z_c)/z_c", above / below, _image_of_critical,
            "C chosen by numerical differentiation so that a given point is critical, L = 2…7",
        ),
        Step(
            "Orbit around the origin, odd L", "The orbit of period 2 from p < 0 to q = ρ|p| and back bounds the rest.",
            r"|p|^L", (_SPREAD ** (depth - 1) + 1) / (_SPREAD ** (2 * depth - 1) - 1), _outer_orbit,
            "the map applied twice, L = 3, 5, 7 and three ρ",
        ),
        *(
            Step(
                f"Crisis, L = {layers}", "The critical value lies on the orbit around the origin: an algebraic number.",
                f"r({layers})", _algebraic_ratio(layers), _third_image(layers),
                "z_c by numerical differentiation, and g(g(g(z_c))) = g(z_c) with g(g(z_c)) < 0, to 20 digits",
            )
            for layers in range(3, 7)
        ),
    )  # fmt: skip
