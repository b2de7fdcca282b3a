"""The cross-entropy band γ² < η < γ of the lazy side, where nothing trains and nothing diverges.

Gradient descent on L equal weights is w ← w − c w^{L−1} ℓ′(f) with c = η/γ and f = (w^L − 1)/γ. For cross-entropy
ℓ′(f) = σ(f) − σ runs from −σ to 1 − σ, with σ = σ(1) = 1/(1 + e⁻¹) the label. As γ → 0 at fixed c every f ≠ 0 is
infinite, and with a = cσ, b = c(1−σ) the map becomes piecewise polynomial, the same for every γ:

    h(w) = w + a w^{L−1}  where w^L < 1,      h(w) = w − b w^{L−1}  where w^L > 1,      first step 1 → 1 + c(σ − ½).

**Upper end.** The image of the inside w^L < 1 reaches up to 1 + a, its limit at w → 1⁻. Outside, h has one orbit of
period 2 around the origin, q → −kq → q. For even L the map is odd, so k = 1; for odd L every w < 1 is inside, and
q + kq = b q^{L−1} = a (kq)^{L−1} gives k = (b/a)^{1/(L−1)} = e^{−1/(L−1)}. Both have b q^{L−2} = 1 + k, and [−kq, q] is
mapped into itself if and only if 1 + a ≤ q (on (1, q] the map is concave with h(1) > −kq and h(w) < w; on [−kq, 0] it
is at most q; beyond q and −kq points move away for ever). So c_L solves

    b (1 + a)^{L−2} = c (1−σ) (1 + cσ)^{L−2} = 1 + k,      whose left side grows from 0: one root.

At L = 2 the outside is linear, and the condition b = 2 is that its factor 1 − b reaches −1.

**Zero.** 1 + a is mapped below zero if and only if b (1+a)^{L−2} > 1. For odd L the half-line w < 0 ends at w = 0,
which attracts from the left: from there on orbits can be *trapped*, bounded and untrained. For even L ≥ 4 they gather
at zero too, in visits of infinite mean length (``theory.cascade``).

**Below.** For small c the orbit stays in [1 − b, 1 + a], of width c, and to leading order goes round it like a
rotation, whose mean excess loss is η/eta_crit. All of the band is thus ``unstable`` by the outcomes of a run: the loss
is of order c/γ, far above its start, and the output |F − F₀| = |w^L − 1| stays of order 1, so it has not diverged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mpmath
import numpy as np
import sympy as sp
from numpy.typing import ArrayLike, NDArray

from theory.crisis import lowest_escape
from theory.derivation import Step
from theory.errors import InputError, positive_array, positive_integer, positive_number
from theory.symbols import depth, gamma, w

FloatArray = NDArray[np.float64]

#: step in units of γ, η/γ: the one parameter of the limit map
c = sp.Symbol("c", positive=True)
#: the soft label σ(1), kept as a symbol in the polynomials
sigma = sp.Symbol("sigma", positive=True)

#: σ(1) in float64 and exactly
LABEL = float(1 / (1 + mpmath.exp(-1)))
LABEL_EXACT = 1 / (1 + sp.exp(-1))

_DIGITS = 40
_DEPTHS = range(2, 7)
_RISE = c * sigma  # a
_FALL = c * (1 - sigma)  # b


def band_polynomial(depth: int) -> sp.Poly:
    """The exact equation of the upper end of the band, as a polynomial in c = η/γ over ℚ[σ].

    Even L: c(1−σ)(1+cσ)^{L−2} − 2. Odd L: the ratio k = ((1−σ)/σ)^{1/(L−1)} is cleared of its root, which gives
    σ(c(1−σ)(1+cσ)^{L−2} − 1)^{L−1} − (1−σ) and adds roots of b(1+a)^{L−2} = 1 − k that lie below c_L.

    Args:
        depth: number of layers L.

    Returns:
        The polynomial; at σ = σ(1), c_L is its largest real root.

    Raises:
        InputError: ``depth`` is not an integer >= 2.
    """
    layers = positive_integer("depth", depth, least=2)
    reach = _FALL * (1 + _RISE) ** (layers - 2)
    if layers % 2 == 0:
        return sp.Poly(reach - 2, c)
    return sp.Poly(sigma * (reach - 1) ** (layers - 1) - (1 - sigma), c)


@cache
def _root(layers: int, power: int) -> mpmath.mpf:
    # c at which b (1+a)^{L-2} = 1 + k (power 1) or 1 (power 0), by bisection
    with mpmath.workdps(_DIGITS):
        label = 1 / (1 + mpmath.exp(-1))
        ratio = mpmath.mpf(1) if layers % 2 == 0 else mpmath.exp(mpmath.mpf(-1) / (layers - 1))
        goal = 1 + power * ratio
        low, high = mpmath.mpf(0), goal / (1 - label)
        for _ in range(4 * _DIGITS):
            middle = (low + high) / 2
            if middle * (1 - label) * (1 + middle * label) ** (layers - 2) <= goal:
                low = middle
            else:
                high = middle
        return high


def band_threshold(depth: int) -> float:
    """c_L: the value of η/γ up to which the limit map keeps every start of its trapping interval bounded.

    As γ → 0 this is where divergence can begin. The run from w = 1 itself escapes a little later, see
    ``band_first_escape``.

    Args:
        depth: number of layers L.

    Returns:
        η/γ, dimensionless: 2(1+e) = 7.4366 for L = 2, then 2.2553, 1.5902, 1.1111, 0.9314 for L = 3…6.

    Raises:
        InputError: ``depth`` is not an integer >= 2.
    """
    return float(_root(positive_integer("depth", depth, least=2), 1))


def band_zero_crossing(depth: int) -> float:
    """The value of η/γ above which the limit map takes 1 + a below zero: c(1−σ)(1+cσ)^{L−2} = 1.

    For odd L this is where orbits can first be trapped at w → 0⁻; for even L, where they can change sign.

    Args:
        depth: number of layers L.

    Returns:
        η/γ, dimensionless: 1 + e = 3.718 for L = 2, then 1.673, 1.122, 0.860, 0.705 for L = 3…6.

    Raises:
        InputError: ``depth`` is not an integer >= 2.
    """
    return float(_root(positive_integer("depth", depth, least=2), 0))


def band_interval(depth: int, ratio: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """An interval that the limit map sends into itself and that holds the run from w = 1.

    With a = cσ and b = c(1−σ) its upper end is 1 + a; its lower end is the lesser of 1 − b and
    h(1+a) = (1+a)(1 − b(1+a)^{L−2}) as long as that is not negative, then h(1+a) for odd L and −(1+a) for even L.
    Where the lower end is 1 − b the width is c exactly.

    Args:
        depth: number of layers L.
        ratio: c = η/γ, of any shape, each at most ``band_threshold(depth)``.

    Returns:
        Lower and upper end in units of w, in the shape of ``ratio``.

    Raises:
        InputError: ``depth`` is not an integer >= 2, or a ratio is not positive or above the threshold.
    """
    layers = positive_integer("depth", depth, least=2)
    values = positive_array("ratio", ratio)
    threshold = band_threshold(layers)
    if (values > threshold).any():
        raise InputError("ratio", float(values.max()), f"at most band_threshold({layers}) = {threshold:.6g}")
    upper = 1.0 + values * LABEL
    fallen = upper * (1.0 - values * (1.0 - LABEL) * upper ** (layers - 2))
    nearest = np.minimum(1.0 - values * (1.0 - LABEL), fallen)
    if layers % 2 == 0:  # odd map: once the sign changes, both half-lines are visited
        nearest = np.where(nearest < 0, -upper, nearest)
    return nearest, upper


def limit_map(weight: ArrayLike, ratio: float | FloatArray, depth: int) -> FloatArray:
    """One step of the limit map h, at any w but the start (w^L = 1 takes the first step, ℓ′(0) = ½ − σ).

    Args:
        weight: w, of any shape.
        ratio: c = η/γ, broadcast against ``weight``.
        depth: number of layers L.

    Returns:
        h(w).
    """
    place = np.asarray(weight, dtype=np.float64)
    side = np.sign(place**depth - 1.0)
    return place - ratio * place ** (depth - 1) * (0.5 * (1.0 + side) - LABEL)


def true_map(weight: ArrayLike, ratio: float | FloatArray, depth: int, strength: float) -> FloatArray:
    """One step of gradient descent on the cross-entropy at finite γ.

    Args:
        weight: w, of any shape.
        ratio: c = η/γ, broadcast against ``weight``.
        depth: number of layers L.
        strength: γ.

    Returns:
        The next w.
    """
    place = np.asarray(weight, dtype=np.float64)
    residual = 0.5 * (1.0 + np.tanh(0.5 * (place**depth - 1.0) / strength)) - LABEL  # σ(f) without overflow
    return place - ratio * place ** (depth - 1) * residual


@cache
def band_first_escape(depth: int, gamma: float = 1e-7) -> float:
    """The first η/γ, from below, at which the run from w = 1 is seen to escape: a numerical fact, not a theorem.

    Scanned from ``band_threshold`` (below it the limit map cannot escape) by ``theory.crisis.lowest_escape``, with runs
    of 3000 steps; above it the escaping set is fractal, and for odd L most runs are trapped at 0 instead. For L = 2
    every c above the threshold escapes, the slower the nearer: there the result is an effect of the run's length.

    Args:
        depth: number of layers L, at most 12.
        gamma: γ ≪ 1.

    Returns:
        η/γ, dimensionless.

    Raises:
        InputError: ``depth`` or ``gamma`` outside 2…12 and (0, 1e-4].
    """
    layers = positive_integer("depth", depth, least=2)
    strength = positive_number("gamma", gamma)
    if layers > 12:
        raise InputError("depth", depth, "at most 12")
    if strength > 1e-4:
        raise InputError("gamma", gamma, "at most 1e-4, where the limit map holds")

    def step(places: FloatArray, ratios: FloatArray) -> FloatArray:
        return true_map(places, ratios, layers, strength)

    return lowest_escape(step, lambda ratios: np.ones_like(ratios), band_threshold(layers), iterations=3000)


def _exact_step(weight: mpmath.mpf, ratio: mpmath.mpf, layers: int, strength: mpmath.mpf) -> mpmath.mpf:
    # gradient descent on the separate weight w_1 beside L - 1 equal others, from the loss by numerical differentiation

    def loss(one: mpmath.mpf) -> mpmath.mpf:
        output = (one * weight ** (layers - 1) - 1) / strength
        softplus = mpmath.log1p(mpmath.exp(-abs(output))) + max(output, mpmath.mpf(0))
        return softplus - output / (1 + mpmath.exp(-1))

    return weight - ratio * strength * mpmath.diff(loss, weight, h=strength * mpmath.mpf(10) ** -20)


def _numbers(layers: int, ratio: mpmath.mpf) -> dict[sp.Symbol, sp.Expr]:
    return {depth: sp.Integer(layers), c: sp.Float(ratio, _DIGITS), sigma: LABEL_EXACT}


def _same_step(*weights: str) -> Callable[[sp.Basic], bool]:
    # a check: the claimed next w is one step of the true map at γ = 1e-20
    @mpmath.workdps(60)
    def check(claimed: sp.Basic) -> bool:
        for layers in _DEPTHS:
            for text in weights:
                start, ratio = mpmath.mpf(text), mpmath.mpf("0.7")
                expected = _exact_step(start, ratio, layers, mpmath.mpf("1e-20"))
                value = mpmath.mpf(sp.N(claimed.subs(_numbers(layers, ratio)).subs(w, sp.Float(text, 40)), 30))
                if abs(value - expected) > 1e-15:
                    return False
        return True

    return check


def _period_two(parity: int) -> Callable[[sp.Basic], bool]:
    # a check: the limit map takes the claimed q below -0, and back to q
    def check(claimed: sp.Basic) -> bool:
        for layers in (3 + (parity + 1) % 2, 5 + (parity + 1) % 2):
            for ratio in (0.2, 0.5, 0.8):
                place = float(sp.N(claimed.subs(_numbers(layers, mpmath.mpf(ratio)))))
                across = float(limit_map(place, ratio, layers))
                if not (across < -0.5 and abs(float(limit_map(across, ratio, layers)) / place - 1) < 1e-9):
                    return False
        return True

    return check


def _grid_escapes(ratio: float, layers: int) -> bool:
    places = np.concatenate([np.linspace(0.001, 0.999, 1000), 1.0 - np.logspace(-12, -4, 9)])
    for _ in range(500):
        places = limit_map(places, ratio, layers)
        places[np.abs(places) > 30.0] = np.nan
    return bool(np.isnan(places).any())


def _escapes_at(layers: int) -> Callable[[sp.Basic], bool]:
    def check(claimed: sp.Basic) -> bool:
        value = float(sp.N(claimed))
        return not _grid_escapes(0.995 * value, layers) and _grid_escapes(1.02 * value, layers)

    return check


def _tail(ratio: float, strength: float, count: int = 6000) -> FloatArray:
    # orbits of the true map from w = 1, one row for each L = 2…6, without their first steps
    rows = []
    for layers in _DEPTHS:
        place, orbit = 1.0, []
        for _ in range(count):
            output = (place**layers - 1.0) / strength
            residual = (1.0 / (1.0 + np.exp(-output)) if abs(output) < 500 else float(output > 0)) - LABEL
            place -= ratio * place ** (layers - 1) * residual
            orbit.append(place)
        rows.append(orbit[100:])
    return np.array(rows)


def _end_of(side: str) -> Callable[[sp.Basic], bool]:
    def check(claimed: sp.Basic) -> bool:
        ratio = 0.05
        value = float(sp.N(claimed.subs(_numbers(2, mpmath.mpf(ratio)))))
        orbits = _tail(ratio, 1e-8)
        ends = orbits.max(axis=1) if side == "upper" else orbits.min(axis=1)
        return bool(np.all(np.abs(ends - value) < 0.02 * ratio))

    return check


def _mean_loss(claimed: sp.Basic) -> bool:
    # average of the excess loss along the orbit; corrections are of order c and γ/c
    ratio, strength = 1e-3, 1e-7
    for layers, orbit in zip(_DEPTHS, _tail(ratio, strength), strict=True):
        output = (orbit**layers - 1.0) / strength
        excess = np.logaddexp(0.0, output) - LABEL * output - (np.logaddexp(0.0, 1.0) - LABEL)
        value = float(sp.N(claimed.subs(_numbers(layers, mpmath.mpf(ratio))).subs(gamma, strength)))
        if abs(value / float(excess.mean()) - 1) > 0.02:
            return False
    return True


def _edges() -> list[Step]:
    (two,) = sp.roots(band_polynomial(2).subs(sigma, LABEL_EXACT), c)
    values = {2: sp.simplify(two)} | {layers: sp.Float(_root(layers, 1), 30) for layers in _DEPTHS if layers > 2}
    return [
        Step(
            f"Upper end of the band, L = {layers}", "Below it no start escapes; above it some do.",
            rf"c_{layers}", value, _escapes_at(layers), "1009 starts of the limit map, 0.5 % below and 2 % above",
        )
        for layers, value in values.items()
    ]  # fmt: skip


def steps() -> tuple[Step, ...]:
    """The derivation of the band, step by step.

    Returns:
        Steps for ``theory.derivation.Derivation``, with checks that iterate gradient descent.
    """
    ratio, odd_ratio = _FALL ** (-1 / (depth - 2)), 1 + ((1 - sigma) / sigma) ** (1 / (depth - 1))
    descent = "one step of w_1 beside L − 1 equal weights at γ = 10⁻²⁰, by numerical differentiation, L = 2…6"
    return (
        Step(
            "Inside", "As γ → 0 at fixed c = η/γ, the residual at w^L < 1 is −σ(1).",
            r"h(w)", w + _RISE * w ** (depth - 1), _same_step("0.3", "0.95"), descent,
        ),
        Step(
            "Outside", "At w^L > 1 it is 1 − σ(1).",
            r"h(w)", w - _FALL * w ** (depth - 1), _same_step("1.05", "1.6"), descent,
        ),
        Step(
            "First step", "The start w = 1 has f = 0 at every γ, and a residual of its own, ½ − σ(1).",
            r"w_1", 1 + c * (sigma - sp.Rational(1, 2)), _same_step("1"), descent,
        ),
        Step(
            "Outer orbit, even L", "The map is odd, and h(q) = −q.",
            r"q", 2 ** (1 / (depth - 2)) * ratio, _period_two(0), "the limit map applied twice, L = 4, 6",
        ),
        Step(
            "Outer orbit, odd L", "h(q) = −kq and h(−kq) = q with k = e^{−1/(L−1)}.",
            r"q", odd_ratio ** (1 / (depth - 2)) * ratio, _period_two(1), "the limit map applied twice, L = 3, 5",
        ),
        *_edges(),
        Step(
            "Upper end of the oscillation", "Below the threshold the largest weight is the image of w → 1⁻.",
            r"\sup w", 1 + _RISE, _end_of("upper"), "5900 steps at c = 0.05, γ = 10⁻⁸, L = 2…6",
        ),
        Step(
            "Lower end of the oscillation", "For small c the least weight is the image of w → 1⁺: the width is c.",
            r"\inf w", 1 - _FALL, _end_of("lower"), "5900 steps at c = 0.05, γ = 10⁻⁸, L = 2…6",
        ),
        Step(
            "Mean loss in the band", "For γ ≪ c ≪ 1 the excess loss averages η/eta_crit along the run.",
            r"\langle \ell \rangle", depth * c * sigma * (1 - sigma) / (2 * gamma), _mean_loss,
            "5900 steps at c = 10⁻³, γ = 10⁻⁷, L = 2…6",
        ),
    )  # fmt: skip
