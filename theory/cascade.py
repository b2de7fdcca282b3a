"""From the stability edge to the crisis: period doubling, its cascade, and the trap at zero.

In units of the minimiser, z = w/(1+γ)^{1/L}, gradient descent on the MSE with L equal weights is at every γ the map

    g(z) = z − C z^{L−1}(z^L − 1),    C = (2/L) η/eta_crit,    from z₀ = (1+γ)^{−1/L}.

**Period doubling.** The minimum z = 1 has multiplier g′(1) = 1 − CL, which is −1 at η = eta_crit. The doubling is
supercritical when the coefficient ½g″² + ⅓g‴ is positive there (Guckenheimer & Holmes 1983, section 3.5). It is
8(L−1)(5L−4)/3, so for every L ≥ 2 the orbit of period 2 that appears is stable, has z = 1 ± A √(η/eta_crit − 1) to
leading order with A = √(3/(2(L−1)(5L−4))), and takes over where the minimum fails: the loss falls back continuously.

**Cascade.** Further doublings follow at ``doubling_ratio(depth, order)``; their gaps shrink by Feigenbaum's 4.669.

**The trap at zero.** Just left of z = 0 and for odd L, g(z) = z + C|z|^{L−1}(1 + |z|^L) moves towards zero without
reaching it where C|z|^{L−2}(1+|z|^L) < 1. So z = 0 attracts from the left, and repels on the right: such a run is
bounded and untrained, and |z| falls as (C(L−2)t)^{−1/(L−2)}. The positive half-line has the trapping interval
[0, g(z_c)] as long as its upper end is not mapped below zero, that is up to

    g(g(z_c)) = 0   ⟺   N^{L−2}(u N^L − D^L) = D^{2L−1},    u = z_c^L, N = (2L−2)u − (L−2), D = (2L−1)u − (L−1),

with C = u^{2/L−1}/D: the largest root u < 1 belongs to the least C. For even L zero repels on both sides, and the same
equation says where orbits can first change sign. But a visit to z ≈ 0 lasts |z|^{2−L}/(C(L−2)) steps, whose mean over
visits spread evenly in z is infinite for L ≥ 3: for even L ≥ 4 too, runs above it gather at zero, untrained.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from theory.crisis import critical_parts
from theory.derivation import Step
from theory.errors import InputError, positive_array, positive_integer
from theory.symbols import C, depth, eta, gamma, t, u, z

FloatArray = NDArray[np.float64]

_DIGITS = 40
_DEPTHS = range(2, 7)
_ORDERS = 8  # doublings that float64 orbits can start Newton's method for


def conjugate_map() -> sp.Expr:
    """The map g of one gradient-descent step, in units of the minimiser.

    Returns:
        g(z), in z, C and L.
    """
    return z - C * z ** (depth - 1) * (z**depth - 1)


@cache
def _derivative(order: int) -> sp.Expr:
    # of g at the minimum z = 1, in C and L
    return sp.factor(sp.simplify(sp.diff(conjugate_map(), z, order).subs(z, 1)))


@cache
def flip_coefficient() -> sp.Expr:
    """½g″² + ⅓g‴ at z = 1 and η = eta_crit: positive means that the orbit of period 2 is stable (supercritical).

    Returns:
        The coefficient, in L: 8(L−1)(5L−4)/3.
    """
    second, third = (_derivative(order).subs(C, 2 / depth) for order in (2, 3))
    return sp.factor(sp.simplify(second**2 / 2 + third / 3))


def amplitude_coefficient() -> sp.Expr:
    """A in z = 1 ± A √(η/eta_crit − 1), the orbit of period 2 just above the stability edge.

    The second iterate of a deviation x is (1 + 2μ)x − ax³ + …, with multiplier −(1+μ), μ = 2(η/eta_crit − 1), and a
    the flip coefficient; so x² = 2μ/a.

    Returns:
        A, in L: √(3/(2(L−1)(5L−4))).
    """
    return sp.sqrt(sp.factor(4 / flip_coefficient()))


def cycle_amplitude(depth: int, ratio: ArrayLike) -> FloatArray:
    """Half the width of the orbit of period 2, by its leading law.

    Args:
        depth: number of layers L.
        ratio: η/eta_crit, of any shape, each above 1; the law is the first term in √(ratio − 1).

    Returns:
        Half-width in units of the minimiser, in the shape of ``ratio``.

    Raises:
        InputError: ``depth`` is not an integer >= 2, or a ratio is not above 1.
    """
    layers = positive_integer("depth", depth, least=2)
    values = positive_array("ratio", ratio)
    if (values <= 1).any():
        raise InputError("ratio", float(values.min()), "above 1: the orbit of period 2 appears at eta_crit")
    return np.sqrt(1.5 * (values - 1.0) / ((layers - 1) * (5 * layers - 4)))


def _image(place: mpmath.mpf, strength: mpmath.mpf, layers: int) -> mpmath.mpf:
    return place - strength * place ** (layers - 1) * (place**layers - 1)


def _slope(place: mpmath.mpf, strength: mpmath.mpf, layers: int) -> mpmath.mpf:
    return 1 - strength * ((2 * layers - 1) * place ** (2 * layers - 2) - (layers - 1) * place ** (layers - 2))


def _period(layers: int, strength: float, longest: int) -> tuple[int, float]:
    # period (a power of 2) of the attractor of the float64 map and its point nearest to 1; 2·longest if none is found
    place = 0.9
    for _ in range(20000):
        place -= strength * place ** (layers - 1) * (place**layers - 1)
    orbit = [place]
    for _ in range(longest):
        place -= strength * place ** (layers - 1) * (place**layers - 1)
        orbit.append(place)
    nearest = min(orbit[:-1], key=lambda at: abs(at - 1))
    periods = [2**n for n in range(longest.bit_length()) if abs(orbit[2**n] - orbit[0]) < 1e-7]
    return min(periods, default=2 * longest), nearest


@cache
def _doubling(layers: int, order: int) -> mpmath.mpf:
    # C of the order-th doubling: the orbit of period 2^(order-1) with multiplier -1
    if order == 1:
        return mpmath.mpf(2) / layers
    cycle = 2 ** (order - 1)
    low = float(_doubling(layers, order - 1))
    high = low + (0.35 * low if order == 2 else (low - float(_doubling(layers, order - 2))) / 3.0)
    for _ in range(14):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _period(layers, middle, 2 * cycle)[0] <= cycle else (low, middle)
    start = _period(layers, low, 2 * cycle)[1]

    def conditions(place: mpmath.mpf, strength: mpmath.mpf) -> list[mpmath.mpf]:
        at, multiplier = place, mpmath.mpf(1)
        for _ in range(cycle):
            multiplier *= _slope(at, strength, layers)
            at = _image(at, strength, layers)
        return [at - place, multiplier + 1]

    with mpmath.workdps(_DIGITS):
        return mpmath.findroot(conditions, (mpmath.mpf(start), mpmath.mpf(low)), tol=1e-40)[1]


def doubling_ratio(depth: int, order: int = 1) -> float:
    """η/eta_crit at the ``order``-th period doubling: there the orbit of period 2^{order−1} has multiplier −1.

    Args:
        depth: number of layers L, at most 12.
        order: 1 is the stability edge itself; at most 8.

    Returns:
        The ratio, dimensionless: 1, then √5 − 1 for L = 2 and order 2.

    Raises:
        InputError: ``depth`` is not an integer in 2…12, or ``order`` not an integer in 1…8.
    """
    layers = positive_integer("depth", depth, least=2)
    count = positive_integer("order", order)
    if layers > 12:
        raise InputError("depth", depth, "at most 12")
    if count > _ORDERS:
        raise InputError("order", order, f"at most {_ORDERS}")
    return float(_doubling(layers, count) * layers / 2)


def zero_polynomial(depth: int) -> sp.Poly:
    """The exact condition g(g(z_c)) = 0 as a polynomial in u = z_c^L.

    Args:
        depth: number of layers L.

    Returns:
        N^{L−2}(uN^L − D^L) − D^{2L−1}, of degree 2L − 1, with integer coefficients.

    Raises:
        InputError: ``depth`` is not an integer >= 2.
    """
    layers = positive_integer("depth", depth, least=2)
    above, below = critical_parts(layers)
    return sp.Poly(above ** (layers - 2) * (u * above**layers - below**layers) - below ** (2 * layers - 1), u)


@cache
def _zero_crossing(layers: int) -> mpmath.mpf:
    # eta/eta_crit of the largest root u < 1, by bisection: at u = 1 the polynomial is -L^(2L-1)
    with mpmath.workdps(_DIGITS):
        low, high = mpmath.mpf(layers - 1) / (2 * layers - 1), mpmath.mpf(1)
        for _ in range(4 * _DIGITS):
            middle = (low + high) / 2
            above, below = (2 * layers - 2) * middle - (layers - 2), (2 * layers - 1) * middle - (layers - 1)
            factor = above / below  # g(z_c)/z_c
            if factor ** (layers - 2) * (middle * factor**layers - 1) > below:
                low = middle
            else:
                high = middle
        below = (2 * layers - 1) * low - (layers - 1)
        return low ** (mpmath.mpf(2) / layers - 1) / below * layers / 2


def zero_crossing_ratio(depth: int) -> float:
    """η/eta_crit above which orbits from inside (0, w*) can first reach z < 0.

    For odd L this is where runs can first be trapped at w → 0⁻; for even L, where they can change sign.

    Args:
        depth: number of layers L.

    Returns:
        The ratio, dimensionless: 3√3/2 − 1 = 1.598 for L = 2, 1.8301 for L = 3, 2.1123 for L = 5.

    Raises:
        InputError: ``depth`` is not an integer >= 2.
    """
    return float(_zero_crossing(positive_integer("depth", depth, least=2)))


def _explicit_step(claimed: sp.Basic) -> bool:
    # exact rational arithmetic: at γ = k^L − 1 the minimiser is k, and one step of the L separate weights is rational
    weights = sp.symbols("w_1:7", positive=True)
    for layers in _DEPTHS:
        for scale, place in ((sp.Rational(3, 2), sp.Rational(4, 5)), (sp.Integer(3), sp.Rational(7, 6))):
            one = scale**layers - 1
            loss = ((sp.prod(weights[:layers]) - 1) / gamma - 1) ** 2 / 2
            slope = sp.diff(loss, weights[0]).subs(dict.fromkeys(weights, scale * place)).subs(gamma, one)
            rate = 2 * one**2 / scale ** (2 * layers - 2)  # C = η (1+γ)^{2−2/L}/γ²
            if (scale * place - rate * slope) / scale != claimed.subs({depth: layers, z: place, C: 2}):
                return False
    return True


def _start_reaches_target(claimed: sp.Basic) -> bool:
    # the weight 1/z₀ has the output f = 1, exactly, at γ = k^L − 1
    return all(
        ((1 / claimed.subs({depth: layers, gamma: one})) ** layers - 1) / one == 1
        for layers in _DEPTHS
        for one in (3**layers - 1, sp.Rational(6, 5) ** layers - 1)
    )


def _edge_multiplier(claimed: sp.Basic) -> bool:
    # at γ = 1/2, η = 1/10: one step of the weights moves a deviation of the minimiser by 1 − 2η/eta_crit = 1 − CL
    for layers in _DEPTHS:
        measured = mpmath.diff(lambda at, n=layers: at - at ** (n - 1) * (2 * at**n - 3) / 5, 1.5 ** (1 / layers))
        strength = float(claimed.subs({depth: layers, eta: sp.Rational(1, 10), gamma: sp.Rational(1, 2)}))
        if abs(measured - (1 - layers * strength)) > 1e-9:
            return False
    return True


def _numerical_multiplier(claimed: sp.Basic) -> bool:
    for layers in _DEPTHS:
        measured = mpmath.diff(lambda at, n=layers: _image(at, mpmath.mpf("0.7"), n), 1)
        if abs(measured - mpmath.mpf(claimed.subs({depth: layers, C: sp.Rational(7, 10)}))) > 1e-9:
            return False
    return True


@mpmath.workdps(90)
def _second_iterate(claimed: sp.Basic) -> bool:
    # at η = eta_crit two steps take a deviation x to x − ax³ + O(x⁴)
    for layers in _DEPTHS:
        small, strength = mpmath.mpf("1e-20"), mpmath.mpf(2) / layers
        moved = _image(_image(1 + small, strength, layers), strength, layers) - 1
        cubic = (small - moved) / small**3
        if not (cubic > 0 and abs(cubic / mpmath.mpf(claimed.subs(depth, layers)) - 1) < 1e-15):
            return False
    return True


def _two_cycle(layers: int, strength: mpmath.mpf, near: mpmath.mpf) -> tuple[mpmath.mpf, ...]:
    # the orbit of period 2, with the minimum divided out of g(g(z)) = z, and its multiplier; `near` is a guess of z − 1

    def returned(x: mpmath.mpf) -> mpmath.mpf:
        return (_image(_image(1 + x, strength, layers), strength, layers) - 1) / x - 1

    first = 1 + mpmath.findroot(returned, (near, 1.01 * near), tol=1e-60)
    second = _image(first, strength, layers)
    return first, second, _slope(first, strength, layers) * _slope(second, strength, layers)


@mpmath.workdps(60)
def _cycle_opens(claimed: sp.Basic) -> bool:
    # the stable cycle at η/eta_crit − 1 = 10⁻¹⁶; corrections to the half-width are relative 10⁻¹⁶
    above = mpmath.mpf("1e-16")
    for layers in _DEPTHS:
        first, second, multiplier = _two_cycle(layers, 2 * (1 + above) / layers, mpmath.mpf("3e-9"))
        value = mpmath.mpf(sp.N(claimed.subs(depth, layers), 30))
        if not (abs(abs(first - second) / 2 / mpmath.sqrt(above) / value - 1) < 1e-10 and 0 < 1 - multiplier < 1e-14):
            return False
    return True


@mpmath.workdps(_DIGITS)
def _two_layer_cycle(claimed: sp.Basic) -> bool:
    for ratio in ("1.05", "1.2", "1.29"):
        high = mpmath.mpf(sp.N(claimed.subs(C, sp.Rational(ratio)), 30))
        low = _image(high, mpmath.mpf(ratio), 2)
        if not (low < 1 < high and abs(_image(low, mpmath.mpf(ratio), 2) / high - 1) < 1e-20):
            return False
    return True


@mpmath.workdps(_DIGITS)
def _second_doubling(claimed: sp.Basic) -> bool:
    strength, place = mpmath.mpf(sp.N(claimed, 30)), mpmath.mpf("0.9")
    for _ in range(500):  # to the cycle's neighbourhood; the approach is slow at the doubling itself
        place = _image(place, strength, 2)
    multiplier = _two_cycle(2, strength, place - 1)[2]
    return bool(abs(multiplier + 1) < 1e-20)


def _crosses_at(layers: int) -> Callable[[sp.Basic], bool]:
    def check(claimed: sp.Basic) -> bool:
        strength = float(sp.N(claimed)) * 2.0 / layers * np.array([[0.9999], [1.0001]])
        places, least = np.linspace(0.001, 1.0, 2000) + 0.0 * strength, np.zeros(2)
        for _ in range(100):
            places = np.clip(places - strength * places ** (layers - 1) * (places**layers - 1.0), -5.0, 5.0)
            least = np.minimum(least, places.min(axis=1))
        return bool(least[0] == 0.0 and least[1] < 0.0)

    return check


def _creeps(claimed: sp.Basic) -> bool:
    # 10^5 steps from z = −0.3; corrections are of order ln(t)/t for L = 3, and of t^{−2/(L−2)} or less for larger L
    for layers, strength in ((3, 0.9), (5, 0.7)):
        place, count = -0.3, 100_000
        for _ in range(count):
            place -= strength * place ** (layers - 1) * (place**layers - 1.0)
        value = float(sp.N(claimed.subs({depth: layers, C: strength, t: count})))
        if not (place < 0 and abs(place / value - 1) < 0.01):
            return False
    return True


def steps() -> tuple[Step, ...]:
    """The derivation of what follows the stability edge, step by step.

    Returns:
        Steps for ``theory.derivation.Derivation``, with checks on gradient descent and on the map itself.
    """
    crossings = (
        Step(
            f"Zero crossing, L = {layers}", "Below it every orbit from (0, w*) stays positive: g(g(z_c)) = 0 at it.",
            rf"\eta/\eta_{{\mathrm{{crit}}}}\big|_{{L={layers}}}", sp.Float(_zero_crossing(layers), 30),
            _crosses_at(layers), "2000 starts iterated 100 times, 0.01 % below and above",
        )
        for layers in range(3, 7)
    )  # fmt: skip
    return (
        Step(
            "Conjugacy", "In units of the minimiser one step of gradient descent contains γ no more.",
            r"g(z)", conjugate_map(), _explicit_step,
            "one step of L explicit weights in exact rational arithmetic at γ = k^L − 1, L = 2…6",
        ),
        Step(
            "Start", "γ enters through the start only.", r"z_0", (1 + gamma) ** (-1 / depth), _start_reaches_target,
            "the output at the weight 1/z₀ is 1, exactly, at γ = k^L − 1, L = 2…6",
        ),
        Step(
            "Parameter", "C = (2/L) η/eta_crit.", r"C", eta * (1 + gamma) ** (2 - 2 / depth) / gamma**2,
            _edge_multiplier, "1 − CL against the numerical derivative of one step at the minimiser, L = 2…6",
        ),
        Step(
            "Multiplier", "The minimum is linearly stable up to C = 2/L, where the multiplier is −1.",
            r"g'(1)", _derivative(1), _numerical_multiplier, "numerical differentiation at C = 0.7, L = 2…6",
        ),
        Step(
            "Supercritical", "The flip coefficient at eta_crit is positive for every L ≥ 2: the new orbit is stable.",
            r"\tfrac12 g''^2 + \tfrac13 g'''", flip_coefficient(), _second_iterate,
            "two steps of a deviation of 10⁻²⁰ at 90 digits, L = 2…6",
        ),
        Step(
            "Amplitude", "The orbit of period 2 opens as 1 ± A√(η/eta_crit − 1).", r"A", amplitude_coefficient(),
            _cycle_opens, "the orbit itself, by the secant method, and its multiplier below 1, L = 2…6",
        ),
        Step(
            "Orbit of period 2, L = 2", "For two layers the orbit is known in closed form.",
            r"z_+", (sp.sqrt(1 + 3 / C) + sp.sqrt(1 - 1 / C)) / 2, _two_layer_cycle, "the map applied twice",
        ),
        Step(
            "Second doubling, L = 2", "The multiplier of that orbit, 9 − 2(1+C)², reaches −1.",
            r"\eta/\eta_{\mathrm{crit}}", sp.sqrt(5) - 1, _second_doubling, "the orbit found by iteration",
        ),
        *crossings,
        Step(
            "Trap at zero, odd L", "Left of zero the weights creep to it like a power of time.",
            r"z", -((C * (depth - 2) * t) ** (-1 / (depth - 2))), _creeps, "10⁵ steps, L = 3 and 5",
        ),
    )  # fmt: skip
